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

use std::cell::RefCell;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::element::Element;
use super::gemm::{Line, Panel, Panels, ROWS, accumulate, aligned, with_vectors, zero};
use super::lanes::{load, store};
use super::simd::arch;
use super::tensor::{Input, Output, Shape};
use crate::ops::Conv2d;
use crate::plan::ConvWeights;

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

/// Weights transformed and packed: 36 matrices `[C, K]`.
pub struct Winograd {
    conv: Conv2d,
    points: Vec<Panels>,
    bias: Vec<f32>,
}

/// Whether the transform applies to a convolution and pays on an output of this height and width.
pub fn pays(conv: &Conv2d, h: usize, w: usize) -> bool {
    let fits = conv.kernel == 3
        && conv.stride == 1
        && !conv.depthwise
        && conv.padding == conv.dilation
        && conv.in_channels >= 16
        && conv.out_channels >= 16
        && conv.in_channels.is_multiple_of(16)
        && conv.out_channels.is_multiple_of(16);
    // Multiplications against the direct sum's 9 per pixel; the transforms cost about a third more.
    fits && POINTS * tiles(conv, h, w) * 4 < 9 * h * w * 3
}

/// Tiles that an output of this height and width is cut into.
fn tiles(conv: &Conv2d, h: usize, w: usize) -> usize {
    let axis = |n: usize| phases(n, conv.dilation).map(|(_, len)| len.div_ceil(OUT)).sum::<usize>();
    axis(h) * axis(w)
}

/// Bytes that a convolution takes in addition to its operands while it runs: where the weights are shared,
/// the transformed tiles and their products. What stays in a thread's cache is not counted.
pub fn scratch_bytes(conv: &Conv2d, batch: usize, h: usize, w: usize) -> u64 {
    let (c, k) = (conv.in_channels, conv.out_channels);
    if POINTS * c * k * size_of::<f32>() <= SHARED_BYTES {
        return 0;
    }
    // A strip is not divided: at least a row of tiles of each phase.
    let strip = conv.dilation * tiles(conv, 1, w).max(LEAST_TILES);
    let together = (batch * tiles(conv, h, w)).min(shared_tiles(conv).max(strip));
    (POINTS * (c + k) * size_of::<f32>()) as u64 * together as u64
}

/// Tiles that pass together through weights that are shared.
fn shared_tiles(conv: &Conv2d) -> usize {
    TOGETHER_BYTES / (POINTS * (conv.in_channels + conv.out_channels) * size_of::<f32>())
}

/// Start and length of each of the interleaved parts of an axis.
fn phases(n: usize, dilation: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..dilation.min(n)).map(move |start| (start, (n - start).div_ceil(dilation)))
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
    pub fn run<I: Element, O: Element>(
        &self,
        x: Input<I>,
        residual: Option<Input<I>>,
        relu: bool,
        y: Output<O>,
    ) {
        let shape = y.shape;
        let operands = Operands { winograd: self, x, residual, relu, y: shape };
        let strips = operands.strips(y.buffer);
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

/// G g G^T of every filter, in f64.
struct TransformFilters<'a> {
    weights: &'a ConvWeights,
    points: &'a mut [Panels],
}

/// Input channels whose filters are transformed together: `in_channels` is a multiple of it ([`pays`]).
const FILTERS: usize = 16;

