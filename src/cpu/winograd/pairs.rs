//! 3x3 convolution of stride 1 by Winograd's F(2x2, 3x3) in pairs of bf16 ([`crate::cpu::pairs`]): 16 products instead of 36 for 2 x 2
//! outputs.
//!
//! `Y = A^T [ (G g G^T) * (B^T d B) ] A` as in [`super`], with a 4 x 4 input tile. The transformed weights and tiles are rounded
//! to bf16, all else is f32. The entries of B and A are 0 and +-1, of G 1 and +-1/2: a relative rounding of either operand
//! reaches the output 5/3-fold, where F(4x4) would pass it on 93-fold; the parity tests hold the bound.
//!
//! A task takes its tiles from input to output: the transformed tiles lie in its L2 cache, and a panel of 64 output channels at a time
//! passes through them, so that products stay there too and the weights are one stream.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;
use std::cell::RefCell;

use half::bf16;
use multiversion::{multiversion, target::match_target};
use rayon::prelude::*;

use super::tiles::{self, Strip, strips, tiles};
use crate::cpu::element::Element;
use crate::cpu::gemm::{Line, ROWS, aligned, with_vectors};
#[cfg(target_arch = "x86_64")]
use crate::cpu::pairs::{accumulate, finish};
use crate::cpu::tensor::{self, Input, Output};
use crate::ops::Conv2d;
use crate::plan::ConvWeights;

/// Outputs and inputs along a side of a tile.
const OUT: usize = 2;
const IN: usize = 4;
/// Points of the transform.
const POINTS: usize = IN * IN;
/// Columns of a vector, and vectors of a panel.
const LANES: usize = 16;
const VECTORS: usize = 4;

/// Tiles of a task at least, and that pass together through the weights at most.
const LEAST_TILES: usize = 24;
const MOST_TILES: usize = 96;
/// Weights above this many bytes come from memory in each task: few tasks of many tiles, which take this many bytes, read in order,
/// at most.
const WEIGHT_BYTES: usize = 512 << 10;
const TILE_BYTES: usize = 1536 << 10;

type Operands<'a> = tensor::Operands<'a, WinogradPairs, bf16>;

/// Weights transformed and packed.
pub struct WinogradPairs {
    conv: Conv2d,
    /// Panels of up to 64 columns: `[panel][point][pair of input channels][column][2]`.
    data: Vec<Line>,
    bias: Vec<f32>,
}

/// Whether the transform applies to a convolution and pays on an output of this height and width.
pub fn pays(conv: &Conv2d, h: usize, w: usize) -> bool {
    tiles::pays(conv, OUT, h, w)
}

impl WinogradPairs {
    pub fn new(weights: &ConvWeights) -> Self {
        let conv = weights.conv;
        let (c, k) = (conv.in_channels, conv.out_channels);
        assert!(c.is_multiple_of(LANES) && k.is_multiple_of(LANES), "whole vectors of channels");
        let mut data = aligned(POINTS * c / 2 * k);
        transform_filters(weights, bytemuck::cast_slice_mut(&mut data));
        WinogradPairs { conv, data, bias: weights.bias.clone() }
    }

    /// Whether the weights stay in a core's cache.
    fn stays(&self) -> bool {
        size_of_val(&self.data[..]) <= WEIGHT_BYTES
    }

    /// Tiles that pass together through the weights at most.
    fn most_tiles(&self) -> usize {
        match self.stays() {
            true => MOST_TILES,
            false => (TILE_BYTES / (POINTS * self.conv.in_channels * size_of::<bf16>())).max(ROWS),
        }
    }

