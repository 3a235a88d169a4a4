//! Parameters of the ops of a plan: each knows when it is valid, its output's size, its arithmetic
//! and its traffic. Sizes are `usize` and products are checked where a size enters the program
//! ([`crate::plan`]); FLOP and byte counts are u64. A multiply-add counts as two FLOP.

mod conv2d;
mod head;
mod label_rule;
mod pool;
mod resize;

pub use conv2d::Conv2d;
pub use head::Head;
pub use label_rule::LabelRule;
pub use pool::MaxPool;
pub use resize::{Resize, Tap};

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
