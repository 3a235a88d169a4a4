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
/// Taps of a 3x3 kernel.
const TAPS: usize = 9;

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
    let (image, top) = (row / y.size.h, row % y.size.h);
    let floor = if relu { 0.0 } else { f32::NEG_INFINITY };
    let at = |i: usize, tap: usize| {
        (i * conv.stride + tap * conv.dilation) as isize - conv.padding as isize
    };
    let (outside, nothing) = (vec![bf16::ZERO; channels], vec![0.0; channels]);
    let mut window: Vec<(&[bf16], &[f32])> = Vec::new();
    for (left, out) in out.chunks_exact_mut(y.channels).enumerate() {
        window.clear();
        for (tap, weight) in taps.chunks_exact(channels).enumerate() {
            let (r, s) = (tap / conv.kernel, tap % conv.kernel);
            if let Some(row) = x.pixel(image, at(top, r), at(left, s)) {
                window.push((row, weight));
            }
        }
        let out = &mut out[y.first..][..channels];
        let mut whole = 0;
        if conv.kernel == 3 {
            // Unrolled; missing taps count as zeros. Slices of one length, so that the loop needs no checks.
            let vectors = channels / LANES;
            let mut rows = [(&[[bf16::ZERO; LANES]][..], &[[0.0; LANES]][..]); TAPS];
            for (i, tap) in rows.iter_mut().enumerate() {
                let (row, weight) = window.get(i).copied().unwrap_or((&outside, &nothing));
                *tap = (&row.as_chunks().0[..vectors], &weight.as_chunks().0[..vectors]);
            }
            let bias = &bias.as_chunks::<LANES>().0[..vectors];
            let out = &mut out.as_chunks_mut::<LANES>().0[..vectors];
            for v in 0..vectors {
                let mut sum: __m512 = bytemuck::cast(bias[v]);
                for i in 0..TAPS {
                    let x = _mm512_cvtpbh_ps(bytemuck::cast(rows[i].0[v]));
                    sum = _mm512_fmadd_ps(x, bytemuck::cast(rows[i].1[v]), sum);
                }
                let value = _mm512_max_ps(_mm512_set1_ps(floor), sum);
                let out: &mut [u8] = bytemuck::cast_slice_mut(&mut out[v]);
                if size_of::<O>() == size_of::<f32>() {
                    out.copy_from_slice(bytemuck::bytes_of(&value));
                } else {
                    out.copy_from_slice(bytemuck::bytes_of(&_mm512_cvtneps_pbh(value)));
                }
            }
            whole = vectors * LANES;
        }
        for c in whole..channels {
            let sum = window.iter().fold(bias[c], |sum, (row, weight)| {
                Element::to_f32(row[c]).mul_add(weight[c], sum)
            });
            // NaN stays, as in the vectors.
            out[c] = O::from_f32(if sum < floor { floor } else { sum });
        }
    }
}
