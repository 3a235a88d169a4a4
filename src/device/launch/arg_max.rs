//! Launch of `kernels/arg_max.cu`.

use super::{Address, Addresses, Launch, Work, param, require};
use crate::device::kernels::Source;
use crate::device::{Element, Slice, Tensor};
use crate::error::Result;

params! {
    /// `kernels/arg_max.cu`
    ArgMaxParams {
        logits: Address,
        label: Address,
        pixels: i32,
        classes: i32,
        stride: i32,
        unused: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "arg_max",
    parameters: ArgMaxParams::PARAMETERS,
    kernels: &[ArgMaxParams::kernel("arg_max", "arg_max", 256, 0)],
    constants: &[],
};

/// The first arg max of the first `classes` channels of `logits` (f32), `label` u8 `[pixels]`.
pub fn arg_max<'a>(classes: usize, logits: Tensor<'a>, label: Slice<'a>) -> Result<Launch<'a>> {
    let what = "arg_max";
    let fits = logits.element == Element::F32
        && (1..=256).contains(&classes)
        && logits.stride.is_multiple_of(4)
        && logits.stride >= classes.next_multiple_of(4)
        && logits.channels >= classes;
    require(what, fits, "f32 logits of 1 to 256 classes", format!("{classes} classes"))?;
    let pixels = logits.pixels();
    let p = |value| param(what, value);
    let mut memory = Addresses::new(what);
    let params = ArgMaxParams {
        logits: memory.tensor(&logits)?,
        label: memory.slice("labels", label, pixels)?,
        pixels: p(pixels)?,
        classes: p(classes)?,
        stride: p(logits.stride)?,
        unused: 0,
    };
    let work = Work::moving(
        [logits.batch, logits.size.h, logits.size.w, 1],
        pixels * classes * logits.element.bytes() + pixels,
    );
    Launch::new(&SOURCE, what, [pixels.div_ceil(256), 1, 1], &params, memory, work)
}
