//! Launch of `kernels/resize.cu`.

use super::{
    Address, Addresses, Launch, Work, param, require, require_tensors, shape, tensor_bytes,
};
use crate::device::kernels::Source;
use crate::device::{Element, Tensor};
use crate::error::Result;
use crate::ops::{Resize, Size};

params! {
    /// `kernels/resize.cu`
    ResizeParams {
        input: Address,
        output: Address,
        batch: i32,
        channels: i32,
        in_h: i32,
        in_w: i32,
        in_stride: i32,
        out_h: i32,
        out_w: i32,
        out_stride: i32,
        align_corners: i32,
        unused: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "resize",
    parameters: ResizeParams::PARAMETERS,
    kernels: &[ResizeParams::kernel("resize", "resize", 256, 0)],
    constants: &[],
};

/// `x` resized to `y`'s size.
pub fn resize<'a>(op: &Resize, x: Tensor<'a>, y: Tensor<'a>) -> Result<Launch<'a>> {
    let what = "resize";
    require_tensors(what, &x, &y, y.size)?;
    let fits = x.channels == y.channels && y.element == Element::F16;
    require(
        what,
        fits,
        "as many fp16 channels out as in",
        format!("{} to {}", x.channels, y.channels),
    )?;
    require_ratio(what, x.size, y.size)?;
    let p = |value| param(what, value);
    let mut memory = Addresses::new(what);
    let params = ResizeParams {
        input: memory.tensor(&x)?,
        output: memory.tensor(&y)?,
        batch: p(x.batch)?,
        channels: p(x.channels)?,
        in_h: p(x.size.h)?,
        in_w: p(x.size.w)?,
        in_stride: p(x.stride)?,
        out_h: p(y.size.h)?,
        out_w: p(y.size.w)?,
        out_stride: p(y.stride)?,
        align_corners: op.align_corners.into(),
        unused: 0,
    };
    let grid = [(y.pixels() * y.channels / 8).div_ceil(256), 1, 1];
    let bytes = (tensor_bytes(&x) + tensor_bytes(&y)) as u64;
    let work = Work::even(shape(&y), op.flops(y.batch, y.channels, y.size), bytes, grid);
    Launch::new(&SOURCE, what, grid, &params, memory, work)
}

/// `common/bilinear.cuh` computes (2 i + 1) in, i < out, in 32 bits.
pub(super) fn require_ratio(what: &str, from: Size, to: Size) -> Result<()> {
    let product = |a: usize, b: usize| b.saturating_mul(2).saturating_add(1).saturating_mul(a);
    let largest = product(from.h, to.h).max(product(from.w, to.w));
    require(
        what,
        largest <= i32::MAX as usize,
        "sides whose product is below 2^30",
        format!("{from} to {to}"),
    )
}
