//! `kernels/common/bilinear.cuh`: what its kernels are told of a resize, and of a head's logits.

use super::divisor::Divisor;
use super::{param, require};
use crate::device::{Element, Tensor};
use crate::error::Result;
use crate::ops::{Head, Size};

nested! {
    /// Rows (or columns) of a resize, `size` of them in: output i lies at max(0, i step + start) / denominator of the input.
    Axis {
        size: i32,
        step: i32,
        start: i32,
        denominator: Divisor,
        inverse: f32,
    }
}

impl Axis {
    fn new(what: &str, from: usize, to: usize, align_corners: bool) -> Result<Self> {
        let p = |value| param(what, value);
        let (step, start, denominator) = match align_corners {
            true => (p(from - 1)?, 0, (to - 1).max(1)),
            false => (p(2 * from)?, p(from)? - p(to)?, 2 * to),
        };
        let inverse = (1.0 / denominator as f64) as f32;
        let denominator = Divisor::new(what, denominator)?;
        Ok(Axis { size: p(from)?, step, start, denominator, inverse })
    }
}

impl Axis {
    /// 1 where the step is 0.
    pub fn divisor_of_step(&self, what: &str) -> Result<Divisor> {
        Divisor::new(what, self.step.max(1) as usize)
    }
}

/// Rows and columns of a resize.
///
/// # Errors
/// Sizes whose products the kernels cannot compute in 32 bits.
pub(super) fn axes(what: &str, from: Size, to: Size, align_corners: bool) -> Result<[Axis; 2]> {
    let sides = [from.h, from.w, to.h, to.w];
    require(what, !sides.contains(&0), "sides above 0", format!("{from} to {to}"))?;
    // (2 i + 1) in, i < out
    let product = |a: usize, b: usize| b.saturating_mul(2).saturating_add(1).saturating_mul(a);
    let largest = product(from.h, to.h).max(product(from.w, to.w));
    let expected = "sides whose product is below 2^30";
    require(what, largest <= i32::MAX as usize, expected, format!("{from} to {to}"))?;
    let axis = |from, to| Axis::new(what, from, to, align_corners);
    Ok([axis(from.h, to.h)?, axis(from.w, to.w)?])
}

nested! {
    /// The grid of a head under its pictures, of which the upper left is wanted.
    Upsampling {
        y: Axis,
        x: Axis,
        crop_h: Divisor,
        crop_w: Divisor,
    }
}

impl Upsampling {
    /// # Errors
    /// A head that is none, and sizes that the kernels cannot compute with.
    pub fn new(what: &str, op: &Head) -> Result<Self> {
        op.validate()?;
        let [y, x] = axes(what, op.grid, op.padded, op.resize.align_corners)?;
        let (crop_h, crop_w) = (Divisor::new(what, op.crop.h)?, Divisor::new(what, op.crop.w)?);
        Ok(Upsampling { y, x, crop_h, crop_w })
    }
}

/// Refuses what the kernels cannot read as a head's logits: f32 on its grid, in fours.
pub(super) fn require_logits(what: &str, op: &Head, logits: &Tensor) -> Result<()> {
    let fits = logits.element == Element::F32
        && logits.size == op.grid
        && logits.channels >= op.classes
        && logits.stride.is_multiple_of(4)
        && logits.stride >= op.classes.next_multiple_of(4);
    require(what, fits, "f32 logits of these classes on the grid", format!("{op:?}"))?;
    param(what, logits.pixels()).map(|_| ())
}
