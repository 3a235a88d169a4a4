//! Moments of the features of each class: count, mean and scatter, streamed image by image.
//!
//! `n_c`, `mu_c = sum z / n_c` `[D]`, `S_c = sum (z - mu_c)(z - mu_c)^T` `[D, D]`, kept in f64, over
//! the labelled pixels z of class c (Mukhoti et al. 2021, arXiv 2111.00079; unbiased covariance
//! `S_c / (n_c - 1)`). Features are rounded to fp16 first.
//!
//! The moments of an image are taken about its mean, in f32 over at most 128 pixels (see `syrk`)
//! and in f64 beyond, and then folded in by the pairwise formula of Chan, Golub and LeVeque (1979):
//! with `d = mu' - mu`, `S += S' + d d^T n n' / (n + n')`. The work of an image is split by class and by
//! rows of S, never by pixels, so its bits do not depend on the number of threads, and images never
//! share a sum, so they do not depend on the batch either.
//!
//! Weighted moments are the same with a weight w of 0 to 1 for each pixel: W_c = sum w for n_c,
//! `mu_c = sum w z / W_c`, `S_c = sum w (z - mu_c)(z - mu_c)^T`. The unbiased covariance is then
//! `S_c / (W_c - V_c / W_c)` with V_c = sum w^2, and the class counts for W_c^2 / V_c samples (Kish 1965):
//! both are those of n_c where all weights are the same. Weights come as their square roots in f32, so that
//! w = r^2 is exact in f64 and the same in all three sums.

use std::collections::BTreeMap;

use rayon::prelude::*;

use super::half::finite_in_half;
use super::syrk::{self, Block, PANEL};
use crate::cpu::gemm::aligned;
pub use crate::data::VOID;
use crate::error::{Error, Result};

#[derive(Clone, Debug, PartialEq)]
pub struct Moments {
    channels: usize,
    pixels: Population,
    /// `[C, D]`
    mean: Vec<f64>,
    /// `[C, D, D]`, the lower triangle (column <= row); what is above it is zero.
    scatter: Vec<f64>,
}

/// The pixels of each class.
#[derive(Clone, Debug, PartialEq)]
struct Population {
    count: Vec<i64>,
    /// None: each pixel has the weight 1.
    weights: Option<WeightSums>,
}

/// Sums of the weights and of their squares, `[C]`.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightSums {
    pub sum: Vec<f64>,
    pub squares: Vec<f64>,
}

impl Population {
    fn none(classes: usize, weighted: bool) -> Self {
        let zeros = || vec![0.0; classes];
        let weights = weighted.then(|| WeightSums { sum: zeros(), squares: zeros() });
        Population { count: vec![0; classes], weights }
    }

    /// W_c
    fn weight(&self, class: usize) -> f64 {
        self.weights.as_ref().map_or(self.count[class] as f64, |w| w.sum[class])
    }

    fn one(&self, class: usize) -> Self {
        let weights = self
            .weights
            .as_ref()
            .map(|w| WeightSums { sum: vec![w.sum[class]], squares: vec![w.squares[class]] });
        Population { count: vec![self.count[class]], weights }
    }

    fn add(&mut self, other: &Population) {
        self.count.iter_mut().zip(&other.count).for_each(|(n, more)| *n += more);
        if let (Some(ours), Some(theirs)) = (&mut self.weights, &other.weights) {
            ours.sum.iter_mut().zip(&theirs.sum).for_each(|(w, more)| *w += more);
            ours.squares.iter_mut().zip(&theirs.squares).for_each(|(w, more)| *w += more);
        }
    }
}

/// What became of the pixels of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Tally {
    /// Taken into the moments.
    pub fitted: u64,
    /// Labelled [`VOID`].
    pub void: u64,
    /// Labelled with a class that the model does not have, by label.
    pub unknown: BTreeMap<u8, u64>,
    /// Labelled, but with a feature that is not finite in fp16.
    pub non_finite: u64,
}

/// Maximum pixels of a density: f64 holds every integer up to here, so that counts stay exact.
const MAX_PIXELS: u64 = 1 << 53;