    /// `y = relu(conv(x) + bias + residual)`, either of the last two optional.
    pub fn run<O: Element>(
        &self,
        x: Input<bf16>,
        residual: Option<Input<bf16>>,
        relu: bool,
        y: Output<O>,
    ) {
        let shape = y.shape;
        let rows = y.buffer.len() / (shape.size.w * shape.channels);
        let least = if self.stays() {
            LEAST_TILES
        } else {
            // The same number of tasks for all threads, none of them with more tiles than pass together; strips are whole rows of
            // tiles.
            let (width, threads) = (shape.size.w, rayon::current_num_threads());
            let all = tiles(&self.conv, OUT, rows, width);
            let passes = all.div_ceil(threads * self.most_tiles());
            let row = self.conv.dilation * tiles(&self.conv, OUT, 1, width);
            (all.div_ceil(threads * passes) / row * row).max(LEAST_TILES)
        };
        let operands = Operands { weights: self, x, residual, relu, y: shape };
        strips(y.buffer, shape, self.conv.dilation, OUT, least)
            .into_par_iter()
            .for_each(|strip| run_strip(&operands, strip));
    }
}

/// G g G^T of every filter in f32, then rounded.
#[multiversion(targets("x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl"))]
fn transform_filters(weights: &ConvWeights, packed: &mut [[bf16; 2]]) {
    let ConvWeights { conv, weight, .. } = weights;
    let (c, k) = (conv.in_channels, conv.out_channels);
    let pairs = c / 2;
    for n in 0..k {
        let first = n / (LANES * VECTORS) * (LANES * VECTORS);
        let wide = (k - first).min(LANES * VECTORS);
        let panel = &mut packed[first * POINTS * pairs..][..wide * POINTS * pairs];
        for m in (0..c).step_by(LANES) {
            let tap = |tap: usize| -> [f32; LANES] {
                let run = &weight[(n * 9 + tap) * c + m..][..LANES];
                std::array::from_fn(|i| run[i])
            };
            // G g, [4][3], a column of g at a time.
            let half: [[[f32; LANES]; IN]; 3] =
                std::array::from_fn(|s| transform_three([tap(s), tap(3 + s), tap(6 + s)]));
            for i in 0..IN {
                let row = transform_three([half[0][i], half[1][i], half[2][i]]);
                for (j, values) in row.iter().enumerate() {
                    let values = values.map(<bf16 as Element>::from_f32);
                    let point = &mut panel[(i * IN + j) * pairs * wide..][..pairs * wide];
                    let rows = point[m / 2 * wide..].chunks_exact_mut(wide);
                    for (row, pair) in rows.zip(values.as_chunks::<2>().0) {
                        row[n - first] = *pair;
                    }
                }
            }
        }
    }
}

/// G g for one column of some filters.
#[inline(always)]
fn transform_three([a, b, c]: [[f32; LANES]; 3]) -> [[f32; LANES]; IN] {
    let middle = |sign: f32| std::array::from_fn(|i| (a[i] + c[i] + sign * b[i]) / 2.0);
    [a, middle(1.0), middle(-1.0), c]
}

thread_local! {
    /// Transformed tiles, their products, and a tile at the image's border.
    static SCRATCH: RefCell<[Vec<Line>; 3]> = const { RefCell::new([const { Vec::new() }; 3]) };
}

fn scratch(buffer: &mut Vec<Line>, bytes: usize) -> &mut [u8] {
    if size_of_val(&buffer[..]) < bytes {
        *buffer = aligned(bytes.div_ceil(size_of::<f32>()));
    }
    &mut bytemuck::cast_slice_mut(buffer)[..bytes]
}

