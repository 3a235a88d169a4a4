//! Launches of `kernels/mixture.cu`.

use super::bilinear::{Upsampling, require_logits};
use super::divisor::Divisor;
use super::{Address, Addresses, Launch, Work, param, param_product, require};
use crate::device::kernels::Source;
use crate::device::{Slice, Tensor};
use crate::error::Result;
use crate::ops::Head;

params! {
    /// `kernels/mixture.cu`
    MixtureParams {
        logits: Address,
        sums: Address,
        label: Address,
        confidence: Address,
        entropy: Address,
        information: Address,
        grid: Upsampling,
        plane: Divisor,
        pixels: i32,
        classes: i32,
        in_stride: i32,
        first: i32,
        share: f32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "mixture",
    parameters: MixtureParams::PARAMETERS,
    kernels: &[
        MixtureParams::kernel("mixture_add", "mixture", 256, 0),
        MixtureParams::kernel("mixture_finish", "mixture", 256, 0),
    ],
    constants: &[],
};

/// What the mean of predictions is written to: `label` u8, the others f32, `[batch, crop.h, crop.w]`.
#[derive(Clone, Copy)]
pub struct MixtureMaps<'a> {
    pub label: Slice<'a>,
    pub confidence: Slice<'a>,
    pub entropy: Slice<'a>,
    pub mutual_information: Slice<'a>,
}

/// Adds a prediction to `sums`, f32 `[batch, C + 1, crop.h, crop.w]`; the first one overwrites what they were.
/// `logits` f32 on the grid.
pub fn mixture_add<'a>(
    op: &Head,
    logits: Tensor<'a>,
    sums: Slice<'a>,
    first: bool,
) -> Result<Launch<'a>> {
    let what = "mixture_add";
    require_logits(what, op, &logits)?;
    let mut memory = Addresses::new(what);
    let mut params = parameters(what, op, logits.batch, sums, &mut memory)?;
    params.logits = memory.tensor(&logits)?;
    params.in_stride = param(what, logits.stride)?;
    params.first = first.into();
    let read = logits.pixels() * op.classes * logits.element.bytes();
    launch(what, op, logits.batch, &params, memory, read, if first { 4 } else { 8 })
}

/// The maps of the mean of `count` predictions that were added.
pub fn mixture_finish<'a>(
    op: &Head,
    batch: usize,
    count: usize,
    sums: Slice<'a>,
    maps: MixtureMaps<'a>,
) -> Result<Launch<'a>> {
    let what = "mixture_finish";
    require(what, count > 0, "a prediction", "none")?;
    let mut memory = Addresses::new(what);
    let mut params = parameters(what, op, batch, sums, &mut memory)?;
    let pixels = batch * op.crop.pixels();
    params.label = memory.slice("labels", maps.label, pixels)?;
    params.confidence = memory.slice("confidence", maps.confidence, pixels * 4)?;
    params.entropy = memory.slice("entropy", maps.entropy, pixels * 4)?;
    params.information = memory.slice("mutual information", maps.mutual_information, pixels * 4)?;
    params.share = 1.0 / count as f32;
    launch(what, op, batch, &params, memory, pixels * 13, 4)
}

/// What both kernels take.
fn parameters<'a>(
    what: &'static str,
    op: &Head,
    batch: usize,
    sums: Slice<'a>,
    memory: &mut Addresses,
) -> Result<MixtureParams> {
    let grid = Upsampling::new(what, op)?;
    let values = param_product(what, &[batch, op.crop.h, op.crop.w, op.classes + 1])?;
    let p = |value| param(what, value);
    Ok(MixtureParams {
        logits: Address::NULL,
        sums: memory.slice("sums", sums, values * 4)?,
        label: Address::NULL,
        confidence: Address::NULL,
        entropy: Address::NULL,
        information: Address::NULL,
        grid,
        plane: Divisor::new(what, op.crop.pixels())?,
        pixels: p(batch * op.crop.pixels())?,
        classes: p(op.classes)?,
        in_stride: 0,
        first: 0,
        share: 0.0,
    })
}

/// `bytes` moved in addition to `per_sum` for each of the sums.
fn launch<'a>(
    what: &'static str,
    op: &Head,
    batch: usize,
    params: &MixtureParams,
    memory: Addresses,
    bytes: usize,
    per_sum: usize,
) -> Result<Launch<'a>> {
    let pixels = batch * op.crop.pixels();
    let shape = [batch, op.crop.h, op.crop.w, op.classes + 1];
    let work = Work::moving(shape, bytes + pixels * (op.classes + 1) * per_sum);
    Launch::new(&SOURCE, what, [pixels.div_ceil(256), 1, 1], params, memory, work)
}
