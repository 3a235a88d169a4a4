//! Depthwise convolution of bf16 activations, in f32: as [`super`], with the vectors that convert. What is not 3x3 sums its taps
//! one by one.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

use half::bf16;
use multiversion::{multiversion, target::match_target};
use rayon::prelude::*;

use super::Depthwise;
use crate::cpu::element::Element;
use crate::cpu::tensor::{Input, Output, Shape};

/// Channels of a vector.
const LANES: usize = 16;
/// Pixels side by side that are summed together.
const GROUP: usize = 4;

impl Depthwise {
    /// `y = relu(conv(x) + bias)`, the ReLU optional.
    pub fn run_bf16<O: Element>(&self, x: Input<bf16>, relu: bool, y: Output<O>) {
        let shape = y.shape;
        let row = shape.size.w * shape.channels;
        y.buffer.par_chunks_mut(row).enumerate().for_each(|(row, out)| {
            let row = shape.top + row;
            run_row(Row { weights: self, x, relu, y: shape, row, out })
        });
    }
}

/// One row of output pixels.
struct Row<'a, O> {
    weights: &'a Depthwise,
    x: Input<'a, bf16>,
    relu: bool,
    y: Shape,
    /// Counted over the batch.
    row: usize,
    out: &'a mut [O],
}

/// What a tap reads and its weights, a vector of channels at a time.
type Tap<'a> = (&'a [[bf16; LANES]], &'a [[f32; LANES]]);

#[multiversion(
    targets("x86_64+avx512f+avx512bw+avx512cd+avx512dq+avx512vl+avx512bf16"),
    dispatcher = "direct"
)]
fn run_row<O: Element>(row: Row<O>) {
    match_target! {
        "x86_64+avx512bf16" => row_avx512(row),
        _ => {
            let _ = row;
            unreachable!("an engine in bf16 is made only where `available`")
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16,fma")]
fn row_avx512<O: Element>(row: Row<O>) {
    let Row { weights: Depthwise { conv, taps, bias }, x, relu, y, row, out } = row;
    let channels = conv.out_channels;
    // Channels of whole vectors of 3x3 kernels are done together.
    let whole = if conv.kernel == 3 { channels / LANES * LANES } else { 0 };
    // Neighbours share what they read.
    let group = if conv.stride == 1 && conv.dilation == 1 { GROUP } else { 1 };
    let (image, top) = (row / y.size.h, row % y.size.h);
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let at = |i: usize, tap: usize| {
        (i * conv.stride + tap * conv.dilation) as isize - conv.padding as isize
    };
    let mut window = Vec::new();
    for (i, out) in out.chunks_mut(group * y.channels).enumerate() {
        let left = i * group;
        if whole > 0 {
            let pixel = |r: usize, s: usize| x.pixel(image, at(top, r), at(left, s));
            if group == GROUP {
                let mut rows = [[None; GROUP + 2]; 3];
                for r in 0..3 {
                    for s in 0..GROUP + 2 {
                        rows[r][s] = pixel(r, s);
                    }
                }
                side_by_side(rows, taps, bias, floor, y, out);
            } else {
                window.clear();
                for (tap, weight) in taps.chunks_exact(channels).enumerate() {
                    if let Some(row) = pixel(tap / 3, tap % 3) {
                        window.push((row.as_chunks().0, weight.as_chunks().0));
                    }
                }
                alone(&window, bias, floor, &mut out[y.first..][..whole]);
            }
        }
        for (i, out) in out.chunks_exact_mut(y.channels).enumerate() {
            let out = &mut out[y.first..][..channels];
            for c in whole..channels {
                let mut sum = bias[c];
                for (tap, weight) in taps.chunks_exact(channels).enumerate() {
                    let (r, s) = (tap / conv.kernel, tap % conv.kernel);
                    if let Some(row) = x.pixel(image, at(top, r), at(left + i, s)) {
                        sum = Element::to_f32(row[c]).mul_add(weight[c], sum);
                    }
                }
                // NaN stays, as in the vectors.
                out[c] = O::from_f32(if sum < floor { floor } else { sum });
            }
        }
    }
}

/// Whole vectors of channels of a pixel: the taps inside the image.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
fn alone<O: Element>(window: &[Tap], bias: &[f32], floor: f32, out: &mut [O]) {
    let bias = bias.as_chunks::<LANES>().0;
    for (v, out) in out.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
        let mut sum: __m512 = bytemuck::cast(bias[v]);
        for (x, weight) in window {
            let x = _mm512_cvtpbh_ps(bytemuck::cast(x[v]));
            sum = _mm512_fmadd_ps(x, bytemuck::cast(weight[v]), sum);
        }
        finish(sum, floor, out);
    }
}

/// Whole vectors of channels of [`GROUP`] pixels side by side, or of fewer at the end of a row: `rows[r][s]` is what tap r, s of the
/// first reads and tap r, s - 1 of the second, None outside the image.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512cd,avx512dq,avx512vl,avx512bf16")]
fn side_by_side<O: Element>(
    rows: [[Option<&[bf16]>; GROUP + 2]; 3],
    taps: &[f32],
    bias: &[f32],
    floor: f32,
    y: Shape,
    out: &mut [O],
) {
    let channels = bias.len();
    let count = out.len() / y.channels;
    // Slices of one length, so that the loop needs no checks; empty outside.
    let vectors = channels / LANES;
    let mut from = [[&[][..]; GROUP + 2]; 3];
    for r in 0..3 {
        for s in 0..GROUP + 2 {
            if let Some(row) = rows[r][s] {
                from[r][s] = &row.as_chunks::<LANES>().0[..vectors];
            }
        }
    }
    let mut weights = [&[[0.0; LANES]][..]; 9];
    for (weights, taps) in weights.iter_mut().zip(taps.chunks_exact(channels)) {
        *weights = &taps.as_chunks().0[..vectors];
    }
    let bias = &bias.as_chunks::<LANES>().0[..vectors];
    let mut to: [&mut [[O; LANES]]; GROUP] = Default::default();
    for (to, out) in to.iter_mut().zip(out.chunks_exact_mut(y.channels)) {
        *to = &mut out[y.first..].as_chunks_mut().0[..vectors];
    }
    for v in 0..vectors {
        let mut sum: [__m512; GROUP] = [bytemuck::cast(bias[v]); GROUP];
        for r in 0..3 {
            let mut row = [_mm512_setzero_ps(); 3];
            for s in 0..3 {
                row[s] = bytemuck::cast(weights[3 * r + s][v]);
            }
            // A pixel's taps from left to right.
            for s in 0..GROUP + 2 {
                let Some(x) = from[r][s].get(v) else { continue };
                let x = _mm512_cvtpbh_ps(bytemuck::cast(*x));
                for g in 0..GROUP {
                    if s >= g && s - g < 3 {
                        sum[g] = _mm512_fmadd_ps(x, row[s - g], sum[g]);
                    }
                }
            }
        }
        for g in 0..GROUP {
            if g < count {
                finish(sum[g], floor, &mut to[g][v]);
            }
        }
    }
}

/// ReLU, then rounded where `out` is bf16.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512bf16")]
fn finish<O: Element>(sum: __m512, floor: f32, out: &mut [O; LANES]) {
    let value = _mm512_max_ps(_mm512_set1_ps(floor), sum);
    let out: &mut [u8] = bytemuck::cast_slice_mut(out);
    if size_of::<O>() == size_of::<f32>() {
        out.copy_from_slice(bytemuck::bytes_of(&value));
    } else {
        out.copy_from_slice(bytemuck::bytes_of(&_mm512_cvtneps_pbh(value)));
    }
}
