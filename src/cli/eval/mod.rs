//! `ddu eval`: a model, a density and a labelled data set in; how good the segmentation is, how well each score
//! finds its errors and the classes it was never taught, and what a pass costs.

mod files;
mod json;
mod predict;
mod protocol;
mod read;
mod report;
mod table;
mod thresholds;
mod timing;
mod viewer;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, SyncSender};

use ddu::baseline::Ensemble;
use ddu::data::{Dataset, LabelRule, Reads, VOID, content_hash};
use ddu::engine::Engine;
use ddu::eval::positions::Positions;
use ddu::eval::thresholds::{Target, Thresholds};
use ddu::eval::{Evaluation, Options, Truth};
use ddu::model::Model;
use ddu::score::Score;
use ddu::{Error, Result};
use indicatif::ProgressBar;

use self::predict::Seen;
use self::read::Reader;
use self::viewer::{Fared, Shown};
use super::batch::Batch;
use super::pipeline::{Event, List, behind, send};
use super::{
    exit, interrupt, labelled, methods, note, pipeline, prepare_folder, progress_bar, scoring, warn,
};

/// Measure segmentation and uncertainties on a labelled data set
///
/// All metrics are pooled over its pixels, in memory that does not grow with the number of images, with 95 %
/// intervals over images. Positives of "errors" are the wrongly classified pixels among those of the model's
/// classes; positives of "unknown" are the pixels of --ood-classes (default: every label that the model has no
/// class for) against all pixels of the model's classes. Label 255 is void and counts nowhere, but for
/// --void-as-inaccurate. docs/evaluation.md explains each figure. With --density and without --resize, images
/// are scaled as they were when the density was fitted.
#[derive(clap::Args)]
pub struct Args {
    /// Model written by `ddu convert`
    #[arg(short, long, value_name = "MODEL")]
    model: PathBuf,
    #[command(flatten)]
    scoring: scoring::Args,
    #[command(flatten)]
    methods: methods::Args,
    #[command(flatten)]
    labelled: labelled::Args,
    #[command(flatten)]
    running: pipeline::Args,
    /// Unknown classes that should be found, each an index or a name of the dataset
    #[arg(long, value_name = "CLASSES", value_delimiter = ',')]
    ood_classes: Vec<String>,
    /// Count void pixels as inaccurate in p(accurate|certain), p(uncertain|inaccurate), PAvPU, the
    /// risk-coverage curve and thresholds
    #[arg(long)]
    void_as_inaccurate: bool,
    /// Widths of the patches of PAvPU, in pixels
    #[arg(long, value_name = "WIDTHS", value_delimiter = ',', default_value = "1,2,4", value_parser = clap::value_parser!(u16).range(1..=64))]
    patch: Vec<u16>,
    /// voc513: shorter side scaled to 513, then the centre 513 x 513 of image and mask
    #[arg(long, value_name = "PROTOCOL", conflicts_with = "resize")]
    protocol: Option<protocol::Protocol>,
    /// Recommend thresholds that reach p-accurate-certain=SHARE or false-alarm-rate=SHARE: thresholds.json
    #[arg(long, value_name = "TARGET", conflicts_with = "thresholds")]
    target: Option<Target>,
    /// Report what these thresholds achieve here, chosen with --target on another split
    #[arg(long, value_name = "FILE")]
    thresholds: Option<PathBuf>,
    /// Folder for results.json, report.html and the tables
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    /// Overwrite existing results
    #[arg(long)]
    force: bool,
    /// Stop at the first pair that cannot be used
    #[arg(long)]
    fail_fast: bool,
    /// Print warnings, errors and the table only
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let device = args.running.device.resolve()?;
    let model = Model::load(&args.model)?;
    let (data, map) = args.labelled.open(&model)?;
    let config = model.config().clone();
    let classes = config.classes.len();
    let named = ood_labels(&args.ood_classes, data.classes.as_deref(), classes)?;
    let passes = args.methods.passes()?;
    let density = args.scoring.load(&model, args.running.precision)?;
    let scores = args.scoring.scores(density.as_ref(), &args.methods.needs(), |_| true)?;
    let density_path = args.scoring.density.as_deref();
    let density_sha256 = density_path.map(content_hash::stored).transpose()?;
    let fitted = density.as_ref().and_then(|loaded| loaded.density.origin.resize);
    let resize = match args.protocol {
        Some(protocol) => Some(protocol.short_side()),
        None => args.running.resize().or(fitted),
    };
    let model_sha256 = model.hash();
    let given =
        thresholds::load(args.thresholds.as_deref(), &model_sha256, density_sha256.as_deref())?;
    let outputs = outputs(&args, &data)?;
    let mut engine = device.engine(model, args.running.precision)?;
    if passes.is_some() {
        engine.require_dropout()?;
    }
    let mut ensemble = args.methods.ensemble(&engine)?;
    let members = ensemble.as_mut().map(Ensemble::members).unwrap_or_default();
    let members: Vec<String> = members.iter().map(|member| member.model().hash()).collect();
    prepare_folder(&args.output)?;
    // Of a signal during the timings the list below says what is left.
    let _watch = interrupt::Watch::new();
    if !args.quiet {
        note(format_args!("device {device}: {}", device.describe()));
    }

