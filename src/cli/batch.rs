//! `--batch`: how many images of one size run together.

use std::str::FromStr;

use ddu::engine::{Beside, Engine};
use ddu::ops::Size;
use ddu::profile;

/// The largest batch.
const MOST_TOGETHER: usize = 256;

/// How many images of one size run together.
#[derive(Clone, Copy, Debug)]
pub enum Batch {
    UpTo(usize),
    Auto,
}

impl FromStr for Batch {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = || text.parse().ok().filter(|n| (1..=MOST_TOGETHER).contains(n));
        match text {
            "auto" => Ok(Batch::Auto),
            _ => number().map(Batch::UpTo).ok_or(format!("expected 1 to {MOST_TOGETHER}, or auto")),
        }
    }
}

impl Batch {
    /// Whatever their size is.
    pub fn most(self) -> usize {
        match self {
            Batch::UpTo(most) => most,
            Batch::Auto => MOST_TOGETHER,
        }
    }

    /// For images of this size, of which there are `images` at most, with what runs beside the engine.
    pub fn of(
        self,
        engine: &mut Engine,
        beside: &mut impl Beside,
        size: Size,
        images: usize,
    ) -> usize {
        match self {
            Batch::UpTo(most) => most,
            Batch::Auto => profile::paying_batch(engine, beside, size, images.min(MOST_TOGETHER)),
        }
    }
}
