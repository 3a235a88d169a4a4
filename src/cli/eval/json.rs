//! `results.json`. docs/formats.md lists its fields, docs/evaluation.md explains the figures.

use ddu::eval::Results;
use ddu::eval::bootstrap::REPLICATES;
use ddu::eval::positions::PositionReport;
use ddu::report::json::Host;
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

/// The figures, and what they were measured with.
pub fn report(about: &About, results: &Results) -> Value {
    let mut report = results.figures(about.classes, |label| about.label(label));
    let besides = json!({
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
        "skipped": about.skipped,
        "timing": about.timings.iter().map(|t| (t.method.to_string(), json!(t))).collect::<Map<_, _>>(),
        "positions": about.positions,
        "findings": super::table::findings(results),
    });
    if let Value::Object(besides) = besides {
        report.extend(besides);
    }
    Value::Object(report)
}
