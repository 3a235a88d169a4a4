//! Launch of `kernels/preprocess.cu`.

use super::divisor::Divisor;
use super::{Address, Addresses, Launch, Work, param, require, shape, tensor_bytes};
use crate::device::kernels::Source;
use crate::device::{Element, Slice, Tensor};
use crate::error::Result;
use crate::ops::Size;

params! {
    /// `kernels/preprocess.cu`
    PreprocessParams {
        input: Address,
        output: Address,
        out_h: Divisor,
        out_w: Divisor,
        pixels: i32,
        in_h: i32,
        in_w: i32,
        unused: i32,
        scale: [f32; 3],
        offset: [f32; 3],
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "preprocess",
    parameters: PreprocessParams::PARAMETERS,
    kernels: &[PreprocessParams::kernel("preprocess", "preprocess", 256, 0)],
    constants: &[],
};

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
    let pictures = y.batch * image.pixels() * 3;
    let p = |value| param(what, value);
    let mut memory = Addresses::new(what);
    let params = PreprocessParams {
        input: memory.slice("pictures", rgb, pictures)?,
        output: memory.tensor(&y)?,
        out_h: Divisor::new(what, y.size.h)?,
        out_w: Divisor::new(what, y.size.w)?,
        pixels: p(y.pixels())?,
        in_h: p(image.h)?,
        in_w: p(image.w)?,
        unused: 0,
        scale: std.map(|s| (1.0 / (255.0 * f64::from(s))) as f32),
        offset: std::array::from_fn(|c| (-f64::from(mean[c]) / f64::from(std[c])) as f32),
    };
    let work = Work::moving(shape(&y), pictures + tensor_bytes(&y));
    Launch::new(&SOURCE, what, [y.pixels().div_ceil(512), 1, 1], &params, memory, work)
}
