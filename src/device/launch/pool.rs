//! Launches of `kernels/pool.cu`.

use super::{require, require_tensors};
use crate::device::params::PoolParams;
use crate::device::{Element, Launch, Tensor, param};
use crate::error::Result;
use crate::ops::{MaxPool, Size};

pub fn max_pool<'a>(pool: &MaxPool, x: Tensor<'a>, y: Tensor<'a>) -> Result<Launch<'a>> {
    pool.validate()?;
    require_tensors("max_pool", &x, &y, pool.output_size(x.size)?)?;
    let params = params("max_pool", pool, &x, &y)?;
    Launch::new("max_pool", [(y.pixels() * y.channels / 8).div_ceil(256), 1, 1], &params)
}

/// The mean over all pixels of each image: `y` is 1 x 1.
pub fn global_average_pool<'a>(x: Tensor<'a>, y: Tensor<'a>) -> Result<Launch<'a>> {
    let what = "global_average_pool";
    require_tensors(what, &x, &y, Size::new(1, 1))?;
    let params = params(what, &MaxPool { kernel: 0, stride: 0, padding: 0 }, &x, &y)?;
    Launch::new(what, [y.channels.div_ceil(64), y.batch, 1], &params)
}

fn params(what: &str, pool: &MaxPool, x: &Tensor, y: &Tensor) -> Result<PoolParams> {
    let fits = x.channels == y.channels && y.element == Element::F16;
    require(
        what,
        fits,
        "as many fp16 channels out as in",
        format!("{} to {}", x.channels, y.channels),
    )?;
    let p = |value| param(what, value);
    p(x.size.h.max(x.size.w) + 2 * pool.padding + pool.kernel)?;
    Ok(PoolParams {
        input: x.data.address,
        output: y.data.address,
        batch: p(x.batch)?,
        channels: p(x.channels)?,
        in_h: p(x.size.h)?,
        in_w: p(x.size.w)?,
        in_stride: p(x.stride)?,
        out_h: p(y.size.h)?,
        out_w: p(y.size.w)?,
        out_stride: p(y.stride)?,
        kernel: p(pool.kernel)?,
        stride: p(pool.stride)?,
        padding: p(pool.padding)?,
        unused: 0,
    })
}
