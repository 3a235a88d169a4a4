//! Launch of `kernels/gather.cu`.

use super::divisor::Divisor;
use super::{Address, Addresses, Launch, Work, param, param_product, require};
use crate::device::kernels::Source;
use crate::device::{Element, Slice, Tensor};
use crate::error::Result;

params! {
    /// `kernels/gather.cu`
    GatherParams {
        features: Address,
        labels: Address,
        rows: Address,
        output: Address,
        picked: Address,
        chunks: Divisor,
        threads: i32,
        pixels: i32,
        stride: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "gather",
    parameters: GatherParams::PARAMETERS,
    kernels: &[GatherParams::kernel("gather", "gather", 256, 0)],
    constants: &[],
};

/// The pixels of `features` (fp16) and `labels` (u8) that `rows` (i32 `[count]`) lists, to `output` fp16
/// `[count, channels]` and `picked` u8 `[count]`.
pub fn gather<'a>(
    features: Tensor<'a>,
    labels: Slice<'a>,
    rows: Slice<'a>,
    count: usize,
    output: Slice<'a>,
    picked: Slice<'a>,
) -> Result<Launch<'a>> {
    let what = "gather";
    let channels = features.channels;
    let fits = features.element == Element::F16 && channels.is_multiple_of(8);
    require(what, fits, "fp16 features, channels in eights", format!("{channels} channels"))?;
    require(what, count > 0, "a row", count)?;
    let moved = param_product(what, &[count, channels, 2])?;
    let p = |value| param(what, value);
    let mut memory = Addresses::new(what);
    let params = GatherParams {
        features: memory.tensor(&features)?,
        labels: memory.slice("labels", labels, features.pixels())?,
        rows: memory.slice("rows", rows, count * 4)?,
        output: memory.slice("output", output, moved)?,
        picked: memory.slice("picked labels", picked, count)?,
        chunks: Divisor::new(what, channels / 8)?,
        threads: p(count * channels / 8)?,
        pixels: p(features.pixels())?,
        stride: p(features.stride)?,
    };
    // Rows are read and written, a label as well, an index read.
    let work = Work::moving([1, 1, count, channels], 2 * moved + count * 6);
    let grid = [(count * channels / 8).div_ceil(256), 1, 1];
    Launch::new(&SOURCE, what, grid, &params, memory, work)
}
