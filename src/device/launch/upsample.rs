//! Launch of `kernels/upsample.cu`.

use super::bilinear::{Axis, axes};
use super::divisor::Divisor;
use super::{Address, Addresses, Launch, Work, param, param_product, require};
use crate::device::Slice;
use crate::device::kernels::Source;
use crate::error::Result;
use crate::ops::Head;

params! {
    /// `kernels/upsample.cu`
    UpsampleParams {
        input: Address,
        output: Address,
        y: Axis,
        x: Axis,
        strips: Divisor,
        quarter: Divisor,
        threads: i32,
        crop_h: i32,
        crop_w: i32,
        unused: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "upsample",
    parameters: UpsampleParams::PARAMETERS,
    kernels: &[UpsampleParams::kernel("upsample", "upsample", 256, 0)],
    constants: &[("ROWS", ROWS), ("COLUMNS", COLUMNS)],
};

/// Rows and columns of pixels of a thread (`ROWS`, `COLUMNS`).
const ROWS: usize = 8;
const COLUMNS: usize = 4;

/// A one-channel f32 map `[batch, grid]` of the head's geometry to `[batch, crop]`.
pub fn upsample<'a>(op: &Head, batch: usize, x: Slice<'a>, y: Slice<'a>) -> Result<Launch<'a>> {
    let what = "upsample";
    op.validate()?;
    let [y_axis, x_axis] = axes(what, op.grid, op.padded, op.resize.align_corners)?;
    require(what, batch > 0, "an image", batch)?;
    let pixels = param_product(what, &[batch, op.crop.h, op.crop.w])?;
    let cells = param_product(what, &[batch, op.grid.h, op.grid.w])?;
    let (strips, quarter) = (op.crop.h.div_ceil(ROWS), op.crop.w.div_ceil(COLUMNS));
    let threads = param_product(what, &[batch, strips, quarter])?;
    let mut memory = Addresses::new(what);
    let params = UpsampleParams {
        input: memory.slice("grid", x, cells * 4)?,
        output: memory.slice("map", y, pixels * 4)?,
        y: y_axis,
        x: x_axis,
        strips: Divisor::new(what, strips)?,
        quarter: Divisor::new(what, quarter)?,
        threads: param(what, threads)?,
        crop_h: param(what, op.crop.h)?,
        crop_w: param(what, op.crop.w)?,
        unused: 0,
    };
    let work = Work::moving([batch, op.crop.h, op.crop.w, 1], (cells + pixels) * 4);
    Launch::new(&SOURCE, what, [threads.div_ceil(256), 1, 1], &params, memory, work)
}
