//! Deep Deterministic Uncertainty for semantic segmentation.
//!
//! A trained DeepLab goes in; for every pixel come out the class, the aleatoric uncertainty
//! (softmax entropy, nats) and the epistemic uncertainty (log-density of the pixel's feature under
//! one Gaussian a class, nats). `docs/architecture.md` has the picture.

pub mod compare;
pub mod cpu;
pub mod data;
pub mod demo;
pub mod density;
pub mod device;
pub mod engine;
pub mod error;
pub mod eval;
pub mod fit;
pub mod gpu;
pub mod host;
pub mod import;
pub mod model;
pub mod ops;
pub mod plan;
pub mod profile;
pub mod report;
pub mod score;

pub use error::{Error, Result};
