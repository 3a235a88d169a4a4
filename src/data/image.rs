//! A decoded picture.

use crate::ops::Size;

/// An 8-bit RGB picture, interleaved, row-major: `rgb` is `[h, w, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub size: Size,
    pub rgb: Vec<u8>,
}