impl Tally {
    /// Refuses counts beyond that maximum, or of other pixels than `moments` took in; `source` names the
    /// file in the message.
    pub(super) fn check(&self, source: &str, moments: &Moments) -> Result<()> {
        let what = || format!("{source}: pixels");
        let counts = [self.fitted, self.void, self.non_finite];
        let counts = counts.into_iter().chain(self.unknown.values().copied());
        if counts.map(u128::from).sum::<u128>() >= u128::from(MAX_PIXELS) {
            return Err(Error::invalid(what(), "fewer than 2^53 pixels", "more"));
        }
        let fitted: i64 = moments.count().iter().sum();
        if i64::try_from(self.fitted) != Ok(fitted) {
            let found = format!("{} fitted", self.fitted);
            return Err(Error::invalid(what(), format!("{fitted}, as the classes sum to"), found));
        }
        Ok(())
    }
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Tally) {
        self.fitted += other.fitted;
        self.void += other.void;
        for (label, count) in other.unknown {
            *self.unknown.entry(label).or_default() += count;
        }
        self.non_finite += other.non_finite;
    }
}

impl Moments {
    /// No samples yet.
    pub fn new(classes: usize, channels: usize) -> Self {
        Self::empty(Population::none(classes, false), channels)
    }

    /// No samples yet, for [`Self::add_weighted`].
    pub fn weighted(classes: usize, channels: usize) -> Self {
        Self::empty(Population::none(classes, true), channels)
    }

    fn empty(pixels: Population, channels: usize) -> Self {
        let classes = pixels.count.len();
        Moments {
            channels,
            pixels,
            mean: vec![0.0; classes * channels],
            scatter: vec![0.0; classes * channels * channels],
        }
    }

    /// From `count [C]`, `mean [C, D]` and `scatter [C, D, D]`, of which only the lower triangles are
    /// read.
    ///
    /// # Errors
    /// Lengths that contradict each other, and what no fit can give; `source` names the file in
    /// the message.
    pub fn from_parts(
        source: &str,
        count: Vec<i64>,
        mean: Vec<f64>,
        scatter: Vec<f64>,
    ) -> Result<Self> {
        Self::from_population(source, Population { count, weights: None }, mean, scatter)
    }

    /// As [`Self::from_parts`], for weighted moments.
    pub fn from_weighted_parts(
        source: &str,
        count: Vec<i64>,
        weights: WeightSums,
        mean: Vec<f64>,
        scatter: Vec<f64>,
    ) -> Result<Self> {
        let pixels = Population { count, weights: Some(weights) };
        Self::from_population(source, pixels, mean, scatter)
    }

    fn from_population(
        source: &str,
        pixels: Population,
        mean: Vec<f64>,
        mut scatter: Vec<f64>,
    ) -> Result<Self> {
        let bad = |what: &str, expected: &str, found: String| {
            Err(Error::invalid(format!("{source}: {what}"), expected, found))
        };
        let classes = pixels.count.len();
        let channels = mean.len().checked_div(classes).unwrap_or(0);
        if channels == 0 || mean.len() != classes * channels {
            return bad("mean", "[C, D], C and D at least 1", format!("{} values", mean.len()));
        }
        if scatter.len() != mean.len() * channels {
            return bad("scatter", "[C, D, D]", format!("{} values", scatter.len()));
        }
        if let Some(weights) = &pixels.weights
            && (weights.sum.len(), weights.squares.len()) != (classes, classes)
        {
            let found = format!("{} and {} values", weights.sum.len(), weights.squares.len());
            return bad("weights", "[C] and [C]", found);
        }
        for (row, values) in scatter.chunks_exact_mut(channels).enumerate() {
            values[row % channels + 1..].fill(0.0);
        }
        let moments = Moments { channels, pixels, mean, scatter };
        moments.check(source)?;
        Ok(moments)
    }

