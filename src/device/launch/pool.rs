//! Launches of `kernels/pool.cu`.

use super::divisor::Divisor;
use super::{
    Address, Addresses, Launch, Work, param, require, require_tensors, shape, tensor_bytes,
};
use crate::device::kernels::Source;
use crate::device::{Element, Tensor};
use crate::error::Result;
use crate::ops::{MaxPool, Size};

params! {
    /// `kernels/pool.cu`
    PoolParams {
        input: Address,
        output: Address,
        out_h: Divisor,
        out_w: Divisor,
        groups: Divisor,
        threads: i32,
        channels: i32,
        in_h: i32,
        in_w: i32,
        in_stride: i32,
        out_stride: i32,
        kernel: i32,
        stride: i32,
        padding: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "pool",
    parameters: PoolParams::PARAMETERS,
    kernels: &[
        PoolParams::kernel("max_pool", "pool", 256, 0),
        PoolParams::kernel("global_average_pool", "pool", 256, 8192),
    ],
    constants: &[],
};

pub fn max_pool<'a>(pool: &MaxPool, x: Tensor<'a>, y: Tensor<'a>) -> Result<Launch<'a>> {
    pool.validate()?;
    require_tensors("max_pool", &x, &y, pool.output_size(x.size)?)?;
    let (params, memory) = params("max_pool", pool, &x, &y)?;
    let grid = [(y.pixels() * y.channels / 8).div_ceil(256), 1, 1];
    let flop = (pool.kernel * pool.kernel) as u64 * (y.pixels() * y.channels) as u64;
    let work = Work::even(shape(&y), flop, bytes(&x, &y), grid);
    Launch::new(&SOURCE, "max_pool", grid, &params, memory, work)
}

/// The mean over all pixels of each image: `y` is 1 x 1.
pub fn global_average_pool<'a>(x: Tensor<'a>, y: Tensor<'a>) -> Result<Launch<'a>> {
    let what = "global_average_pool";
    require_tensors(what, &x, &y, Size::new(1, 1))?;
    let (params, memory) = params(what, &MaxPool { kernel: 0, stride: 0, padding: 0 }, &x, &y)?;
    let grid = [y.channels.div_ceil(64), y.batch, 1];
    let work = Work::even(shape(&y), (x.pixels() * x.channels) as u64, bytes(&x, &y), grid);
    Launch::new(&SOURCE, what, grid, &params, memory, work)
}

fn bytes(x: &Tensor, y: &Tensor) -> u64 {
    (tensor_bytes(x) + tensor_bytes(y)) as u64
}

fn params(
    what: &'static str,
    pool: &MaxPool,
    x: &Tensor,
    y: &Tensor,
) -> Result<(PoolParams, Addresses)> {
    let fits = x.channels == y.channels && y.element == Element::F16;
    require(
        what,
        fits,
        "as many fp16 channels out as in",
        format!("{} to {}", x.channels, y.channels),
    )?;
    let p = |value| param(what, value);
    let divisor = |value| Divisor::new(what, value);
    p(x.size.h.max(x.size.w) + 2 * pool.padding + pool.kernel)?;
    let mut memory = Addresses::new(what);
    let params = PoolParams {
        input: memory.tensor(x)?,
        output: memory.tensor(y)?,
        out_h: divisor(y.size.h)?,
        out_w: divisor(y.size.w)?,
        groups: divisor(y.channels / 8)?,
        threads: p(y.pixels() * (y.channels / 8))?,
        channels: p(x.channels)?,
        in_h: p(x.size.h)?,
        in_w: p(x.size.w)?,
        in_stride: p(x.stride)?,
        out_stride: p(y.stride)?,
        kernel: p(pool.kernel)?,
        stride: p(pool.stride)?,
        padding: p(pool.padding)?,
    };
    Ok((params, memory))
}
