//! Depthwise convolution: channels are the lanes, each output pixel sums its taps that lie inside
//! the image.

mod bf16;

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::lanes::{load_some, store_some};
use super::simd::arch;
use super::tensor::{Input, Output, Shape};
use crate::ops::Conv2d;
use crate::plan::ConvWeights;

/// Weights as `[tap, channel]`.
pub struct Depthwise {
    conv: Conv2d,
    taps: Vec<f32>,
    bias: Vec<f32>,
}

impl Depthwise {
    pub fn new(weights: &ConvWeights) -> Self {
        let conv = weights.conv;
        assert!(conv.depthwise, "a dense convolution has its own path");
        let (count, c) = (conv.kernel * conv.kernel, conv.out_channels);
        let taps = (0..count * c).map(|i| weights.weight[i % c * count + i / c]).collect();
        Depthwise { conv, taps, bias: weights.bias.clone() }
    }

    /// `y = relu(conv(x) + bias)`, the ReLU optional.
    pub fn run(&self, x: Input, relu: bool, y: Output) {
        let shape = y.shape;
        let row = shape.size.w * shape.channels;
        y.buffer.par_chunks_mut(row).enumerate().for_each(|(row, out)| {
            let row = shape.top + row;
            arch().dispatch(Row { weights: self, x, relu, y: shape, row, out })
        });
    }
}

/// One row of output pixels.
struct Row<'a> {
    weights: &'a Depthwise,
    x: Input<'a>,
    relu: bool,
    y: Shape,
    /// Counted over the batch.
    row: usize,
    out: &'a mut [f32],
}

impl WithSimd for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Depthwise { conv, taps, bias } = self.weights;
        let channels = conv.out_channels;
        let (image, top) = (self.row / self.y.size.h, self.row % self.y.size.h);
        let floor = simd.splat_f32s(if self.relu { 0.0 } else { f32::NEG_INFINITY });
        let at = |i: usize, tap: usize| {
            (i * conv.stride + tap * conv.dilation) as isize - conv.padding as isize
        };
        let (outside, nothing) = (vec![0.0; channels], vec![0.0; channels]);
        let mut window: Vec<(&[f32], &[f32])> = Vec::new();
        for (left, out) in self.out.chunks_exact_mut(self.y.channels).enumerate() {
            window.clear();
            for (tap, weight) in taps.chunks_exact(channels).enumerate() {
                let (r, s) = (tap / conv.kernel, tap % conv.kernel);
                if let Some(row) = self.x.pixel(image, at(top, r), at(left, s)) {
                    window.push((row, weight));
                }
            }
            // A whole 3x3 window is unrolled; missing taps count as zeros.
            let unrolled: Option<[(&[f32], &[f32]); 9]> = (conv.kernel == 3).then(|| {
                std::array::from_fn(|i| window.get(i).copied().unwrap_or((&outside, &nothing)))
            });
            let out = &mut out[self.y.first..][..channels];
            for first in (0..channels).step_by(S::F32_LANES) {
                let lanes = first..(first + S::F32_LANES).min(channels);
                let load = |row: &[f32]| load_some(simd, &row[lanes.clone()]);
                let mut sum = load(bias);
                if let Some(window) = &unrolled {
                    for (row, weight) in window {
                        sum = simd.mul_add_e_f32s(load(row), load(weight), sum);
                    }
                } else {
                    for (row, weight) in &window {
                        sum = simd.mul_add_e_f32s(load(row), load(weight), sum);
                    }
                }
                store_some(simd, &mut out[lanes.clone()], simd.max_f32s(floor, sum));
            }
        }
    }
}