    /// Refuses what no features can have: negative or unbounded counts, values that are not finite,
    /// negative sums of squares, moments of a class without pixels, weights beyond 0 to 1. `source` names
    /// the file in the message.
    pub(super) fn check(&self, source: &str) -> Result<()> {
        let bad = |what: &str, expected: &str, found: String| {
            Err(Error::invalid(format!("{source}: {what}"), expected, found))
        };
        let count = &self.pixels.count;
        if let Some(n) = count.iter().find(|n| **n < 0) {
            return bad("count", "counts of at least 0", n.to_string());
        }
        let pixels: i128 = count.iter().copied().map(i128::from).sum();
        if pixels >= i128::from(MAX_PIXELS) {
            return bad("count", "fewer than 2^53 pixels", pixels.to_string());
        }
        if let Some(v) = self.mean.iter().chain(&self.scatter).find(|v| !v.is_finite()) {
            return bad("mean and scatter", "finite values", v.to_string());
        }
        for (class, &count) in count.iter().enumerate() {
            let (mean, scatter) = (self.mean(class), self.scatter(class));
            if let Some(WeightSums { sum, squares }) = &self.pixels.weights {
                let (sum, squares) = (sum[class], squares[class]);
                // Each weight is positive and at most 1: sum w^2 <= sum w <= n, (sum w)^2 <= n sum w^2. Sums
                // round.
                let most = 1.0 + 1e-9;
                let possible = squares <= sum * most
                    && sum <= count as f64 * most
                    && sum * sum <= count as f64 * squares * most
                    && (squares > 0.0) == (count > 0);
                if !possible {
                    let found =
                        format!("sums {sum} and {squares} of {count} pixels in class {class}");
                    return bad("weights", "sums of weights of 0 to 1", found);
                }
            }
            for (v, mean) in scatter.iter().step_by(self.channels + 1).zip(mean) {
                // Rounding may take a sum of squares that is next to nothing below zero.
                if *v < -1e-12 * self.pixels.weight(class) * mean * mean {
                    let found = format!("{v} in class {class}");
                    return bad("scatter", "a diagonal of at least 0", found);
                }
            }
            let mut values = mean.iter().chain(scatter);
            if count == 0 && values.any(|v| *v != 0.0) {
                let found = format!("others in class {class}, which has no pixels");
                return bad("mean and scatter", "zeros without pixels", found);
            }
        }
        Ok(())
    }

    /// C
    pub fn classes(&self) -> usize {
        self.pixels.count.len()
    }

    /// D
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// n_c `[C]`; in weighted moments the pixels whose weight is not 0.
    pub fn count(&self) -> &[i64] {
        &self.pixels.count
    }

    /// Sums of the weights; None where each pixel counts 1.
    pub fn weights(&self) -> Option<&WeightSums> {
        self.pixels.weights.as_ref()
    }

    /// W_c; n_c without weights.
    pub fn weight(&self, class: usize) -> f64 {
        self.pixels.weight(class)
    }

    /// How many samples of one weight the class counts for: W_c^2 / V_c; n_c without weights.
    pub fn effective(&self, class: usize) -> f64 {
        let weight = self.weight(class);
        match &self.pixels.weights {
            Some(sums) if weight > 0.0 => weight * (weight / sums.squares[class]),
            _ => weight,
        }
    }

    /// What S_c is divided by for the unbiased covariance: W_c - V_c / W_c; n_c - 1 without weights.
    pub fn freedom(&self, class: usize) -> f64 {
        let weight = self.weight(class);
        match &self.pixels.weights {
            Some(sums) => weight - sums.squares[class] / weight,
            None => weight - 1.0,
        }
    }

    /// mu_c `[D]`
    pub fn mean(&self, class: usize) -> &[f64] {
        &self.mean[class * self.channels..][..self.channels]
    }

    /// S_c `[D, D]`: the lower triangle; zeros above it.
    pub fn scatter(&self, class: usize) -> &[f64] {
        let square = self.channels * self.channels;
        &self.scatter[class * square..][..square]
    }

