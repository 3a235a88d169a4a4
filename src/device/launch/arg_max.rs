//! Launch of `kernels/arg_max.cu`.

use super::{require, require_bytes};
use crate::device::params::ArgMaxParams;
use crate::device::{Element, Launch, Slice, Tensor, param};
use crate::error::Result;

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
    require_bytes("arg_max's labels", label, pixels)?;
    let p = |value| param(what, value);
    let params = ArgMaxParams {
        logits: logits.data.address,
        label: label.address,
        pixels: p(pixels)?,
        classes: p(classes)?,
        stride: p(logits.stride)?,
        unused: 0,
    };
    Launch::new(what, [pixels.div_ceil(256), 1, 1], &params)
}
