//! What people look at and what scripts read: pictures of maps, and JSON.

mod canvas;
pub mod json;
pub mod overlay;
pub mod palette;
pub mod sheet;
mod text;
