//! `kernels/resize.cu`

use ddu::device::{Element, launch};
use ddu::ops::{Resize, Size};
use half::f16;

use crate::support::*;

/// Position and weight in f64, from the definition.
pub fn taps(i: usize, from: usize, to: usize, align_corners: bool) -> (usize, usize, f64) {
    let position = match align_corners {
        true if to > 1 => i as f64 * (from - 1) as f64 / (to - 1) as f64,
        true => 0.0,
        false => ((i as f64 + 0.5) * from as f64 / to as f64 - 0.5).max(0.0),
    };
    let low = (position as usize).min(from - 1);
    (low, (low + 1).min(from - 1), position - low as f64)
}

#[test]
fn both_rules_against_f64() {
    for (batch, from, to, channels, beside) in [
        (1, (1, 1), (7, 5), 16, 0), // broadcast after global pooling
        (1, (6, 9), (23, 35), 24, 8),
        (2, (5, 4), (5, 4), 8, 0),
        (1, (13, 17), (4, 1), 40, 16),
        (3, (2, 3), (8, 12), 8, 0),
    ] {
        for align_corners in [true, false] {
            let op = Resize { align_corners };
            let x = Layout::contiguous(batch, Size::new(from.0, from.1), channels);
            let y = Layout::contiguous(batch, Size::new(to.0, to.1), channels).slice(beside, 0);
            let data = Random((from.0 * to.1) as u64).halves(x.elements());
            let expected = |n: usize, p: usize, q: usize, c: usize| {
                let (y0, y1, wy) = taps(p, from.0, to.0, align_corners);
                let (x0, x1, wx) = taps(q, from.1, to.1, align_corners);
                let at = |y: usize, x_: usize| x.at(&data, n, y as isize, x_ as isize, c);
                let line = |y| at(y, x0) + (at(y, x1) - at(y, x0)) * wx;
                let value = line(y0) + (line(y1) - line(y0)) * wy;
                // Seven roundings of values of at most twice the largest corner, and the weights'.
                let largest = [at(y0, x0), at(y0, x1), at(y1, x0), at(y1, x1)].map(f64::abs);
                let magnitude = 2.0 * largest.into_iter().fold(0.0, f64::max);
                Expected::sum(value, value, 10, magnitude, Element::F16)
            };
            for (name, device) in devices() {
                let device = &*device;
                let input = upload(device, &data);
                let out = output(device, y.elements() * 2);
                let (from, to) = (x.tensor(&input, Element::F16), y.tensor(&out, Element::F16));
                run(device, &[launch::resize(&op, from, to).unwrap()]);
                let got = download::<f16>(device, &out, y.elements());
                check(
                    &format!("{op:?} {from:?} to {to:?} on {name}", from = x.size, to = y.size),
                    &y,
                    &got,
                    expected,
                );
            }
        }
    }
}
