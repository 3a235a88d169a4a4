//! What comes from and goes to disk: images, masks, datasets, maps.

mod atomic;
mod class_map;
mod classes;
pub mod content_hash;
mod dataset;
mod image;
mod inputs;
mod jpeg;
mod label_grid;
mod mask;
mod npy;
mod outputs;
mod png;
mod read;

pub use self::image::{
    FORMATS, Image, MAX_PIXELS, decode, decode_bytes, decode_size, decode_size_within,
    decode_within, resized_within,
};
pub use self::png::{write_label_png, write_rgb_png};
pub use crate::ops::LabelRule;
pub use atomic::{regular_target, remove_temporary_files, write_atomic};
pub use class_map::ClassMap;
pub use classes::read_class_names;
pub use dataset::{Dataset, FileState, Labelled, Pair, image_hash};
#[cfg(test)]
pub(crate) use inputs::RESULTS;
pub use inputs::{Input, Inputs, resolve};
pub use label_grid::label_grid;
pub use mask::{Mask, VOID, read_mask, read_mask_within};
pub use npy::write_npy;
pub use outputs::Reads;
pub use read::read_file;