    /// Folds one image in: `features` `[pixels, D]` (rounded to fp16 here), `labels` `[pixels]` in the
    /// model's classes, [`VOID`] or unknown (>= C).
    ///
    /// # Panics
    /// If the lengths do not agree, or for weighted moments.
    pub fn add(&mut self, features: &[f32], labels: &[u8]) -> Tally {
        assert!(self.weights().is_none(), "weighted moments need weights");
        let (segments, tally) = segments(features, labels, self.classes(), self.channels);
        self.add_segments(features, &segments, None);
        tally
    }

    /// As [`Self::add`] to weighted moments; `roots` `[pixels]` are the square roots of the weights, 0 to 1. A
    /// pixel of weight 0 is left out.
    ///
    /// # Panics
    /// If the lengths do not agree, for moments without weights, or a root that is not in 0 to 1.
    pub fn add_weighted(&mut self, features: &[f32], labels: &[u8], roots: &[f32]) {
        assert!(self.weights().is_some(), "moments without weights");
        assert_eq!(roots.len(), labels.len(), "a weight for each pixel");
        assert!(roots.iter().all(|r| (0.0..=1.0).contains(r)), "weights of 0 to 1");
        let (mut segments, _) = segments(features, labels, self.classes(), self.channels);
        segments.iter_mut().for_each(|pixels| pixels.retain(|pixel| roots[*pixel] > 0.0));
        self.add_segments(features, &segments, Some(roots));
    }

    /// Folds in the pixels of each class.
    fn add_segments(&mut self, features: &[f32], segments: &[Vec<usize>], roots: Option<&[f32]>) {
        let channels = self.channels;
        let pixels = Population {
            count: segments.iter().map(|s| s.len() as i64).collect(),
            weights: roots.map(|roots| {
                let sum = |term: fn(f64) -> f64| {
                    let of = |s: &Vec<usize>| s.iter().map(|p| term(weight_of(roots[*p]))).sum();
                    segments.iter().map(of).collect()
                };
                WeightSums { sum: sum(|w| w), squares: sum(|w| w * w) }
            }),
        };
        let image_mean = syrk::means(features, channels, segments, roots);
        let blocks: Vec<Block> = segments
            .iter()
            .enumerate()
            .flat_map(|(class, pixels)| {
                pixels.chunks(syrk::BLOCK).map(move |pixels| Block { class, pixels })
            })
            .collect();
        let shift: Vec<f32> = image_mean.iter().map(|m| *m as f32).collect();
        // A slab bounds the memory of the centred copy; its bounds depend on the image alone. Vector
        // loads of an aligned buffer never straddle two cache lines.
        let mut centred = aligned(SLAB.min(blocks.len()) * syrk::block_len(channels));
        let centred: &mut [f32] = bytemuck::cast_slice_mut(&mut centred);
        for blocks in blocks.chunks(SLAB) {
            syrk::centre(features, channels, blocks, &shift, roots, centred);
            let centred = &*centred;
            self.rows_of_scatter().for_each(|(class, panel, rows)| {
                syrk::accumulate(centred, blocks, class, panel, channels, rows);
            });
        }
        // From scatter about the shift to scatter about the mean: S -= W d d^T, d = mean - shift (f32 rounding).
        let mean_error: Vec<f64> =
            image_mean.iter().zip(&shift).map(|(mean, shift)| mean - f64::from(*shift)).collect();
        self.rows_of_scatter().for_each(|(class, panel, rows)| {
            let mean_error = &mean_error[class * channels..][..channels];
            add_outer(rows, panel, mean_error, -pixels.weight(class));
        });
        self.fold(&pixels, &image_mean);
    }

    /// Joins two sets of moments of different images; the order matters to f64 rounding only.
    ///
    /// # Panics
    /// If the numbers of classes or channels differ, or one is weighted and the other is not.
    pub fn merge(&mut self, other: &Moments) {
        assert_eq!((self.classes(), self.channels), (other.classes(), other.channels));
        assert_eq!(self.weights().is_some(), other.weights().is_some(), "weights in both or none");
        self.scatter.par_iter_mut().zip(&other.scatter).for_each(|(s, o)| *s += o);
        self.fold(&other.pixels, &other.mean);
    }

