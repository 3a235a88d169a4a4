//! What one way of making predictions says about an image. Evaluation judges each method by its own classes.

use crate::score::Score;

/// How a prediction was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// One deterministic forward pass.
    Softmax,
    /// The mean over several passes with dropout left on (Gal and Ghahramani 2016, arXiv 1506.02142).
    McDropout,
    /// The mean over several networks (Lakshminarayanan et al. 2017, arXiv 1612.01474).
    Ensemble,
}

impl Method {
    pub const ALL: [Method; 3] = [Method::Softmax, Method::McDropout, Method::Ensemble];

    /// On the command line, in JSON and in tables.
    pub fn name(self) -> &'static str {
        match self {
            Method::Softmax => "softmax",
            Method::McDropout => "mc-dropout",
            Method::Ensemble => "ensemble",
        }
    }
}

/// What a method says about one image, per pixel, row-major `[H, W]`.
#[derive(Clone, Debug)]
pub struct Prediction {
    pub method: Method,
    /// Class with the largest (mean) probability.
    pub label: Vec<u8>,
    /// Its (mean) probability.
    pub confidence: Vec<f32>,
    /// In the score's unit.
    pub scores: Vec<(Score, Vec<f32>)>,
}
