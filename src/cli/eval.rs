//! `ddu eval`: a model, a density and a labelled split in; how good the segmentation is, and how well
//! each uncertainty finds its errors and the classes it was never taught.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use ddu::data::{ClassMap, Dataset, Reads};
use ddu::density::{Score, VOID};
use ddu::eval::{Confusion, Detections, Scores};
use ddu::model::Model;
use ddu::report::json;
use ddu::{Error, Result};
use serde::Serialize;

use super::labelled::{self, Computed};
use super::{devices, exit, note, progress_bar, scoring, warn};

/// Measure segmentation and uncertainties on a labelled split
///
/// All metrics are pooled over the pixels of the split. Positives of "errors" are the wrongly
/// classified pixels among those of the model's classes; positives of "unknown" are the pixels of
/// --ood-classes (default: every label that the model has no class for) against all pixels of the
/// model's classes. Label 255 is void and counts nowhere. Scores are kept, 12 bytes a pixel.
#[derive(clap::Args)]
pub struct Args {
    /// Model written by `ddu convert`
    #[arg(short, long, value_name = "MODEL")]
    model: PathBuf,
    #[command(flatten)]
    scoring: scoring::Args,
    /// Folder in Pascal VOC's layout
    #[arg(long, value_name = "VOC_ROOT")]
    data: PathBuf,
    /// List of the VOC folder: val, test ..
    #[arg(long, value_name = "SPLIT")]
    split: String,
    /// Unknown classes that should be found, each an index or a name of the dataset
    #[arg(long, value_name = "CLASSES", value_delimiter = ',')]
    ood_classes: Vec<String>,
    /// Dataset's class FROM is the model's class TO, each an index or a name; TO may be void
    #[arg(long, value_name = "FROM=TO", value_delimiter = ',')]
    class_map: Vec<String>,
    /// Folder for eval.json
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// auto, cpu, simt or cuda:N; what is named is used or refused, never replaced
    #[arg(long, default_value = "auto")]
    device: devices::Choice,
    /// Overwrite an existing eval.json
    #[arg(long)]
    force: bool,
    /// Stop at the first pair that cannot be used
    #[arg(long)]
    fail_fast: bool,
    /// Print warnings, errors and the table only
    #[arg(short, long)]
    quiet: bool,
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    ddu_version: &'static str,
    command: Vec<String>,
    host: json::Host,
    device: String,
    model_sha256: String,
    images: usize,
    skipped: Vec<String>,
    /// Of the model's classes.
    pixels: u64,
    pixel_accuracy: Option<f64>,
    mean_iou: Option<f64>,
    iou: Vec<(String, Option<f64>)>,
    ood_labels: Vec<u8>,
    errors: Detections,
    unknown: Detections,
}

struct Tally {
    confusion: Confusion,
    right: Scores,
    wrong: Scores,
    unknown: Scores,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let device = args.device.resolve()?;
    let model = Model::load(&args.model)?;
    let data = Dataset::voc(&args.data, &args.split)?;
    let config = model.config().clone();
    let names = config.has_class_names().then_some(config.classes.as_slice());
    let map = ClassMap::new(data.classes.as_deref(), names, config.classes.len(), &args.class_map)?;
    let ood = ood_labels(&args.ood_classes, data.classes.as_deref(), config.classes.len())?;
    let density = args.scoring.load(&model, None)?;
    let path = args.output.join("eval.json");
    let mut reads = Reads::new(data.files());
    reads.extend([&*args.model]);
    reads.extend(args.scoring.density.as_deref());
    reads.refuse(&path)?;
    if path.exists() && !args.force {
        let found = "it there already";
        let error = Error::invalid(path.display(), "no such file yet", found);
        return Err(error.fix("give another -o, or --force to overwrite").into());
    }
    let model_sha256 = model.hash();
    let mut engine = device.engine(model)?;
    if let Some(density) = &density {
        density.attach(&mut engine, &[Score::Density, Score::Relative])?;
    }
    std::fs::create_dir_all(&args.output).map_err(|e| Error::io(&args.output, "create", e))?;
    if !args.quiet {
        note(format_args!("device {device}: {}", device.describe()));
    }

    let mut tally = Tally {
        confusion: Confusion::new(config.classes.len()),
        right: Scores::default(),
        wrong: Scores::default(),
        unknown: Scores::default(),
    };
    let mut skipped = Vec::new();
    let bar = progress_bar(data.pairs.len(), args.quiet);
    let job = labelled::Job { pairs: &data.pairs, resize: None, batch: 1 };
    labelled::run(&job, &mut engine, |index, pair| {
        let scored = density.is_some();
        let added = pair.and_then(|computed| tally.add(computed, &map, &ood, scored));
        if let Err(error) = added {
            if args.fail_fast {
                return Err(error);
            }
            let line = format!("{}: {error}", data.pairs[index].name);
            bar.suspend(|| warn(format_args!("skipped {line}")));
            skipped.push(line);
        }
        bar.inc(1);
        Ok(())
    })?;
    bar.finish_and_clear();

