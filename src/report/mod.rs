//! What people look at and what scripts read: pictures of maps (feature `pictures`), and JSON.

#[cfg(feature = "pictures")]
mod canvas;
pub mod json;
#[cfg(feature = "pictures")]
pub mod overlay;
pub mod palette;
#[cfg(feature = "pictures")]
pub mod sheet;
#[cfg(feature = "pictures")]
mod text;
