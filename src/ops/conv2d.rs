//! 2-D convolution (cross-correlation, as in every deep-learning library):
//! `y[p, q, k] = sum_{r, s, c} x[p * stride + r * dilation - padding, q * stride + s * dilation - padding, c] w[k, c, r, s]`
//! with zeros outside the input. Square kernels; dense, or depthwise (one filter per channel).

use super::Size;
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Conv2d {
    pub in_channels: usize,
    pub out_channels: usize,
    pub kernel: usize,
    pub stride: usize,
    pub dilation: usize,
    pub padding: usize,
    /// One filter per channel; then `in_channels == out_channels`.
    pub depthwise: bool,
}

impl Conv2d {
    /// Stride 1, "same" padding for an odd kernel.
    pub fn dense(in_channels: usize, out_channels: usize, kernel: usize) -> Self {
        Conv2d {
            in_channels,
            out_channels,
            kernel,
            stride: 1,
            dilation: 1,
            padding: kernel / 2,
            depthwise: false,
        }
    }

    pub fn depthwise(channels: usize, kernel: usize) -> Self {
        Conv2d { depthwise: true, ..Self::dense(channels, channels, kernel) }
    }

    pub fn stride(self, stride: usize) -> Self {
        Conv2d { stride, ..self }
    }

    /// Sets the dilation and the padding that keeps a stride-1 output at the input's size.
    pub fn dilation(self, dilation: usize) -> Self {
        Conv2d { dilation, padding: self.kernel / 2 * dilation, ..self }
    }

    pub fn validate(&self) -> Result<()> {
        let bad = |expected: &str, found: String| {
            Err(Error::invalid(format!("convolution {self:?}"), expected, found))
        };
        let Conv2d { in_channels, out_channels, kernel, stride, dilation, .. } = *self;
        if [in_channels, out_channels, kernel, stride, dilation].contains(&0) {
            return bad("positive channels, kernel, stride and dilation", "a zero".into());
        }
        if self.depthwise && in_channels != out_channels {
            let found = format!("{in_channels} in, {out_channels} out");
            return bad("as many input as output channels when depthwise", found);
        }
        Ok(())
    }

    /// `[out, in / groups, kernel, kernel]`, PyTorch's order.
    pub fn weight_shape(&self) -> [usize; 4] {
        let inner = if self.depthwise { 1 } else { self.in_channels };
        [self.out_channels, inner, self.kernel, self.kernel]
    }

    /// Output size; an error where the dilated kernel exceeds the padded input.
    pub fn output_size(&self, input: Size) -> Result<Size> {
        let extent = self.dilation * (self.kernel - 1) + 1;
        let axis = |n: usize| match (n + 2 * self.padding).checked_sub(extent) {
            Some(room) if n > 0 => Ok(room / self.stride + 1),
            _ => {
                let min = extent.saturating_sub(2 * self.padding).max(1);
                let what = format!("convolution of a {input} input");
                Err(Error::invalid(what, format!("{min} x {min} pixels or more"), n))
            }
        };
        Ok(Size::new(axis(input.h)?, axis(input.w)?))
    }

    /// Multiply-adds count twice; `output` from [`Self::output_size`].
    pub fn flops(&self, batch: usize, output: Size) -> u64 {
        let [out, inner, kh, kw] = self.weight_shape();
        2 * (batch * output.pixels()) as u64 * (out * inner * kh * kw) as u64
    }

    /// Bytes moved if input, weights and output each pass once, `element` bytes each.
    pub fn bytes(&self, batch: usize, input: Size, output: Size, element: usize) -> u64 {
        let weights: usize = self.weight_shape().iter().product();
        let activations =
            batch * (input.pixels() * self.in_channels + output.pixels() * self.out_channels);
        (element * (weights + activations)) as u64
    }
}
