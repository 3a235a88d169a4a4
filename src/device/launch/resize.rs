//! Launch of `kernels/resize.cu`.

use super::bilinear::{Axis, axes};
use super::divisor::Divisor;
use super::{
    Address, Addresses, Launch, Work, param, require, require_tensors, shape, tensor_bytes,
};
use crate::device::kernels::Source;
use crate::device::{Element, Tensor};
use crate::error::Result;
use crate::ops::Resize;

params! {
    /// `kernels/resize.cu`
    ResizeParams {
        input: Address,
        output: Address,
        y: Axis,
        x: Axis,
        out_h: Divisor,
        out_w: Divisor,
        groups: Divisor,
        threads: i32,
        in_stride: i32,
        out_stride: i32,
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
    let [rows, columns] = axes(what, x.size, y.size, op.align_corners)?;
    let p = |value| param(what, value);
    let divisor = |value| Divisor::new(what, value);
    let threads = y.pixels() * (y.channels / 8);
    let mut memory = Addresses::new(what);
    let params = ResizeParams {
        input: memory.tensor(&x)?,
        output: memory.tensor(&y)?,
        y: rows,
        x: columns,
        out_h: divisor(y.size.h)?,
        out_w: divisor(y.size.w)?,
        groups: divisor(y.channels / 8)?,
        threads: p(threads)?,
        in_stride: p(x.stride)?,
        out_stride: p(y.stride)?,
    };
    let grid = [threads.div_ceil(256), 1, 1];
    let bytes = (tensor_bytes(&x) + tensor_bytes(&y)) as u64;
    let work = Work::even(shape(&y), op.flops(y.batch, y.channels, y.size), bytes, grid);
    Launch::new(&SOURCE, what, grid, &params, memory, work)
}
