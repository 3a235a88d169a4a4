//! Weights of a network's convolutions on a device: fp16 in the layout that each kernel reads, biases f32, channels padded to
//! multiples of 8 with zeros.

use half::f16;

use crate::device::{Buffer, Device};
use crate::error::{Error, Result};
use crate::ops::Conv2d;
use crate::plan::{CHANNEL_ALIGN, ConvWeights};

pub(super) struct Weights {
    pub weight: Buffer,
    pub bias: Buffer,
}

/// Which kernel a convolution takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ConvKernel {
    Stem,
    Depthwise,
    Dense,
}

impl ConvKernel {
    pub fn of(conv: &Conv2d) -> Self {
        match conv {
            Conv2d { depthwise: true, .. } => ConvKernel::Depthwise,
            // Only the image has three channels.
            Conv2d { in_channels: 3, .. } => ConvKernel::Stem,
            _ => ConvKernel::Dense,
        }
    }
}

pub(super) fn padded(channels: usize) -> usize {
    channels.next_multiple_of(CHANNEL_ALIGN)
}

impl Weights {
    /// In the layout of the convolution's kernel.
    pub fn new(device: &dyn Device, conv: &ConvWeights) -> Result<Self> {
        if let Some(bad) = conv.weight.iter().find(|w| !f16::from_f32(**w).is_finite()) {
            let expected = "weights that fp16 can hold (up to 65504, batch norm folded in)";
            return Err(Error::invalid(format!("unit {}", conv.name), expected, bad)
                .fix("run it with --device cpu"));
        }
        let halves = layout(conv);
        let mut bias = conv.bias.clone();
        bias.resize(padded(bias.len()), 0.0);
        let weight = device.alloc(halves.len() * 2)?;
        device.write(weight.all(), bytemuck::cast_slice(&halves))?;
        let biases = device.alloc(bias.len() * 4)?;
        device.write(biases.all(), bytemuck::cast_slice(&bias))?;
        Ok(Weights { weight, bias: biases })
    }
}

/// `[K, R, S, C]` in f32 to what the kernel of the convolution reads, in fp16.
fn layout(weights: &ConvWeights) -> Vec<f16> {
    let [out, inner, kernel, _] = weights.conv.weight_shape();
    let taps = kernel * kernel;
    let at = |k: usize, tap: usize, c: usize| {
        f16::from_f32(weights.weight[(k * taps + tap) * inner + c])
    };
    match ConvKernel::of(&weights.conv) {
        // [K, R, S, C], K padded.
        ConvKernel::Dense => {
            let mut all: Vec<f16> = weights.weight.iter().map(|w| f16::from_f32(*w)).collect();
            all.resize(padded(out) * taps * inner, f16::ZERO);
            all
        }
        // [R, S, C]
        ConvKernel::Depthwise => (0..taps * out).map(|i| at(i % out, i / out, 0)).collect(),
        // [K, R, 8, 4], zero where the eighth column and the fourth channel are.
        ConvKernel::Stem => {
            let mut all = vec![f16::ZERO; padded(out) * kernel * 8 * 4];
            for i in 0..out * taps * inner {
                let (k, tap, c) = (i / inner / taps, i / inner % taps, i % inner);
                let (r, s) = (tap / kernel, tap % kernel);
                if s < 8 {
                    all[((k * kernel + r) * 8 + s) * 4 + c] = at(k, tap, c);
                }
            }
            all
        }
    }
}
