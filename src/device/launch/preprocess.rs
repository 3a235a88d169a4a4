//! Launch of `kernels/preprocess.cu`.

use super::{require, require_bytes};
use crate::device::params::PreprocessParams;
use crate::device::{Element, Launch, Slice, Tensor, param};
use crate::error::Result;
use crate::ops::Size;

/// `rgb` is `[batch, image.h, image.w, 3]` u8; `y` fp16 of 4 channels, at least as large.
pub fn preprocess<'a>(
    rgb: Slice<'a>,
    image: Size,
    mean: [f32; 3],
    std: [f32; 3],
    y: Tensor<'a>,
) -> Result<Launch<'a>> {
    let what = "preprocess";
    require(
        what,
        y.size.h >= image.h && y.size.w >= image.w,
        &format!("at least {image}"),
        y.size,
    )?;
    let layout = (y.channels, y.stride, y.element) == (4, 4, Element::F16);
    require(what, layout, "fp16 with 4 channels out", format!("{} {:?}", y.channels, y.element))?;
    require(
        what,
        std.iter().all(|s| *s > 0.0),
        "positive standard deviations",
        format!("{std:?}"),
    )?;
    require_bytes("preprocess's pictures", rgb, y.batch * image.pixels() * 3)?;
    let p = |value| param(what, value);
    p(y.pixels())?;
    let params = PreprocessParams {
        input: rgb.address,
        output: y.data.address,
        batch: p(y.batch)?,
        in_h: p(image.h)?,
        in_w: p(image.w)?,
        out_h: p(y.size.h)?,
        out_w: p(y.size.w)?,
        mean,
        std,
        unused: 0,
    };
    Launch::new(what, [y.pixels().div_ceil(256), 1, 1], &params)
}
