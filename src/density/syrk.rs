//! The arithmetic of [`super::Moments`] for one image: means a class, centred copies in panels, and
//! the symmetric rank-k update `S += sum_p x_p x_p^T` of the lower triangle, f64 throughout.
//!
//! The centred copy comes in blocks of up to [`BLOCK`] pixels of one class, each laid out
//! `[panel][pixel][PANEL]`, where a panel holds [`PANEL`] consecutive channels (zeros past D). So both
//! operands of the update are read in order, and 8 rows by one panel of columns stay in registers
//! over a block.

use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

use super::half::round_to_half;

/// Channels of a panel: rows of S that one task owns.
pub const PANEL: usize = 16;

/// Rows of S that are held in registers at a time.
const ROWS: usize = 8;

/// Most pixels of a block: its two operands take 16 KiB each, half of a first-level cache.
pub const BLOCK: usize = 128;

/// Pixels of one class, at most [`BLOCK`].
pub struct Block<'a> {
    pub class: usize,
    pub pixels: &'a [usize],
}

/// Means of the pixels of each segment, `[C, D]`; zeros for an empty one. The pixels are summed in
/// order.
pub fn means(features: &[f32], channels: usize, segments: &[Vec<usize>]) -> Vec<f64> {
    let arch = Arch::new();
    let mean = |segment: &Vec<usize>| {
        let mut sum = vec![0.0f64; channels];
        arch.dispatch(|| {
            for pixel in segment {
                let z = &features[pixel * channels..][..channels];
                for (sum, z) in sum.iter_mut().zip(z) {
                    *sum += f64::from(round_to_half(*z));
                }
            }
        });
        let count = segment.len().max(1) as f64;
        sum.iter_mut().for_each(|s| *s /= count);
        sum
    };
    segments.par_iter().map(mean).collect::<Vec<_>>().concat()
}

/// Values that the centred copy of a block takes.
pub fn block_len(channels: usize) -> usize {
    channels.next_multiple_of(PANEL) * BLOCK
}

/// Writes z - mean of its class for the pixels of each block, one after the other, [`block_len`] values
/// apart.
pub fn centre(
    features: &[f32],
    channels: usize,
    blocks: &[Block],
    mean: &[f64],
    centred: &mut [f64],
) {
    let arch = Arch::new();
    let out = centred.par_chunks_mut(block_len(channels));
    out.zip(blocks).for_each(|(out, block)| {
        let mean = &mean[block.class * channels..][..channels];
        let stride = block.pixels.len() * PANEL;
        arch.dispatch(|| {
            let (means, mean_tail) = mean.as_chunks::<PANEL>();
            for (at, pixel) in block.pixels.iter().enumerate() {
                let z = &features[pixel * channels..][..channels];
                let (panels, tail) = z.as_chunks::<PANEL>();
                for (panel, (z, mean)) in panels.iter().zip(means).enumerate() {
                    let out = &mut out[panel * stride + at * PANEL..][..PANEL];
                    for k in 0..PANEL {
                        out[k] = f64::from(round_to_half(z[k])) - mean[k];
                    }
                }
                if !tail.is_empty() {
                    let out = &mut out[panels.len() * stride + at * PANEL..][..PANEL];
                    for ((out, z), mean) in out.iter_mut().zip(tail).zip(mean_tail) {
                        *out = f64::from(round_to_half(*z)) - mean;
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
    centred: &[f64],
    blocks: &[Block],
    class: usize,
    panel: usize,
    channels: usize,
    rows: &mut [f64],
) {
    if blocks.iter().all(|block| block.class != class) {
        return;
    }
    let own = centred.chunks_exact(block_len(channels)).zip(blocks);
    let own = own
        .filter(|(_, block)| block.class == class)
        .map(|(values, block)| &values[..block.pixels.len() * channels.next_multiple_of(PANEL)]);
    let mut sums = vec![0.0; (panel + 1) * PANEL * PANEL];
    let panels = channels.div_ceil(PANEL);
    Arch::new().dispatch(Update { blocks: own, panels, panel, sums: &mut sums });
    for (r, row) in rows.chunks_exact_mut(channels).enumerate() {
        let diagonal = panel * PANEL + r;
        for (column, s) in row[..=diagonal].iter_mut().enumerate() {
            *s += sums[(column / PANEL * PANEL + r) * PANEL + column % PANEL];
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
    sums: &'a mut [f64],
}

impl<'b, B: Iterator<Item = &'b [f64]>> WithSimd for Update<'_, B> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // 8 rows by 2 vectors: 16 accumulators of 32 registers; by 1: 8 of 16.
        if S::REGISTER_COUNT >= 32 && PANEL.is_multiple_of(2 * S::F64_LANES) {
            self.run::<S, 2>(simd);
        } else {
            self.run::<S, 1>(simd);
        }
    }
}

impl<'b, B: Iterator<Item = &'b [f64]>> Update<'_, B> {
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize>(self, simd: S) {
        for block in self.blocks {
            let panel = block.len() / self.panels;
            let left = &block[self.panel * panel..][..panel];
            let columns = block.chunks_exact(panel);
            for (right, sums) in columns.zip(self.sums.chunks_exact_mut(PANEL * PANEL)) {
                let (right, _) = S::as_simd_f64s(right);
                for (half, sums) in sums.chunks_exact_mut(ROWS * PANEL).enumerate() {
                    let (sums, _) = S::as_mut_simd_f64s(sums);
                    for group in 0..PANEL / (VECTORS * S::F64_LANES) {
                        tile::<S, VECTORS>(simd, left, half, right, group, sums);
                    }
                }
            }
        }
    }
}

/// [`ROWS`] rows by `VECTORS` vectors of columns of a block's products, held in registers.
#[inline(always)]
fn tile<S: Simd, const VECTORS: usize>(
    simd: S,
    left: &[f64],
    half: usize,
    right: &[S::f64s],
    group: usize,
    sums: &mut [S::f64s],
) {
    let mut held = [[simd.splat_f64s(0.0); VECTORS]; ROWS];
    let wide = PANEL / S::F64_LANES;
    for (left, right) in left.chunks_exact(PANEL).zip(right.chunks_exact(wide)) {
        let left = &left[half * ROWS..][..ROWS];
        let right = &right[group * VECTORS..][..VECTORS];
        for r in 0..ROWS {
            let x = simd.splat_f64s(left[r]);
            for v in 0..VECTORS {
                held[r][v] = simd.mul_add_e_f64s(x, right[v], held[r][v]);
            }
        }
    }
    for (sums, held) in sums.chunks_exact_mut(wide).zip(held) {
        for (sum, held) in sums[group * VECTORS..][..VECTORS].iter_mut().zip(held) {
            *sum = simd.add_f64s(*sum, held);
        }
    }
}
