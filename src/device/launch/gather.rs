//! Launch of `kernels/gather.cu`.

use super::{require, require_bytes};
use crate::device::params::GatherParams;
use crate::device::{Element, Launch, Slice, Tensor, param};
use crate::error::Result;

/// The pixels of `features` (fp16) and `labels` (u8) that `rows` (i32 `[count]`) names, to `output` fp16
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
    require_bytes("gather's labels", labels, features.pixels())?;
    require_bytes("gather's rows", rows, count * 4)?;
    require_bytes("gather's output", output, count * channels * 2)?;
    require_bytes("gather's labels", picked, count)?;
    let p = |value| param(what, value);
    let params = GatherParams {
        features: features.data.address,
        labels: labels.address,
        rows: rows.address,
        output: output.address,
        picked: picked.address,
        pixels: p(features.pixels())?,
        count: p(count)?,
        stride: p(features.stride)?,
        channels: p(channels)?,
    };
    Launch::new(what, [(count * channels / 8).div_ceil(256), 1, 1], &params)
}
