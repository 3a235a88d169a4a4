//! What an evaluation found, as `results.json` has it.

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};

use super::bootstrap::Interval;
use super::by_class::ByClass;
use super::calibration::Bin;
use super::curves::Curve;
use super::thresholds::Threshold;
use super::{Detection, Method};
use crate::score::Score;

#[derive(Clone, Debug)]
pub struct Results {
    pub images: u64,
    /// Of the model's classes.
    pub pixels: u64,
    pub void_pixels: u64,
    pub unknown_pixels: u64,
    /// Those that were named, else those that occurred.
    pub unknown_labels: Vec<u8>,
    pub methods: Vec<MethodResults>,
    /// In the order of [`crate::score::SCORES`].
    pub scores: Vec<ScoreResults>,
    /// Log-densities of known and unknown pixels.
    pub by_class: Option<ByClass>,
}

/// How good the classes of a method are.
#[derive(Clone, Debug)]
pub struct MethodResults {
    pub method: Method,
    /// None without pixels, here and below.
    pub pixel_accuracy: Option<Interval>,
    pub mean_iou: Option<Interval>,
    pub iou: Vec<Option<f64>>,
    pub ece: Option<Interval>,
    pub reliability: Vec<Bin>,
}

/// What a score is worth, over the pixels and classes of its method.
#[derive(Clone, Debug)]
pub struct ScoreResults {
    pub score: Score,
    pub method: Method,
    /// Positives: pixels that are classified wrong, among those of the model's classes.
    pub errors: Option<Found>,
    /// Positives: pixels of unknown classes, among them and those of the model's classes.
    pub unknown: Option<Found>,
    /// Area under the risk-coverage curve, and how much values that share a bin may change it.
    pub aurc: Option<(Interval, f64)>,
    /// By pixel.
    pub curve: Option<Curve>,
    /// By the width of the patches.
    pub patch_curves: Vec<(usize, Curve)>,
    /// Each unknown class alone, against the pixels of the model's classes.
    pub unknown_by_label: Vec<(u8, Detection)>,
    pub unknown_per_image: Option<ImageMedian>,
    /// At a threshold that was given.
    pub achieved: Option<Threshold>,
}

impl ScoreResults {
    /// Of an unknown class alone.
    pub fn unknown_auroc(&self, label: u8) -> Option<f64> {
        self.unknown_by_label.iter().find(|(other, _)| *other == label).map(|(_, d)| d.auroc)
    }
}

/// Area under the ROC, average precision and false positive rate at 95 % true positives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Found {
    pub auroc: Interval,
    pub ap: Interval,
    pub fpr95: Interval,
    /// With the interval of the difference, image by image on the same draws; None for the entropy itself.
    pub auroc_minus_entropy: Option<Interval>,
    pub detection: Detection,
}

impl Found {
    /// Whether it finds better than entropy does, beyond what other images might change; None for the entropy.
    pub fn beats_entropy(&self) -> Option<bool> {
        self.auroc_minus_entropy.map(|difference| difference.low.is_some_and(|low| low > 0.0))
    }
}

impl Serialize for Found {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let d = &self.detection;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("auroc", &self.auroc)?;
        map.serialize_entry("ap", &self.ap)?;
        map.serialize_entry("fpr95", &self.fpr95)?;
        map.serialize_entry("auroc_minus_entropy", &self.auroc_minus_entropy)?;
        map.serialize_entry("beats_entropy", &self.beats_entropy())?;
        map.serialize_entry("positives", &d.positives)?;
        map.serialize_entry("negatives", &d.negatives)?;
        map.serialize_entry("auroc_error", &d.auroc_error)?;
        map.serialize_entry("ap_error", &d.average_precision_error)?;
        map.serialize_entry("fpr95_error", &d.fpr95_error)?;
        map.end()
    }
}

/// The median over images that have unknown and known pixels of the AUROC within the image: of a shift of
/// whole images it knows nothing.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct ImageMedian {
    pub images: u64,
    pub auroc: f32,
    /// How much values that share a bin may change it.
    pub auroc_error: f64,
}

/// The AUROC of every replicate of the bootstrap.
pub struct AurocReplicates {
    pub errors: Option<Vec<Option<f64>>>,
    pub unknown: Option<Vec<Option<f64>>>,
}

/// Adds to each score its difference from the entropy.
pub(super) fn beside_entropy(scores: &mut [(ScoreResults, AurocReplicates)]) {
    let Some(at) = scores.iter().position(|(results, _)| results.score == Score::Entropy) else {
        return;
    };
    let entropy = &scores[at];
    let base = |found: &Option<Found>, replicates: &Option<Vec<Option<f64>>>| {
        Some((found.as_ref()?.auroc.value, replicates.clone()?))
    };
    let errors = base(&entropy.0.errors, &entropy.1.errors);
    let unknown = base(&entropy.0.unknown, &entropy.1.unknown);
    for (results, replicates) in scores.iter_mut() {
        if results.score == Score::Entropy {
            continue;
        }
        let sides = [
            (&mut results.errors, &replicates.errors, &errors),
            (&mut results.unknown, &replicates.unknown, &unknown),
        ];
        for (found, replicates, entropy) in sides {
            let (Some(found), Some(replicates), Some(entropy)) = (found, replicates, entropy)
            else {
                continue;
            };
            let pairs = replicates.iter().zip(&entropy.1);
            let differences: Vec<Option<f64>> = pairs.map(|(a, b)| Some((*a)? - (*b)?)).collect();
            let value = found.auroc.value - entropy.0;
            found.auroc_minus_entropy = Some(Interval::of(value, &differences));
        }
    }
}
