//! Dense convolution in f32 as an implicit GEMM: row m of `a` is the receptive field of output pixel m
//! ([`super::receptive`]); taps outside the image read a row of zeros, and a tap that is outside for the whole tile is
//! skipped.
//!
//! Bias, residual and ReLU are applied to the accumulators. Depths beyond `DEPTH_BLOCK` are split
//! so that a panel stays in the L2 cache; the partial sums wait in the output.

use std::ops::Range;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::gemm::{Panel, Panels, ROWS, Tile, accumulate, with_vectors, zero};
use super::lanes::{load, store};
use super::receptive::{Place, Taps};
use super::simd::arch;
use super::tensor::{self, Input, Output};
use crate::plan::ConvWeights;

/// Largest depth (in f32 per column) of one pass over a panel: 64 columns x 1152 x 4 bytes = 288 KiB.
const DEPTH_BLOCK: usize = 1152;
/// Pixels whose receptive fields are copied together.
const GATHERED: usize = 8 * ROWS;

type Operands<'a> = tensor::Operands<'a, Direct>;

/// A convolution's weights packed as `[tap, channel] x [output channel]`.
pub struct Direct {
    taps: Taps,
    panels: Panels,
    bias: Vec<f32>,
}

impl Direct {
    pub fn new(weights: &ConvWeights) -> Self {
        let taps = Taps::new(weights.conv);
        let all = taps.all();
        let columns = weights.conv.out_channels;
        let panels = Panels::pack(all, columns, |k, n| weights.weight[n * all + k]);
        Direct { taps, panels, bias: weights.bias.clone() }
    }

    /// `y = relu(conv(x) + bias + residual)`, either of the last two optional.
    pub fn run(&self, x: Input, residual: Option<Input>, relu: bool, y: Output) {
        let task = self.taps.task_pixels(y.buffer.len() / y.shape.channels, size_of::<f32>());
        let operands = Operands { weights: self, x, residual, relu, y: y.shape };
        y.buffer.par_chunks_mut(task * y.shape.channels).enumerate().for_each(|(i, out)| {
            arch().dispatch(Run { operands: &operands, start: y.shape.before() + i * task, out })
        });
    }
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
        let Direct { taps, panels, .. } = self.operands.weights;
        let count = self.out.len() / self.operands.y.channels;
        if taps.gathers() {
            return self.gathered(simd, count);
        }
        let block = (DEPTH_BLOCK / taps.depth).clamp(1, taps.offsets.len());
        let zeros = vec![0.0; taps.depth];
        for tap in (0..taps.offsets.len()).step_by(block) {
            let range = tap..(tap + block).min(taps.offsets.len());
            for panel in 0..panels.count() {
                let panel = panels.get(panel);
                let mut places = taps.places(&self.operands.y, self.start);
                for pixel in (0..count).step_by(ROWS) {
                    let rows = (count - pixel).min(ROWS);
                    with_vectors!(panel.vectors, V => {
                        self.tile::<S, V>(simd, &panel, range.clone(), &mut places, pixel, rows, &zeros)
                    });
                }
            }
        }
    }
}

