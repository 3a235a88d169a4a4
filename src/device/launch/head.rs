//! Launch of `kernels/head.cu`.

use super::resize::require_ratio;
use super::{Address, Addresses, Launch, Work, param, param_product, require};
use crate::device::kernels::Source;
use crate::device::{Element, Slice, Tensor};
use crate::error::Result;
use crate::ops::Head;

params! {
    /// `kernels/head.cu`
    HeadParams {
        logits: Address,
        label: Address,
        entropy: Address,
        batch: i32,
        classes: i32,
        in_h: i32,
        in_w: i32,
        in_stride: i32,
        out_h: i32,
        out_w: i32,
        crop_h: i32,
        crop_w: i32,
        align_corners: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "head",
    parameters: HeadParams::PARAMETERS,
    kernels: &[HeadParams::kernel("head", "head", 256, 0)],
    constants: &[],
};

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
    let pixels = param_product(what, &[logits.batch, op.crop.h, op.crop.w])?;
    require_ratio(what, op.grid, op.padded)?;
    let p = |value| param(what, value);
    let mut memory = Addresses::new(what);
    let params = HeadParams {
        logits: memory.tensor(&logits)?,
        label: memory.slice("labels", label, pixels)?,
        entropy: memory.slice("entropy", entropy, pixels * 4)?,
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
    let work = Work::moving(
        [logits.batch, op.crop.h, op.crop.w, 1],
        logits.pixels() * op.classes * logits.element.bytes() + pixels * 5,
    );
    Launch::new(&SOURCE, what, [pixels.div_ceil(256), 1, 1], &params, memory, work)
}