impl WithSimd for TransformFilters<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let TransformFilters { weights: ConvWeights { conv, weight, .. }, points } = self;
        let c = conv.in_channels;
        for panel in 0..points[0].count() {
            let Panel { first, count, data, .. } = points[0].get(panel);
            let wide = data.len() / c;
            let mut data: Vec<&mut [f32]> = points.iter_mut().map(|p| p.get_mut(panel)).collect();
            for m in (0..c).step_by(FILTERS) {
                for n in 0..count {
                    let tap = |tap: usize| -> [f64; FILTERS] {
                        let run = &weight[((first + n) * 9 + tap) * c + m..][..FILTERS];
                        std::array::from_fn(|i| f64::from(run[i]))
                    };
                    // G g, [6][3], a column of g at a time.
                    let half: [[[f64; FILTERS]; IN]; 3] =
                        std::array::from_fn(|s| transform_three([tap(s), tap(3 + s), tap(6 + s)]));
                    for i in 0..IN {
                        let row = transform_three([half[0][i], half[1][i], half[2][i]]);
                        for (j, values) in row.iter().enumerate() {
                            let data = &mut data[i * IN + j][m * wide..][..FILTERS * wide];
                            for (row, value) in data.chunks_exact_mut(wide).zip(values) {
                                row[n] = *value as f32;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// G g for one column of many filters.
#[inline(always)]
fn transform_three([a, b, c]: [[f64; FILTERS]; 3]) -> [[f64; FILTERS]; IN] {
    let mut out = [[0.0; FILTERS]; IN];
    for i in 0..FILTERS {
        let (a, b, c) = (a[i], b[i], c[i]);
        // (1, +-1, 1) / -6 and (1, +-2, 4) / 24
        let (sixth, wide) = ((a + c) / -6.0, (a + 4.0 * c) / 24.0);
        out[0][i] = a / 4.0;
        out[1][i] = sixth - b / 6.0;
        out[2][i] = sixth + b / 6.0;
        out[3][i] = wide + b / 12.0;
        out[4][i] = wide - b / 12.0;
        out[5][i] = c;
    }
    out
}

struct Operands<'a, I> {
    winograd: &'a Winograd,
    x: Input<'a, I>,
    residual: Option<Input<'a, I>>,
    relu: bool,
    y: Shape,
}

/// A few whole tile rows of one image: a contiguous piece of the output.
struct Strip<'a, O> {
    image: usize,
    /// First output row.
    top: usize,
    out: &'a mut [O],
    /// Top left output position of each tile.
    tiles: Vec<(usize, usize)>,
}

impl<I: Element> Operands<'_, I> {
    /// Cuts the output into strips of at least [`LEAST_TILES`] where the image allows.
    fn strips<'b, O>(&self, out: &'b mut [O]) -> Vec<Strip<'b, O>> {
        let dilation = self.winograd.conv.dilation;
        let (size, channels) = (self.y.size, self.y.channels);
        let columns: Vec<usize> = starts(0, size.w, size.w, dilation).collect();
        let tile_rows = LEAST_TILES.div_ceil(columns.len() * dilation).max(1);
        let rows = OUT * dilation * tile_rows;
        let mut strips = Vec::new();
        let images = out.chunks_mut(size.pixels() * channels);
        for (image, out) in images.enumerate() {
            for (i, out) in out.chunks_mut(rows * size.w * channels).enumerate() {
                let top = self.y.top + i * rows;
                let bottom = top + out.len() / (size.w * channels);
                let tiles = starts(top, bottom, size.h, dilation)
                    .flat_map(|y| columns.iter().map(move |&x| (y, x)))
                    .collect();
                strips.push(Strip { image, top, out, tiles });
            }
        }
        strips
    }

    /// Many tiles through one point's weights at a time, each point on one thread.
    fn run_shared<O: Element>(&self, mut strips: Vec<Strip<O>>) {
        let most = shared_tiles(&self.winograd.conv);
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

    fn run_together<O: Element>(&self, strips: &mut [Strip<O>]) {
        let conv = &self.winograd.conv;
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
            let panels = &self.winograd.points[p];
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

/// First coordinates of the tiles in `from..to` of an axis of length `n`; `from` starts a row of
/// tiles of every phase.
fn starts(from: usize, to: usize, n: usize, dilation: usize) -> impl Iterator<Item = usize> {
    phases((to - from).min(n), dilation).flat_map(move |(start, len)| {
        (0..len).step_by(OUT).map(move |i| from + start + i * dilation)
    })
}

/// One strip from input to output in this thread's scratch.
struct Fused<'a, I, O> {
    operands: &'a Operands<'a, I>,
    strip: Strip<'a, O>,
}

thread_local! {
    static SCRATCH: RefCell<[Vec<Line>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
}

impl<I: Element, O: Element> WithSimd for Fused<'_, I, O> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let conv = &self.operands.winograd.conv;
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
                let panels = &self.operands.winograd.points[p];
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

/// B^T d B of some tiles of an image: `[point, tile, C]`.
struct TransformInput<'a, I> {
    operands: &'a Operands<'a, I>,
    image: usize,
    tiles: &'a [(usize, usize)],
    out: &'a mut [f32],
}

impl<I: Element> WithSimd for TransformInput<'_, I> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Operands { winograd, x, .. } = self.operands;
        let (c, count) = (winograd.conv.in_channels, self.tiles.len());
        let step = winograd.conv.dilation as isize;
        let zeros = vec![I::zeroed(); c];
        for (t, &(top, left)) in self.tiles.iter().enumerate() {
            let source: [&[I]; POINTS] = std::array::from_fn(|p| {
                let y = top as isize + ((p / IN) as isize - 1) * step;
                let x0 = left as isize + ((p % IN) as isize - 1) * step;
                x.pixel(self.image, y, x0).unwrap_or(&zeros)
            });
            for first in (0..c).step_by(S::F32_LANES) {
                let mut d = [[simd.splat_f32s(0.0); IN]; IN];
                for (p, row) in source.iter().enumerate() {
                    d[p / IN][p % IN] = I::load(simd, &row[first..]);
                }
                for column in 0..IN {
                    let v = transform_six(simd, std::array::from_fn(|i| d[i][column]));
                    for i in 0..IN {
                        d[i][column] = v[i];
                    }
                }
                for (i, row) in d.iter().enumerate() {
                    for (j, v) in transform_six(simd, *row).into_iter().enumerate() {
                        let at = ((i * IN + j) * count + t) * c + first;
                        store(simd, &mut self.out[at..at + S::F32_LANES], v);
                    }
                }
            }
        }
    }
}

/// B^T d for one column.
#[inline(always)]
fn transform_six<S: Simd>(s: S, d: [S::f32s; IN]) -> [S::f32s; IN] {
    let (two, four, five) = (s.splat_f32s(2.0), s.splat_f32s(4.0), s.splat_f32s(5.0));
    // 4 d0 - 5 d2 + d4
    let even = s.negate_mul_add_e_f32s(five, d[2], s.mul_add_e_f32s(four, d[0], d[4]));
    let odd = s.negate_mul_add_e_f32s(five, d[3], s.mul_add_e_f32s(four, d[1], d[5]));
    // (d4 - 4 d2) +- (d3 - 4 d1)
    let a = s.negate_mul_add_e_f32s(four, d[2], d[4]);
    let b = s.negate_mul_add_e_f32s(four, d[1], d[3]);
    // (d4 - d2) +- 2 (d3 - d1)
    let e = s.sub_f32s(d[4], d[2]);
    let f = s.mul_f32s(two, s.sub_f32s(d[3], d[1]));
    [even, s.add_f32s(a, b), s.sub_f32s(a, b), s.add_f32s(e, f), s.sub_f32s(e, f), odd]
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
                    for m in 0..rows {
                        let at = (tile + m) * k + panel.first;
                        let out = &mut self.out[at..at + panel.count];
                        let out: &mut [[S::f32s; V]] = bytemuck::cast_slice_mut(out);
                        out[0] = sum[m];
                    }
                });
            }
        }
    }
}