#[multiversion(
    targets("x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx512bf16"),
    dispatcher = "direct"
)]
fn run_strip<O: Element>(operands: &Operands, strip: Strip<O>) {
    match_target! {
        "x86_64+avx512bf16" => strip_avx512(operands, strip),
        _ => {
            let _ = (operands, strip);
            unreachable!("an engine in bf16 is made only where `available`")
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
fn strip_avx512<O: Element>(operands: &Operands, mut strip: Strip<O>) {
    let WinogradPairs { conv, data, .. } = operands.weights;
    let (c, k) = (conv.in_channels, conv.out_channels);
    let data: &[f32] = bytemuck::cast_slice(data);
    let tiles = std::mem::take(&mut strip.tiles);
    // Taken out rather than borrowed: what runs inside a closure would not be compiled for the vector instructions.
    let mut buffers = SCRATCH.take();
    let [input, products, border] = &mut buffers;
    for tiles in tiles.chunks(operands.weights.most_tiles()) {
        let count = tiles.len();
        let input: &mut [bf16] =
            bytemuck::cast_slice_mut(scratch(input, POINTS * count * c * size_of::<bf16>()));
        let border = bytemuck::cast_slice_mut(scratch(border, POINTS * c * size_of::<bf16>()));
        transform_input(operands, strip.image, tiles, border, input);
        for first in (0..k).step_by(LANES * VECTORS) {
            let wide = (k - first).min(LANES * VECTORS);
            let panel = &data[first * POINTS * c / 2..][..wide * POINTS * c / 2];
            let products = scratch(products, POINTS * count * wide * size_of::<f32>());
            with_vectors!(wide / LANES, V => {
                let panel: &[[__m512bh; V]] = bytemuck::cast_slice(panel);
                let products: &mut [[__m512; V]] = bytemuck::cast_slice_mut(products);
                let points = panel.chunks_exact(c / 2).zip(input.chunks_exact(count * c));
                for ((panel, tiles), out) in points.zip(products.chunks_exact_mut(count)) {
                    multiply(panel, tiles, out);
                }
                transform_output(operands, &mut strip, tiles, first, products);
            });
        }
    }
    SCRATCH.set(buffers);
}

/// `products[t] = tiles[t] x panel` for all tiles.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
fn multiply<const V: usize>(panel: &[[__m512bh; V]], tiles: &[bf16], products: &mut [[__m512; V]]) {
    let c = 2 * panel.len();
    for (tiles, products) in tiles.chunks(ROWS * c).zip(products.chunks_mut(ROWS)) {
        let last = products.len() - 1;
        let mut sum = [[_mm512_setzero_ps(); V]; ROWS];
        let mut rows = [&tiles[..c]; ROWS];
        for m in 0..ROWS {
            rows[m] = &tiles[m.min(last) * c..][..c];
        }
        accumulate(&mut sum, rows, panel);
        // Unrolled, so that the accumulators need no addresses.
        for m in 0..ROWS {
            if m > last {
                break;
            }
            products[m] = sum[m];
        }
    }
}

/// B^T d B of some tiles of an image: `[point][tile][C]`.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
fn transform_input(
    operands: &Operands,
    image: usize,
    tiles: &[(usize, usize)],
    border: &mut [bf16],
    out: &mut [bf16],
) {
    let Operands { weights: WinogradPairs { conv, .. }, x, .. } = operands;
    let (c, step, count) = (conv.in_channels, conv.dilation, tiles.len());
    for (t, &(top, left)) in tiles.iter().enumerate() {
        // Coordinates of the tile's pixels, and one more than the last of them.
        let at = |start: usize, i: usize| (start + i * step) as isize - step as isize;
        let inside =
            top >= step && left >= step && top + 2 * step < x.size.h && left + 2 * step < x.size.w;
        // Elements from a pixel to the next.
        let apart = if inside { step * x.channels } else { c };
        if !inside {
            for (p, to) in border.chunks_exact_mut(c).enumerate() {
                match x.pixel(image, at(top, p / IN), at(left, p % IN)) {
                    Some(row) => to.copy_from_slice(row),
                    None => to.fill(bf16::ZERO),
                }
            }
        }
        let mut rows = [&border[..]; IN];
        for i in 0..IN {
            let from = if inside {
                let line = image * x.size.h + top + i * step - step;
                &x.from(line * x.size.w + left - step)[x.first..]
            } else {
                &border[i * IN * c..]
            };
            rows[i] = &from[..(IN - 1) * apart + c];
        }
        // Slices of one length each, so that the loop below needs no checks.
        let vectors = c / LANES;
        let mut from = [[&[[bf16::ZERO; LANES]][..]; IN]; IN];
        for i in 0..IN {
            for j in 0..IN {
                from[i][j] = &rows[i][j * apart..].as_chunks().0[..vectors];
            }
        }
        let mut to: [&mut [[bf16; LANES]]; POINTS] = Default::default();
        for (to, out) in to.iter_mut().zip(out.chunks_exact_mut(count * c)) {
            *to = &mut out.as_chunks_mut::<LANES>().0[t * vectors..][..vectors];
        }
        for v in 0..vectors {
            let mut d = [[_mm512_setzero_ps(); IN]; IN];
            for i in 0..IN {
                for j in 0..IN {
                    d[i][j] = _mm512_cvtpbh_ps(bytemuck::cast(from[i][j][v]));
                }
            }
            for j in 0..IN {
                let column = transform_four([d[0][j], d[1][j], d[2][j], d[3][j]]);
                for i in 0..IN {
                    d[i][j] = column[i];
                }
            }
            for i in 0..IN {
                let row = transform_four(d[i]);
                for j in 0..IN {
                    to[i * IN + j][v] = bytemuck::cast(_mm512_cvtneps_pbh(row[j]));
                }
            }
        }
    }
}

/// B^T d for one column.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn transform_four(d: [__m512; IN]) -> [__m512; IN] {
    [
        _mm512_sub_ps(d[0], d[2]),
        _mm512_add_ps(d[1], d[2]),
        _mm512_sub_ps(d[2], d[1]),
        _mm512_sub_ps(d[1], d[3]),
    ]
}

/// A^T m for one column.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn transform_two(m: [__m512; IN]) -> [__m512; OUT] {
    [_mm512_add_ps(m[0], _mm512_add_ps(m[1], m[2])), _mm512_sub_ps(_mm512_sub_ps(m[1], m[2]), m[3])]
}

/// A^T m A of some tiles of a strip, then bias, residual and ReLU, into a panel's channels of the output.
#[cfg(target_arch = "x86_64")]
#[inline(never)]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
fn transform_output<O: Element, const V: usize>(
    operands: &Operands,
    strip: &mut Strip<O>,
    tiles: &[(usize, usize)],
    column: usize,
    products: &[[__m512; V]],
) {
    let Operands { weights: WinogradPairs { conv, bias, .. }, residual, relu, y, .. } = operands;
    let step = conv.dilation;
    let floor = if *relu { 0.0 } else { f32::NEG_INFINITY };
    let bias = &bias[column..][..V * LANES];
    let bottom = strip.top + strip.out.len() / (y.size.w * y.channels);
    for (t, &(top, left)) in tiles.iter().enumerate() {
        let mut values = [[[_mm512_setzero_ps(); V]; OUT]; OUT];
        for v in 0..V {
            let mut half = [[_mm512_setzero_ps(); IN]; OUT];
            for j in 0..IN {
                let mut m = [_mm512_setzero_ps(); IN];
                for i in 0..IN {
                    m[i] = products[(i * IN + j) * tiles.len() + t][v];
                }
                let column = transform_two(m);
                for i in 0..OUT {
                    half[i][j] = column[i];
                }
            }
            for i in 0..OUT {
                let row = transform_two(half[i]);
                for j in 0..OUT {
                    values[i][j][v] = row[j];
                }
            }
        }
        for i in 0..OUT {
            for j in 0..OUT {
                let (out_y, out_x) = (top + i * step, left + j * step);
                if out_y >= bottom || out_x >= y.size.w {
                    continue;
                }
                let residual = match residual {
                    Some(residual) => {
                        let at = (strip.image * y.size.h + out_y) * y.size.w + out_x;
                        Some(&residual.row(at)[column..][..V * LANES])
                    }
                    None => None,
                };
                let pixel = (out_y - strip.top) * y.size.w + out_x;
                let at = pixel * y.channels + y.first + column;
                finish(&values[i][j], bias, residual, floor, &mut strip.out[at..][..V * LANES]);
            }
        }
    }
}
