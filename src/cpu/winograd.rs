//! 3x3 convolution of stride 1 by Winograd's F(4x4, 3x3) (Lavin & Gray, arXiv 1509.09308): 36
//! products instead of 144 for 4 x 4 outputs.
//!
//! `Y = A^T [ (G g G^T) * (B^T d B) ] A`, with d a 6 x 6 input tile, g the filter, Y the 4 x 4
//! output. The product is elementwise over the tile and sums over input channels: 36 matrix
//! products of `[tiles, C] x [C, K]`. A dilation of n splits the image into n x n interleaved ones
//! that never meet: a tile then takes every n-th row and column.
//!
//! The transforms lose about one decimal digit against the direct sum (the entries of B, G and A
//! reach 5, 1/24 and 8); the parity tests hold the bound.

pub mod pairs;
mod tiles;
mod transforms;

use std::cell::RefCell;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{Line, Panels, ROWS, accumulate, aligned, with_vectors, zero};
use super::lanes::store;
use super::simd::arch;
use super::tensor::{self, Input, Output};
use crate::ops::Conv2d;
use crate::plan::ConvWeights;
use tiles::{Strip, strips, tiles};
use transforms::{TransformFilters, TransformInput, TransformOutput};

/// Outputs and inputs along a side of a tile.
const OUT: usize = 4;
const IN: usize = 6;
/// Points of the transform.
const POINTS: usize = IN * IN;

/// Transformed weights above this many bytes are read once by all threads together (and the
/// transformed input waits in memory); below it each task keeps its tiles in its own cache.
const SHARED_BYTES: usize = 4 << 20;
/// Transformed tiles and products that wait in memory at once; the weights are read again for the next.
const TOGETHER_BYTES: usize = 64 << 20;
/// Transformed tiles and products of a task that are to stay in its L2 cache, beside the weights of a point...
const FUSED_BYTES: usize = 640 << 10;
/// ... but so many that the weights are worth reading.
const LEAST_TILES: usize = 24;

type Operands<'a> = tensor::Operands<'a, Winograd>;

/// Weights transformed and packed: 36 matrices `[C, K]`.
pub struct Winograd {
    conv: Conv2d,
    points: Vec<Panels>,
    bias: Vec<f32>,
}

/// Whether the transform applies to a convolution and pays on an output of this height and width.
pub fn pays(conv: &Conv2d, h: usize, w: usize) -> bool {
    tiles::pays(conv, OUT, h, w)
}

/// Bytes that a convolution takes in addition to its operands while it runs: where the weights are shared,
/// the transformed tiles and their products. What stays in a thread's cache is not counted.
pub fn scratch_bytes(conv: &Conv2d, batch: usize, h: usize, w: usize) -> u64 {
    let (c, k) = (conv.in_channels, conv.out_channels);
    if POINTS * c * k * size_of::<f32>() <= SHARED_BYTES {
        return 0;
    }
    // A strip is not divided: at least a row of tiles of each phase.
    let strip = conv.dilation * tiles(conv, OUT, 1, w).max(LEAST_TILES);
    let together = (batch * tiles(conv, OUT, h, w)).min(shared_tiles(conv).max(strip));
    (POINTS * (c + k) * size_of::<f32>()) as u64 * together as u64
}

/// Tiles that pass together through weights that are shared.
fn shared_tiles(conv: &Conv2d) -> usize {
    TOGETHER_BYTES / (POINTS * (conv.in_channels + conv.out_channels) * size_of::<f32>())
}

impl Winograd {
    pub fn new(weights: &ConvWeights) -> Self {
        let conv = weights.conv;
        let (c, k) = (conv.in_channels, conv.out_channels);
        let mut points: Vec<Panels> = (0..POINTS).map(|_| Panels::zeros(c, k)).collect();
        arch().dispatch(TransformFilters { weights, points: &mut points });
        Winograd { conv, points, bias: weights.bias.clone() }
    }

    /// `y = relu(conv(x) + bias + residual)`, either of the last two optional.
    pub fn run(&self, x: Input, residual: Option<Input>, relu: bool, y: Output) {
        let shape = y.shape;
        let operands = Operands { weights: self, x, residual, relu, y: shape };
        let strips = strips(y.buffer, shape, self.conv.dilation, OUT, LEAST_TILES);
        let bytes: usize = self.points.iter().map(Panels::bytes).sum();
        if bytes <= SHARED_BYTES {
            strips
                .into_par_iter()
                .for_each(|strip| arch().dispatch(Fused { operands: &operands, strip }));
        } else {
            operands.run_shared(strips);
        }
    }
}

