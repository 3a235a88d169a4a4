//! Launch of `kernels/label_grid.cu`.

use super::{Address, Addresses, Launch, Work, param, param_product, require};
use crate::device::Slice;
use crate::device::kernels::Source;
use crate::error::Result;
use crate::ops::{LabelRule, Size};

params! {
    /// `kernels/label_grid.cu`
    LabelGridParams {
        mask: Address,
        label: Address,
        batch: i32,
        mask_h: i32,
        mask_w: i32,
        image_h: i32,
        image_w: i32,
        padded_h: i32,
        padded_w: i32,
        grid_h: i32,
        grid_w: i32,
        align_corners: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "label_grid",
    parameters: LabelGridParams::PARAMETERS,
    kernels: &[LabelGridParams::kernel("label_grid", "label_grid", 256, 0)],
    constants: &[],
};

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
    let sides = [batch, from.h, from.w, image.h, image.w, grid.h, grid.w];
    let empty = sides.contains(&0);
    let inside = image.h <= padded.h && image.w <= padded.w;
    require(what, !empty && inside, "images inside the padded size", format!("{op:?}"))?;
    let pixels = param_product(what, &[batch, from.h, from.w])?;
    let cells = param_product(what, &[batch, grid.h, grid.w])?;
    let p = |value| param(what, value);
    let mut memory = Addresses::new(what);
    let params = LabelGridParams {
        mask: memory.slice("masks", mask, pixels)?,
        label: memory.slice("labels", label, cells)?,
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
    // A label per cell is read and written.
    let work = Work::moving([batch, grid.h, grid.w, 1], 2 * cells);
    Launch::new(&SOURCE, what, [cells.div_ceil(256), 1, 1], &params, memory, work)
}
