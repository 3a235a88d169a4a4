//! Bilinear resize of NHWC activations, and of single maps from the feature grid to the image.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::element::Element;
use super::simd::arch;
use super::tensor::{Input, Output, Shape};
use crate::ops::{Resize, Size, Tap};

/// Each output row first blends two input rows, then two pixels of that blend.
pub fn resize<I: Element, O: Element>(resize: &Resize, x: Input<I>, y: Output<O>) {
    let shape = y.shape;
    let rows = resize.taps(x.size.h, shape.size.h);
    let columns = resize.taps(x.size.w, shape.size.w);
    let row = shape.size.w * shape.channels;
    let (rows, columns) = (&rows, &columns);
    y.buffer.par_chunks_mut(row).enumerate().for_each(|(row, out)| {
        let row = shape.top + row;
        let tap = rows[row % shape.size.h];
        arch().dispatch(Row { x, shape, image: row / shape.size.h, tap, columns, out })
    });
}

/// One row of output pixels.
struct Row<'a, I, O> {
    x: Input<'a, I>,
    shape: Shape,
    image: usize,
    tap: Tap,
    columns: &'a [Tap],
    out: &'a mut [O],
}

impl<I: Element, O: Element> WithSimd for Row<'_, I, O> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Row { x, shape, image, tap, columns, out } = self;
        let mut blend = vec![0f32; x.size.w * x.count];
        let line = |y: usize| (image * x.size.h + y) * x.size.w;
        for (i, out) in blend.chunks_exact_mut(x.count).enumerate() {
            lerp(x.row(line(tap.low) + i), x.row(line(tap.high) + i), tap.weight, out);
        }
        for (tap, out) in columns.iter().zip(out.chunks_exact_mut(shape.channels)) {
            let pixel = |i: usize| &blend[i * x.count..][..x.count];
            let out = &mut out[shape.first..][..shape.count];
            lerp(pixel(tap.low), pixel(tap.high), tap.weight, out);
        }
    }
}

#[inline(always)]
fn lerp<I: Element, O: Element>(low: &[I], high: &[I], weight: f32, out: &mut [O]) {
    for ((o, a), b) in out.iter_mut().zip(low).zip(high) {
        let (a, b) = (a.to_f32(), b.to_f32());
        *o = O::from_f32(a + (b - a) * weight);
    }
}

/// Upsamples one map from the feature grid to `to` and keeps the top left `crop`. Where a
/// contributing value is `-inf` (a pixel without a density) the result is `-inf`, never NaN; a value
/// whose weight is 0 does not contribute.
pub fn upsample(grid: &[f32], from: Size, to: Size, crop: Size, align_corners: bool) -> Vec<f32> {
    let resize = Resize { align_corners };
    let (rows, columns) = (resize.taps(from.h, to.h), resize.taps(from.w, to.w));
    let mut out = vec![0f32; crop.pixels()];
    out.par_chunks_mut(crop.w).zip(&rows).for_each(|(out, row)| {
        let line = |y: usize| &grid[y * from.w..][..from.w];
        let (low, high) = (line(row.low), line(row.high));
        for (out, column) in out.iter_mut().zip(&columns) {
            let at = |i: usize| blend(low[i], high[i], row.weight);
            *out = blend(at(column.low), at(column.high), column.weight);
        }
    });
    out
}

fn blend(a: f32, b: f32, weight: f32) -> f32 {
    if weight == 0.0 {
        a
    } else if a == f32::NEG_INFINITY || b == f32::NEG_INFINITY {
        f32::NEG_INFINITY
    } else {
        a + (b - a) * weight
    }
}
