//! The scale on which a density's maps are drawn: from the density alone, so that every picture has
//! the same.

use super::{Evaluator, Gaussians, Options, Sample};

/// From the 1st percentile of the log-densities (`relative`: relative log-densities) of the density's
/// sample to the 99th, and as far again below: what lies there is unlike anything fitted.
pub fn colour_range(sample: &Sample, gaussians: &Gaussians, relative: bool) -> [f32; 2] {
    let options = Options { relative, ..Options::default() };
    let evaluation = Evaluator::new(gaussians).evaluate(&sample.features(), None, options);
    let mut scores = evaluation.score;
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
