//! `results.json`. docs/formats.md lists its fields, docs/evaluation.md explains the figures.

use ddu::eval::bootstrap::REPLICATES;
use ddu::eval::positions::PositionReport;
use ddu::eval::{MethodResults, Results, ScoreResults};
use ddu::report::json::Host;
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::timing::Timing;

const SCHEMA_VERSION: u32 = 1;

/// What was evaluated, beside the figures.
pub struct About<'a> {
    pub device: String,
    pub model_sha256: &'a str,
    pub density_sha256: Option<&'a str>,
    /// With dropout, and their seed; None without MC Dropout.
    pub passes: Option<u32>,
    pub seed: Option<u64>,
    /// Hashes of the members of an ensemble in addition to the model.
    pub members: &'a [String],
    pub split: Option<&'a str>,
    pub protocol: Option<&'static str>,
    /// Shorter side that the images were scaled to.
    pub resize_px: Option<usize>,
    pub void_as_inaccurate: bool,
    /// The model's.
    pub classes: &'a [String],
    /// The data set's names of its labels, where it has some.
    pub labels: Option<&'a [String]>,
    pub skipped: &'a [String],
    pub timings: &'a [Timing],
    pub positions: &'a PositionReport,
}

impl About<'_> {
    /// What the data set calls a label.
    pub fn label(&self, label: u8) -> String {
        let name = self.labels.and_then(|names| names.get(usize::from(label)));
        name.cloned().unwrap_or_else(|| label.to_string())
    }
}

pub fn report(about: &About, results: &Results) -> Value {
    let softmax = results.methods.first();
    json!({
        "schema_version": SCHEMA_VERSION,
        "ddu_version": env!("CARGO_PKG_VERSION"),
        "command": std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>(),
        "host": Host::here(),
        "device": about.device,
        "model_sha256": about.model_sha256,
        "density_sha256": about.density_sha256,
        "passes": about.passes,
        "seed": about.seed,
        "members_sha256": about.members,
        "split": about.split,
        "protocol": about.protocol,
        "resize_px": about.resize_px,
        "void": if about.void_as_inaccurate { "inaccurate" } else { "ignored" },
        "bootstrap_draws": REPLICATES,
        "images": results.images,
        "skipped": about.skipped,
        "pixels": results.pixels,
        "void_pixels": results.void_pixels,
        "unknown_pixels": results.unknown_pixels,
        "ood_labels": results.unknown_labels,
        "accuracy": {
            "pixel_accuracy": softmax.and_then(|m| m.pixel_accuracy).map(|i| i.value),
            "mean_iou": softmax.and_then(|m| m.mean_iou).map(|i| i.value),
            "methods": by_method(results, |m| accuracy(about, m)),
        },
        "scores": by_score(results, |s| Some(score(about, s))),
        "curves": by_score(results, |s| s.curve.as_ref().map(value)),
        "patch_curves": patch_curves(results),
        "calibration": {
            "ece": softmax.and_then(|m| m.ece).map(|i| i.value),
            "methods": by_method(results, |m| {
                json!({ "ece": m.ece, "reliability": m.reliability })
            }),
        },
        "timing": map(about.timings.iter().map(|t| (t.method, value(t)))),
        "positions": about.positions,
        "density_by_class": results.by_class.as_ref().map(|by_class| json!({
            "classes": about.classes,
            "low": by_class.low,
            "high": by_class.high,
            "known": by_class.known.iter().map(|bins| bins.to_vec()).collect::<Vec<_>>(),
            "unknown": by_class.unknown.iter().map(|bins| bins.to_vec()).collect::<Vec<_>>(),
        })),
        "findings": super::table::findings(results),
    })
}

fn accuracy(about: &About, method: &MethodResults) -> Value {
    let iou = about.classes.iter().map(String::as_str).zip(method.iou.iter().map(value));
    json!({
        "pixel_accuracy": method.pixel_accuracy,
        "mean_iou": method.mean_iou,
        "iou": map(iou),
    })
}

fn score(about: &About, score: &ScoreResults) -> Value {
    let by_class = score.unknown_by_label.iter().map(|(label, d)| {
        let figures = json!({
            "auroc": d.auroc,
            "ap": d.average_precision,
            "fpr95": d.fpr95,
            "positives": d.positives,
            "auroc_error": d.auroc_error,
            "ap_error": d.average_precision_error,
            "fpr95_error": d.fpr95_error,
        });
        (about.label(*label), figures)
    });
    json!({
        "method": score.method.name(),
        "unknown": score.unknown,
        "errors": score.errors,
        "unknown_by_class": map(by_class),
        "unknown_per_image": score.unknown_per_image,
        "aurc": score.aurc.map(|(interval, _)| interval),
        "aurc_error": score.aurc.map(|(_, error)| error),
        "at_threshold": score.achieved,
    })
}

fn patch_curves(results: &Results) -> Value {
    let widths = results.scores.first().map(|score| &score.patch_curves);
    map(widths.into_iter().flatten().map(|(width, _)| {
        let of = |s: &ScoreResults| {
            s.patch_curves.iter().find(|(w, _)| w == width).map(|(_, curve)| value(curve))
        };
        (width.to_string(), by_score(results, of))
    }))
}

fn by_score(results: &Results, of: impl Fn(&ScoreResults) -> Option<Value>) -> Value {
    map(results.scores.iter().map(|s| (s.score.info().name, of(s).unwrap_or(Value::Null))))
}

fn by_method(results: &Results, of: impl Fn(&MethodResults) -> Value) -> Value {
    map(results.methods.iter().map(|m| (m.method.name(), of(m))))
}

fn map(entries: impl Iterator<Item = (impl Into<String>, Value)>) -> Value {
    Value::Object(entries.map(|(name, value)| (name.into(), value)).collect::<Map<_, _>>())
}

fn value(of: impl Serialize) -> Value {
    serde_json::to_value(of).expect("plain data with names as keys")
}
