//! `ddu infer`: images in; for each a label map and maps of its scores out, and pictures of them.

mod attention;
mod dry_run;
mod files;
mod page;
mod report;
mod run;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use ddu::data::{self, Input, Reads, content_hash, regular_target};
use ddu::density::{Evaluator, Percentiles};
use ddu::eval::Method;
use ddu::eval::thresholds::Thresholds;
use ddu::model::Model;
use ddu::report::{json, palette};
use ddu::score::{Needs, Score};
use ddu::{Error, Result};

use super::{
    exit, interrupt, methods, note, pipeline, prepare_folder, progress_bar, scoring, warn,
};
use attention::Limits;
use files::{Files, Kind};
use page::{Gallery, Source};
use run::Task;

/// The page of `--page`, in the output folder.
const PAGE: &str = "index.html";

/// Segment images: the class and the softmax entropy (nats) of every pixel
///
/// Writes STEM.label.png (class indices, with a palette) and STEM.entropy.npy (f32 [H, W]) for each
/// image, and with --density STEM.density.npy (f32 [H, W], nats; low = unfamiliar); other scores are
/// named as --score names them. With --method mc-dropout or ensemble the class is that of the mean
/// prediction, and instead of the softmax entropy there are STEM.METHOD-pe.npy (its entropy) and
/// STEM.METHOD-mi.npy (mutual information); a density stays that of MODEL itself. JPEG, PNG, BMP, TIFF and WebP are told by their content; gray is
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
    /// Which prediction gives the class: that of MODEL, the mean of --passes (5) with dropout, or of MODEL and
    /// --members
    #[arg(long, default_value = "softmax", value_parser = scoring::one_of(&METHODS))]
    method: Method,
    #[command(flatten)]
    methods: methods::Args,
    /// Also write pictures: STEM.overlay.png (classes), and of each score, as STEM.entropy.png
    #[arg(long)]
    overlay: bool,
    /// Judge pixels by the thresholds.json of `ddu eval`: also write STEM.mask.png (0 certain, 1 ambiguous,
    /// 2 unfamiliar) and print the images by need of attention
    #[arg(long, value_name = "FILE")]
    thresholds: Option<PathBuf>,
    /// Also write index.html: the 12 images that need attention most, to look into with a browser
    #[arg(long, conflicts_with = "skip_existing")]
    page: bool,
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

static METHODS: [(&str, Method); 3] = [
    ("softmax", Method::Softmax),
    ("mc-dropout", Method::McDropout),
    ("ensemble", Method::Ensemble),
];

/// Threads that write, each with the maps of an image, beside a device.
const MOST_WRITERS: usize = 8;

/// The passes of the paper, where MC Dropout is asked for and their number is not.
const PASSES: u32 = 5;

