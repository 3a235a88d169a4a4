//! Launch of `kernels/dropout.cu`.

use super::divisor::Divisor;
use super::{
    Address, Addresses, Launch, Work, param, require, require_tensors, shape, tensor_bytes,
};
use crate::device::kernels::Source;
use crate::device::{Element, Tensor};
use crate::error::Result;
use crate::ops::{Dropout, Pass};

params! {
    /// `kernels/dropout.cu`
    DropoutParams {
        input: Address,
        output: Address,
        seed: i64,
        image_pixels: Divisor,
        groups: Divisor,
        threads: i32,
        in_stride: i32,
        out_stride: i32,
        pass: i32,
        place: i32,
        threshold: i32,
        scale: f32,
        unused: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "dropout",
    parameters: DropoutParams::PARAMETERS,
    kernels: &[DropoutParams::kernel("dropout", "dropout", 256, 0)],
    constants: &[],
};

/// `x` with the masks of a pass, or copied without one.
pub fn dropout<'a>(
    op: &Dropout,
    pass: Option<Pass>,
    x: Tensor<'a>,
    y: Tensor<'a>,
) -> Result<Launch<'a>> {
    let what = "dropout";
    require_tensors(what, &x, &y, x.size)?;
    let fits = x.channels == y.channels && y.element == Element::F16;
    let found = format!("{} to {}", x.channels, y.channels);
    require(what, fits, "as many fp16 channels out as in", found)?;
    let (threshold, scale) = match pass {
        Some(_) => (op.threshold(), op.scale()),
        None => (0, 1.0),
    };
    let Pass { seed, index } = pass.unwrap_or(Pass { seed: 0, index: 0 });
    let p = |value| param(what, value);
    let threads = x.pixels() * (x.channels / 8);
    let mut memory = Addresses::new(what);
    let params = DropoutParams {
        input: memory.tensor(&x)?,
        output: memory.tensor(&y)?,
        seed: seed.cast_signed(),
        image_pixels: Divisor::new(what, x.size.pixels())?,
        groups: Divisor::new(what, x.channels / 8)?,
        threads: p(threads)?,
        in_stride: p(x.stride)?,
        out_stride: p(y.stride)?,
        pass: index.cast_signed(),
        place: op.place.cast_signed(),
        threshold: threshold.cast_signed(),
        scale,
        unused: 0,
    };
    let work = Work::moving(shape(&y), tensor_bytes(&x) + tensor_bytes(&y));
    let grid = [threads.div_ceil(256), 1, 1];
    Launch::new(&SOURCE, what, grid, &params, memory, work)
}