    let max_pixels = args.running.max_pixels;
    let reader = Reader { data: &data, map: &map, resize, protocol: args.protocol, max_pixels };
    let image = reader.first();
    let mut timings = Vec::new();
    if let Some(image) = &image {
        timings.extend(timing::softmax(&mut engine, image));
    }
    if let Some(density) = &density {
        density.check_resize(resize);
        scoring::attach(Some(density), &mut engine, &[Score::Density])?;
        timings.extend(image.as_ref().and_then(|image| timing::ddu(&mut engine, image)));
    }
    scoring::attach(density.as_ref(), &mut engine, &predict::computed(&scores))?;
    if let (Some(image), Some(ensemble)) = (&image, &mut ensemble) {
        timings.extend(timing::ensemble(&mut engine, ensemble, image));
    }
    if let Some(passes) = passes {
        engine.sample_dropout(passes)?;
        timings.extend(image.and_then(|image| timing::mc_dropout(&mut engine, &image)));
    }

    let colour_range =
        |loaded: &scoring::Loaded| Score::Density.colour_range(classes, Some(loaded.parts()));
    let evaluation = Evaluation::new(Options {
        classes,
        unknown: named,
        void_as_inaccurate: args.void_as_inaccurate,
        patches: args.patch.iter().filter(|w| **w > 1).map(|w| usize::from(*w)).collect(),
        thresholds: given.as_ref().map(thresholds::values).unwrap_or_default(),
        density_range: density.as_ref().and_then(colour_range),
    });
    let run = Run {
        scores: &scores,
        density: density.as_ref(),
        reader: &reader,
        rule: LabelRule::of(config.align_corners),
        classes,
        batch: args.running.batch,
        fail_fast: args.fail_fast,
    };
    let positions = Positions::new(classes, config.feature_channels());
    let bar = progress_bar(data.pairs.len(), args.quiet);
    let Measured { evaluation, positions, skipped, fared, taken } =
        run.measure(&mut engine, ensemble.as_mut(), evaluation, positions, &bar)?;
    bar.finish_and_clear();
    if interrupt::requested() && taken < data.pairs.len() {
        warn("interrupted: nothing was written");
        return Ok(interrupt::exit_code());
    }

    let results = evaluation.results();
    let about = json::About {
        device: device.to_string(),
        model_sha256: &model_sha256,
        density_sha256: density_sha256.as_deref(),
        passes: args.methods.passes,
        seed: passes.map(|_| args.methods.seed),
        members: &members,
        split: args.labelled.split(),
        protocol: args.protocol.map(protocol::Protocol::name),
        resize_px: resize,
        void_as_inaccurate: args.void_as_inaccurate,
        classes: &config.classes,
        labels: data.classes.as_deref(),
        skipped: &skipped,
        timings: &timings,
        positions: &positions.report(),
    };
    ddu::report::json::write(&outputs[0], &json::report(&about, &results))?;
    files::write(&args.output, &results, &timings)?;
    let shown = Shown {
        reader: &reader,
        scores: &scores,
        density: density.as_ref(),
        evaluation: &evaluation,
    };
    let viewer = shown.viewer(&about, &mut engine, ensemble.as_mut(), fared)?;
    report::write(&args.output.join(report::FILE), &about, &results, viewer)?;
    if let Some(target) = args.target {
        let mut chosen = Thresholds::new(model_sha256.clone(), density_sha256.clone(), target);
        chosen.split = args.labelled.split().map(str::to_owned);
        thresholds::choose(&mut chosen, &evaluation, density.is_some());
        ddu::report::json::write(&args.output.join(thresholds::FILE), &chosen)?;
        super::print(&thresholds::table(&chosen))?;
    }
    super::print(&table::table(&about, &results)?)?;
    if !args.quiet {
        note(format_args!("wrote {}", outputs[0].display()));
    }
    Ok(ExitCode::from(if skipped.is_empty() { 0 } else { exit::SOME_FAILED }))
}

