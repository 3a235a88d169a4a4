//! Launch of `kernels/upsample.cu`.

use super::resize::require_ratio;
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
        batch: i32,
        in_h: i32,
        in_w: i32,
        out_h: i32,
        out_w: i32,
        crop_h: i32,
        crop_w: i32,
        align_corners: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "upsample",
    parameters: UpsampleParams::PARAMETERS,
    kernels: &[UpsampleParams::kernel("upsample", "upsample", 256, 0)],
    constants: &[],
};

/// A one-channel f32 map `[batch, grid]` of the head's geometry to `[batch, crop]`.
pub fn upsample<'a>(op: &Head, batch: usize, x: Slice<'a>, y: Slice<'a>) -> Result<Launch<'a>> {
    let what = "upsample";
    op.validate()?;
    require(what, batch > 0, "an image", batch)?;
    let pixels = param_product(what, &[batch, op.crop.h, op.crop.w])?;
    let cells = param_product(what, &[batch, op.grid.h, op.grid.w])?;
    require_ratio(what, op.grid, op.padded)?;
    let p = |value| param(what, value);
    let mut memory = Addresses::new(what);
    let params = UpsampleParams {
        input: memory.slice("grid", x, cells * 4)?,
        output: memory.slice("map", y, pixels * 4)?,
        batch: p(batch)?,
        in_h: p(op.grid.h)?,
        in_w: p(op.grid.w)?,
        out_h: p(op.padded.h)?,
        out_w: p(op.padded.w)?,
        crop_h: p(op.crop.h)?,
        crop_w: p(op.crop.w)?,
        align_corners: op.resize.align_corners.into(),
    };
    let work = Work::moving([batch, op.crop.h, op.crop.w, 1], (cells + pixels) * 4);
    Launch::new(&SOURCE, what, [pixels.div_ceil(256), 1, 1], &params, memory, work)
}
