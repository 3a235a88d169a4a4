//! What comes from and goes to disk: images, masks, datasets, maps.

mod atomic;
mod image;

pub use atomic::write_atomic;
pub use image::Image;
