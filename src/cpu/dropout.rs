//! Dropout of NHWC activations: elementwise, each image of a batch with the same mask.

use rayon::prelude::*;

use super::simd::arch;
use super::tensor::{Input, Output};
use crate::ops::{Dropout, Pass};

/// Quads of channels whose masks are made together.
const QUADS: usize = 16;

/// `y = x m / (1 - p)` with the masks of a pass ([`Dropout`]), channels a multiple of 4; without one a copy. NaN and
/// infinity times 0 are NaN, as in PyTorch: a broken activation is not hidden.
pub fn dropout(op: &Dropout, pass: Option<Pass>, x: Input, y: Output) {
    let shape = y.shape;
    let pixels = shape.size.pixels();
    y.buffer.par_chunks_mut(shape.channels).enumerate().for_each(|(index, out)| {
        let (from, to) = (x.row(index), &mut out[shape.first..][..shape.count]);
        let Some(pass) = pass else { return to.copy_from_slice(from) };
        let pixel = (index % pixels) as u32;
        let parts = from.chunks(4 * QUADS).zip(to.chunks_mut(4 * QUADS));
        arch().dispatch(|| {
            for (part, (from, to)) in parts.enumerate() {
                let factors = op.factors_of::<QUADS>(pass, pixel, (part * QUADS) as u32);
                let quads = from.chunks_exact(4).zip(to.chunks_exact_mut(4));
                for (q, (from, to)) in quads.enumerate() {
                    for c in 0..4 {
                        to[c] = from[c] * factors[c][q];
                    }
                }
            }
        });
    });
}
