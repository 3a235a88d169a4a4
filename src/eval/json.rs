//! The figures of an evaluation as `results.json` has them (docs/formats.md): what the command line and the Python
//! package report alike.

use serde::Serialize;
use serde_json::{Map, Value, json};

use super::{MethodResults, Results, ScoreResults};

impl Results {
    /// The figures by name. `classes`: the model's names; `label`: what the data set calls a label.
    pub fn figures(&self, classes: &[String], label: impl Fn(u8) -> String) -> Map<String, Value> {
        let softmax = self.methods.first();
        let figures = json!({
            "images": self.images,
            "pixels": self.pixels,
            "void_pixels": self.void_pixels,
            "unknown_pixels": self.unknown_pixels,
            "ood_labels": self.unknown_labels,
            "accuracy": {
                "pixel_accuracy": softmax.and_then(|m| m.pixel_accuracy).map(|i| i.value),
                "mean_iou": softmax.and_then(|m| m.mean_iou).map(|i| i.value),
                "methods": self.by_method(|m| accuracy(classes, m)),
            },
            "scores": self.by_score(|s| Some(score(&label, s))),
            "curves": self.by_score(|s| s.curve.as_ref().map(value)),
            "patch_curves": self.patch_curves(),
            "calibration": {
                "ece": softmax.and_then(|m| m.ece).map(|i| i.value),
                "methods": self.by_method(|m| json!({ "ece": m.ece, "reliability": m.reliability })),
            },
            "density_by_class": self.by_class.as_ref().map(|by_class| json!({
                "classes": classes,
                "low": by_class.low,
                "high": by_class.high,
                "known": by_class.known.iter().map(|bins| bins.to_vec()).collect::<Vec<_>>(),
                "unknown": by_class.unknown.iter().map(|bins| bins.to_vec()).collect::<Vec<_>>(),
            })),
        });
        match figures {
            Value::Object(figures) => figures,
            _ => unreachable!("an object is written above"),
        }
    }

    fn patch_curves(&self) -> Value {
        let widths = self.scores.first().map(|score| &score.patch_curves);
        map(widths.into_iter().flatten().map(|(width, _)| {
            let of = |s: &ScoreResults| {
                s.patch_curves.iter().find(|(w, _)| w == width).map(|(_, curve)| value(curve))
            };
            (width.to_string(), self.by_score(of))
        }))
    }

    fn by_score(&self, of: impl Fn(&ScoreResults) -> Option<Value>) -> Value {
        map(self.scores.iter().map(|s| (s.score.info().name, of(s).unwrap_or(Value::Null))))
    }

    fn by_method(&self, of: impl Fn(&MethodResults) -> Value) -> Value {
        map(self.methods.iter().map(|m| (m.method.name(), of(m))))
    }
}

fn accuracy(classes: &[String], method: &MethodResults) -> Value {
    let iou = classes.iter().map(String::as_str).zip(method.iou.iter().map(value));
    json!({
        "pixel_accuracy": method.pixel_accuracy,
        "mean_iou": method.mean_iou,
        "iou": map(iou),
    })
}

fn score(label: &impl Fn(u8) -> String, score: &ScoreResults) -> Value {
    let by_class = score.unknown_by_label.iter().map(|(unknown, d)| {
        let figures = json!({
            "auroc": d.auroc,
            "ap": d.average_precision,
            "fpr95": d.fpr95,
            "positives": d.positives,
            "auroc_error": d.auroc_error,
            "ap_error": d.average_precision_error,
            "fpr95_error": d.fpr95_error,
        });
        (label(*unknown), figures)
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

fn map(entries: impl Iterator<Item = (impl Into<String>, Value)>) -> Value {
    Value::Object(entries.map(|(name, value)| (name.into(), value)).collect())
}

fn value(of: impl Serialize) -> Value {
    serde_json::to_value(of).expect("plain data with names as keys")
}
