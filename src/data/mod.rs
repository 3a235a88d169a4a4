//! What comes from and goes to disk: images, masks, datasets, maps.

mod atomic;

pub use atomic::write_atomic;
