//! Launch of `kernels/head.cu`.

use super::resize::require_ratio;
use super::{require, require_bytes};
use crate::device::params::HeadParams;
use crate::device::{Element, Launch, Slice, Tensor, param};
use crate::error::Result;
use crate::ops::Head;

/// `logits` f32 on the grid, `label` u8 and `entropy` f32 `[batch, crop.h, crop.w]`.
pub fn head<'a>(
    op: &Head,
    logits: Tensor<'a>,
    label: Slice<'a>,
    entropy: Slice<'a>,
) -> Result<Launch<'a>> {
    let what = "head";
    op.validate()?;
    let fits = logits.element == Element::F32
        && logits.size == op.grid
        && logits.channels >= op.classes
        && logits.stride.is_multiple_of(4)
        && logits.stride >= op.classes.next_multiple_of(4);
    require(what, fits, "f32 logits of these classes on the grid", format!("{op:?}"))?;
    let pixels = logits.batch * op.crop.pixels();
    require_bytes("head's labels", label, pixels)?;
    require_bytes("head's entropy", entropy, pixels * 4)?;
    require_ratio(what, op.grid, op.padded)?;
    let p = |value| param(what, value);
    p(pixels)?;
    let params = HeadParams {
        logits: logits.data.address,
        label: label.address,
        entropy: entropy.address,
        batch: p(logits.batch)?,
        classes: p(op.classes)?,
        in_h: p(op.grid.h)?,
        in_w: p(op.grid.w)?,
        in_stride: p(logits.stride)?,
        out_h: p(op.padded.h)?,
        out_w: p(op.padded.w)?,
        crop_h: p(op.crop.h)?,
        crop_w: p(op.crop.w)?,
        align_corners: op.resize.align_corners.into(),
    };
    Launch::new(what, [pixels.div_ceil(256), 1, 1], &params)
}
