//! One score over a data set: its values on the pixels of each kind, as histograms.

use std::collections::BTreeMap;

use super::bootstrap::{ImageCounts, Interval, Replicate, WeightedHistogram, Weights};
use super::curves::{Ascending, Counts, in_unit};
use super::evaluation::{Options, Truth};
use super::patches::patches;
use super::results::{AurocReplicates, Found, ImageMedian, ScoreResults};
use super::thresholds::{Target, Threshold};
use super::{CoarseHistogram, Detection, Histogram, Method};
use crate::score::Score;

/// What a method makes of a pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Right,
    Wrong,
    /// Of an unknown class.
    Unknown,
    Void,
    /// Of a label that is neither a class nor named as unknown.
    Ignored,
}

/// The kinds that have values.
const KINDS: usize = 4;

pub struct ScoreTally {
    pub score: Score,
    method: Method,
    void_as_inaccurate: bool,
    /// By kind, so turned that a higher value is more uncertain.
    values: [Histogram; KINDS],
    replicates: [WeightedHistogram; KINDS],
    image: [ImageCounts; KINDS],
    /// By width: accurate and inaccurate ones.
    patches: Vec<(usize, [CoarseHistogram; 2])>,
    by_label: BTreeMap<u8, CoarseHistogram>,
    /// AUROC of the unknown pixels of each image that has some, and of known ones.
    image_auroc: Histogram,
    image_auroc_error: f64,
    /// A threshold that was given, as an uncertainty, and how many pixels of each kind are at most there.
    threshold: Option<f32>,
    certain: [u64; KINDS],
}

impl ScoreTally {
    pub fn new(score: Score, method: Method, options: &Options) -> Self {
        let given = options.thresholds.iter().find(|(named, _)| *named == score);
        ScoreTally {
            score,
            method,
            void_as_inaccurate: options.void_as_inaccurate,
            values: Default::default(),
            replicates: Default::default(),
            image: Default::default(),
            patches: options.patches.iter().map(|width| (*width, Default::default())).collect(),
            by_label: BTreeMap::new(),
            image_auroc: Histogram::default(),
            image_auroc_error: 0.0,
            // Turning it is turning it back.
            threshold: given.map(|(_, threshold)| in_unit(score, *threshold)),
            certain: [0; KINDS],
        }
    }

    /// Adds the map of an image.
    pub fn add(&mut self, truth: Truth, kinds: &[Kind], map: &[f32], weights: &Weights) {
        let mut of_image: [CoarseHistogram; 2] = Default::default();
        let some_unknown = kinds.contains(&Kind::Unknown);
        for ((kind, label), value) in kinds.iter().zip(truth.labels).zip(map) {
            if *kind == Kind::Ignored || (*kind == Kind::Void && !self.void_as_inaccurate) {
                continue;
            }
            let uncertainty = in_unit(self.score, *value);
            self.values[*kind as usize].push(uncertainty);
            self.image[*kind as usize].push(uncertainty);
            if self.threshold.is_some_and(|threshold| uncertainty <= threshold) {
                self.certain[*kind as usize] += 1;
            }
            if *kind == Kind::Unknown {
                self.by_label.entry(*label).or_default().push(uncertainty);
            }
            if some_unknown && *kind != Kind::Void {
                of_image[usize::from(*kind == Kind::Unknown)].push(uncertainty);
            }
        }
        for kind in 0..KINDS {
            self.image[kind].drain(weights, &mut self.replicates[kind]);
        }
        if let Some(found) = Detection::of(&[&of_image[1]], &[&of_image[0]]) {
            self.image_auroc.push(found.auroc as f32);
            self.image_auroc_error = self.image_auroc_error.max(found.auroc_error);
        }
        let correct = |pixel: usize| match kinds[pixel] {
            Kind::Right => Some(true),
            Kind::Wrong => Some(false),
            Kind::Void if self.void_as_inaccurate => Some(false),
            _ => None,
        };
        let uncertainty = |pixel: usize| f64::from(in_unit(self.score, map[pixel]));
        for (width, sides) in &mut self.patches {
            patches(truth.size, *width, correct, uncertainty, |accurate, mean| {
                sides[usize::from(!accurate)].push(mean as f32);
            });
        }
    }