/// A^T m A of some tiles of a strip, then bias, residual and ReLU, into the output.
struct TransformOutput<'a, 'b, I, O, Product> {
    operands: &'a Operands<'a, I>,
    strip: &'a mut Strip<'b, O>,
    tiles: &'a [(usize, usize)],
    product: Product,
}

impl<'r, I, O, Product> WithSimd for TransformOutput<'_, '_, I, O, Product>
where
    I: Element,
    O: Element,
    Product: Fn(usize, usize) -> &'r [f32],
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Operands { winograd, residual, relu, y, .. } = self.operands;
        let step = winograd.conv.dilation;
        let floor = simd.splat_f32s(if *relu { 0.0 } else { f32::NEG_INFINITY });
        let bottom = self.strip.top + self.strip.out.len() / (y.size.w * y.channels);
        for (t, &(top, left)) in self.tiles.iter().enumerate() {
            let source: [&[f32]; POINTS] = std::array::from_fn(|p| (self.product)(p, t));
            for first in (0..winograd.conv.out_channels).step_by(S::F32_LANES) {
                let mut half = [[simd.splat_f32s(0.0); IN]; OUT];
                for column in 0..IN {
                    let m = std::array::from_fn(|i| load(simd, &source[i * IN + column][first..]));
                    let v = transform_four(simd, m);
                    for i in 0..OUT {
                        half[i][column] = v[i];
                    }
                }
                let bias = load(simd, &winograd.bias[first..]);
                for (i, row) in half.iter().enumerate() {
                    let out_y = top + i * step;
                    if out_y >= bottom {
                        break;
                    }
                    for (j, mut v) in transform_four(simd, *row).into_iter().enumerate() {
                        let out_x = left + j * step;
                        if out_x >= y.size.w {
                            break;
                        }
                        v = simd.add_f32s(v, bias);
                        if let Some(residual) = residual {
                            let at = (self.strip.image * y.size.h + out_y) * y.size.w + out_x;
                            v = simd.add_f32s(v, I::load(simd, &residual.row(at)[first..]));
                        }
                        let pixel = (out_y - self.strip.top) * y.size.w + out_x;
                        let at = pixel * y.channels + y.first + first;
                        let out = &mut self.strip.out[at..at + S::F32_LANES];
                        O::store(simd, out, simd.max_f32s(floor, v));
                    }
                }
            }
        }
    }
}

/// A^T m for one column.
#[inline(always)]
fn transform_four<S: Simd>(s: S, m: [S::f32s; IN]) -> [S::f32s; OUT] {
    let (two, four, eight) = (s.splat_f32s(2.0), s.splat_f32s(4.0), s.splat_f32s(8.0));
    let (a, b) = (s.add_f32s(m[1], m[2]), s.sub_f32s(m[1], m[2]));
    let (c, d) = (s.add_f32s(m[3], m[4]), s.sub_f32s(m[3], m[4]));
    [
        s.add_f32s(m[0], s.add_f32s(a, c)),
        s.mul_add_e_f32s(two, d, b),
        s.mul_add_e_f32s(four, c, a),
        s.add_f32s(m[5], s.mul_add_e_f32s(eight, d, b)),
    ]
}
