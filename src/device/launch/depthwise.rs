//! Launch of `kernels/depthwise.cu`.

use super::divisor::Divisor;
use super::{
    Address, Addresses, Launch, Work, param, param_product, require, require_tensors, shape,
};
use crate::device::kernels::Source;
use crate::device::{Element, Slice, Tensor};
use crate::error::Result;
use crate::ops::Conv2d;

params! {
    /// `kernels/depthwise.cu`
    DepthwiseParams {
        input: Address,
        weight: Address,
        bias: Address,
        output: Address,
        out_h: Divisor,
        out_w: Divisor,
        groups: Divisor,
        threads: i32,
        channels: i32,
        in_h: i32,
        in_w: i32,
        in_stride: i32,
        out_stride: i32,
        kernel: i32,
        stride: i32,
        dilation: i32,
        padding: i32,
        relu: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "depthwise",
    parameters: DepthwiseParams::PARAMETERS,
    kernels: &[DepthwiseParams::kernel("depthwise", "depthwise", 256, 0)],
    constants: &[],
};

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
    let weights = param_product(what, &[conv.kernel, conv.kernel, channels, 2])?;
    let p = |value| param(what, value);
    let divisor = |value| Divisor::new(what, value);
    let threads = y.pixels() * (channels / 8);
    // Positions in the padded image, which the kernel computes in 32 bits.
    let side = conv.dilation.saturating_mul(conv.kernel) + x.size.h.max(x.size.w) + conv.padding;
    require(what, side < 1 << 27, "a padded image below 2^27", side)?;
    let mut memory = Addresses::new(what);
    let params = DepthwiseParams {
        input: memory.tensor(&x)?,
        weight: memory.slice("weight", weight, weights)?,
        bias: memory.slice("bias", bias, channels * 4)?,
        output: memory.tensor(&y)?,
        out_h: divisor(y.size.h)?,
        out_w: divisor(y.size.w)?,
        groups: divisor(channels / 8)?,
        threads: p(threads)?,
        channels: p(channels)?,
        in_h: p(x.size.h)?,
        in_w: p(x.size.w)?,
        in_stride: p(x.stride)?,
        out_stride: p(y.stride)?,
        kernel: p(conv.kernel)?,
        stride: p(conv.stride)?,
        dilation: p(conv.dilation)?,
        padding: p(conv.padding)?,
        relu: relu.into(),
    };
    let grid = [threads.div_ceil(256), 1, 1];
    let (flop, bytes) = (conv.flops(x.batch, y.size), conv.bytes(x.batch, x.size, y.size, 2));
    let work = Work::even(shape(&y), flop, bytes, grid);
    Launch::new(&SOURCE, what, grid, &params, memory, work)
}
