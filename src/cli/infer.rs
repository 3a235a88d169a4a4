//! `ddu infer`: images in; for each a label map and maps of its scores out, and pictures of them.

mod dry_run;
mod files;
mod report;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use ddu::Result;
use ddu::data::{self, Input, Reads, regular_target};
use ddu::model::Model;
use ddu::report::{json, palette};
use ddu::score::Score;

use super::{exit, interrupt, note, pipeline, prepare_folder, progress_bar, scoring, warn};
use files::{Files, Kind};
use run::Task;

/// Segment images: the class and the softmax entropy (nats) of every pixel
///
/// Writes STEM.label.png (class indices, with a palette) and STEM.entropy.npy (f32 [H, W]) for each
/// image, and with --density STEM.density.npy (f32 [H, W], nats; low = unfamiliar); other scores are
/// named as --score names them. JPEG, PNG, BMP, TIFF and WebP are told by their content; gray is
/// repeated, alpha is dropped, 16-bit samples are rounded to 8, EXIF orientation is respected, of
/// several frames the first is taken. An image that cannot be processed is named and skipped.
#[derive(clap::Args)]
pub struct Args {
    /// Model written by `ddu convert`
    #[arg(short, long, value_name = "MODEL")]
    model: PathBuf,
    /// Image, folder (searched recursively), glob, or - for a list on stdin, one path per line
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// Folder for the results; those of a folder or glob mirror its tree
    #[arg(short, long, value_name = "DIR")]
    output: PathBuf,
    #[command(flatten)]
    scoring: scoring::Args,
    /// Also write pictures: STEM.overlay.png (classes), and of each score, as STEM.entropy.png
    #[arg(long)]
    overlay: bool,
    #[command(flatten)]
    running: pipeline::Args,
    /// Write a report with timings to FILE, or to stdout for -
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Overwrite existing results
    #[arg(long)]
    force: bool,
    /// Go on with an interrupted run: leave out images whose results are all there
    #[arg(long, conflicts_with = "force")]
    skip_existing: bool,
    /// Stop at the first image that cannot be processed
    #[arg(long)]
    fail_fast: bool,
    /// Print inputs, outputs and what each image size costs; run and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Print warnings and errors only
    #[arg(short, long)]
    quiet: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let device = args.running.device.resolve()?;
    let model = Model::load(&args.model)?;
    let config = model.config().clone();
    let resize = args.running.resize();
    let mut scores = args.scoring.scores(|score| score == Score::Density)?;
    if !scores.contains(&Score::Entropy) {
        scores.insert(0, Score::Entropy);
    }
    let density = args.scoring.load(&model)?;
    let mut engine = device.engine(model)?;
    if let Some(density) = &density {
        density.check_resize(resize);
        density.attach(&mut engine, &scores)?;
    }
    let mut inputs = data::resolve(&args.inputs, &args.output, std::io::stdin().lock())?;
    if args.fail_fast && !inputs.failed.is_empty() {
        return Err(inputs.failed.swap_remove(0).1.into());
    }
    for (_, error) in &inputs.failed {
        warn(format_args!("skipped: {error}"));
    }
    if let Some(first) = inputs.left_out.first().filter(|_| !args.quiet) {
        let (count, first) = (inputs.left_out.len(), first.display());
        note(format_args!("left out: {count} files that are no {} ({first})", data::FORMATS));
    }
    let kinds = &Kind::all(args.overlay, &scores);
    if args.dry_run {
        if let Some(report) = super::file(&args.json) {
            super::check_output(&reads(&args, &inputs.images), report, args.force)?;
        }
        return dry_run::run(&args, &mut engine, device, &inputs, kinds);
    }

    let listed = inputs.images.len();
    if args.skip_existing {
        inputs.images.retain(|image| !outputs(&args, image, kinds).all(|path| path.exists()));
    } else if !args.force {
        refuse_existing(&args, &inputs.images, kinds)?;
    }
    let there = listed - inputs.images.len();
    refuse_inputs(&args, &inputs.images, kinds)?;
    if !inputs.images.is_empty() {
        prepare_folder(&args.output)?;
    }
    if let Some(file) = super::file(&args.json) {
        prepare_folder(file.parent().unwrap_or(Path::new("")))?;
    }
    if !args.quiet {
        note(format_args!("device {device}: {}", device.describe()));
    }

    let start = Instant::now();
    let bar = progress_bar(inputs.images.len(), args.quiet);
    let parts = density.as_ref().map(|loaded| loaded.parts());
    let range = |score: &Score| Some((*score, score.colour_range(config.classes.len(), parts)?));
    let scores: Vec<(Score, [f32; 2])> = scores.iter().filter_map(range).collect();
    let task = Task {
        inputs: &inputs.images,
        files: Files {
            folder: &args.output,
            kinds,
            scores: &scores,
            classes: &config.classes,
            palette: &palette::of(&config.classes),
        },
        resize,
        batch: args.running.batch(),
        max_pixels: args.running.max_pixels,
        fail_fast: args.fail_fast,
        bar: &bar,
    };
    let mut done = run::run(&task, &mut engine);
    bar.finish_and_clear();
    let wall = start.elapsed();

    let interrupted = interrupt::requested()
        && done.fatal.is_none()
        && done.written.len() + done.failed.len() < inputs.images.len();
    let early = inputs.failed.into_iter().map(|(path, error)| report::Failed::new(&path, &error));
    done.failed.splice(0..0, early);
    if !args.quiet {
        note(report::summary(&done, there, &args.output, wall));
    }
    let code = if done.failed.is_empty() { 0 } else { exit::SOME_FAILED };
    let fatal = done.fatal.take();
    if let Some(density) = &density {
        let mut scale = density.scale();
        done.written.iter().for_each(|image| scale.see(&image.path, image.map_px));
        scale.warn();
    }
    if let Some(target) = &args.json {
        json::write(target, &report::Report::new(&args, engine.model(), device, done, wall))?;
    }
    if interrupted {
        warn("interrupted: the same command with --skip-existing goes on");
        return Ok(interrupt::exit_code());
    }
    fatal.map_or(Ok(ExitCode::from(code)), |error| Err(error.into()))
}

/// The files that an image gets.
fn outputs<'a>(args: &Args, image: &'a Input, kinds: &'a [Kind]) -> impl Iterator<Item = PathBuf> {
    kinds.iter().map(|kind| image.output(&args.output, &kind.suffix()))
}

fn refuse_existing(args: &Args, images: &[Input], kinds: &[Kind]) -> Result<()> {
    let outputs = images.iter().flat_map(|image| outputs(args, image, kinds));
    let report = super::file(&args.json).map(Path::to_owned);
    let mut existing = outputs.chain(report).filter(|path| path.symlink_metadata().is_ok());
    let Some(first) = existing.next() else { return Ok(()) };
    Err(super::exists(&first, existing.count()))
}

fn reads(args: &Args, images: &[Input]) -> Reads {
    let mut reads = Reads::new(images.iter().map(|input| &*input.path));
    reads.extend([&*args.model]);
    reads.extend(args.scoring.density.as_deref());
    reads
}

/// Not even `--force` overwrites what is read.
fn refuse_inputs(args: &Args, images: &[Input], kinds: &[Kind]) -> Result<()> {
    let reads = reads(args, images);
    for input in images {
        for kind in kinds {
            reads.refuse(&input.output(&args.output, &kind.suffix()))?;
        }
    }
    if let Some(report) = super::file(&args.json) {
        reads.refuse(report)?;
        regular_target(report)?;
    }
    Ok(())
}
