//! `ddu eval`: a model, a density and a labelled data set in; how good the segmentation is, and how well
//! each score finds its errors and the classes it was never taught.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender};

use ddu::data::{LabelRule, Mask, Reads, VOID, label_grid};
use ddu::engine::{Output, ScoreMap};
use ddu::eval::{Confusion, Detections, Scores};
use ddu::model::Model;
use ddu::report::json;
use ddu::score::Score;
use ddu::{Error, Result};
use indicatif::ProgressBar;
use serde::Serialize;

use super::pipeline::{Event, Item, List, behind, send};
use super::{
    exit, interrupt, labelled, note, pipeline, prepare_folder, progress_bar, scoring, warn,
};

/// Measure segmentation and uncertainties on a labelled data set
///
/// All metrics are pooled over its pixels, in memory that does not grow with the number of images.
/// Positives of "errors" are the wrongly classified pixels among those of the model's classes; positives
/// of "unknown" are the pixels of --ood-classes (default: every label that the model has no class for)
/// against all pixels of the model's classes. Label 255 is void and counts nowhere. Scores that differ
/// by less than 2^-15 of their size may not be told apart; eval.json bounds what that can change. With
/// --density and without --resize, images are scaled as they were when the density was fitted.
#[derive(clap::Args)]
pub struct Args {
    /// Model written by `ddu convert`
    #[arg(short, long, value_name = "MODEL")]
    model: PathBuf,
    #[command(flatten)]
    scoring: scoring::Args,
    #[command(flatten)]
    labelled: labelled::Args,
    #[command(flatten)]
    running: pipeline::Args,
    /// Unknown classes that should be found, each an index or a name of the dataset
    #[arg(long, value_name = "CLASSES", value_delimiter = ',')]
    ood_classes: Vec<String>,
    /// Folder for eval.json
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
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
    /// Shorter side that the images were scaled to.
    resize_px: Option<usize>,
    images: usize,
    skipped: Vec<String>,
    /// Of the model's classes.
    pixels: u64,
    pixel_accuracy: Option<f64>,
    mean_iou: Option<f64>,
    iou: Vec<(String, Option<f64>)>,
    /// Those that were named, else those that occurred.
    ood_labels: Vec<u8>,
    errors: Detections,
    unknown: Detections,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let device = args.running.device.resolve()?;
    let model = Model::load(&args.model)?;
    let (data, map) = args.labelled.open(&model)?;
    let config = model.config().clone();
    let named = ood_labels(&args.ood_classes, data.classes.as_deref(), config.classes.len())?;
    let scores = args.scoring.scores(|_| true)?;
    let density = args.scoring.load(&model)?;
    let fitted = density.as_ref().and_then(|loaded| loaded.density.origin.resize);
    let resize = args.running.resize().or(fitted);
    let path = args.output.join("eval.json");
    let mut reads = Reads::new(data.files());
    reads.extend([&*args.model]);
    reads.extend(args.scoring.density.as_deref());
    super::check_output(&reads, &path, args.force)?;
    let model_sha256 = model.hash();
    let mut engine = device.engine(model)?;
    if let Some(density) = &density {
        density.check_resize(resize);
        density.attach(&mut engine, &scores)?;
    }
    prepare_folder(&args.output)?;
    if !args.quiet {
        note(format_args!("device {device}: {}", device.describe()));
    }

    let bar = progress_bar(data.pairs.len(), args.quiet);
    let max_pixels = args.running.max_pixels;
    let list = List {
        len: data.pairs.len(),
        batch: args.running.batch(),
        size: &|index| data.pairs[index].size_within(resize, max_pixels),
        read: &|index| {
            let mut read = data.pairs[index].read_within(resize, max_pixels)?;
            map.apply(&mut read.mask.label);
            Ok((read.image, read.mask))
        },
        name: &|index| data.pairs[index].image.display().to_string(),
    };
    let name = |index: usize| data.pairs[index].name.as_str();
    let tally = Tally::new(&scores, config.classes.len(), named.as_ref());
    let mut scale = density.as_ref().map(|density| density.scale());
    let produce = |to: SyncSender<(usize, Result<Segmented>)>| {
        // Broken: the tally has stopped, and says why.
        let run = pipeline::run(&mut engine, &list, |event| match event {
            Event::Failed(index, error) => send(&to, (index, Err(error))),
            Event::Ran(output, items) => {
                items.into_iter().enumerate().try_for_each(|(at, item)| {
                    let index = item.index;
                    if let Some(scale) = &mut scale {
                        scale.see(&(list.name)(index), output.size);
                    }
                    let made = segment(output, at, item, &scores);
                    send(
                        &to,
                        (index, made.map_err(|error| pipeline::of_item((list.name)(index), error))),
                    )
                })
            }
        });
        run.map(|_| ())
    };
    let tally = behind(produce, |made| tally.add_all(made, &bar, args.fail_fast, &name))??;
    bar.finish_and_clear();
    if interrupt::requested() && tally.taken < data.pairs.len() {
        warn("interrupted: nothing was written");
        return Ok(interrupt::exit_code());
    }

