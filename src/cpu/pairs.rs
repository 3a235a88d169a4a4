//! Dense convolution in bf16 as an implicit GEMM: `y[m, n] = sum_k a[m, k] b[k, n]` by VDPBF16PS, which adds
//! the products of two pairs of bf16 to each of 16 f32: twice the products of an f32 multiply-add. Rows are receptive
//! fields read in place ([`super::receptive`]), a pair of channels at a time; weights are packed as
//! `[pair of k][column][2]`. Sums, bias, residual and ReLU are f32; what is stored is rounded once.
//!
//! VDPBF16PS flushes subnormal operands and results to zero, and neither fuses nor orders the two products in a way that
//! is the same on all CPUs: a sum of n products is within (n + 3) 2^-24 of their sum of magnitudes, as in f32.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::bf16;
use multiversion::{multiversion, target::match_target};
use rayon::prelude::*;

use super::element::Element;
use super::gemm::{Line, ROWS, aligned, with_vectors};
use super::receptive::{Place, Taps};
use super::tensor::{self, Input, Output};
use crate::ops::Conv2d;
use crate::plan::ConvWeights;

/// Columns of a vector.
const LANES: usize = 16;
/// Vectors of a full panel.
const VECTORS: usize = 4;

/// Whether this machine has the instructions.
#[multiversion(
    targets("x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx512bf16"),
    dispatcher = "direct"
)]
pub fn available() -> bool {
    match_target! {
        "x86_64+avx512bf16" => true,
        _ => false,
    }
}

type Operands<'a> = tensor::Operands<'a, Pairs, bf16>;

/// A convolution's weights packed as pairs.
pub struct Pairs {
    taps: Taps,
    /// Panels of up to 64 columns: `[panel][run][pair][column][2]`, zero-padded to whole vectors.
    data: Vec<Line>,
    /// Pairs of a run: of a tap's channels, or where fields are read from copied lines of one of a field's rows.
    run: usize,
    /// Pairs of a field.
    pairs: usize,
    bias: Vec<f32>,
}

impl Pairs {
    /// # Panics
    /// An odd number of channels, of which no run is pairs; where lines are copied ([`Taps::gathers`]) a run's last pair is padded
    /// instead, but taps must not be dilated.
    pub fn new(weights: &ConvWeights) -> Self {
        let taps = Taps::new(weights.conv);
        let all = taps.all();
        let elements = if taps.gathers() {
            assert!(taps.conv.dilation == 1, "taps side by side");
            taps.conv.kernel * taps.depth
        } else {
            assert!(taps.depth.is_multiple_of(2), "pairs of channels");
            taps.depth
        };
        let run = elements.div_ceil(2);
        let pairs = run * (all / elements);
        let columns = weights.conv.out_channels;
        let wide = columns.next_multiple_of(LANES);
        let mut data = aligned(pairs * wide);
        let packed: &mut [[bf16; 2]] = bytemuck::cast_slice_mut(&mut data);
        for n in 0..columns {
            let first = n / (LANES * VECTORS) * (LANES * VECTORS);
            let stride = (wide - first).min(LANES * VECTORS);
            for k in 0..all {
                let pair = k / elements * run + k % elements / 2;
                let at = first * pairs + pair * stride + n - first;
                packed[at][k % elements % 2] =
                    <bf16 as Element>::from_f32(weights.weight[n * all + k]);
            }
        }
        Pairs { taps, data, run, pairs, bias: weights.bias.clone() }
    }

    /// `y = relu(conv(x) + bias + residual)`, either of the last two optional.
    pub fn run<O: Element>(
        &self,
        x: Input<bf16>,
        residual: Option<Input<bf16>>,
        relu: bool,
        y: Output<O>,
    ) {
        let task = self.taps.task_pixels(y.buffer.len() / y.shape.channels, size_of::<bf16>());
        let operands = Operands { weights: self, x, residual, relu, y: y.shape };
        y.buffer.par_chunks_mut(task * y.shape.channels).enumerate().for_each(|(i, out)| {
            run_task(Task { operands: &operands, start: y.shape.before() + i * task, out })
        });
    }
}

/// A run of output pixels.
struct Task<'a, O> {
    operands: &'a Operands<'a>,
    /// First output pixel, counted over the batch.
    start: usize,
    /// The pixels' rows of the output buffer.
    out: &'a mut [O],
}

