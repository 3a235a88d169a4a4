//! `kernels/resize.cu`, and the CPU path's bilinear resize of tensors and maps.

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
                // Three roundings of each lerp, of values of at most twice the largest corner, and two of each weight.
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

mod on_the_cpu {
    //! Tolerance: positions are f32, p = i * scale with two roundings, so a weight is off by up to
    //! 2 u p plus its own rounding; a weight's error counts once for each axis times the difference of
    //! two values (at most 2), and the blends round four times values of at most 1.

    use ddu::cpu::{resize::resize, upsample};
    use ddu::ops::{Resize, Size};

    use crate::cpu::{Rng, Tensor, U};

    const SIZES: [((usize, usize), (usize, usize)); 8] = [
        ((23, 30), (92, 120)),
        ((7, 9), (25, 33)),
        ((33, 33), (129, 129)),
        ((1, 1), (5, 6)),
        ((3, 1), (1, 4)),
        ((12, 11), (5, 7)),
        ((129, 129), (513, 513)),
        ((6, 5), (6, 5)),
    ];

    /// The exact position, then the two neighbours and the weight.
    fn tap(align_corners: bool, i: usize, input: usize, output: usize) -> (usize, usize, f64) {
        let position = match (align_corners, output) {
            (true, 1) => 0.0,
            (true, _) => i as f64 * (input - 1) as f64 / (output - 1) as f64,
            (false, _) => ((i as f64 + 0.5) * input as f64 / output as f64 - 0.5).max(0.0),
        };
        let low = (position.floor() as usize).min(input - 1);
        (low, (low + 1).min(input - 1), (position - low as f64).min(1.0))
    }

    fn reference(
        align_corners: bool,
        (row, column): (usize, usize),
        from: Size,
        to: Size,
        value: impl Fn(usize, usize) -> f64,
    ) -> (f64, f64) {
        let (top, bottom, v) = tap(align_corners, row, from.h, to.h);
        let (left, right, u) = tap(align_corners, column, from.w, to.w);
        let line = |y: usize| value(y, left) * (1.0 - u) + value(y, right) * u;
        let position = (from.h.max(from.w) + 1) as f64;
        (line(top) * (1.0 - v) + line(bottom) * v, 2.0 * 2.0 * 3.0 * U * position + 8.0 * U)
    }

    #[test]
    fn resizes() {
        for (seed, ((h, w), (oh, ow))) in SIZES.into_iter().enumerate() {
            for align_corners in [false, true] {
                let (from, to) = (Size::new(h, w), Size::new(oh, ow));
                let x = Tensor::random(&mut Rng(seed as u64), 2, from, 5, 2);
                let mut y = Tensor::poisoned(2, to, 5, 3);
                resize(&Resize { align_corners }, x.input(), y.output());
                let what = format!("{from} to {to}, align_corners {align_corners}");
                y.check(&what, |image, row, column, c| {
                    let value = |y: usize, x0: usize| x.at(image, y, x0, c);
                    reference(align_corners, (row, column), from, to, value)
                });
            }
        }
    }

    #[test]
    fn maps_are_upsampled_and_cropped() {
        for (seed, ((h, w), (oh, ow))) in SIZES.into_iter().enumerate() {
            for align_corners in [false, true] {
                let (from, to) = (Size::new(h, w), Size::new(oh, ow));
                let crop = Size::new(oh.div_ceil(2), ow - ow / 3);
                let grid = Rng(seed as u64).vector(from.pixels());
                let map = upsample(&grid, from, to, crop, align_corners);
                assert_eq!(map.len(), crop.pixels());
                for (i, found) in map.iter().enumerate() {
                    let at = (i / crop.w, i % crop.w);
                    let value = |y: usize, x: usize| f64::from(grid[y * from.w + x]);
                    let (expected, allowed) = reference(align_corners, at, from, to, value);
                    assert!(
                        (f64::from(*found) - expected).abs() <= allowed,
                        "{from} to {to} at {at:?}"
                    );
                }
            }
        }
    }

    /// A pixel without a density makes its neighbours -inf, never NaN, and reaches no further.
    #[test]
    fn minus_infinity_survives_upsampling() {
        let (from, to) = (Size::new(3, 3), Size::new(9, 9));
        let mut grid = vec![1.0; 9];
        grid[4] = f32::NEG_INFINITY;
        let map = upsample(&grid, from, to, to, true);
        for (i, value) in map.iter().enumerate() {
            // Rows and columns 0 and 8 take no part of the centre.
            let edge = [i / 9, i % 9].iter().any(|n| *n == 0 || *n == 8);
            assert_eq!(*value, if edge { 1.0 } else { f32::NEG_INFINITY }, "pixel {i}");
        }
        let all = upsample(&[f32::NEG_INFINITY; 9], from, to, to, false);
        assert!(all.iter().all(|v| *v == f32::NEG_INFINITY));
    }
}