    if let Some(scale) = scale {
        scale.warn();
    }
    let Tally { confusion, right, wrong, unknown, skipped, ood, .. } = tally;
    let report = Report {
        schema_version: 2,
        ddu_version: env!("CARGO_PKG_VERSION"),
        command: std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect(),
        host: json::Host::here(),
        device: device.to_string(),
        model_sha256,
        resize_px: resize,
        images: data.pairs.len() - skipped.len(),
        skipped,
        pixels: confusion.pixels(),
        pixel_accuracy: confusion.accuracy(),
        mean_iou: confusion.mean_iou(),
        iou: config.classes.iter().cloned().zip(confusion.iou()).collect(),
        ood_labels: ood.into_iter().collect(),
        errors: Detections::of(&[&wrong], &[&right]),
        unknown: Detections::of(&[&unknown], &[&right, &wrong]),
    };
    json::write(&path, &report)?;
    super::print(&table(&report)?)?;
    if !args.quiet {
        note(format_args!("wrote {}", path.display()));
    }
    Ok(ExitCode::from(if report.skipped.is_empty() { 0 } else { exit::SOME_FAILED }))
}

/// The labels that were named as unknown classes; None where none was.
fn ood_labels(
    named: &[String],
    names: Option<&[String]>,
    classes: usize,
) -> Result<Option<BTreeSet<u8>>> {
    let mut labels = BTreeSet::new();
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
    Ok((!named.is_empty()).then_some(labels))
}

/// An image through the network, and its labels at the same size.
struct Segmented {
    labels: Vec<u8>,
    predictions: Vec<u8>,
    maps: Vec<ScoreMap>,
}

fn segment(output: &Output, at: usize, item: Item<Mask>, scores: &[Score]) -> Result<Segmented> {
    let (size, mask) = (output.size, item.data);
    let labels = match mask.size == size {
        true => mask.label,
        // A pixel of a scaled image has the mask's label at its middle, as in a fit.
        false => label_grid(&mask, size, size, size, LabelRule::HalfPixel),
    };
    let (predictions, maps) = pipeline::maps(output, at, scores)?;
    Ok(Segmented { labels, predictions, maps })
}

struct Tally<'a> {
    scores: &'a [Score],
    classes: usize,
    /// Labels that count as unknown; None: every one that is no class.
    named: Option<&'a BTreeSet<u8>>,
    confusion: Confusion,
    right: Scores,
    wrong: Scores,
    unknown: Scores,
    /// Pairs that were counted or skipped.
    taken: usize,
    skipped: Vec<String>,
    /// The labels named, else those that occurred.
    ood: BTreeSet<u8>,
}

impl<'a> Tally<'a> {
    fn new(scores: &'a [Score], classes: usize, named: Option<&'a BTreeSet<u8>>) -> Self {
        Tally {
            scores,
            classes,
            named,
            confusion: Confusion::new(classes),
            right: Scores::default(),
            wrong: Scores::default(),
            unknown: Scores::default(),
            taken: 0,
            skipped: Vec::new(),
            ood: named.cloned().unwrap_or_default(),
        }
    }

    fn add_all<'n>(
        mut self,
        made: Receiver<(usize, Result<Segmented>)>,
        bar: &ProgressBar,
        fail_fast: bool,
        name: &dyn Fn(usize) -> &'n str,
    ) -> Result<Self> {
        for (index, segmented) in made {
            if let Err(error) = segmented.and_then(|segmented| self.add(&segmented)) {
                if fail_fast {
                    return Err(error);
                }
                let line = format!("{}: {error}", name(index));
                bar.suspend(|| warn(format_args!("skipped {line}")));
                self.skipped.push(line);
            }
            self.taken += 1;
            bar.inc(1);
        }
        Ok(self)
    }

    fn add(&mut self, segmented: &Segmented) -> Result<()> {
        let Segmented { labels, predictions, maps } = segmented;
        self.confusion.add(labels, predictions)?;
        for (pixel, &label) in labels.iter().enumerate() {
            let set = if usize::from(label) < self.classes {
                if predictions[pixel] == label { &mut self.right } else { &mut self.wrong }
            } else if label != VOID && self.named.is_none_or(|named| named.contains(&label)) {
                self.ood.insert(label);
                &mut self.unknown
            } else {
                continue;
            };
            for (score, map) in self.scores.iter().zip(maps) {
                set.push(*score, map.values[pixel]);
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
