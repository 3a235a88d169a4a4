//! Max pooling and the global average.

use rayon::prelude::*;

use super::tensor::{Input, Output};
use crate::ops::MaxPool;

/// Max over each window, `-inf` for nothing.
pub fn max_pool(pool: &MaxPool, x: Input, y: Output) {
    let shape = y.shape;
    let row = shape.size.w * shape.channels;
    y.buffer.par_chunks_mut(row).enumerate().for_each(|(row, out)| {
        let (image, top) = (row / shape.size.h, row % shape.size.h);
        let at = |i: usize, tap: usize| (i * pool.stride + tap) as isize - pool.padding as isize;
        for (left, out) in out.chunks_exact_mut(shape.channels).enumerate() {
            let out = &mut out[shape.first..][..shape.count];
            out.fill(f32::NEG_INFINITY);
            for r in 0..pool.kernel {
                for s in 0..pool.kernel {
                    if let Some(row) = x.pixel(image, at(top, r), at(left, s)) {
                        for (o, v) in out.iter_mut().zip(row) {
                            *o = o.max(*v);
                        }
                    }
                }
            }
        }
    });
}

/// Mean over the pixels of each image, summed in f64 (the sum is over up to millions).
pub fn global_avg_pool(x: Input, y: Output) {
    let shape = y.shape;
    let pixels = x.size.pixels();
    for (image, out) in y.buffer.chunks_exact_mut(shape.channels).enumerate() {
        let mut sums = vec![0f64; x.count];
        for pixel in 0..pixels {
            for (sum, v) in sums.iter_mut().zip(x.row(image * pixels + pixel)) {
                *sum += f64::from(*v);
            }
        }
        for (o, sum) in out[shape.first..][..shape.count].iter_mut().zip(sums) {
            *o = (sum / pixels as f64) as f32;
        }
    }
}
