//! What is usual of a density, from its sample alone: the scale on which its maps are drawn, so that every
//! picture has the same, and where in the sample a value lies.

use super::{Evaluator, Gaussians, Options, Sample};

/// The log-densities (`relative`: relative log-densities) of a density's sample.
#[derive(Clone, Debug)]
pub struct Percentiles {
    /// The finite ones, in increasing order.
    sorted: Vec<f32>,
}

impl Percentiles {
    pub fn of(sample: &Sample, gaussians: &Gaussians, relative: bool) -> Self {
        let options = Options { relative, ..Options::default() };
        let evaluation = Evaluator::new(gaussians).evaluate(&sample.features(), None, options);
        let mut sorted = evaluation.score;
        sorted.retain(|score| score.is_finite());
        sorted.sort_unstable_by(f32::total_cmp);
        Percentiles { sorted }
    }

    /// The value at a share 0 .. 1 of the sample (nearest rank); 0 of an empty one.
    pub fn at(&self, share: f64) -> f32 {
        let place = (self.sorted.len().saturating_sub(1) as f64 * share).round() as usize;
        self.sorted.get(place).copied().unwrap_or(0.0)
    }

    /// The percentage of the sample that lies below a value, its equals counted half; None of an empty one, or
    /// for NaN.
    pub fn rank(&self, value: f32) -> Option<f64> {
        let (less, more) = (
            self.sorted.partition_point(|s| *s < value),
            self.sorted.partition_point(|s| *s <= value),
        );
        let known = !self.sorted.is_empty() && !value.is_nan();
        known.then(|| 50.0 * (less + more) as f64 / self.sorted.len() as f64)
    }
}

/// From the 1st percentile of the log-densities (`relative`: relative log-densities) of the density's
/// sample to the 99th, and extended below by the same width: values there are unlike anything fitted.
pub fn colour_range(sample: &Sample, gaussians: &Gaussians, relative: bool) -> [f32; 2] {
    let percentiles = Percentiles::of(sample, gaussians, relative);
    let (low, high) = (percentiles.at(0.01), percentiles.at(0.99));
    // A sample of equal features still gets a range.
    [low - (high - low).max(1.0), high]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_say_where_a_value_lies() {
        let percentiles = Percentiles { sorted: vec![-3.0, -1.0, -1.0, 2.0] };
        let ranks = [-4.0, -3.0, -1.0, 0.0, 2.0, f32::INFINITY].map(|v| percentiles.rank(v));
        assert_eq!(ranks, [0.0, 12.5, 50.0, 75.0, 87.5, 100.0].map(Some));
        assert_eq!(percentiles.rank(f32::NEG_INFINITY), Some(0.0));
        assert_eq!(percentiles.rank(f32::NAN), None);
        assert_eq!([0.0, 0.34, 1.0].map(|share| percentiles.at(share)), [-3.0, -1.0, 2.0]);
        let empty = Percentiles { sorted: Vec::new() };
        assert_eq!((empty.rank(1.0), empty.at(0.5)), (None, 0.0));
    }
}