    let Tally { confusion, right, wrong, unknown } = &tally;
    let report = Report {
        schema_version: 1,
        ddu_version: env!("CARGO_PKG_VERSION"),
        command: std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
        host: json::Host::here(),
        device: device.to_string(),
        model_sha256,
        images: data.pairs.len() - skipped.len(),
        skipped,
        pixels: confusion.pixels(),
        pixel_accuracy: confusion.accuracy(),
        mean_iou: confusion.mean_iou(),
        iou: config.classes.iter().cloned().zip(confusion.iou()).collect(),
        ood_labels: ood,
        errors: Detections::of(&[wrong], &[right]),
        unknown: Detections::of(&[unknown], &[right, wrong]),
    };
    json::write(&path, &report)?;
    super::print(&table(&report)?)?;
    if !args.quiet {
        note(format_args!("wrote {}", path.display()));
    }
    Ok(ExitCode::from(if report.skipped.is_empty() { 0 } else { exit::SOME_FAILED }))
}

/// The labels that count as unknown; every one from `classes` to 254 where none is named.
fn ood_labels(named: &[String], names: Option<&[String]>, classes: usize) -> Result<Vec<u8>> {
    let mut labels = HashSet::new();
    for name in named {
        let by_name = || names?.iter().position(|n| n == name).and_then(|i| u8::try_from(i).ok());
        let label = name.parse().ok().or_else(by_name).ok_or_else(|| {
            Error::Usage(format!("--ood-classes {name}: no index and no class of the dataset"))
        })?;
        if usize::from(label) < classes || label == VOID {
            let message = format!("--ood-classes {name}: label {label} is a class of the model");
            return Err(Error::Usage(message));
        }
        labels.insert(label);
    }
    let mut labels: Vec<u8> = match named {
        [] => (classes..usize::from(VOID)).filter_map(|l| u8::try_from(l).ok()).collect(),
        _ => labels.into_iter().collect(),
    };
    labels.sort_unstable();
    Ok(labels)
}

impl Tally {
    fn add(&mut self, computed: Computed, map: &ClassMap, ood: &[u8], scored: bool) -> Result<()> {
        let Computed { mut labelled, output, at, .. } = computed;
        map.apply(&mut labelled.mask.label);
        let labels = &labelled.mask.label;
        let maps = output.maps(at)?;
        let score = |score| scored.then(|| output.density(at, score)).transpose();
        let (density, relative) = (score(Score::Density)?, score(Score::Relative)?);
        let classes = output.classes;
        self.confusion.add(labels, &maps.label)?;
        for (pixel, &label) in labels.iter().enumerate() {
            let set = if usize::from(label) >= classes {
                match ood.binary_search(&label) {
                    Ok(_) => &mut self.unknown,
                    Err(_) => continue,
                }
            } else if maps.label[pixel] == label {
                &mut self.right
            } else {
                &mut self.wrong
            };
            let entropy = maps.entropy[pixel];
            match (&density, &relative) {
                (Some(density), Some(relative)) => {
                    set.push(entropy, density.values[pixel], relative.values[pixel]);
                }
                _ => set.entropy.push(entropy),
            }
        }
        Ok(())
    }
}

fn table(report: &Report) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let percent = |v: Option<f64>| v.map_or("-".to_owned(), |v| format!("{:.2} %", 100.0 * v));
    writeln!(
        out,
        "{} images, {} labelled pixels: pixel accuracy {}, mIoU {}",
        report.images,
        report.pixels,
        percent(report.pixel_accuracy),
        percent(report.mean_iou)
    )?;
    for (name, iou) in &report.iou {
        writeln!(out, "  {name:20} IoU {:>8}", percent(*iou))?;
    }
    writeln!(out, "\n{:32}{:>12}{:>9}{:>9}{:>9}", "", "positives", "AUROC", "AP", "FPR95")?;
    for (what, found) in [("errors", &report.errors), ("unknown", &report.unknown)] {
        for (by, detection) in found.rows() {
            let Some(d) = detection else { continue };
            let name = format!("{what} by {by}");
            writeln!(
                out,
                "{name:32}{:>12}{:>9.4}{:>9.4}{:>9.4}",
                d.positives, d.auroc, d.average_precision, d.fpr95
            )?;
        }
    }
    Ok(out)
}
