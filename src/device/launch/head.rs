//! Launch of `kernels/head.cu`.

use super::bilinear::{Axis, axes, require_logits};
use super::divisor::Divisor;
use super::{Address, Addresses, Launch, Work, param, param_product};
use crate::device::kernels::Source;
use crate::device::{Slice, Tensor};
use crate::error::Result;
use crate::ops::{Head, LogitScore};

params! {
    /// `kernels/head.cu`
    HeadParams {
        logits: Address,
        label: Address,
        entropy: Address,
        max_softmax: Address,
        energy: Address,
        entropy_t2: Address,
        y: Axis,
        x: Axis,
        step: Divisor,
        in_h: Divisor,
        crop_w: Divisor,
        threads: i32,
        crop_h: i32,
        classes: i32,
        in_stride: i32,
        unused: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "head",
    parameters: HeadParams::PARAMETERS,
    kernels: &[
        HeadParams::kernel("head", "head", 256, 0),
        HeadParams::kernel("logit_scores", "head", 256, 0),
    ],
    constants: &[],
};

/// `logits` f32 on the grid, `label` u8 and `entropy` f32 `[batch, crop.h, crop.w]`.
pub fn head<'a>(
    op: &Head,
    logits: Tensor<'a>,
    label: Slice<'a>,
    entropy: Slice<'a>,
) -> Result<Launch<'a>> {
    launch("head", op, logits, Some(label), &[(LogitScore::Entropy, entropy)])
}

/// Any scores of `logits` (f32 on the grid), each f32 `[batch, crop.h, crop.w]`, and the label where there is
/// one, u8 of that shape. Of two places for one score the last is written.
pub fn logit_scores<'a>(
    op: &Head,
    logits: Tensor<'a>,
    label: Option<Slice<'a>>,
    scores: &[(LogitScore, Slice<'a>)],
) -> Result<Launch<'a>> {
    launch("logit_scores", op, logits, label, scores)
}

fn launch<'a>(
    what: &'static str,
    op: &Head,
    logits: Tensor<'a>,
    label: Option<Slice<'a>>,
    scores: &[(LogitScore, Slice<'a>)],
) -> Result<Launch<'a>> {
    op.validate()?;
    let [y, x] = axes(what, op.grid, op.padded, op.resize.align_corners)?;
    require_logits(what, op, &logits)?;
    let pixels = param_product(what, &[logits.batch, op.crop.h, op.crop.w])?;
    let threads = param_product(what, &[logits.batch, op.grid.h, op.crop.w])?;
    let p = |value| param(what, value);
    let mut memory = Addresses::new(what);
    let map = |memory: &mut Addresses, score: LogitScore| {
        let to = scores.iter().rfind(|(s, _)| *s == score).map(|(_, slice)| *slice);
        memory.optional(&format!("{score:?}"), to, pixels * 4)
    };
    let params = HeadParams {
        logits: memory.tensor(&logits)?,
        label: memory.optional("labels", label, pixels)?,
        entropy: map(&mut memory, LogitScore::Entropy)?,
        max_softmax: map(&mut memory, LogitScore::MaxSoftmax)?,
        energy: map(&mut memory, LogitScore::Energy)?,
        entropy_t2: map(&mut memory, LogitScore::EntropyT2)?,
        y,
        x,
        step: y.divisor_of_step(what)?,
        in_h: Divisor::new(what, op.grid.h)?,
        crop_w: Divisor::new(what, op.crop.w)?,
        threads: p(threads)?,
        crop_h: p(op.crop.h)?,
        classes: p(op.classes)?,
        in_stride: p(logits.stride)?,
        unused: 0,
    };
    let work = Work::moving(
        [logits.batch, op.crop.h, op.crop.w, 1],
        logits.pixels() * op.classes * logits.element.bytes()
            + pixels * (usize::from(label.is_some()) + 4 * scores.len()),
    );
    Launch::new(&SOURCE, what, [threads.div_ceil(256), 1, 1], &params, memory, work)
}