pub fn run(mut args: Args) -> anyhow::Result<ExitCode> {
    // The score that comes with the class.
    let first = match args.method {
        Method::Softmax => Score::Entropy,
        Method::McDropout => Score::McDropoutPe,
        Method::Ensemble => Score::EnsemblePe,
    };
    if args.method == Method::McDropout {
        args.methods.passes.get_or_insert(PASSES);
    }
    if args.method == Method::Ensemble && args.methods.members.is_empty() {
        let text =
            "--method ensemble needs --members MODEL ...: an ensemble has at least 2 members";
        return Err(ddu::Error::Usage(text.into()).into());
    }
    let device = args.running.device.resolve()?;
    let model = Model::load(&args.model)?;
    let config = model.config().clone();
    let resize = args.running.resize();
    let density = args.scoring.load(&model, args.running.precision)?;
    let default = |score: Score| match score.info().needs {
        Needs::Passes => args.method == Method::McDropout,
        Needs::Members => args.method == Method::Ensemble,
        _ => score == Score::Density,
    };
    let mut scores = args.scoring.scores(density.as_ref(), &args.methods.needs(), default)?;
    if !scores.contains(&first) {
        scores.insert(0, first);
    }
    let thresholds = args.thresholds.as_deref().map(Thresholds::load).transpose()?;
    // What a pixel is judged by, whatever the method.
    if (thresholds.is_some() || args.page) && !scores.contains(&Score::Entropy) {
        scores.insert(0, Score::Entropy);
    }
    if thresholds.as_ref().is_some_and(|t| t.density.is_some()) && !scores.contains(&Score::Density)
    {
        scores.push(Score::Density);
        scores.sort_by_key(|score| *score as usize);
    }
    if let (Some(thresholds), Some(file)) = (&thresholds, &args.thresholds) {
        check_thresholds(thresholds, file, &model, args.scoring.density.as_deref())?;
    }
    let mut engine = device.engine(model, args.running.precision)?;
    if let Some(density) = &density {
        density.check_resize(resize);
    }
    scoring::attach(density.as_ref(), &mut engine, &scores)?;
    if let Some(passes) = args.methods.passes()? {
        engine.sample_dropout(passes)?;
    }
    let mut ensemble = args.methods.ensemble(&engine)?;
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
    let kinds = &Kind::all(args.overlay, args.thresholds.is_some(), &scores);
    if args.dry_run {
        if let Some(report) = super::file(&args.json) {
            super::check_output(&reads(&args, &inputs.images), report, args.force)?;
        }
        return dry_run::run(&args, &mut engine, ensemble.as_mut(), device, &inputs, kinds);
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
    let files = Files {
        folder: &args.output,
        kinds,
        scores: &scores,
        classes: &config.classes,
        palette: &palette::of(&config.classes),
    };
    let judged = thresholds.is_some() || args.page;
    // Of the density's map, where there is one.
    let known =
        density.as_ref().filter(|_| judged && scores.iter().any(|(s, _)| *s == Score::Density));
    let fitted =
        known.map(|loaded| Percentiles::of(&loaded.density.sample, &loaded.ready.gaussians, false));
    let limits = match &thresholds {
        Some(chosen) => Some(Limits {
            entropy: chosen.entropy.map(|t| t.threshold),
            density: chosen.density.map(|t| t.threshold),
        }),
        None => args.page.then(|| Limits {
            entropy: Some((config.classes.len() as f32).ln() / 2.0),
            density: fitted.as_ref().map(|fitted| fitted.at(0.01)),
        }),
    };
    let mut gallery = limits.filter(|_| args.page).map(|limits| {
        let evaluator = known.map(|loaded| Evaluator::new(&loaded.ready.gaussians));
        Gallery::new(&files, limits, fitted.as_ref(), evaluator)
    });
    let task = Task {
        inputs: &inputs.images,
        files,
        method: args.method,
        resize,
        batch: args.running.batch,
        max_pixels: args.running.max_pixels,
        fail_fast: args.fail_fast,
        // With one alone nothing is written behind a failure.
        writers: if args.fail_fast { 1 } else { pipeline::threads(&engine).min(MOST_WRITERS) },
        limits,
        fitted: fitted.as_ref(),
        bar: &bar,
    };
    let mut done = run::run(&task, &mut engine, ensemble.as_mut(), &mut gallery);
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
    let ranking = attention::ranking(&done.written);
    if thresholds.is_some() && !args.quiet && args.json.as_deref() != Some(Path::new("-")) {
        super::print(&attention::table(&ranking))?;
    }
    if let Some(gallery) = gallery {
        let source = match &args.thresholds {
            Some(file) => Source::Chosen(file.display().to_string()),
            None => Source::Default,
        };
        let notes = vec![
            format!("ddu {}: {}", env!("CARGO_PKG_VERSION"), report::command().join(" ")),
            format!("Model {}", engine.model().hash()),
        ];
        gallery.write(&args.output.join(PAGE), source, &ranking, notes)?;
    }
    if let Some(target) = &args.json {
        let model = engine.model();
        let report =
            report::Report::new(&args, model, ensemble.as_mut(), device, limits, done, wall);
        json::write(target, &report)?;
    }
    if interrupted {
        warn("interrupted: the same command with --skip-existing goes on");
        return Ok(interrupt::exit_code());
    }
    fatal.map_or(Ok(ExitCode::from(code)), |error| Err(error.into()))
}

/// Refuses thresholds of another model or density, and those that the command cannot apply.
fn check_thresholds(
    thresholds: &Thresholds,
    file: &Path,
    model: &Model,
    density: Option<&Path>,
) -> Result<()> {
    let source = file.display().to_string();
    let hash = density.map(content_hash::stored).transpose()?;
    thresholds.check(&source, &model.hash(), hash.as_deref())?;
    if thresholds.density.is_some() && density.is_none() {
        return Err(Error::Usage(format!(
            "{source}: has a threshold of the density, which needs --density DENSITY"
        )));
    }
    if thresholds.entropy.is_none() && thresholds.density.is_none() {
        return Err(Error::invalid(source, "a threshold", "none: no target was reached")
            .fix("choose them anew: ddu eval --target"));
    }
    Ok(())
}

/// The files that an image gets.
fn outputs<'a>(args: &Args, image: &'a Input, kinds: &'a [Kind]) -> impl Iterator<Item = PathBuf> {
    kinds.iter().map(|kind| image.output(&args.output, &kind.suffix()))
}

fn refuse_existing(args: &Args, images: &[Input], kinds: &[Kind]) -> Result<()> {
    let outputs = images.iter().flat_map(|image| outputs(args, image, kinds));
    let report = super::file(&args.json).map(Path::to_owned);
    let page = args.page.then(|| args.output.join(PAGE));
    let mut existing =
        outputs.chain(report).chain(page).filter(|path| path.symlink_metadata().is_ok());
    let Some(first) = existing.next() else { return Ok(()) };
    Err(super::exists(&first, existing.count()))
}

fn reads(args: &Args, images: &[Input]) -> Reads {
    let mut reads = Reads::new(images.iter().map(|input| &*input.path));
    reads.extend([&*args.model]);
    reads.extend(args.scoring.density.as_deref());
    reads.extend(args.thresholds.as_deref());
    reads.extend(args.methods.members.iter().map(PathBuf::as_path));
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
    if args.page {
        let page = args.output.join(PAGE);
        reads.refuse(&page)?;
        regular_target(&page)?;
    }
    Ok(())
}
