//! The arithmetic of [`super::Moments`] for one image: means per class, centred copies in panels, and
//! the symmetric rank-k update `S += sum_p x_p x_p^T` of the lower triangle.
//!
//! The centred copy comes in blocks of up to [`BLOCK`] pixels of one class, each laid out
//! `[panel][pixel][PANEL]`, where a panel holds [`PANEL`] consecutive channels (zeros past D). So both
//! operands of the update are read in order, and the products of two panels stay in registers over a
//! block. Shifting by the mean of the image avoids cancellation. A block is summed in f32 in two
//! levels, [`RUN`] pixels and then the runs, and added in f64: a product passes through 15 + 7 roundings,
//! so |error of S_ij| <= 22 x 2^-24 sum |x_i x_j| <= 1.3e-6 sqrt(S_ii S_jj), whatever their signs. (With
//! one level of 128 a channel that is zero for all pixels of a class but few adds the same small number
//! again and again, rounded the same way each time: 5.8e-6 on CamVid.)

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::half::round_to_half;
use crate::cpu::lanes::load;
use crate::cpu::simd::arch;

/// Channels of a panel: rows of S that one task computes.
pub const PANEL: usize = 16;

/// Maximum pixels of a block: its two operands take 16 KiB together, half of a first-level cache.
pub const BLOCK: usize = 128;

/// Pixels that one f32 sum takes at once.
const RUN: usize = 16;

/// Pixels of one class, at most [`BLOCK`].
pub struct Block<'a> {
    pub class: usize,
    pub pixels: &'a [usize],
}

/// Means of the pixels of each segment, `[C, D]`, f64; zeros for an empty one. The pixels are summed
/// in order. `roots` are the square roots of the pixels' weights; without them each weight is 1.
pub fn means(
    features: &[f32],
    channels: usize,
    segments: &[Vec<usize>],
    roots: Option<&[f32]>,
) -> Vec<f64> {
    let arch = arch();
    let weight = |pixel: usize| roots.map_or(1.0, |roots| super::moments::weight_of(roots[pixel]));
    let mean = |segment: &Vec<usize>| {
        let mut sum = vec![0.0f64; channels];
        arch.dispatch(|| {
            for pixel in segment {
                let (z, weight) = (&features[pixel * channels..][..channels], weight(*pixel));
                for (sum, z) in sum.iter_mut().zip(z) {
                    *sum += weight * f64::from(round_to_half(*z));
                }
            }
        });
        if !segment.is_empty() {
            let weight: f64 = segment.iter().map(|pixel| weight(*pixel)).sum();
            sum.iter_mut().for_each(|s| *s /= weight);
        }
        sum
    };
    segments.par_iter().map(mean).collect::<Vec<_>>().concat()
}

/// Values that the centred copy of a block takes.
pub fn block_len(channels: usize) -> usize {
    channels.next_multiple_of(PANEL) * BLOCK
}

/// Writes (z - shift of its class) times the root of its weight for the pixels of each block, one after the
/// other, [`block_len`] values apart. A factor of 1 changes no bit.
pub fn centre(
    features: &[f32],
    channels: usize,
    blocks: &[Block],
    shift: &[f32],
    roots: Option<&[f32]>,
    centred: &mut [f32],
) {
    let arch = arch();
    let out = centred.par_chunks_mut(block_len(channels));
    out.zip(blocks).for_each(|(out, block)| {
        let shift = &shift[block.class * channels..][..channels];
        let stride = block.pixels.len() * PANEL;
        arch.dispatch(|| {
            let (shifts, shift_tail) = shift.as_chunks::<PANEL>();
            for (at, pixel) in block.pixels.iter().enumerate() {
                let z = &features[pixel * channels..][..channels];
                let (panels, tail) = z.as_chunks::<PANEL>();
                let root = roots.map_or(1.0, |roots| roots[*pixel]);
                for (panel, (z, shift)) in panels.iter().zip(shifts).enumerate() {
                    let out = &mut out[panel * stride + at * PANEL..][..PANEL];
                    for k in 0..PANEL {
                        out[k] = (round_to_half(z[k]) - shift[k]) * root;
                    }
                }
                if !tail.is_empty() {
                    let out = &mut out[panels.len() * stride + at * PANEL..][..PANEL];
                    for ((out, z), shift) in out.iter_mut().zip(tail).zip(shift_tail) {
                        *out = (round_to_half(*z) - shift) * root;
                    }
                    // The buffer may hold another block's values.
                    out[tail.len()..].fill(0.0);
                }
            }
        });
    });
}

