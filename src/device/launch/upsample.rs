//! Launch of `kernels/upsample.cu`.

use super::resize::require_ratio;
use super::{require, require_bytes};
use crate::device::params::UpsampleParams;
use crate::device::{Launch, Slice, param};
use crate::error::Result;
use crate::ops::Head;

/// A one-channel f32 map `[batch, grid]` of the head's geometry to `[batch, crop]`.
pub fn upsample<'a>(op: &Head, batch: usize, x: Slice<'a>, y: Slice<'a>) -> Result<Launch<'a>> {
    let what = "upsample";
    op.validate()?;
    require(what, batch > 0, "an image", batch)?;
    let pixels = batch * op.crop.pixels();
    require_bytes("upsample's grid", x, batch * op.grid.pixels() * 4)?;
    require_bytes("upsample's map", y, pixels * 4)?;
    require_ratio(what, op.grid, op.padded)?;
    let p = |value| param(what, value);
    p(pixels)?;
    let params = UpsampleParams {
        input: x.address,
        output: y.address,
        batch: p(batch)?,
        in_h: p(op.grid.h)?,
        in_w: p(op.grid.w)?,
        out_h: p(op.padded.h)?,
        out_w: p(op.padded.w)?,
        crop_h: p(op.crop.h)?,
        crop_w: p(op.crop.w)?,
        align_corners: op.resize.align_corners.into(),
    };
    Launch::new(what, [pixels.div_ceil(256), 1, 1], &params)
}