#[multiversion(
    targets("x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx512bf16"),
    dispatcher = "direct"
)]
fn run_task<O: Element>(task: Task<O>) {
    match_target! {
        "x86_64+avx512bf16" => task_avx512(task),
        _ => {
            let _ = task;
            unreachable!("an engine in bf16 is made only where `available`")
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
fn task_avx512<O: Element>(mut task: Task<O>) {
    let Operands { weights: Pairs { taps, run, pairs, bias, data }, x, y, .. } = task.operands;
    if taps.gathers() {
        return lines_avx512(task);
    }
    let count = task.out.len() / y.channels;
    let zeros = vec![bf16::ZERO; taps.depth];
    let data: &[f32] = bytemuck::cast_slice(data);
    for column in (0..bias.len()).step_by(LANES * VECTORS) {
        let vectors = (bias.len() - column).div_ceil(LANES).min(VECTORS);
        let panel = &data[column * pairs..][..pairs * vectors * LANES];
        let mut places = taps.places(y, task.start);
        for pixel in (0..count).step_by(ROWS) {
            let rows = (count - pixel).min(ROWS);
            with_vectors!(vectors, V => {
                let panel: &[[__m512bh; V]] = bytemuck::cast_slice(panel);
                let mut sum = [[_mm512_setzero_ps(); V]; ROWS];
                if taps.pointwise() {
                    let row = |m: usize| x.row(task.start + pixel + m.min(rows - 1));
                    accumulate(&mut sum, std::array::from_fn(row), panel);
                } else {
                    let mut last = Place { image: 0, top: 0, left: 0 };
                    let tile: [Place; ROWS] = std::array::from_fn(|m| {
                        if m < rows {
                            last = places.next().unwrap_or(last);
                        }
                        last
                    });
                    for (tap, panel) in taps.offsets.iter().zip(panel.chunks_exact(*run)) {
                        let mut inside = false;
                        let a = tile.map(|Place { image, top, left }| {
                            let row = x.pixel(image, top + tap.y, left + tap.x);
                            inside |= row.is_some();
                            row.unwrap_or(&zeros)
                        });
                        if inside {
                            accumulate(&mut sum, a, panel);
                        }
                    }
                }
                store(&mut task, &sum, column, pixel, rows);
            });
        }
    }
}

/// A task of a convolution of few channels: for each row of output pixels the lines that it reads are copied, zeros beside the
/// image, so that each row of a receptive field is one run.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
fn lines_avx512<O: Element>(mut task: Task<O>) {
    let Operands { weights: Pairs { taps, run, pairs, bias, data }, x, y, .. } = task.operands;
    let Conv2d { kernel, stride, .. } = taps.conv;
    let data: &[f32] = bytemuck::cast_slice(data);
    let count = task.out.len() / y.channels;
    let mut lines = Vec::new();
    let mut first = 0;
    while first < count {
        let start = task.start + first;
        let some = (y.size.w - start % y.size.w).min(count - first);
        let Some(place) = taps.places(y, start).next() else { return };
        // One element more, for the pair that ends a line.
        let line = ((some - 1) * stride + kernel) * taps.depth + 1;
        lines.clear();
        lines.resize(kernel * line, bf16::ZERO);
        for (r, to) in lines.chunks_exact_mut(line).enumerate() {
            copy_line(x, Place { top: place.top + r as isize, ..place }, to);
        }
        for column in (0..bias.len()).step_by(LANES * VECTORS) {
            let vectors = (bias.len() - column).div_ceil(LANES).min(VECTORS);
            let panel = &data[column * pairs..][..pairs * vectors * LANES];
            for pixel in (0..some).step_by(ROWS) {
                let rows = (some - pixel).min(ROWS);
                with_vectors!(vectors, V => {
                    let panel: &[[__m512bh; V]] = bytemuck::cast_slice(panel);
                    let mut sum = [[_mm512_setzero_ps(); V]; ROWS];
                    for (line, panel) in lines.chunks_exact(line).zip(panel.chunks_exact(*run)) {
                        let mut fields = [&line[..0]; ROWS];
                        for m in 0..ROWS {
                            let at = (pixel + m.min(rows - 1)) * stride * taps.depth;
                            fields[m] = &line[at..at + 2 * run];
                        }
                        accumulate(&mut sum, fields, panel);
                    }
                    store(&mut task, &sum, column, first + pixel, rows);
                });
            }
        }
        first += some;
    }
}

/// Copies the pixels of a line from a place on, but for those outside the image; an element that is left over stays.
fn copy_line(x: &Input<bf16>, Place { image, top, left }: Place, to: &mut [bf16]) {
    let pixels = to.len() / x.count;
    let first = left.max(0);
    let last = (left + pixels as isize).min(x.size.w as isize);
    if top < 0 || top as usize >= x.size.h || first >= last {
        return;
    }
    let from = x.from((image * x.size.h + top as usize) * x.size.w + first as usize);
    let to = &mut to[(first - left) as usize * x.count..][..(last - first) as usize * x.count];
    if x.count == x.channels {
        to.copy_from_slice(&from[..to.len()]);
    } else {
        for (to, from) in to.chunks_exact_mut(x.count).zip(from.chunks(x.channels)) {
            to.copy_from_slice(&from[x.first..][..x.count]);
        }
    }
}

/// `tile[m] += sum_k rows[m][k] panel[k]` over the pairs of the panel.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
pub(super) fn accumulate<const V: usize>(
    tile: &mut [[__m512; V]; ROWS],
    rows: [&[bf16]; ROWS],
    panel: &[[__m512bh; V]],
) {
    // Slices of one length, so that the loop needs no checks; of bytes, since a field may begin at an odd element.
    let pairs = panel.len();
    let mut a = [&[[0; 4]][..]; ROWS];
    for m in 0..ROWS {
        let bytes: &[u8] = bytemuck::cast_slice(rows[m]);
        a[m] = &bytes.as_chunks().0[..pairs];
    }
    let mut sum = *tile;
    for k in 0..pairs {
        for m in 0..ROWS {
            let pair: __m512bh = bytemuck::cast(_mm512_set1_epi32(i32::from_ne_bytes(a[m][k])));
            for v in 0..V {
                sum[m][v] = _mm512_dpbf16_ps(sum[m][v], pair, panel[k][v]);
            }
        }
    }
    *tile = sum;
}

/// Bias, residual and ReLU.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
fn store<O: Element, const V: usize>(
    task: &mut Task<O>,
    sum: &[[__m512; V]; ROWS],
    column: usize,
    pixel: usize,
    rows: usize,
) {
    let Operands { weights: pairs, residual, relu, y, .. } = task.operands;
    let columns = (pairs.bias.len() - column).min(V * LANES);
    let bias = &pairs.bias[column..][..columns];
    let floor = if *relu { 0.0 } else { f32::NEG_INFINITY };
    // Unrolled, so that the accumulators need no addresses.
    for m in 0..ROWS {
        if m >= rows {
            break;
        }
        let at = (pixel + m) * y.channels + y.first + column;
        let out = &mut task.out[at..at + columns];
        let residual = residual.map(|r| &r.row(task.start + pixel + m)[column..][..columns]);
        if columns == V * LANES {
            finish(&sum[m], bias, residual, floor, out);
        } else {
            let values: &[f32] = bytemuck::cast_slice(&sum[m]);
            for (n, (out, value)) in out.iter_mut().zip(values).enumerate() {
                let value = value + bias[n] + residual.map_or(0.0, |row| Element::to_f32(row[n]));
                // NaN stays, as in the vectors.
                *out = O::from_f32(if value < floor { floor } else { value });
            }
        }
    }
}

/// `out = max(floor, value + bias + residual)` of whole vectors, rounded where `out` is bf16.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
pub(super) fn finish<O: Element, const V: usize>(
    values: &[__m512; V],
    bias: &[f32],
    residual: Option<&[bf16]>,
    floor: f32,
    out: &mut [O],
) {
    let bias = &bias.as_chunks::<LANES>().0[..V];
    let out = &mut out.as_chunks_mut::<LANES>().0[..V];
    let mut values = *values;
    if let Some(residual) = residual {
        let residual = &residual.as_chunks::<LANES>().0[..V];
        for v in 0..V {
            values[v] = _mm512_add_ps(values[v], _mm512_cvtpbh_ps(bytemuck::cast(residual[v])));
        }
    }
    for v in 0..V {
        let value = _mm512_add_ps(values[v], bytemuck::cast(bias[v]));
        let value = _mm512_max_ps(_mm512_set1_ps(floor), value);
        let out: &mut [u8] = bytemuck::cast_slice_mut(&mut out[v]);
        if size_of::<O>() == size_of::<f32>() {
            out.copy_from_slice(bytemuck::bytes_of(&value));
        } else {
            out.copy_from_slice(bytemuck::bytes_of(&_mm512_cvtneps_pbh(value)));
        }
    }
}
