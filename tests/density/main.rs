//! The density's mathematics: moments, Gaussians and evaluation against plain f64 loops and against
//! the golden values of a real network.

mod degenerate;
mod evaluation;
mod golden;
mod moments;
#[path = "../common/shared.rs"]
mod shared;
mod support;
mod weighted;
