//! How far a figure would move had other images of the same kind been measured: 95 % intervals over images,
//! in memory that does not grow with their number.
//!
//! The bootstrap draws N of the N images with replacement, again and again, and takes the figure's 2.5th and
//! 97.5th percentile. How often one image is drawn is nearly Poisson(1) distributed, so each image can get its
//! numbers of draws when it comes, without a list of images (the Poisson bootstrap: Hanley and MacGibbon 2006;
//! Chamandy et al. 2012). The numbers are a hash of the image's content: they do not depend on the order of the
//! images, are the same for every score (so scores can be compared draw by draw), and copies of an image are
//! drawn together, as they should be: they add nothing.
//!
//! A replicate's scores are kept in wide bins (see [`WeightedHistogram`]); to take out what the bins do to the
//! figure itself, intervals are moved by the difference between the exact figure and the binned one.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Detection;
use super::histogram::Step;
use crate::splitmix64::splitmix64;

/// Draws of the data set. The limits of a 95 % interval lie at the 5th and 195th of them.
pub const REPLICATES: usize = 200;

/// How often an image is in each replicate; the first number is 1: the data set as it is.
pub struct Weights(pub [u64; 1 + REPLICATES]);

impl Weights {
    /// Of the image with this hash of its content.
    pub fn of(image: u64) -> Self {
        let mut state = image;
        let mut weights = [1; 1 + REPLICATES];
        for weight in &mut weights[1..] {
            *weight = poisson(&mut state);
        }
        Weights(weights)
    }
}

/// Poisson distributed with mean 1, by inversion.
fn poisson(state: &mut u64) -> u64 {
    let uniform = (splitmix64(state) >> 11) as f64 / 2f64.powi(53);
    let (mut k, mut p) = (0, (-1f64).exp());
    let mut below = p;
    // P(k > 20) is less than 2^-53.
    while uniform >= below && k < 20 {
        k += 1;
        p /= k as f64;
        below += p;
    }
    k
}

/// A figure and its 95 % interval over images; no interval where fewer than two images count.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Interval {
    pub value: f64,
    pub low: Option<f64>,
    pub high: Option<f64>,
}

impl Interval {
    /// Of the exact figure, and the same figure by replicates, the first of which is the data set itself.
    /// Replicates in which the figure is not defined count as none.
    pub fn of(value: f64, replicates: &[Option<f64>]) -> Interval {
        let drawn: Vec<f64> = replicates[1..].iter().flatten().copied().collect();
        let Some(own) = replicates[0] else { return Interval { value, low: None, high: None } };
        let limits = limits(&drawn).map(|limit| limit.map(|limit| limit + value - own));
        Interval { value, low: limits[0], high: limits[1] }
    }

    /// Kept between two bounds that the figure has by its definition.
    pub fn within(self, least: f64, greatest: f64) -> Interval {
        let clamp = |limit: Option<f64>| limit.map(|limit| limit.clamp(least, greatest));
        Interval { low: clamp(self.low), high: clamp(self.high), ..self }
    }
}

/// The 2.5th and 97.5th percentile, linear between neighbours; None of fewer than half the replicates.
pub fn limits(drawn: &[f64]) -> [Option<f64>; 2] {
    let mut sorted = drawn.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    [0.025, 0.975].map(|share| {
        if sorted.len() < REPLICATES / 2 {
            return None;
        }
        let place = share * (sorted.len() - 1) as f64;
        let (low, high) = (sorted[place.floor() as usize], sorted[place.ceil() as usize]);
        Some(low + (high - low) * place.fract())
    })
}

/// A set of scores in every replicate, in bins: 32 for each power of two below 16, half a unit wide up to
/// 2048, 32 for each power of two above, the same on the negative side. NaN is above all.
#[derive(Clone, Debug, Default)]
pub struct WeightedHistogram {
    /// By bin, in the order of the values: the count in each replicate.
    rows: BTreeMap<u16, Box<[u64]>>,
}

/// The counts of one image in the bins of a [`WeightedHistogram`].
pub struct ImageCounts {
    counts: Vec<u32>,
    least: usize,
    greatest: usize,
}

/// Bins of one sign, those of infinity and NaN included.
const SIDE: usize = 4192 + 4064 + 3746;

impl Default for ImageCounts {
    fn default() -> Self {
        ImageCounts { counts: vec![0; 2 * SIDE], least: 2 * SIDE, greatest: 0 }
    }
}

impl ImageCounts {
    pub fn push(&mut self, value: f32) {
        let bin = bin(value);
        self.counts[bin] += 1;
        self.least = self.least.min(bin);
        self.greatest = self.greatest.max(bin);
    }

    /// Moves the counts to the replicates; none are left.
    pub fn drain(&mut self, weights: &Weights, into: &mut WeightedHistogram) {
        if self.least > self.greatest {
            return;
        }
        for bin in self.least..=self.greatest {
            let count = u64::from(std::mem::take(&mut self.counts[bin]));
            if count > 0 {
                let empty = || vec![0; 1 + REPLICATES].into();
                let row = into.rows.entry(bin as u16).or_insert_with(empty);
                row.iter_mut().zip(&weights.0).for_each(|(sum, weight)| *sum += count * weight);
            }
        }
        (self.least, self.greatest) = (2 * SIDE, 0);
    }
}

/// A greater value has a greater bin, or the same.
fn bin(value: f32) -> usize {
    let size = value.abs();
    let bits = (size.to_bits() >> 18) as usize;
    let linear = |size: f32| ((size - 16.0) * 2.0) as usize;
    let of_size = match size {
        _ if value.is_nan() => SIDE - 1,
        _ if size < 16.0 => bits,
        _ if size < 2048.0 => 4192 + linear(size),
        _ => 4192 + 4064 + bits - 4416,
    };
    if value < 0.0 { SIDE - 1 - of_size } else { SIDE + of_size }
}

