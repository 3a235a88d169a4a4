//! The head: logits on the feature grid to maps at input size, without writing the upsampled
//! logits. Per pixel, with l the bilinearly upsampled logits and p = softmax(l):
//! class = arg max l (the lowest index of equals), entropy = -sum_c p_c ln p_c in nats.
//!
//! Where some upsampled logit is not finite (a network that overflows), the entropy is NaN and the
//! class is the arg max of the logits that are not NaN, 0 where none is above -inf.

use super::{Resize, Size};
use crate::error::{Error, Result};

#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Head {
    pub classes: usize,
    /// The grid the logits lie on.
    pub grid: Size,
    /// The size they are upsampled to: that of the padded input.
    pub padded: Size,
    /// The top left part that is wanted: the unpadded image.
    pub crop: Size,
    pub resize: Resize,
}

/// A score per pixel, from its upsampled logits l alone; p = softmax(l). NaN where a logit is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitScore {
    /// -sum_c p_c ln p_c, in nats.
    Entropy,
    /// max_c p_c
    MaxSoftmax,
    /// -ln sum_c exp l_c, in nats.
    Energy,
    /// The entropy of softmax(l / 2), in nats.
    EntropyT2,
}

impl Head {
    pub fn validate(&self) -> Result<()> {
        let Head { classes, grid, padded, crop, .. } = *self;
        if !(1..=255).contains(&classes) {
            return Err(Error::invalid("head", "1 to 255 classes", classes));
        }
        if grid.pixels() == 0 || crop.pixels() == 0 || crop.h > padded.h || crop.w > padded.w {
            let found = format!("grid {grid}, padded {padded}, crop {crop}");
            return Err(Error::invalid("head", "a crop inside the padded size", found));
        }
        Ok(())
    }
}
