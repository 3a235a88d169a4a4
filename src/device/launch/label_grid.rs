//! Launch of `kernels/label_grid.cu`.

use super::{require, require_bytes};
use crate::device::params::LabelGridParams;
use crate::device::{Launch, Slice, param};
use crate::error::Result;
use crate::ops::{LabelRule, Size};

/// Sizes that meet when masks are sampled to the feature grid.
#[derive(Clone, Copy, Debug)]
pub struct LabelGrid {
    pub batch: usize,
    /// Of the masks.
    pub mask: Size,
    /// Of the images: the masks', unless they were resized.
    pub image: Size,
    /// Of the network's input.
    pub padded: Size,
    pub grid: Size,
    pub rule: LabelRule,
}

/// `mask` u8 `[batch, mask.h, mask.w]` to `label` u8 `[batch, grid.h, grid.w]`.
pub fn label_grid<'a>(op: &LabelGrid, mask: Slice<'a>, label: Slice<'a>) -> Result<Launch<'a>> {
    let what = "label_grid";
    let LabelGrid { batch, mask: from, image, padded, grid, rule } = *op;
    let empty = batch * from.pixels() * image.pixels() * grid.pixels() == 0;
    let inside = image.h <= padded.h && image.w <= padded.w;
    require(what, !empty && inside, "images inside the padded size", format!("{op:?}"))?;
    require_bytes("label_grid's masks", mask, batch * from.pixels())?;
    require_bytes("label_grid's labels", label, batch * grid.pixels())?;
    let p = |value| param(what, value);
    let params = LabelGridParams {
        mask: mask.address,
        label: label.address,
        batch: p(batch)?,
        mask_h: p(from.h)?,
        mask_w: p(from.w)?,
        image_h: p(image.h)?,
        image_w: p(image.w)?,
        padded_h: p(padded.h)?,
        padded_w: p(padded.w)?,
        grid_h: p(grid.h)?,
        grid_w: p(grid.w)?,
        align_corners: (rule == LabelRule::AlignCorners).into(),
    };
    Launch::new(what, [(batch * grid.pixels()).div_ceil(256), 1, 1], &params)
}
