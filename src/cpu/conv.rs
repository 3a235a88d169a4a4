//! Dense convolution as an implicit GEMM: row m of `a` is the receptive field of output pixel m,
//! read in place from the NHWC input, one contiguous run of channels per tap; taps outside the image
//! read a row of zeros, and a tap that is outside for the whole tile is skipped.
//!
//! Bias, residual and ReLU are applied to the accumulators. Depths beyond `DEPTH_BLOCK` are split
//! so that a panel stays in the L2 cache; the partial sums wait in the output.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{Panel, Panels, ROWS, Tile, accumulate, with_vectors, zero};
use super::lanes::{load_some, store_some};
use super::simd::arch;
use super::tensor::{Input, Output, Shape};
use crate::ops::{Conv2d, Size};
use crate::plan::ConvWeights;

/// Largest depth (in f32 per column) of one pass over a panel: 64 columns x 1152 x 4 bytes = 288 KiB.
const DEPTH_BLOCK: usize = 1152;

/// A convolution's weights packed as `[tap, channel] x [output channel]`.
pub struct Direct {
    conv: Conv2d,
    taps: Vec<Tap>,
    /// Elements that a tap reads.
    depth: usize,
    panels: Panels,
    bias: Vec<f32>,
}

/// Where a tap reads, relative to the top left of the receptive field.
#[derive(Clone, Copy)]
struct Tap {
    dy: isize,
    dx: isize,
}

impl Direct {
    pub fn new(weights: &ConvWeights) -> Self {
        let conv = weights.conv;
        assert!(!conv.depthwise, "a depthwise convolution has its own path");
        let all = conv.kernel * conv.kernel * conv.in_channels;
        let panels = Panels::pack(all, conv.out_channels, |k, n| weights.weight[n * all + k]);
        let step = |i: usize| (i * conv.dilation) as isize;
        let columns = if merges_rows(&conv) { 1 } else { conv.kernel };
        let taps = (0..conv.kernel)
            .flat_map(|r| (0..columns).map(move |s| Tap { dy: step(r), dx: step(s) }))
            .collect::<Vec<_>>();
        let depth = all / taps.len();
        Direct { conv, taps, depth, panels, bias: weights.bias.clone() }
    }

    /// `y = relu(conv(x) + bias + residual)`, either of the last two optional.
    pub fn run(&self, x: Input, residual: Option<Input>, relu: bool, y: Output) {
        if merges_rows(&self.conv) {
            let copy = pad(x, self.conv.padding);
            let size =
                Size::new(x.size.h + 2 * self.conv.padding, x.size.w + 2 * self.conv.padding);
            let x =
                Input { data: &copy, size, channels: x.count, first: 0, count: self.depth, ..x };
            self.run_from(x, 0, residual, relu, y);
        } else {
            self.run_from(x, self.conv.padding, residual, relu, y);
        }
    }

    fn run_from(&self, x: Input, padding: usize, residual: Option<Input>, relu: bool, y: Output) {
        let pixels = y.shape.batch * y.shape.size.pixels();
        let threads = rayon::current_num_threads();
        // Small enough to balance, large enough that a task amortises its pass over the weights.
        let task = pixels.div_ceil(4 * threads).clamp(48, 1536).next_multiple_of(ROWS);
        let operands = Operands { direct: self, x, padding, residual, relu, y: y.shape };
        y.buffer.par_chunks_mut(task * y.shape.channels).enumerate().for_each(|(i, out)| {
            arch().dispatch(Run { operands: &operands, start: i * task, out })
        });
    }
}

/// With few input channels (the stem) a kernel row's taps are one contiguous run of the input, if
/// none of them lies outside: then the input is copied with its padding first.
fn merges_rows(conv: &Conv2d) -> bool {
    conv.dilation == 1 && conv.kernel > 1 && conv.in_channels <= 8
}

/// The slice with `padding` zeros around each image.
fn pad(x: Input, padding: usize) -> Vec<f32> {
    let (h, w) = (x.size.h + 2 * padding, (x.size.w + 2 * padding) * x.count);
    let mut copy = vec![0.0; x.batch * h * w];
    copy.par_chunks_mut(w).enumerate().for_each(|(row, out)| {
        let (image, y) = (row / h, (row % h).wrapping_sub(padding));
        if y < x.size.h {
            let line = (image * x.size.h + y) * x.size.w;
            let out = &mut out[padding * x.count..][..x.size.w * x.count];
            if x.count == x.channels {
                out.copy_from_slice(&x.data[line * x.channels..][..out.len()]);
                return;
            }
            for (i, pixel) in out.chunks_exact_mut(x.count).enumerate() {
                pixel.copy_from_slice(x.row(line + i));
            }
        }
    });
    copy
}

