//! A typed launch for each kernel: checks shapes and extents, fills the parameter struct, sets the grid.

mod arg_max;
pub mod conv2d;
pub mod density;
mod depthwise;
mod gather;
mod head;
mod label_grid;
pub mod moments;
mod pool;
mod preprocess;
mod resize;
mod stem;
mod upsample;

pub use arg_max::arg_max;
pub use conv2d::conv2d;
pub use density::density;
pub use depthwise::depthwise;
pub use gather::gather;
pub use head::head;
pub use label_grid::{LabelGrid, label_grid};
pub use moments::moments;
pub use pool::{global_average_pool, max_pool};
pub use preprocess::preprocess;
pub use resize::resize;
pub use stem::stem;
pub use upsample::upsample;

use super::{Element, Slice, Tensor, param};
use crate::error::{Error, Result};
use crate::ops::Size;

/// Refuses a launch of `what` unless `holds`.
fn require(what: &str, holds: bool, expected: &str, found: impl ToString) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::invalid(what, expected, found)) }
}

/// One axis of images in, another out, the batch and element as expected, channels in eights.
fn require_tensors(what: &str, x: &Tensor, y: &Tensor, y_size: Size) -> Result<()> {
    let found = || {
        let part =
            |t: &Tensor| format!("{} x {} x {} {:?}", t.batch, t.size, t.channels, t.element);
        format!("{} to {}", part(x), part(y))
    };
    let eights = |t: &Tensor| t.channels.is_multiple_of(8);
    require(
        what,
        x.element == Element::F16 && eights(y),
        "fp16 input, channels in eights",
        found(),
    )?;
    require(what, x.batch == y.batch, "as many images out as in", found())?;
    require(what, y.size == y_size, &format!("a {y_size} output"), found())?;
    // Also keeps every pixel count that the kernels compute in 32 bits inside them.
    param(what, x.pixels())?;
    param(what, y.pixels())?;
    Ok(())
}

fn require_bytes(what: &str, slice: Slice, bytes: usize) -> Result<()> {
    require(what, slice.bytes >= bytes, &format!("{bytes} bytes"), slice.bytes)?;
    require(
        what,
        slice.address.is_multiple_of(16),
        "an address that is a multiple of 16",
        slice.address,
    )
}
