//! Launch of `kernels/stem.cu`.

use super::{require, require_bytes};
use crate::device::params::StemParams;
use crate::device::{Element, Launch, Slice, Tensor, param};
use crate::error::Result;
use crate::ops::Conv2d;

/// `x` has 4 channels (the fourth 0), `weight` is `[out, 7, 8, 4]` fp16 with zeros in the eighth column
/// and the fourth channel, `bias` `[out]` f32.
pub fn stem<'a>(
    conv: &Conv2d,
    x: Tensor<'a>,
    weight: Slice<'a>,
    bias: Slice<'a>,
    relu: bool,
    y: Tensor<'a>,
) -> Result<Launch<'a>> {
    let what = "stem";
    let Conv2d { kernel, stride, dilation, padding, depthwise, .. } = *conv;
    let fits = (kernel, stride, dilation, padding, depthwise) == (7, 2, 1, 3, false);
    require(what, fits, "a dense 7 x 7 convolution of stride 2, padding 3", format!("{conv:?}"))?;
    let size = conv.output_size(x.size)?;
    let shapes = x.batch == y.batch && y.size == size && conv.out_channels == y.channels;
    let found = format!("{} x {} out, {} channels", y.batch, y.size, y.channels);
    require(
        what,
        shapes,
        &format!("{} x {size} out, {} channels", x.batch, conv.out_channels),
        found,
    )?;
    let layout = (x.channels, x.stride) == (4, 4)
        && y.channels.is_multiple_of(8)
        && (x.element, y.element) == (Element::F16, Element::F16);
    require(
        what,
        layout,
        "fp16, 4 channels in, channels in eights out",
        format!("{} in", x.channels),
    )?;
    require_bytes("stem weight", weight, conv.out_channels * 7 * 8 * 4 * 2)?;
    require_bytes("stem bias", bias, conv.out_channels * 4)?;
    let p = |value| param(what, value);
    p(x.pixels() * 4)?;
    let params = StemParams {
        input: x.data.address,
        weight: weight.address,
        bias: bias.address,
        output: y.data.address,
        batch: p(x.batch)?,
        in_h: p(x.size.h)?,
        in_w: p(x.size.w)?,
        out_h: p(size.h)?,
        out_w: p(size.w)?,
        out_c: p(y.channels)?,
        out_stride: p(y.stride)?,
        relu: relu.into(),
    };
    let grid = [size.w.div_ceil(32), size.h.div_ceil(4), x.batch * y.channels.div_ceil(64)];
    Launch::new(what, grid, &params)
}
