//! One pass over a labelled data set: what every method and every score is worth, in memory that does not grow
//! with the number of images.

use std::collections::BTreeSet;

use rayon::prelude::*;

use super::bootstrap::{REPLICATES, Weights};
use super::by_class::ByClass;
use super::calibration::{Calibration, ImageCalibration};
use super::results::{MethodResults, Results, beside_entropy};
use super::score_tally::{Kind, ScoreTally};
use super::thresholds::{Target, Threshold};
use super::{Confusion, Method, Prediction};
use crate::data::VOID;
use crate::error::{Error, Result};
use crate::ops::Size;
use crate::score::Score;

/// What is measured.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Of the model: the labels 0 .. classes - 1.
    pub classes: usize,
    /// Labels that count as unknown; None: every one that is no class and not void.
    pub unknown: Option<BTreeSet<u8>>,
    /// Void pixels count as inaccurate in p(accurate | certain), p(uncertain | inaccurate), PAvPU, the
    /// risk-coverage curve and thresholds. Else they count nowhere; elsewhere they never do.
    pub void_as_inaccurate: bool,
    /// Widths of the patches of PAvPU, in addition to single pixels.
    pub patches: Vec<usize>,
    /// Thresholds whose effect is measured, in the score's unit.
    pub thresholds: Vec<(Score, f32)>,
    /// Ends of the histograms of log-densities by predicted class.
    pub density_range: Option<[f32; 2]>,
}

/// A labelled image as the network saw it.
#[derive(Clone, Copy, Debug)]
pub struct Truth<'a> {
    /// Of the image's content: see [`super::bootstrap`].
    pub hash: u64,
    pub size: Size,
    /// `[H, W]`
    pub labels: &'a [u8],
}

pub struct Evaluation {
    options: Options,
    images: u64,
    void_pixels: u64,
    unknown_pixels: u64,
    /// The labels named as unknown, else those that occurred.
    unknown_labels: BTreeSet<u8>,
    methods: Vec<MethodTally>,
    scores: Vec<ScoreTally>,
    by_class: Option<ByClass>,
}

struct MethodTally {
    method: Method,
    confusion: Confusion,
    /// By replicate and class: pixels that are hit, labelled so, predicted so.
    replicates: Vec<Vec<[u64; 3]>>,
    calibration: Calibration,
}

impl Evaluation {
    pub fn new(options: Options) -> Self {
        let range = options.density_range;
        Evaluation {
            images: 0,
            void_pixels: 0,
            unknown_pixels: 0,
            unknown_labels: options.unknown.clone().unwrap_or_default(),
            methods: Vec::new(),
            scores: Vec::new(),
            by_class: range.map(|range| ByClass::new(options.classes, range)),
            options,
        }
    }

    /// Adds an image, with what each method says about it.
    ///
    /// # Errors
    /// Maps of another size, or a prediction that is no class; nothing is added then.
    pub fn add(&mut self, truth: Truth, predictions: &[Prediction]) -> Result<()> {
        let Truth { hash, size, labels } = truth;
        let mut confusions = Vec::new();
        for prediction in predictions {
            let maps = prediction.scores.iter().map(|(_, map)| map.len());
            for len in maps.chain([labels.len(), prediction.confidence.len()]) {
                if len != size.pixels() {
                    let expected = format!("maps of {} pixels", size.pixels());
                    return Err(Error::invalid("prediction", expected, len));
                }
            }
            let mut confusion = Confusion::new(self.options.classes);
            confusion.add(labels, &prediction.label)?;
            confusions.push(confusion);
        }
        let weights = Weights::of(hash);
        let unknown: Vec<bool> = labels.iter().map(|label| self.is_unknown(*label)).collect();
        self.images += 1;
        self.void_pixels += labels.iter().filter(|label| **label == VOID).count() as u64;
        self.unknown_pixels += unknown.iter().filter(|unknown| **unknown).count() as u64;
        let strange = labels.iter().zip(&unknown).filter(|(_, unknown)| **unknown);
        self.unknown_labels.extend(strange.map(|(label, _)| *label));
        for (prediction, confusion) in predictions.iter().zip(&confusions) {
            let kind = |pixel: usize| {
                let label = labels[pixel];
                match usize::from(label) < self.options.classes {
                    true if prediction.label[pixel] == label => Kind::Right,
                    true => Kind::Wrong,
                    false if label == VOID => Kind::Void,
                    false if unknown[pixel] => Kind::Unknown,
                    false => Kind::Ignored,
                }
            };
            let kinds: Vec<Kind> = (0..labels.len()).map(kind).collect();
            self.method(prediction.method).add(prediction, confusion, &kinds, &weights);
            self.count_by_class(prediction, &kinds);
            self.add_scores(truth, prediction, &kinds, &weights);
        }
        Ok(())
    }