impl Operands<'_> {
    /// Many tiles through one point's weights at a time, each point on one thread.
    fn run_shared(&self, mut strips: Vec<Strip<f32>>) {
        let most = shared_tiles(&self.weights.conv);
        let mut rest = &mut strips[..];
        while !rest.is_empty() {
            let mut tiles = 0;
            let fit = rest.iter().take_while(|strip| {
                tiles += strip.tiles.len();
                tiles <= most
            });
            let count = fit.count().max(1);
            let (now, later) = rest.split_at_mut(count);
            self.run_together(now);
            rest = later;
        }
    }

    fn run_together(&self, strips: &mut [Strip<f32>]) {
        let conv = &self.weights.conv;
        let (c, k) = (conv.in_channels, conv.out_channels);
        let total: usize = strips.iter().map(|strip| strip.tiles.len()).sum();
        let input: Vec<Vec<Line>> = strips
            .par_iter()
            .map(|strip| {
                let mut v = aligned(POINTS * strip.tiles.len() * c);
                let out = bytemuck::cast_slice_mut(&mut v);
                let (image, tiles) = (strip.image, &strip.tiles);
                arch().dispatch(TransformInput { operands: self, image, tiles, out });
                v
            })
            .collect();
        // Tile t of point p is row `at` of its strip's block.
        let rows: Vec<(usize, usize)> = strips
            .iter()
            .enumerate()
            .flat_map(|(s, strip)| (0..strip.tiles.len()).map(move |t| (s, t)))
            .collect();
        let mut products = aligned(POINTS * total * k);
        let products: &mut [f32] = bytemuck::cast_slice_mut(&mut products);
        products.par_chunks_mut(total * k).enumerate().for_each(|(p, out)| {
            let row = |t: usize| {
                let (s, t) = rows[t];
                let block: &[f32] = bytemuck::cast_slice(&input[s]);
                &block[(p * strips[s].tiles.len() + t) * c..][..c]
            };
            let panels = &self.weights.points[p];
            arch().dispatch(Multiply { panels, row, count: total, out });
        });
        let firsts: Vec<usize> = strips
            .iter()
            .scan(0, |next, strip| {
                *next += strip.tiles.len();
                Some(*next - strip.tiles.len())
            })
            .collect();
        let products: &[f32] = products;
        strips.par_iter_mut().zip(firsts).for_each(|(strip, first)| {
            let product = |p: usize, t: usize| &products[(p * total + first + t) * k..][..k];
            let tiles = &std::mem::take(&mut strip.tiles);
            arch().dispatch(TransformOutput { operands: self, strip, tiles, product });
        });
    }
}

/// One strip from input to output in this thread's scratch.
struct Fused<'a> {
    operands: &'a Operands<'a>,
    strip: Strip<'a, f32>,
}

thread_local! {
    static SCRATCH: RefCell<[Vec<Line>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

impl WithSimd for Fused<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let conv = &self.operands.weights.conv;
        let (c, k) = (conv.in_channels, conv.out_channels);
        let tiles = std::mem::take(&mut self.strip.tiles);
        // Rows of many tiles in pieces that stay in the L2 cache.
        let most = FUSED_BYTES / (POINTS * (c + k) * size_of::<f32>()) / ROWS * ROWS;
        // Taken out rather than borrowed: what runs inside a closure would not be compiled for
        // the vector instructions.
        let mut buffers = SCRATCH.take();
        let [input, products] = &mut buffers;
        for tiles in tiles.chunks(most.max(LEAST_TILES)) {
            let count = tiles.len();
            let input = scratch(input, POINTS * count * c);
            let products = scratch(products, POINTS * count * k);
            let image = self.strip.image;
            TransformInput { operands: self.operands, image, tiles, out: input }.with_simd(simd);
            for (p, out) in products.chunks_exact_mut(count * k).enumerate() {
                let row = |t: usize| &input[(p * count + t) * c..][..c];
                let panels = &self.operands.weights.points[p];
                Multiply { panels, row, count, out }.with_simd(simd);
            }
            let product = |p: usize, t: usize| &products[(p * count + t) * k..][..k];
            TransformOutput { operands: self.operands, strip: &mut self.strip, tiles, product }
                .with_simd(simd);
        }
        SCRATCH.set(buffers);
    }
}

fn scratch(buffer: &mut Vec<Line>, len: usize) -> &mut [f32] {
    if buffer.len() * 16 < len {
        *buffer = aligned(len);
    }
    &mut bytemuck::cast_slice_mut(buffer)[..len]
}

/// `out[t, :] = row(t) x panels` for `count` tiles.
struct Multiply<'a, Row> {
    panels: &'a Panels,
    row: Row,
    count: usize,
    out: &'a mut [f32],
}

impl<'r, Row: Fn(usize) -> &'r [f32]> WithSimd for Multiply<'_, Row> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let k = self.panels.columns;
        for panel in 0..self.panels.count() {
            let panel = self.panels.get(panel);
            for tile in (0..self.count).step_by(ROWS) {
                let rows = (self.count - tile).min(ROWS);
                let a: [&[f32]; ROWS] = std::array::from_fn(|m| (self.row)(tile + m.min(rows - 1)));
                with_vectors!(panel.vectors, V => {
                    let columns: &[[S::f32s; V]] = bytemuck::cast_slice(panel.data);
                    let mut sum = zero::<S, V>(simd);
                    accumulate(simd, &mut sum, a, columns);
                    let out = &mut self.out[tile * k + panel.first..];
                    // Unrolled, so that the accumulators need no addresses.
                    for m in 0..ROWS {
                        if m >= rows {
                            break;
                        }
                        let out = &mut out[m * k..][..V * S::F32_LANES];
                        for v in 0..V {
                            store(simd, &mut out[v * S::F32_LANES..][..S::F32_LANES], sum[m][v]);
                        }
                    }
                });
            }
        }
    }
}