/// Adds the products of the blocks of `class` to `rows` of its S: those of `panel`,
/// `[<= PANEL, channels]`, up to the diagonal.
pub fn accumulate(
    centred: &[f32],
    blocks: &[Block],
    class: usize,
    panel: usize,
    channels: usize,
    rows: &mut [f64],
) {
    if blocks.iter().all(|block| block.class != class) {
        return;
    }
    let class_blocks = centred.chunks_exact(block_len(channels)).zip(blocks);
    let class_blocks = class_blocks
        .filter(|(_, block)| block.class == class)
        .map(|(values, block)| &values[..block.pixels.len() * channels.next_multiple_of(PANEL)]);
    let mut sums = vec![[0.0; PANEL]; (panel + 1) * PANEL];
    let panels = channels.div_ceil(PANEL);
    arch().dispatch(Update { blocks: class_blocks, panels, panel, sums: &mut sums });
    for (r, row) in rows.chunks_exact_mut(channels).enumerate() {
        let diagonal = panel * PANEL + r;
        for (column, s) in row[..=diagonal].iter_mut().enumerate() {
            *s += sums[column / PANEL * PANEL + r][column % PANEL];
        }
    }
}

/// `sums` `[panel + 1][PANEL rows][PANEL columns]` += the products of the row panel with each column
/// panel up to itself.
struct Update<'a, B> {
    /// Centred blocks, `[panels][pixel][PANEL]`.
    blocks: B,
    panels: usize,
    panel: usize,
    sums: &'a mut [[f64; PANEL]],
}

impl<'b, B: Iterator<Item = &'b [f32]>> WithSimd for Update<'_, B> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // As many accumulators as half the registers.
        if S::REGISTER_COUNT >= 32 {
            self.run::<S, 16>(simd);
        } else {
            self.run::<S, 8>(simd);
        }
    }
}

impl<'b, B: Iterator<Item = &'b [f32]>> Update<'_, B> {
    #[inline(always)]
    fn run<S: Simd, const ROWS: usize>(self, simd: S) {
        for block in self.blocks {
            let panel = block.len() / self.panels;
            let left = block[self.panel * panel..][..panel].as_chunks::<PANEL>().0;
            let columns = block.chunks_exact(panel);
            for (right, sums) in columns.zip(self.sums.chunks_exact_mut(PANEL)) {
                let right = right.as_chunks::<PANEL>().0;
                for (part, sums) in sums.chunks_exact_mut(ROWS).enumerate() {
                    for column in (0..PANEL).step_by(S::F32_LANES) {
                        tile::<S, ROWS>(simd, left, part * ROWS, right, column, sums);
                    }
                }
            }
        }
    }
}

/// `ROWS` rows from `row` by one vector of columns from `column` of a block's products.
#[inline(always)]
fn tile<S: Simd, const ROWS: usize>(
    simd: S,
    left: &[[f32; PANEL]],
    row: usize,
    right: &[[f32; PANEL]],
    column: usize,
    sums: &mut [[f64; PANEL]],
) {
    let zeros = [simd.splat_f32s(0.0); ROWS];
    let mut products = zeros;
    for (left, right) in left.chunks(RUN).zip(right.chunks(RUN)) {
        let mut run = zeros;
        for (left, right) in left.iter().zip(right) {
            let (left, right) = (&left[row..][..ROWS], load(simd, &right[column..]));
            for r in 0..ROWS {
                run[r] = simd.mul_add_e_f32s(simd.splat_f32s(left[r]), right, run[r]);
            }
        }
        for r in 0..ROWS {
            products[r] = simd.add_f32s(products[r], run[r]);
        }
    }
    for (sums, products) in sums.iter_mut().zip(products) {
        let products: &[f32] = bytemuck::cast_slice(std::slice::from_ref(&products));
        for (sum, product) in sums[column..].iter_mut().zip(products) {
            *sum += f64::from(*product);
        }
    }
}