    fn is_unknown(&self, label: u8) -> bool {
        usize::from(label) >= self.options.classes
            && label != VOID
            && self.options.unknown.as_ref().is_none_or(|named| named.contains(&label))
    }

    fn method(&mut self, method: Method) -> &mut MethodTally {
        let at = self.methods.iter().position(|tally| tally.method == method);
        let at = at.unwrap_or_else(|| {
            self.methods.push(MethodTally {
                method,
                confusion: Confusion::new(self.options.classes),
                replicates: vec![vec![[0; 3]; self.options.classes]; 1 + REPLICATES],
                calibration: Calibration::default(),
            });
            self.methods.len() - 1
        });
        &mut self.methods[at]
    }

    fn count_by_class(&mut self, prediction: &Prediction, kinds: &[Kind]) {
        let Some(by_class) = &mut self.by_class else { return };
        let densities = prediction.scores.iter().find(|(score, _)| *score == Score::Density);
        let Some((_, densities)) = densities else { return };
        for ((kind, class), density) in kinds.iter().zip(&prediction.label).zip(densities) {
            match kind {
                Kind::Right | Kind::Wrong => by_class.push(*class, false, *density),
                Kind::Unknown => by_class.push(*class, true, *density),
                Kind::Void | Kind::Ignored => (),
            }
        }
    }

    fn add_scores(
        &mut self,
        truth: Truth,
        prediction: &Prediction,
        kinds: &[Kind],
        weights: &Weights,
    ) {
        for (score, _) in &prediction.scores {
            if self.scores.iter().all(|tally| tally.score != *score) {
                let tally = ScoreTally::new(*score, prediction.method, &self.options);
                let place =
                    self.scores.partition_point(|other| (other.score as usize) < *score as usize);
                self.scores.insert(place, tally);
            }
        }
        let map = |score| prediction.scores.iter().find(|(s, _)| *s == score).map(|(_, map)| map);
        self.scores.par_iter_mut().for_each(|tally| {
            if let Some(map) = map(tally.score) {
                tally.add(truth, kinds, map, weights);
            }
        });
    }

    /// The threshold on a score for a target; None where none reaches it, or the score was not computed.
    pub fn recommend(&self, score: Score, target: Target) -> Option<Threshold> {
        self.scores.iter().find(|tally| tally.score == score)?.recommend(target)
    }

    pub fn results(&self) -> Results {
        let mut scores: Vec<_> = self.scores.par_iter().map(ScoreTally::results).collect();
        beside_entropy(&mut scores);
        Results {
            images: self.images,
            pixels: self.methods.first().map_or(0, |tally| tally.confusion.pixels()),
            void_pixels: self.void_pixels,
            unknown_pixels: self.unknown_pixels,
            unknown_labels: self.unknown_labels.iter().copied().collect(),
            methods: self.methods.iter().map(MethodTally::results).collect(),
            scores: scores.into_iter().map(|(results, _)| results).collect(),
            by_class: self.by_class.clone(),
        }
    }
}

impl MethodTally {
    fn add(
        &mut self,
        prediction: &Prediction,
        confusion: &Confusion,
        kinds: &[Kind],
        weights: &Weights,
    ) {
        self.confusion.merge(confusion);
        let counts = confusion.by_class();
        for (sums, weight) in self.replicates.iter_mut().zip(&weights.0) {
            for (sum, counts) in sums.iter_mut().zip(&counts) {
                (0..3).for_each(|i| sum[i] += weight * counts[i]);
            }
        }
        let mut calibration = ImageCalibration::default();
        for (kind, confidence) in kinds.iter().zip(&prediction.confidence) {
            if matches!(kind, Kind::Right | Kind::Wrong) {
                calibration.push(*confidence, *kind == Kind::Right);
            }
        }
        self.calibration.add(&calibration, weights);
    }

    fn results(&self) -> MethodResults {
        use super::bootstrap::Interval;
        use super::confusion::{accuracy, mean_iou};
        let interval = |value: Option<f64>, figure: fn(&[[u64; 3]]) -> Option<f64>| {
            let replicates: Vec<Option<f64>> =
                self.replicates.iter().map(|counts| figure(counts)).collect();
            value.map(|value| Interval::of(value, &replicates).within(0.0, 1.0))
        };
        MethodResults {
            method: self.method,
            pixel_accuracy: interval(self.confusion.accuracy(), accuracy),
            mean_iou: interval(self.confusion.mean_iou(), mean_iou),
            iou: self.confusion.iou(),
            ece: self.calibration.ece(),
            reliability: self.calibration.bins(),
        }
    }
}
