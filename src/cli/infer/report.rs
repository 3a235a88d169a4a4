//! What a run of `ddu infer` says about itself: the JSON report and the closing line.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use ddu::Error;
use ddu::baseline::Ensemble;
use ddu::model::{Backbone, Model};
use ddu::ops::Size;
use ddu::report::json::{Host, Summary};
use serde::Serialize;

use super::Args;
use super::attention::{Attention, Limits};
use crate::cli::devices::Device;

/// Milliseconds of each stage, for one image. A batch runs through preprocess and network together:
/// each of its images has an equal part.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Stages {
    /// Reading, decoding, turning and scaling the image.
    pub decode: f64,
    /// Normalising and padding.
    pub preprocess: f64,
    /// That of MODEL, the passes of MC Dropout and the other members of an ensemble.
    pub network: f64,
    /// Upsampling, class and scores; where a device computes them in the network's run, their copy.
    pub maps: f64,
    /// Drawing, compressing and writing the files.
    pub write: f64,
}

#[derive(Serialize)]
pub struct Written {
    pub path: String,
    pub outputs: Vec<String>,
    /// As decoded, upright.
    pub image_px: Size,
    /// Of the maps; differs from the image's with `--resize`.
    pub map_px: Size,
    /// Of the network's input.
    pub padded_px: Size,
    pub feature_grid: Size,
    /// Images that ran together with this one, itself included.
    pub batch: usize,
    /// Pixels whose entropy is not finite: the network's output was not, and their class means nothing.
    pub non_finite_pixels: usize,
    /// Cells of the feature grid whose feature is not finite: their density is -inf. Only with a score
    /// that needs a density.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub non_finite_cells: Option<usize>,
    /// With --thresholds or --page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub attention: Option<Attention>,
    pub stages_ms: Stages,
}

#[derive(Serialize)]
pub struct Failed {
    pub path: String,
    pub error: String,
}

impl Failed {
    pub fn new(path: &Path, error: &Error) -> Self {
        Failed { path: path.display().to_string(), error: error.to_string() }
    }
}

/// What the run did, each list in the order of the inputs.
#[derive(Default)]
pub struct Done {
    pub written: Vec<Written>,
    pub failed: Vec<Failed>,
    /// Why it stopped early; among `failed` too, where an image has to do with it.
    pub fatal: Option<Error>,
}

#[derive(Serialize)]
pub struct Report {
    schema_version: u32,
    ddu_version: &'static str,
    command: Vec<String>,
    started_unix_s: f64,
    host: Host,
    device: String,
    pub model: ModelReport,
    /// What `attention` counts by.
    #[serde(skip_serializing_if = "Option::is_none")]
    limits_nats: Option<Limits>,
    #[serde(flatten)]
    methods: MethodsReport,
    images: Vec<Written>,
    failed: Vec<Failed>,
    totals: Totals,
}

/// Which prediction gave the classes, and what the baselines were made of.
#[derive(Serialize)]
pub struct MethodsReport {
    method: &'static str,
    /// With dropout; null without MC Dropout.
    passes: Option<u32>,
    seed: Option<u64>,
    /// Of an ensemble, in addition to the model.
    members: Vec<ModelReport>,
}

impl MethodsReport {
    pub fn new(args: &Args, ensemble: Option<&mut Ensemble>) -> Self {
        let passes = args.methods.passes;
        let engines = ensemble.map(|ensemble| &*ensemble.members()).unwrap_or_default();
        let models = args.methods.members.iter().zip(engines);
        MethodsReport {
            method: args.method.name(),
            passes,
            seed: passes.map(|_| args.methods.seed),
            members: models.map(|(path, e)| ModelReport::new(path, e.model())).collect(),
        }
    }
}

#[derive(Serialize)]
pub struct ModelReport {
    path: String,
    sha256: String,
    family: String,
    backbone: Backbone,
    classes: Vec<String>,
}

#[derive(Serialize)]
struct Totals {
    images_written: usize,
    images_failed: usize,
    /// From the first image read to the last file written.
    wall_s: f64,
    images_per_s: f64,
    /// Over the images; the first one's include what is done once.
    stages_ms: Option<StageSummaries>,
}

#[derive(Serialize)]
struct StageSummaries {
    decode: Summary,
    preprocess: Summary,
    network: Summary,
    maps: Summary,
    write: Summary,
}

impl ModelReport {
    pub fn new(path: &Path, model: &Model) -> Self {
        let config = model.config();
        ModelReport {
            path: path.display().to_string(),
            sha256: model.hash(),
            family: config.family.clone(),
            backbone: config.backbone,
            classes: config.classes.clone(),
        }
    }
}

impl Report {
    pub fn new(
        args: &Args,
        model: &Model,
        ensemble: Option<&mut Ensemble>,
        device: Device,
        limits: Option<Limits>,
        done: Done,
        wall: Duration,
    ) -> Self {
        let stage = |pick: fn(&Stages) -> f64| {
            let values: Vec<f64> = done.written.iter().map(|w| pick(&w.stages_ms)).collect();
            Summary::of(&values)
        };
        let stages = || {
            Some(StageSummaries {
                decode: stage(|s| s.decode)?,
                preprocess: stage(|s| s.preprocess)?,
                network: stage(|s| s.network)?,
                maps: stage(|s| s.maps)?,
                write: stage(|s| s.write)?,
            })
        };
        let wall_s = wall.as_secs_f64();
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let totals = Totals {
            images_written: done.written.len(),
            images_failed: done.failed.len(),
            wall_s,
            images_per_s: done.written.len() as f64 / wall_s.max(1e-9),
            stages_ms: stages(),
        };
        Report {
            schema_version: 1,
            ddu_version: env!("CARGO_PKG_VERSION"),
            command: command(),
            started_unix_s: now.map_or(0.0, |now| now.as_secs_f64()) - wall_s,
            host: Host::here(),
            device: device.to_string(),
            model: ModelReport::new(&args.model, model),
            limits_nats: limits,
            methods: MethodsReport::new(args, ensemble),
            images: done.written,
            failed: done.failed,
            totals,
        }
    }
}

/// The command line as given.
pub fn command() -> Vec<String> {
    std::env::args_os().map(|arg| arg.to_string_lossy().into_owned()).collect()
}

/// `there`: images that were left out, since their results existed.
pub fn summary(done: &Done, there: usize, folder: &Path, wall: Duration) -> impl fmt::Display {
    let mut text = match done.written.len() {
        0 => "no maps were written".to_owned(),
        1 => format!("wrote the maps of 1 image to {}", folder.display()),
        n => format!("wrote the maps of {n} images to {}", folder.display()),
    };
    let network: Vec<f64> = done.written.iter().map(|w| w.stages_ms.network).collect();
    if let Some(network) = Summary::of(&network) {
        let wall = wall.as_secs_f64();
        text += &format!(" in {wall:.1} s (network: median {:.0} ms per image)", network.p50);
    }
    if there > 0 {
        text += &format!("; {there} were there");
    }
    if !done.failed.is_empty() {
        text += &format!("; {} failed", done.failed.len());
    }
    text
}
