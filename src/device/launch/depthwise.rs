//! Launch of `kernels/depthwise.cu`.

use super::{require, require_bytes, require_tensors};
use crate::device::params::DepthwiseParams;
use crate::device::{Element, Launch, Slice, Tensor, param};
use crate::error::Result;
use crate::ops::Conv2d;

/// `weight` is `[kernel, kernel, channels]` fp16, `bias` `[channels]` f32.
pub fn depthwise<'a>(
    conv: &Conv2d,
    x: Tensor<'a>,
    weight: Slice<'a>,
    bias: Slice<'a>,
    relu: bool,
    y: Tensor<'a>,
) -> Result<Launch<'a>> {
    let what = "depthwise";
    conv.validate()?;
    require_tensors(what, &x, &y, conv.output_size(x.size)?)?;
    let channels = conv.in_channels;
    let fits = conv.depthwise && (x.channels, y.channels) == (channels, channels);
    require(
        what,
        fits && y.element == Element::F16,
        "a depthwise convolution of these channels",
        format!("{conv:?}"),
    )?;
    require_bytes("depthwise weight", weight, conv.kernel * conv.kernel * channels * 2)?;
    require_bytes("depthwise bias", bias, channels * 4)?;
    let p = |value| param(what, value);
    let reach = conv.dilation.saturating_mul(conv.kernel) + x.size.h.max(x.size.w) + conv.padding;
    require(what, reach < 1 << 27, "a padded image below 2^27", reach)?;
    let params = DepthwiseParams {
        input: x.data.address,
        weight: weight.address,
        bias: bias.address,
        output: y.data.address,
        batch: p(x.batch)?,
        channels: p(channels)?,
        in_h: p(x.size.h)?,
        in_w: p(x.size.w)?,
        in_stride: p(x.stride)?,
        out_h: p(y.size.h)?,
        out_w: p(y.size.w)?,
        out_stride: p(y.stride)?,
        kernel: p(conv.kernel)?,
        stride: p(conv.stride)?,
        dilation: p(conv.dilation)?,
        padding: p(conv.padding)?,
        relu: relu.into(),
        unused: 0,
    };
    Launch::new(what, [(y.pixels() * channels / 8).div_ceil(256), 1, 1], &params)
}
