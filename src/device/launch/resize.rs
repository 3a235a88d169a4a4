//! Launch of `kernels/resize.cu`.

use super::{require, require_tensors};
use crate::device::params::ResizeParams;
use crate::device::{Element, Launch, Tensor, param};
use crate::error::Result;
use crate::ops::{Resize, Size};

/// `x` resized to `y`'s size.
pub fn resize<'a>(op: &Resize, x: Tensor<'a>, y: Tensor<'a>) -> Result<Launch<'a>> {
    let what = "resize";
    require_tensors(what, &x, &y, y.size)?;
    let fits = x.channels == y.channels && y.element == Element::F16;
    require(
        what,
        fits,
        "as many fp16 channels out as in",
        format!("{} to {}", x.channels, y.channels),
    )?;
    require_ratio(what, x.size, y.size)?;
    let p = |value| param(what, value);
    let params = ResizeParams {
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
        align_corners: op.align_corners.into(),
        unused: 0,
    };
    Launch::new(what, [(y.pixels() * y.channels / 8).div_ceil(256), 1, 1], &params)
}

/// `common/bilinear.cuh` computes (2 i + 1) in, i < out, in 32 bits.
pub(super) fn require_ratio(what: &str, from: Size, to: Size) -> Result<()> {
    let product = |a: usize, b: usize| a.saturating_mul(2 * b + 1);
    let most = product(from.h, to.h).max(product(from.w, to.w));
    require(
        what,
        most <= i32::MAX as usize,
        "sides whose product is below 2^30",
        format!("{from} to {to}"),
    )
}
