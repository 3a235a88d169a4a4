//! Launch of `kernels/clip.cu`.

use super::divisor::Divisor;
use super::{
    Address, Addresses, Launch, Work, param, require, require_tensors, shape, tensor_bytes,
};
use crate::device::kernels::Source;
use crate::device::{Element, Slice, Tensor};
use crate::error::Result;

params! {
    /// `kernels/clip.cu`
    ClipParams {
        input: Address,
        limits: Address,
        output: Address,
        groups: Divisor,
        threads: i32,
        in_stride: i32,
        out_stride: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "clip",
    parameters: ClipParams::PARAMETERS,
    kernels: &[ClipParams::kernel("clip", "clip", 256, 0)],
    constants: &[],
};

/// `y` = min(`x`, `limits`) per channel, all fp16; `limits` `[channels]`. A value that is not finite stays.
pub fn clip<'a>(x: Tensor<'a>, limits: Slice<'a>, y: Tensor<'a>) -> Result<Launch<'a>> {
    let what = "clip";
    require_tensors(what, &x, &y, x.size)?;
    let same = y.element == Element::F16 && x.channels == y.channels;
    let found = format!("{} to {} {:?}", x.channels, y.channels, y.element);
    require(what, same, "fp16 of as many channels out", found)?;
    let p = |value| param(what, value);
    let threads = x.pixels() * (x.channels / 8);
    let mut memory = Addresses::new(what);
    let params = ClipParams {
        input: memory.tensor(&x)?,
        limits: memory.slice("limits", limits, x.channels * 2)?,
        output: memory.tensor(&y)?,
        groups: Divisor::new(what, x.channels / 8)?,
        threads: p(threads)?,
        in_stride: p(x.stride)?,
        out_stride: p(y.stride)?,
    };
    let work = Work::moving(shape(&y), tensor_bytes(&x) + tensor_bytes(&y) + x.channels * 2);
    Launch::new(&SOURCE, what, [threads.div_ceil(256), 1, 1], &params, memory, work)
}
