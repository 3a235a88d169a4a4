//! Parameters of the ops of a plan: validation, output size, FLOP and bytes. Sizes are `usize` and products are checked where a size enters the program
//! ([`crate::plan`]); FLOP and byte counts are u64. A multiply-add counts as two FLOP.

mod conv2d;
mod dropout;
mod head;
mod label_rule;
pub mod mixture;
mod pool;
mod resize;

pub use conv2d::Conv2d;
pub use dropout::{Dropout, Pass, Passes};
pub use head::{Head, LogitScore};
pub use label_rule::LabelRule;
pub use pool::MaxPool;
pub use resize::{Resize, Tap};

use crate::error::Result;

/// An op without weights that takes each channel by itself.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub enum Spatial {
    MaxPool(MaxPool),
    /// Mean over all pixels of each image: the output is 1 x 1.
    GlobalAvgPool,
    /// To the size of the activation that it writes a part of; an earlier op wrote another part.
    Resize(Resize),
}

impl Spatial {
    /// Output size. `written`: the size of the activation that it writes a part of, None if it is the
    /// first to write it.
    ///
    /// # Errors
    /// A window larger than the padded input.
    ///
    /// # Panics
    /// A resize into an activation that nothing has written.
    pub fn output_size(&self, input: Size, written: Option<Size>) -> Result<Size> {
        match self {
            Spatial::MaxPool(pool) => pool.output_size(input),
            Spatial::GlobalAvgPool => Ok(Size::new(1, 1)),
            Spatial::Resize(_) => Ok(written.expect("an activation of known size to resize to")),
        }
    }

    /// FLOP (a comparison counts as one).
    pub fn flops(&self, batch: usize, channels: usize, input: Size, output: Size) -> u64 {
        let elements = |size: Size| (batch * size.pixels() * channels) as u64;
        match self {
            Spatial::MaxPool(pool) => (pool.kernel * pool.kernel) as u64 * elements(output),
            Spatial::GlobalAvgPool => elements(input),
            Spatial::Resize(resize) => resize.flops(batch, channels, output),
        }
    }
}

/// Height and width in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Size {
    pub h: usize,
    pub w: usize,
}

impl Size {
    pub fn new(h: usize, w: usize) -> Self {
        Size { h, w }
    }

    pub fn pixels(self) -> usize {
        self.h * self.w
    }
}

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(f, "{} x {}", self.h, self.w)
    }
}
