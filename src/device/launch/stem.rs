//! Launch of `kernels/stem.cu`.

use super::divisor::Divisor;
use super::{Address, Addresses, Launch, Work, param, require, shape};
use crate::device::kernels::Source;
use crate::device::{Element, Slice, Tensor};
use crate::error::Result;
use crate::ops::Conv2d;

/// Rows, columns and output channels of a block.
const ROWS: usize = 4;
const COLUMNS: usize = 32;
const CHANNELS: usize = 64;

params! {
    /// `kernels/stem.cu`
    StemParams {
        input: Address,
        weight: Address,
        bias: Address,
        output: Address,
        tiles_c: Divisor,
        in_h: i32,
        in_w: i32,
        out_h: i32,
        out_w: i32,
        out_c: i32,
        out_stride: i32,
        relu: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "stem",
    parameters: StemParams::PARAMETERS,
    kernels: &[StemParams::kernel("stem", "stem", 128, 36992)],
    constants: &[("ROWS", ROWS), ("COLUMNS", COLUMNS), ("CHANNELS", CHANNELS)],
};

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
    let p = |value| param(what, value);
    p(x.pixels() * 4)?;
    let mut memory = Addresses::new(what);
    let params = StemParams {
        input: memory.tensor(&x)?,
        weight: memory.slice("weight", weight, conv.out_channels * 7 * 8 * 4 * 2)?,
        bias: memory.slice("bias", bias, conv.out_channels * 4)?,
        output: memory.tensor(&y)?,
        tiles_c: Divisor::new(what, y.channels.div_ceil(CHANNELS))?,
        in_h: p(x.size.h)?,
        in_w: p(x.size.w)?,
        out_h: p(size.h)?,
        out_w: p(size.w)?,
        out_c: p(y.channels)?,
        out_stride: p(y.stride)?,
        relu: relu.into(),
    };
    let blocks = x.batch * y.channels.div_ceil(CHANNELS);
    let grid = [size.w.div_ceil(COLUMNS), size.h.div_ceil(ROWS), blocks];
    let (flop, bytes) = (conv.flops(x.batch, size), conv.bytes(x.batch, x.size, size, 2));
    let work = Work::even(shape(&y), flop, bytes, grid);
    Launch::new(&SOURCE, what, grid, &params, memory, work)
}
