//! What people look at and what scripts read: pictures of maps and pages (feature `pictures`), and JSON.

#[cfg(feature = "pictures")]
mod bitmap;
#[cfg(feature = "pictures")]
mod canvas;
pub mod digits;
pub mod json;
#[cfg(feature = "pictures")]
mod layout;
#[cfg(feature = "pictures")]
pub mod overlay;
#[cfg(feature = "pictures")]
pub mod page;
pub mod palette;
#[cfg(feature = "pictures")]
pub mod sheet;
#[cfg(feature = "pictures")]
mod text;
#[cfg(feature = "pictures")]
mod ticks;
#[cfg(feature = "pictures")]
mod zoom;

/// `old` where `opacity` is 0, `new` where it is 1.
fn mix(old: u8, new: u8, opacity: f32) -> u8 {
    let (old, new) = (f32::from(old), f32::from(new));
    // Not `round`, a call without SSE 4.1; the sum is not negative.
    (old + (new - old) * opacity + 0.5) as u8
}