    /// The moments of all pixels of the given classes together, as those of one class.
    pub fn pooled(&self, classes: &[usize]) -> Moments {
        let mut pool = Self::empty(Population::none(1, self.weights().is_some()), self.channels);
        for &class in classes {
            for (pooled, value) in pool.scatter.iter_mut().zip(self.scatter(class)) {
                *pooled += value;
            }
            pool.fold(&self.pixels.one(class), self.mean(class));
        }
        pool
    }

    /// The part of Chan's formula that is left once the scatters are added: the rank-one term, mean
    /// and count.
    fn fold(&mut self, pixels: &Population, mean: &[f64]) {
        let channels = self.channels;
        let (old, old_mean) = (self.pixels.clone(), self.mean.clone());
        let share =
            |class: usize| pixels.weight(class) / (old.weight(class) + pixels.weight(class));
        let delta = |class: usize, i: usize| {
            let at = class * channels + i;
            mean[at] - old_mean[at]
        };
        self.rows_of_scatter().for_each(|(class, panel, rows)| {
            // One side is empty: there is no difference of means.
            if old.count[class] == 0 || pixels.count[class] == 0 {
                return;
            }
            let weight = old.weight(class) * share(class);
            let delta: Vec<f64> = (0..channels).map(|i| delta(class, i)).collect();
            add_outer(rows, panel, &delta, weight);
        });
        for class in (0..self.classes()).filter(|c| pixels.count[*c] > 0) {
            let share = share(class);
            for i in 0..channels {
                // Exact for a class whose samples are all the same, and for its first samples.
                self.mean[class * channels + i] += delta(class, i) * share;
            }
        }
        self.pixels.add(pixels);
    }

    /// (class, panel, the rows of S_c that belong to the panel), in parallel.
    fn rows_of_scatter(
        &mut self,
    ) -> impl ParallelIterator<Item = (usize, usize, &mut [f64])> + use<'_> {
        let channels = self.channels;
        self.scatter.par_chunks_mut((channels * channels).max(1)).enumerate().flat_map(
            move |(class, square)| {
                let panels = square.par_chunks_mut(channels * PANEL).enumerate();
                panels.map(move |(panel, rows)| (class, panel, rows))
            },
        )
    }
}

/// The weight of a square root.
pub(super) fn weight_of(root: f32) -> f64 {
    f64::from(root) * f64::from(root)
}

/// Adds weight d d^T to `rows` of a scatter, those of `panel`, up to the diagonal.
fn add_outer(rows: &mut [f64], panel: usize, d: &[f64], weight: f64) {
    for (i, row) in (panel * PANEL..).zip(rows.chunks_exact_mut(d.len())) {
        let factor = weight * d[i];
        for (s, d) in row[..=i].iter_mut().zip(d) {
            *s += factor * d;
        }
    }
}

/// Blocks of pixels of which a centred copy is held at a time: 2 MiB at D = 256.
const SLAB: usize = 16;

/// The usable pixels of each class, in order.
fn segments(
    features: &[f32],
    labels: &[u8],
    classes: usize,
    channels: usize,
) -> (Vec<Vec<usize>>, Tally) {
    assert_eq!(features.len(), labels.len() * channels, "features are [pixels, D]");
    let finite: Vec<bool> = features
        .par_chunks(channels.max(1))
        .with_min_len(256)
        .zip(labels)
        .map(|(z, label)| usize::from(*label) >= classes || finite_in_half(z))
        .collect();
    let mut segments = vec![Vec::new(); classes];
    let mut tally = Tally::default();
    for (pixel, (&label, finite)) in labels.iter().zip(finite).enumerate() {
        let counter = match segments.get_mut(usize::from(label)) {
            _ if label == VOID => &mut tally.void,
            None => tally.unknown.entry(label).or_default(),
            Some(_) if !finite => &mut tally.non_finite,
            Some(segment) => {
                segment.push(pixel);
                &mut tally.fitted
            }
        };
        *counter += 1;
    }
    (segments, tally)
}
