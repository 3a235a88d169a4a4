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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitmix64::splitmix64;

    const SIZE: Size = Size { h: 9, w: 14 };

    /// Labels and a prediction drawn from `seed`; label 2 is unknown, 3 neither, 255 void.
    fn image(seed: u64) -> (Vec<u8>, Prediction) {
        let mut state = seed;
        let mut draw = || splitmix64(&mut state);
        let labels: Vec<u8> =
            (0..SIZE.pixels()).map(|_| [0, 0, 1, 1, 2, 3, 255][draw() as usize % 7]).collect();
        let label: Vec<u8> = labels
            .iter()
            .map(|l| if draw() % 4 == 0 || *l > 1 { draw() as u8 % 2 } else { *l })
            .collect();
        let mut map = |worse: f32| -> Vec<f32> {
            let pixels = labels.iter().zip(&label);
            pixels
                .map(|(l, p)| draw() as u16 as f32 / 65536.0 + if l == p { 0.0 } else { worse })
                .collect()
        };
        let scores = vec![(Score::Entropy, map(0.5)), (Score::Density, map(-0.2))];
        let confidence = map(-0.1);
        (labels, Prediction { method: Method::Softmax, label, confidence, scores })
    }

    fn evaluation(options: Options, seeds: impl Iterator<Item = u64>) -> Evaluation {
        let mut evaluation = Evaluation::new(options);
        for seed in seeds {
            let (labels, prediction) = image(seed);
            let truth = Truth { hash: seed, size: SIZE, labels: &labels };
            evaluation.add(truth, &[prediction]).unwrap();
        }
        evaluation
    }

    fn options() -> Options {
        let unknown = Some(BTreeSet::from([2]));
        Options { classes: 2, unknown, patches: vec![2, 4], ..Options::default() }
    }

    /// Neither figures nor intervals depend on the order; copies of the images change no AUROC, and no
    /// interval of one: they add nothing.
    #[test]
    fn order_and_copies_change_nothing() {
        let once = evaluation(options(), 0..30).results();
        let back = evaluation(options(), (0..30).rev()).results();
        assert_eq!(format!("{:?}", once.scores), format!("{:?}", back.scores));
        let copies = evaluation(options(), (0..90).map(|i| i % 30)).results();
        for (once, copies) in once.scores.iter().zip(&copies.scores) {
            for (once, copies) in [(once.errors, copies.errors), (once.unknown, copies.unknown)] {
                let [once, copies] = [once, copies].map(|found| found.unwrap().auroc);
                assert_eq!(once, copies);
            }
        }
    }

    #[test]
    fn pixels_count_where_they_should() {
        let (labels, prediction) = image(5);
        let count = |of: &dyn Fn(u8) -> bool| labels.iter().filter(|l| of(**l)).count() as u64;
        let results = evaluation(options(), 5..6).results();
        assert_eq!((results.images, results.pixels), (1, count(&|l| l < 2)));
        assert_eq!(
            (results.void_pixels, results.unknown_pixels),
            (count(&|l| l == 255), count(&|l| l == 2))
        );
        assert_eq!(results.unknown_labels, [2]);
        let wrong = labels.iter().zip(&prediction.label).filter(|(l, p)| **l < 2 && l != p).count();
        let entropy = &results.scores[0];
        assert_eq!(entropy.errors.unwrap().detection.positives, wrong as u64);
        assert_eq!(entropy.unknown.unwrap().detection.positives, count(&|l| l == 2));
        // Every label beyond the classes but void is unknown where none is named.
        let all = evaluation(Options { unknown: None, ..options() }, 5..6).results();
        assert_eq!(
            (all.unknown_pixels, all.unknown_labels),
            (count(&|l| l == 2 || l == 3), vec![2, 3])
        );
        // Void pixels are inaccurate ones of the curves alone.
        let void = Options { void_as_inaccurate: true, ..options() };
        let void = evaluation(void, 5..6).results();
        assert_eq!(void.scores[0].errors, entropy.errors);
        let last = |r: &Results| r.scores[0].curve.clone().unwrap().p_accurate_certain[99].unwrap();
        let expected =
            last(&results) * results.pixels as f64 / (results.pixels + results.void_pixels) as f64;
        assert!((last(&void) - expected).abs() < 1e-12);
    }

    /// Thresholds achieve what the recommendation said, counted exactly.
    #[test]
    fn thresholds_achieve_on_the_same_images_what_was_said() {
        let first = evaluation(options(), 0..20);
        let chosen = [Score::Entropy, Score::Density]
            .map(|score| (score, first.recommend(score, Target::FalseAlarmRate(0.1)).unwrap()));
        let thresholds = chosen.map(|(score, found)| (score, found.threshold)).to_vec();
        let second = evaluation(Options { thresholds, ..options() }, 0..20).results();
        for (results, (_, chosen)) in second.scores.iter().zip(chosen) {
            let mut found = results.achieved.unwrap();
            // Unknown pixels that share the threshold's bin.
            let off =
                found.achieved.unknown_found.unwrap() - chosen.achieved.unknown_found.unwrap();
            assert!(off.abs() < 0.01, "{off}");
            found.achieved.unknown_found = chosen.achieved.unknown_found;
            assert_eq!(found, chosen);
        }
    }

    #[test]
    fn maps_of_another_size_add_nothing() {
        let mut evaluation = Evaluation::new(options());
        let (labels, mut prediction) = image(1);
        prediction.scores[1].1.pop();
        let truth = Truth { hash: 1, size: SIZE, labels: &labels };
        let error = evaluation.add(truth, &[prediction]).unwrap_err().to_string();
        assert!(error.contains("expected maps of 126 pixels, found 125"), "{error}");
        let results = evaluation.results();
        assert_eq!((results.images, results.pixels, results.scores.len()), (0, 0, 0));
    }
}
