//! A density made ready to score what a model's engine puts out: maps at image size.

use super::{Covariance, Density, Evaluator, Gaussians, Options, Prior, Score, Warning};
use crate::engine::Output;
use crate::error::Result;

pub struct Scorer {
    evaluator: Evaluator,
}

/// One image's map, and how many cells of the feature grid had a feature that is not finite.
pub struct ScoreMap {
    /// `[H, W]`, nats.
    pub values: Vec<f32>,
    pub non_finite: usize,
}

impl Scorer {
    /// # Errors
    /// As [`Gaussians::new`].
    pub fn new(
        density: &Density,
        covariance: Covariance,
        prior: Prior,
    ) -> Result<(Self, Vec<Warning>)> {
        let (gaussians, warnings) = Gaussians::new(&density.moments, covariance, prior)?;
        Ok((Scorer { evaluator: Evaluator::new(&gaussians) }, warnings))
    }

    /// Evaluates one image of a run on the feature grid and upsamples by the model's rule.
    pub fn map(&self, output: &Output, image: usize, score: Score) -> Result<ScoreMap> {
        let logits = output.logits(image)?;
        let predicted: Vec<u8> = logits
            .chunks_exact(output.classes)
            .map(|l| (0..l.len()).max_by(|&a, &b| l[a].total_cmp(&l[b])).unwrap_or(0) as u8)
            .collect();
        let options = Options { score, ..Options::default() };
        let evaluation = self.evaluator.evaluate(&output.features(image)?, &predicted, options);
        let values = output.upsample(&evaluation.score);
        Ok(ScoreMap { values, non_finite: evaluation.non_finite })
    }

    /// The range of a colour scale: from the 1st percentile of the scores of the density's own sample
    /// to the 99th, and as far again below: what lies there is unlike anything fitted.
    pub fn range(&self, density: &Density, score: Score) -> [f32; 2] {
        let sample = density.sample.features();
        let guess = vec![0; density.sample.len()];
        let options = Options { score, ..Options::default() };
        let mut scores = self.evaluator.evaluate(&sample, &guess, options).score;
        scores.retain(|score| score.is_finite());
        scores.sort_unstable_by(f32::total_cmp);
        let at = |q: f64| {
            let place = (scores.len().saturating_sub(1) as f64 * q).round() as usize;
            scores.get(place).copied().unwrap_or(0.0)
        };
        let (low, high) = (at(0.01), at(0.99));
        // A sample of equal features still gets a bar.
        [low - (high - low).max(1.0), high]
    }
}
