//! Bilinear resize.
//!
//! Tolerance: positions are f32, p = i * scale with two roundings, so a weight is off by up to
//! 2 u p plus its own rounding; a weight's error counts once for each axis times the difference of
//! two values (at most 2), and the blends round four times values of at most 1.

use ddu::cpu::{resize::resize, upsample};
use ddu::ops::{Resize, Size};

use crate::common::{Rng, Tensor, U};

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
