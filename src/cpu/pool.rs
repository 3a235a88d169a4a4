//! Max pooling and the global average.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::element::Element;
use super::simd::arch;
use super::tensor::{Input, Output, Shape};
use crate::ops::MaxPool;

/// Max over each window, `-inf` for nothing.
pub fn max_pool<I: Element, O: Element>(pool: &MaxPool, x: Input<I>, y: Output<O>) {
    let shape = y.shape;
    let row = shape.size.w * shape.channels;
    y.buffer.par_chunks_mut(row).enumerate().for_each(|(row, out)| {
        arch().dispatch(MaxRow { pool, x, shape, row: shape.top + row, out })
    });
}

/// One row of output pixels.
struct MaxRow<'a, I, O> {
    pool: &'a MaxPool,
    x: Input<'a, I>,
    shape: Shape,
    /// Counted over the batch.
    row: usize,
    out: &'a mut [O],
}

impl<I: Element, O: Element> WithSimd for MaxRow<'_, I, O> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let MaxRow { pool, x, shape, row, out } = self;
        let (image, top) = (row / shape.size.h, row % shape.size.h);
        let at = |i: usize, tap: usize| (i * pool.stride + tap) as isize - pool.padding as isize;
        let mut most = vec![0f32; shape.count];
        for (left, out) in out.chunks_exact_mut(shape.channels).enumerate() {
            most.fill(f32::NEG_INFINITY);
            for r in 0..pool.kernel {
                for s in 0..pool.kernel {
                    let Some(row) = x.pixel(image, at(top, r), at(left, s)) else { continue };
                    for (most, v) in most.iter_mut().zip(row) {
                        *most = most.max(v.to_f32());
                    }
                }
            }
            for (o, v) in out[shape.first..][..shape.count].iter_mut().zip(&most) {
                *o = O::from_f32(*v);
            }
        }
    }
}

/// Mean over the pixels of each image, summed in f64 (the sum is over up to millions).
pub fn global_avg_pool<I: Element, O: Element>(x: Input<I>, y: Output<O>) {
    let shape = y.shape;
    let pixels = x.size.pixels();
    for (image, out) in y.buffer.chunks_exact_mut(shape.channels).enumerate() {
        let mut sums = vec![0f64; x.count];
        for pixel in 0..pixels {
            for (sum, v) in sums.iter_mut().zip(x.row(image * pixels + pixel)) {
                *sum += f64::from(v.to_f32());
            }
        }
        for (o, sum) in out[shape.first..][..shape.count].iter_mut().zip(sums) {
            *o = O::from_f32((sum / pixels as f64) as f32);
        }
    }
}
