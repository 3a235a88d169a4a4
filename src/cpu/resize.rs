//! Bilinear resize of NHWC activations, and of single maps from the feature grid to the image.

use rayon::prelude::*;

use super::simd::arch;
use super::tensor::{Input, Output};
use crate::ops::{Resize, Size};

/// Each output row first blends two input rows, then two pixels of that blend.
pub fn resize(resize: &Resize, x: Input, y: Output) {
    let shape = y.shape;
    let rows = resize.taps(x.size.h, shape.size.h);
    let columns = resize.taps(x.size.w, shape.size.w);
    let row = shape.size.w * shape.channels;
    y.buffer.par_chunks_mut(row).enumerate().for_each(|(row, out)| {
        let (image, tap) = (row / shape.size.h, rows[row % shape.size.h]);
        let mut blend = vec![0f32; x.size.w * x.count];
        let line = |y: usize| (image * x.size.h + y) * x.size.w;
        arch().dispatch(|| {
            for (i, out) in blend.chunks_exact_mut(x.count).enumerate() {
                lerp(x.row(line(tap.low) + i), x.row(line(tap.high) + i), tap.weight, out);
            }
            for (tap, out) in columns.iter().zip(out.chunks_exact_mut(shape.channels)) {
                let pixel = |i: usize| &blend[i * x.count..][..x.count];
                let out = &mut out[shape.first..][..shape.count];
                lerp(pixel(tap.low), pixel(tap.high), tap.weight, out);
            }
        });
    });
}

/// Inlined, so that it becomes the vector code of its caller.
#[inline(always)]
fn lerp(low: &[f32], high: &[f32], weight: f32, out: &mut [f32]) {
    for ((o, a), b) in out.iter_mut().zip(low).zip(high) {
        *o = a + (b - a) * weight;
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
        // A row of the grid first: each of its cells is under several pixels.
        let pairs = line(row.low).iter().zip(line(row.high));
        let line: Vec<f32> = pairs.map(|(low, high)| blend(*low, *high, row.weight)).collect();
        for (out, column) in out.iter_mut().zip(&columns) {
            *out = blend(line[column.low], line[column.high], column.weight);
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