    /// Accurate and inaccurate pixels.
    fn accuracy(&self) -> Ascending {
        let [right, wrong, _, void] = &self.values;
        Ascending::of(&[right], &[wrong, void])
    }

    pub fn recommend(&self, target: Target) -> Option<Threshold> {
        let (threshold, counts) = self.accuracy().recommend(self.score, target)?;
        let [right, wrong, unknown, _] = &self.values;
        let found = Ascending::of(&[right, wrong], &[unknown]);
        let uncertain = found.other_above(in_unit(self.score, threshold));
        let achieved = counts.achieved(self.score, unknown.count(), uncertain);
        Some(Threshold { threshold, achieved })
    }

    pub fn results(&self) -> (ScoreResults, AurocReplicates) {
        let [right, wrong, unknown, _] = &self.values;
        let [right_r, wrong_r, unknown_r, void_r] = &self.replicates;
        let (known, known_r) = ([right, wrong], [right_r, wrong_r]);
        let errors = found(&[wrong], &[right], [&[wrong_r], &[right_r]]);
        let strangers = found(&[unknown], &known, [&[unknown_r], &known_r]);
        let accuracy = self.accuracy();
        let aurc = accuracy.aurc().map(|(value, error)| {
            let aurc = |replicate: &Replicate| {
                Some(Ascending::of_steps(|each| replicate.steps(each)).aurc()?.0)
            };
            let replicates = Replicate::each([&[right_r], &[wrong_r, void_r]], aurc);
            (Interval::of(value, &replicates).within(0.0, 1.0), error)
        });
        let all_known: Vec<CoarseHistogram> = known.map(|set| set.coarse()).into();
        let all_known: Vec<&CoarseHistogram> = all_known.iter().collect();
        let by_label = self
            .by_label
            .iter()
            .filter_map(|(label, set)| Some((*label, Detection::of(&[set], &all_known)?)));
        let images = self.image_auroc.count();
        let median = Histogram::descending(&[&self.image_auroc], images / 2);
        let achieved = self.threshold.map(|threshold| {
            let count = self.values.each_ref().map(|set| set.count());
            let sum = |of: &[u64; KINDS]| [of[0], of[1] + of[3]];
            let counts = Counts::new(sum(&count), sum(&self.certain));
            let uncertain = count[Kind::Unknown as usize] - self.certain[Kind::Unknown as usize];
            let achieved = counts.achieved(self.score, count[Kind::Unknown as usize], uncertain);
            Threshold { threshold: in_unit(self.score, threshold), achieved }
        });
        let patch_curves = self.patches.iter().filter_map(|(width, [accurate, inaccurate])| {
            Some((*width, Ascending::of(&[accurate], &[inaccurate]).curve(self.score)?))
        });
        let (errors, errors_r) = errors.unzip();
        let (strangers, strangers_r) = strangers.unzip();
        let results = ScoreResults {
            score: self.score,
            method: self.method,
            errors,
            unknown: strangers,
            aurc,
            curve: accuracy.curve(self.score),
            patch_curves: patch_curves.collect(),
            unknown_by_label: by_label.collect(),
            unknown_per_image: median.map(|median| ImageMedian {
                images,
                auroc: median,
                auroc_error: self.image_auroc_error,
            }),
            achieved,
        };
        (results, AurocReplicates { errors: errors_r, unknown: strangers_r })
    }
}

/// The exact figures with their intervals, and the AUROC of every replicate.
fn found(
    positives: &[&Histogram],
    negatives: &[&Histogram],
    replicates: [&[&WeightedHistogram]; 2],
) -> Option<(Found, Vec<Option<f64>>)> {
    let detection = Detection::of(positives, negatives)?;
    let drawn = Replicate::each(replicates, |replicate: &Replicate| replicate.detection());
    let of = |figure: fn(&Detection) -> f64| -> (Interval, Vec<Option<f64>>) {
        let values: Vec<Option<f64>> = drawn.iter().map(|d| d.as_ref().map(figure)).collect();
        (Interval::of(figure(&detection), &values).within(0.0, 1.0), values)
    };
    let (auroc, auroc_replicates) = of(|d| d.auroc);
    let found = Found {
        auroc,
        ap: of(|d| d.average_precision).0,
        fpr95: of(|d| d.fpr95).0,
        auroc_minus_entropy: None,
        detection,
    };
    Some((found, auroc_replicates))
}
