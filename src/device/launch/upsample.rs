//! Launch of `kernels/upsample.cu`.

use super::bilinear::Upsampling;
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
        grid: Upsampling,
        pixels: i32,
        unused: i32,
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
    let grid = Upsampling::new(what, op)?;
    require(what, batch > 0, "an image", batch)?;
    let pixels = param_product(what, &[batch, op.crop.h, op.crop.w])?;
    let cells = param_product(what, &[batch, op.grid.h, op.grid.w])?;
    let mut memory = Addresses::new(what);
    let params = UpsampleParams {
        input: memory.slice("grid", x, cells * 4)?,
        output: memory.slice("map", y, pixels * 4)?,
        grid,
        pixels: param(what, pixels)?,
        unused: 0,
    };
    let work = Work::moving([batch, op.crop.h, op.crop.w, 1], (cells + pixels) * 4);
    Launch::new(&SOURCE, what, [pixels.div_ceil(1024), 1, 1], &params, memory, work)
}