impl Run<'_> {
    /// One panel's columns of [`ROWS`] pixels, over a range of taps. Rows past the end repeat the last and are not
    /// stored.
    #[inline(always)]
    #[allow(clippy::too_many_arguments)]
    fn tile<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        panel: &Panel,
        range: Range<usize>,
        places: &mut impl Iterator<Item = Place>,
        pixel: usize,
        rows: usize,
        zeros: &[f32],
    ) {
        let Operands { weights: Direct { taps, .. }, x, .. } = self.operands;
        let columns: &[[S::f32s; V]] = bytemuck::cast_slice(panel.data);
        let mut sum = zero::<S, V>(simd);
        if taps.pointwise() {
            let a = std::array::from_fn(|m| x.row(self.start + pixel + m.min(rows - 1)));
            accumulate(simd, &mut sum, a, columns);
        } else {
            let mut last = Place { image: 0, top: 0, left: 0 };
            let places: [Place; ROWS] = std::array::from_fn(|m| {
                if m < rows {
                    last = places.next().unwrap_or(last);
                }
                last
            });
            for (i, tap) in range.clone().zip(&taps.offsets[range.clone()]) {
                let mut inside = false;
                let a = places.map(|Place { image, top, left }| {
                    let row = x.pixel(image, top + tap.y, left + tap.x);
                    inside |= row.is_some();
                    row.unwrap_or(zeros)
                });
                if inside {
                    accumulate(simd, &mut sum, a, &columns[i * taps.depth..][..taps.depth]);
                }
            }
        }
        let passes = [range.start == 0, range.end == taps.offsets.len()];
        self.store(simd, &sum, panel, pixel, rows, passes);
    }

    /// As `with_simd`, by copies of the receptive fields.
    #[inline(always)]
    fn gathered<S: Simd>(&mut self, simd: S, count: usize) {
        let Operands { weights: Direct { taps, panels, .. }, x, y, .. } = self.operands;
        let (all, stride) = (taps.all(), taps.all() + 32);
        let mut fields = vec![0.0; GATHERED * stride];
        let mut places = taps.places(y, self.start);
        for first in (0..count).step_by(GATHERED) {
            let some = (count - first).min(GATHERED);
            for (field, place) in fields.chunks_exact_mut(stride).take(some).zip(&mut places) {
                taps.gather(x, place, field);
            }
            for panel in 0..panels.count() {
                let panel = panels.get(panel);
                for pixel in (0..some).step_by(ROWS) {
                    let rows = (some - pixel).min(ROWS);
                    let a = std::array::from_fn(|m| {
                        &fields[(pixel + m.min(rows - 1)) * stride..][..all]
                    });
                    with_vectors!(panel.vectors, V => {
                        let columns: &[[S::f32s; V]] = bytemuck::cast_slice(panel.data);
                        let mut sum = zero::<S, V>(simd);
                        accumulate(simd, &mut sum, a, columns);
                        self.store(simd, &sum, &panel, first + pixel, rows, [true, true]);
                    });
                }
            }
        }
    }

    /// Adds the partial sums of earlier passes, and after the last pass the epilogue.
    #[inline(always)]
    fn store<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        sum: &Tile<S, V>,
        panel: &Panel,
        pixel: usize,
        rows: usize,
        passes: [bool; 2],
    ) {
        // Each gets a copy: accumulators that one of them indexes by a variable would lie in memory for both.
        if rows == ROWS && panel.count == V * S::F32_LANES {
            self.store_whole(simd, *sum, panel, pixel, passes);
        } else {
            self.store_part::<S, V>(*sum, panel, pixel, rows, passes);
        }
    }

    /// Of a whole tile: loops of constant length, a few instructions each, which are unrolled, so that the accumulators stay in
    /// registers.
    #[inline(always)]
    fn store_whole<S: Simd, const V: usize>(
        &mut self,
        simd: S,
        mut sum: Tile<S, V>,
        panel: &Panel,
        pixel: usize,
        [first_pass, last_pass]: [bool; 2],
    ) {
        let Operands { weights: direct, residual, relu, y, .. } = self.operands;
        let wide = V * S::F32_LANES;
        let lanes = |v: usize| v * S::F32_LANES..(v + 1) * S::F32_LANES;
        let at = |m: usize| (pixel + m) * y.channels + y.first + panel.first;
        if !first_pass {
            for m in 0..ROWS {
                let out = &self.out[at(m)..][..wide];
                for v in 0..V {
                    sum[m][v] = simd.add_f32s(sum[m][v], load(simd, &out[lanes(v)]));
                }
            }
        }
        if last_pass {
            let bias = &direct.bias[panel.first..][..wide];
            for m in 0..ROWS {
                for v in 0..V {
                    sum[m][v] = simd.add_f32s(sum[m][v], load(simd, &bias[lanes(v)]));
                }
            }
            if let Some(residual) = residual {
                for m in 0..ROWS {
                    let row = &residual.row(self.start + pixel + m)[panel.first..][..wide];
                    for v in 0..V {
                        sum[m][v] = simd.add_f32s(sum[m][v], load(simd, &row[lanes(v)]));
                    }
                }
            }
            let floor = simd.splat_f32s(if *relu { 0.0 } else { f32::NEG_INFINITY });
            for m in 0..ROWS {
                for v in 0..V {
                    sum[m][v] = simd.max_f32s(floor, sum[m][v]);
                }
            }
        }
        for m in 0..ROWS {
            let out = &mut self.out[at(m)..][..wide];
            for v in 0..V {
                store(simd, &mut out[lanes(v)], sum[m][v]);
            }
        }
    }

    /// Of a tile with fewer rows or columns, a value at a time.
    #[inline(always)]
    fn store_part<S: Simd, const V: usize>(
        &mut self,
        sum: Tile<S, V>,
        panel: &Panel,
        pixel: usize,
        rows: usize,
        [first_pass, last_pass]: [bool; 2],
    ) {
        let Operands { weights: direct, residual, relu, y, .. } = self.operands;
        let floor = if *relu { 0.0 } else { f32::NEG_INFINITY };
        let bias = &direct.bias[panel.first..][..panel.count];
        for m in 0..rows {
            let at = (pixel + m) * y.channels + y.first + panel.first;
            let residual = residual.filter(|_| last_pass);
            let residual =
                residual.map(|r| &r.row(self.start + pixel + m)[panel.first..][..panel.count]);
            let values: &[f32] = bytemuck::cast_slice(&sum[m]);
            for (n, out) in self.out[at..][..panel.count].iter_mut().enumerate() {
                let mut value = values[n];
                if !first_pass {
                    value += *out;
                }
                if last_pass {
                    value += bias[n];
                    if let Some(row) = residual {
                        value += row[n];
                    }
                    // NaN stays, as in the vectors.
                    value = if value < floor { floor } else { value };
                }
                *out = value;
            }
        }
    }
}
