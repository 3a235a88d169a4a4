//! The uncertainty scores of sets of pixels, and how well each finds one set among another.

use serde::Serialize;

use super::detection::{Detection, Detector};

/// Scores of a set of pixels; higher means more uncertain. 12 bytes a pixel.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    pub entropy: Vec<f32>,
    pub density: Vec<f32>,
    pub relative: Vec<f32>,
}

impl Scores {
    /// Entropy and log-densities of one pixel, nats: low density counts as uncertain.
    pub fn push(&mut self, entropy: f32, density: f32, relative: f32) {
        self.entropy.push(entropy);
        self.density.push(-density);
        self.relative.push(-relative);
    }

    /// Pixels.
    pub fn len(&self) -> usize {
        self.entropy.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entropy.is_empty()
    }
}

/// How well each score finds the positives: entropy where it is high, a log-density where it is low.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Detections {
    pub entropy: Option<Detection>,
    pub density: Option<Detection>,
    pub relative_density: Option<Detection>,
}

impl Detections {
    pub fn of(positives: &[&Scores], negatives: &[&Scores]) -> Detections {
        let detect = |score: fn(&Scores) -> &[f32]| {
            let mut detector = Detector::default();
            for (sets, positive) in [(positives, true), (negatives, false)] {
                let scores = sets.iter().flat_map(|s| score(s));
                scores.for_each(|s| detector.push(*s, positive));
            }
            detector.detection()
        };
        Detections {
            entropy: detect(|s| &s.entropy),
            density: detect(|s| &s.density),
            relative_density: detect(|s| &s.relative),
        }
    }

    /// Name and result of each score.
    pub fn rows(&self) -> [(&'static str, Option<Detection>); 3] {
        [
            ("entropy", self.entropy),
            ("density", self.density),
            ("relative density", self.relative_density),
        ]
    }
}