/// The counts of two unions of sets by bin, from the greatest, in one replicate.
pub struct Replicate<'a> {
    sets: [&'a [&'a WeightedHistogram]; 2],
    bins: &'a [u16],
    replicate: usize,
}

impl Replicate<'_> {
    /// Calls `figure` for every replicate.
    pub fn each<T>(
        sets: [&[&WeightedHistogram]; 2],
        figure: impl Fn(&Replicate) -> Option<T>,
    ) -> Vec<Option<T>> {
        let mut bins: Vec<u16> =
            sets.iter().copied().flatten().flat_map(|set| set.rows.keys().copied()).collect();
        bins.sort_unstable_by(|a, b| b.cmp(a));
        bins.dedup();
        (0..=REPLICATES)
            .map(|replicate| figure(&Replicate { sets, bins: &bins, replicate }))
            .collect()
    }

    pub(super) fn steps(&self, each: &mut dyn FnMut(Step)) {
        for bin in self.bins {
            let count = |sets: &[&WeightedHistogram]| -> u64 {
                let row = |set: &&WeightedHistogram| set.rows.get(bin).map(|r| r[self.replicate]);
                sets.iter().filter_map(row).sum()
            };
            let counts = self.sets.map(count);
            if counts != [0, 0] {
                each(Step { counts, tie: false, greatest: f32::NAN });
            }
        }
    }

    pub fn totals(&self) -> [u64; 2] {
        let mut totals = [0, 0];
        self.steps(&mut |step| (0..2).for_each(|side| totals[side] += step.counts[side]));
        totals
    }

    /// With the first union as positives.
    pub fn detection(&self) -> Option<Detection> {
        Detection::of_steps(self.totals(), |each| self.steps(each))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_are_poisson() {
        let mut counts = [0u32; 21];
        let images = 2000;
        for image in 0..images {
            for weight in &Weights::of(image).0[1..] {
                counts[*weight as usize] += 1;
            }
        }
        let draws = images as f64 * REPLICATES as f64;
        let mut expected = (-1f64).exp();
        for (k, count) in counts.iter().enumerate().take(6) {
            if k > 0 {
                expected /= k as f64;
            }
            let deviation = (expected * (1.0 - expected) / draws).sqrt();
            let off = f64::from(*count) / draws - expected;
            assert!(off.abs() < 5.0 * deviation, "{k}: off by {off}");
        }
    }

    proptest::proptest! {
        #[test]
        fn bins_are_ordered_as_values_are(a: f32, b: f32) {
            if !a.is_nan() && !b.is_nan() && a <= b {
                proptest::prop_assert!(bin(a) <= bin(b), "{} {}", bin(a), bin(b));
            }
        }
    }

    #[test]
    fn bins_end_where_they_should() {
        for (low, high) in [(15.99, 16.0), (16.0, 16.5), (2047.9, 2048.0), (1.0, 1.04)] {
            assert_eq!(bin(high) - bin(low), 1, "{low} {high}");
            assert!(bin(-high) < bin(-low));
        }
        assert_eq!(bin(-0.0), bin(0.0));
        assert_eq!(bin(f32::NAN), 2 * SIDE - 1);
        assert_eq!(bin(f32::INFINITY), 2 * SIDE - 2);
        assert_eq!(bin(f32::NEG_INFINITY), 1);
    }

    /// The mean of one value per image: the bootstrap's interval is mean +- 1.96 s / sqrt(N).
    #[test]
    fn the_interval_has_the_width_that_theory_says() {
        let images = 1000u64;
        let value = |image: u64| (image * 37 % 1000) as f64 / 1000.0;
        let mut sums = [[0.0; 2]; 1 + REPLICATES];
        for image in 0..images {
            for (sum, weight) in sums.iter_mut().zip(Weights::of(image * 77 + 5).0) {
                sum[0] += weight as f64 * value(image);
                sum[1] += weight as f64;
            }
        }
        let means: Vec<Option<f64>> = sums.iter().map(|sum| Some(sum[0] / sum[1])).collect();
        let found = Interval::of(means[0].unwrap(), &means);
        let width = 1.96 * (1f64 / 12.0).sqrt() / (images as f64).sqrt();
        // The spread of a percentile of 200 draws is about 10 % of the half width.
        for half in [found.value - found.low.unwrap(), found.high.unwrap() - found.value] {
            assert!((half / width - 1.0).abs() < 0.3, "{half} for {width}");
        }
    }

    #[test]
    fn one_image_has_a_value_and_no_width() {
        let (mut positive, mut negative) =
            (WeightedHistogram::default(), WeightedHistogram::default());
        let mut counts = ImageCounts::default();
        counts.push(3.0);
        counts.drain(&Weights::of(1), &mut positive);
        counts.push(1.0);
        counts.drain(&Weights::of(1), &mut negative);
        let auroc = |r: &Replicate| r.detection().map(|d| d.auroc);
        let found = Replicate::each([&[&positive], &[&negative]], auroc);
        assert_eq!(found[0], Some(1.0));
        assert!(found.iter().flatten().all(|auroc| *auroc == 1.0));
        assert!(found.contains(&None), "a draw without the image");
        let empty = WeightedHistogram::default();
        assert!(Replicate::each([&[&positive], &[&empty]], auroc).iter().all(Option::is_none));
    }
}
