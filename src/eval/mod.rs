//! How good a segmentation and its uncertainties are. All metrics are pooled over the pixels of a
//! dataset, not averaged over images.

mod confusion;
mod detection;
mod histogram;
mod prediction;
mod scores;
pub mod thresholds;

pub use confusion::Confusion;
pub use detection::Detection;
pub use histogram::{CoarseHistogram, Histogram};
pub use prediction::{Method, Prediction};
pub use scores::{Detections, Scores};