/// What all tasks of one convolution share.
struct Operands<'a> {
    direct: &'a Direct,
    x: Input<'a>,
    padding: usize,
    residual: Option<Input<'a>>,
    relu: bool,
    y: Shape,
}

/// A run of output pixels.
struct Run<'a> {
    operands: &'a Operands<'a>,
    /// First output pixel, counted over the batch.
    start: usize,
    /// The pixels' rows of the output buffer.
    out: &'a mut [f32],
}

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(mut self, simd: S) {
        let Direct { taps, depth, panels, .. } = self.operands.direct;
        let count = self.out.len() / self.operands.y.channels;
        let block = (DEPTH_BLOCK / depth).clamp(1, taps.len());
        let zeros = vec![0.0; *depth];
        for tap in (0..taps.len()).step_by(block) {
            let range = tap..(tap + block).min(taps.len());
            for panel in 0..panels.count() {
                let panel = panels.get(panel);
                for pixel in (0..count).step_by(ROWS) {
                    let rows = (count - pixel).min(ROWS);
                    with_vectors!(panel.vectors, V => {
                        self.tile::<S, V>(simd, &panel, range.clone(), pixel, rows, &zeros)
                    });
                }
            }
        }
    }
}

impl Run<'_> {
    #[inline(always)]
    fn tile<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        panel: &Panel,
        range: Range<usize>,
        pixel: usize,
        rows: usize,
        zeros: &[f32],
    ) {
        let Operands { direct, x, padding, y, .. } = self.operands;
        let Direct { conv, taps, depth, .. } = direct;
        let columns: &[[S::f32s; V]] = bytemuck::cast_slice(panel.data);
        let mut sum = zero::<S, V>(simd);
        // The image and the top left input position of each row's receptive field; rows past the
        // end repeat the last one and are not stored.
        let places: [(usize, isize, isize); ROWS] = std::array::from_fn(|m| {
            let at = self.start + pixel + m.min(rows - 1);
            let (image, rest) = (at / y.size.pixels(), at % y.size.pixels());
            let origin = |i: usize| (i * conv.stride) as isize - *padding as isize;
            (image, origin(rest / y.size.w), origin(rest % y.size.w))
        });
        for (i, tap) in range.clone().zip(&taps[range.clone()]) {
            let mut inside = false;
            let a = places.map(|(image, y, x0)| match x.pixel(image, y + tap.dy, x0 + tap.dx) {
                Some(row) => {
                    inside = true;
                    row
                }
                None => zeros,
            });
            if inside {
                accumulate(simd, &mut sum, a, &columns[i * depth..][..*depth]);
            }
        }
        self.store(simd, &sum, panel, pixel, rows, range.start == 0, range.end == taps.len());
    }

    /// Adds the partial sums of earlier passes, and after the last pass the epilogue.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn store<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        sum: &Tile<S, V>,
        panel: &Panel,
        pixel: usize,
        rows: usize,
        first_pass: bool,
        last_pass: bool,
    ) {
        let floor = simd.splat_f32s(if self.operands.relu { 0.0 } else { f32::NEG_INFINITY });
        for m in 0..rows {
            let at = (pixel + m) * self.operands.y.channels + self.operands.y.first + panel.first;
            let out = &mut self.out[at..at + panel.count];
            let bias = &self.operands.direct.bias[panel.first..][..panel.count];
            let residual = self
                .operands
                .residual
                .filter(|_| last_pass)
                .map(|r| &r.row(self.start + pixel + m)[panel.first..][..panel.count]);
            for v in 0..V {
                let lanes = v * S::F32_LANES..((v + 1) * S::F32_LANES).min(panel.count);
                let mut value = sum[m][v];
                if !first_pass {
                    value = simd.add_f32s(value, load_some(simd, &out[lanes.clone()]));
                }
                if last_pass {
                    value = simd.add_f32s(value, load_some(simd, &bias[lanes.clone()]));
                    if let Some(row) = residual {
                        value = simd.add_f32s(value, load_some(simd, &row[lanes.clone()]));
                    }
                    value = simd.max_f32s(floor, value);
                }
                store_some(simd, &mut out[lanes], value);
            }
        }
    }
}
