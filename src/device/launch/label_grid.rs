//! Launch of `kernels/label_grid.cu`.

use super::divisor::Divisor;
use super::{Address, Addresses, Launch, Work, param, param_product, require};
use crate::device::Slice;
use crate::device::kernels::Source;
use crate::error::Result;
use crate::ops::{LabelRule, Size};

nested! {
    /// `kernels/label_grid.cu`: index i of one axis lies at floor((i step + start) / denominator) of another.
    Sampling {
        step: i32,
        start: i32,
        denominator: Divisor,
    }
}

impl Sampling {
    /// Of `count` indices, in lowest terms, so that masks of an image's size and grids of a whole stride take small numbers.
    fn new(
        what: &str,
        count: usize,
        step: usize,
        start: usize,
        denominator: usize,
    ) -> Result<Self> {
        let common = gcd(gcd(step, start), denominator);
        let [step, start, denominator] = [step, start, denominator].map(|n| n / common);
        let largest = step.saturating_mul(count - 1).saturating_add(start);
        let fits = largest <= i32::MAX as usize;
        require(what, fits, "sides whose products are below 2^30", format!("{largest}"))?;
        let denominator = Divisor::new(what, denominator)?;
        Ok(Sampling { step: param(what, step)?, start: param(what, start)?, denominator })
    }

    /// The index under the middle of each of `count`: floor((2 i + 1) to / (2 count)).
    fn middles(what: &str, count: usize, to: usize) -> Result<Self> {
        Sampling::new(what, count, 2 * to, to, 2 * count)
    }

    /// [`LabelRule::places`].
    fn cells(what: &str, cells: usize, padded: usize, rule: LabelRule) -> Result<Self> {
        match rule {
            LabelRule::HalfPixel => Sampling::middles(what, cells, padded),
            LabelRule::AlignCorners if cells == 1 => Sampling::new(what, 1, 0, 0, 1),
            LabelRule::AlignCorners => {
                Sampling::new(what, cells, 2 * (padded - 1), cells - 1, 2 * (cells - 1))
            }
        }
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

params! {
    /// `kernels/label_grid.cu`
    LabelGridParams {
        mask: Address,
        label: Address,
        padded_y: Sampling,
        padded_x: Sampling,
        mask_y: Sampling,
        mask_x: Sampling,
        grid_h: Divisor,
        grid_w: Divisor,
        cells: i32,
        image_h: i32,
        image_w: i32,
        mask_h: i32,
        mask_w: i32,
        unused: i32,
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
///
/// # Errors
/// Sides whose products, in lowest terms, the kernel cannot compute in 32 bits.
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
        padded_y: Sampling::cells(what, grid.h, padded.h, rule)?,
        padded_x: Sampling::cells(what, grid.w, padded.w, rule)?,
        mask_y: Sampling::middles(what, image.h, from.h)?,
        mask_x: Sampling::middles(what, image.w, from.w)?,
        grid_h: Divisor::new(what, grid.h)?,
        grid_w: Divisor::new(what, grid.w)?,
        cells: p(cells)?,
        image_h: p(image.h)?,
        image_w: p(image.w)?,
        mask_h: p(from.h)?,
        mask_w: p(from.w)?,
        unused: 0,
    };
    // A label per cell is read and written.
    let work = Work::moving([batch, grid.h, grid.w, 1], 2 * cells);
    Launch::new(&SOURCE, what, [cells.div_ceil(256), 1, 1], &params, memory, work)
}