/// The files that will be written, results.json first; none is an input, or there without --force.
fn outputs(args: &Args, data: &Dataset) -> Result<Vec<PathBuf>> {
    let mut names = vec!["results.json", report::FILE];
    names.extend(files::NAMES);
    names.extend(args.target.map(|_| thresholds::FILE));
    let outputs: Vec<PathBuf> = names.iter().map(|name| args.output.join(name)).collect();
    let mut reads = Reads::new(data.files());
    reads.extend([&*args.model]);
    reads.extend(args.scoring.density.as_deref());
    reads.extend(args.thresholds.as_deref());
    reads.extend(args.methods.members.iter().map(PathBuf::as_path));
    outputs.iter().try_for_each(|path| reads.refuse(path))?;
    let there: Vec<&PathBuf> = outputs.iter().filter(|path| path.exists()).collect();
    match there.first() {
        Some(first) if !args.force => Err(super::exists(first, there.len() - 1)),
        _ => Ok(outputs),
    }
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

/// How the data set is run through the network.
struct Run<'a> {
    scores: &'a [Score],
    density: Option<&'a scoring::Loaded>,
    reader: &'a Reader<'a>,
    rule: LabelRule,
    classes: usize,
    batch: Batch,
    fail_fast: bool,
}

struct Measured {
    evaluation: Evaluation,
    positions: Positions,
    skipped: Vec<String>,
    /// In the order of the list: what the page chooses its images by.
    fared: Vec<Fared>,
    /// Pairs that were counted or skipped.
    taken: usize,
}

impl Run<'_> {
    fn measure(
        &self,
        engine: &mut Engine,
        ensemble: Option<&mut Ensemble>,
        evaluation: Evaluation,
        mut positions: Positions,
        bar: &ProgressBar,
    ) -> Result<Measured> {
        let pairs = &self.reader.data.pairs;
        let list = List {
            len: pairs.len(),
            batch: self.batch,
            size: &|index| self.reader.size(index),
            read: &|index| self.reader.read(index),
            name: &|index| pairs[index].image.display().to_string(),
        };
        let mut scale = self.density.map(|density| density.scale());
        let ensemble = RefCell::new(ensemble);
        let produce = |to: SyncSender<(usize, Result<Seen>)>| {
            // Broken: the tally has stopped, and says why.
            let run = pipeline::run(engine, &ensemble, &list, |event| match event {
                Event::Failed(index, error) => send(&to, (index, Err(error))),
                Event::Ran(output, items) => {
                    let mut ensemble = ensemble.borrow_mut();
                    let members = ensemble.as_mut().map(|e| methods::together(e, output, &items));
                    let mut members = members.map(Vec::into_iter);
                    items.into_iter().enumerate().try_for_each(|(at, item)| {
                        let index = item.index;
                        if let Some(scale) = &mut scale {
                            scale.see(&(list.name)(index), output.size);
                        }
                        let members = members.as_mut().and_then(Iterator::next).transpose();
                        let seen = members.and_then(|members| {
                            predict::see(output, at, item, self.scores, members)
                        });
                        let seen = seen.and_then(|seen| {
                            predict::place(output, at, &seen, self.rule, &mut positions)?;
                            Ok(seen)
                        });
                        let named = |error| pipeline::of_item((list.name)(index), error);
                        send(&to, (index, seen.map_err(named)))
                    })
                }
            });
            run.map(|_| ())
        };
        let consume = |made| self.tally(made, evaluation, bar);
        let (evaluation, skipped, fared, taken) = behind(produce, consume)??;
        if let Some(scale) = scale {
            scale.warn();
        }
        Ok(Measured { evaluation, positions, skipped, fared, taken })
    }

    fn tally(
        &self,
        made: Receiver<(usize, Result<Seen>)>,
        mut evaluation: Evaluation,
        bar: &ProgressBar,
    ) -> Result<(Evaluation, Vec<String>, Vec<Fared>, usize)> {
        let (mut skipped, mut fared, mut taken) = (Vec::new(), Vec::new(), 0);
        for (index, seen) in made {
            let added = seen.and_then(|seen| {
                let Seen { hash, mask, predictions } = &seen;
                let truth = Truth { hash: *hash, size: mask.size, labels: &mask.label };
                evaluation.add(truth, predictions)?;
                fared.extend(Fared::of(index, &seen, self.classes));
                Ok(())
            });
            if let Err(error) = added {
                if self.fail_fast {
                    return Err(error);
                }
                let line = format!("{}: {error}", self.reader.data.pairs[index].name);
                bar.suspend(|| warn(format_args!("skipped {line}")));
                skipped.push(line);
            }
            taken += 1;
            bar.inc(1);
        }
        Ok((evaluation, skipped, fared, taken))
    }
}
