//! How good a segmentation and its uncertainties are. Metrics are pooled over the pixels of a data set, not
//! averaged over images, where nothing else is said; [`Evaluation`] measures all of them in one pass.

pub mod bootstrap;
pub mod by_class;
pub mod calibration;
mod confusion;
pub mod curves;
mod detection;
mod evaluation;
#[cfg(test)]
mod golden;
mod histogram;
mod json;
pub mod patches;
pub mod positions;
mod prediction;
mod results;
mod score_tally;
mod scores;
pub mod thresholds;

pub use bootstrap::Interval;
pub use confusion::Confusion;
pub use curves::Curve;
pub use detection::Detection;
pub use evaluation::{Evaluation, Options, Truth};
pub use histogram::{CoarseHistogram, Histogram};
pub use prediction::{Method, Prediction};
pub use results::{Found, ImageMedian, MethodResults, Results, ScoreResults};
pub use scores::{Detections, Scores};
