//! What comes from and goes to disk: images, masks, datasets, maps.

mod atomic;
mod classes;
mod image;
mod inputs;
mod npy;
mod png;

pub use self::image::{FORMATS, Image, MAX_PIXELS, decode, decode_bytes, decode_size, resized};
pub use self::png::{write_label_png, write_rgb_png};
pub use atomic::write_atomic;
pub use classes::read_class_names;
pub use inputs::{Input, Inputs, resolve};
pub use npy::write_npy;
