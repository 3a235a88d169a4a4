//! Calibration of the top label: does a class predicted with probability 0.8 hold in 80 % of the cases?
//!
//! ECE = sum_b n_b / N |accuracy_b - confidence_b| over 15 bins (Guo et al. 2017, arXiv 1706.04599); bin b holds
//! the confidences in (b / 15, (b + 1) / 15]. The bins with their accuracies are the reliability curve.

use serde::Serialize;

use super::bootstrap::{Interval, REPLICATES, Weights};

pub const BINS: usize = 15;

/// Counts of every replicate of the bootstrap.
#[derive(Clone, Debug)]
pub struct Calibration {
    /// By replicate and bin: pixels, those of them that are right, the sum of their confidences.
    replicates: Vec<[(u64, u64, f64); BINS]>,
}

/// A bin of the reliability curve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Bin {
    /// Confidences above this ..
    pub above: f64,
    /// .. and at most this.
    pub up_to: f64,
    pub pixels: u64,
    pub accuracy: Option<f64>,
    pub confidence: Option<f64>,
}

/// Of one image.
#[derive(Clone, Copy, Debug, Default)]
pub struct ImageCalibration([(u64, u64, f64); BINS]);

impl ImageCalibration {
    /// A pixel. A confidence that is NaN, where the network overflowed, counts nowhere.
    pub fn push(&mut self, confidence: f32, right: bool) {
        if confidence.is_nan() {
            return;
        }
        let place = (f64::from(confidence) * BINS as f64).ceil() as usize;
        let bin = &mut self.0[place.clamp(1, BINS) - 1];
        bin.0 += 1;
        bin.1 += u64::from(right);
        bin.2 += f64::from(confidence);
    }
}

impl Default for Calibration {
    fn default() -> Self {
        Calibration { replicates: vec![Default::default(); 1 + REPLICATES] }
    }
}

impl Calibration {
    pub fn add(&mut self, image: &ImageCalibration, weights: &Weights) {
        for (bins, weight) in self.replicates.iter_mut().zip(weights.0) {
            for (sum, (pixels, right, confidence)) in bins.iter_mut().zip(image.0) {
                sum.0 += weight * pixels;
                sum.1 += weight * right;
                sum.2 += weight as f64 * confidence;
            }
        }
    }

    /// None without pixels.
    pub fn ece(&self) -> Option<Interval> {
        let ece = |bins: &[(u64, u64, f64); BINS]| {
            let pixels: u64 = bins.iter().map(|bin| bin.0).sum();
            let gap = |bin: &(u64, u64, f64)| (bin.1 as f64 - bin.2).abs();
            (pixels > 0).then(|| bins.iter().map(gap).sum::<f64>() / pixels as f64)
        };
        let replicates: Vec<Option<f64>> = self.replicates.iter().map(ece).collect();
        Some(Interval::of(replicates[0]?, &replicates).within(0.0, 1.0))
    }

    pub fn bins(&self) -> Vec<Bin> {
        let edge = |b: usize| b as f64 / BINS as f64;
        let bin = |(b, &(pixels, right, confidence)): (usize, &(u64, u64, f64))| {
            let mean = |sum: f64| (pixels > 0).then(|| sum / pixels as f64);
            Bin {
                above: edge(b),
                up_to: edge(b + 1),
                pixels,
                accuracy: mean(right as f64),
                confidence: mean(confidence),
            }
        };
        self.replicates[0].iter().enumerate().map(bin).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calibration(pixels: &[(f32, bool)]) -> Calibration {
        let mut image = ImageCalibration::default();
        pixels.iter().for_each(|&(confidence, right)| image.push(confidence, right));
        let mut calibration = Calibration::default();
        calibration.add(&image, &Weights::of(3));
        calibration
    }

    #[test]
    fn worked_example() {
        let found = calibration(&[(0.9, true), (0.9, false), (0.5, true), (f32::NAN, true)]);
        // |1 - 1.8| / 3 + |1 - 0.5| / 3
        assert!((found.ece().unwrap().value - 1.3 / 3.0).abs() < 1e-7);
        let pixels: u64 = found.bins().iter().map(|bin| bin.pixels).sum();
        assert_eq!(pixels, 3);
        assert_eq!(found.bins()[13].accuracy, Some(0.5));
    }

    #[test]
    fn the_ends_have_bins_and_nothing_has_no_error() {
        let bins = calibration(&[(0.0, true), (1.0, true), (0.0625, true)]).bins();
        assert_eq!([bins[0].pixels, bins[14].pixels], [2, 1]);
        assert_eq!(calibration(&[]).ece(), None);
    }
}
