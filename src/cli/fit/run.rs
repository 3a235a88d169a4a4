//! The pass over the pairs: network, labels, moments; skipping, checkpoints and the closing words.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ddu::data::{ClassMap, FileState, Image, LabelRule, Mask, Pair, VOID};
use ddu::density::{Density, Progress};
use ddu::engine::{Beside, Output};
use ddu::fit::{Annotation, Fit};
use ddu::model::Model;
use ddu::plan::Plan;
use ddu::{Error, Result};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use super::{Args, checkpoint_path, table};
use crate::cli::pipeline::{self, Event, Item, List};
use crate::cli::scoring::Precision;
use crate::cli::{check_folder, exit, interrupt, note, progress_bar, warn};

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let device = args.running.device.resolve()?;
    let precision = args.running.precision;
    if precision == Precision::Fast {
        let why = "a fit evaluates no density: take exact or bf16";
        return Err(Error::Usage(format!("--precision fast: {why}")).into());
    }
    let path = args.model.as_ref().ok_or_else(|| Error::Usage("--model: name a model".into()))?;
    let model = Model::load(path)?;
    let (data, map) = args.labelled.open(&model)?;
    let config = model.config();
    let resize = args.running.resize();
    let mut empty = Density::new(
        model.hash(),
        config.classes.clone(),
        config.feature_channels(),
        LabelRule::of(config.align_corners),
        resize,
    );
    if args.weight.is_some() {
        empty = empty.with_weights();
    }
    let inputs = inputs_hash(&empty, precision, &data.pairs, &map);
    check_folder(args.output.parent().unwrap_or(Path::new("")))?;
    let (density, progress) = super::start(&args, empty, inputs, &data)?;
    let mut engine = device.engine(model, precision)?;
    let classes = density.origin.classes.len();
    let fit = Fit::new(density, &engine)?;
    if !args.quiet {
        note(format_args!("device {device}: {}", device.describe()));
    }

    let start = Instant::now();
    let first = progress.done;
    let pairs = &data.pairs[first..];
    let bar = progress_bar(pairs.len(), args.quiet);
    let pass = RefCell::new(Pass {
        args: &args,
        pairs: &data.pairs,
        files: FileState::of(&data.pairs[..progress.done]),
        not_finite: fit.non_finite(),
        looked: progress.done,
        fit,
        saved: progress.done,
        progress,
        bar: &bar,
        network: Duration::ZERO,
        fitting: Duration::ZERO,
    });
    let max_pixels = args.running.max_pixels;
    let list = List {
        len: pairs.len(),
        batch: args.running.batch,
        size: &|index| pairs[index].size_within(resize, max_pixels),
        read: &|index| {
            read(&pairs[index], resize, max_pixels, &map, args.fail_fast.then_some(classes))
        },
        name: &|index| pairs[index].image.display().to_string(),
    };
    let ended = pipeline::run(&mut engine, &pass, &list, |event| {
        let mut pass = pass.borrow_mut();
        let taken = match event {
            Event::Ran(output, items) => pass.add(first, output, items),
            Event::Failed(index, error) => pass.skip(first + index, error),
        };
        match taken.and_then(|()| pass.checkpoint()) {
            Ok(()) => ControlFlow::Continue(()),
            Err(error) => ControlFlow::Break(error),
        }
    })?;
    bar.finish_and_clear();
    let mut pass = pass.into_inner();
    if ended.is_continue() && interrupt::requested() && pass.progress.done < data.pairs.len() {
        return Ok(pass.interrupted()?);
    }
    match ended {
        ControlFlow::Continue(()) => pass.finish(start.elapsed()),
        ControlFlow::Break(error) => Err(error.into()),
    }
}

/// Hash and mask of an image, in the model's classes.
type Labels = (u64, Mask);

/// Reads a pair; `classes`: refuses labels that are no class of the model.
fn read(
    pair: &Pair,
    resize: Option<usize>,
    max_pixels: u64,
    map: &ClassMap,
    classes: Option<usize>,
) -> Result<(Image, Labels)> {
    let mut read = pair.read_within(resize, max_pixels)?;
    map.apply(&mut read.mask.label);
    let unknown = |label: u8, classes| usize::from(label) >= classes && label != VOID;
    if let Some(classes) = classes
        && let Some(label) = read.mask.label.iter().find(|label| unknown(**label, classes))
    {
        let expected = format!("labels 0 to {} or {VOID}", classes - 1);
        return Err(Error::invalid(pair.mask.display(), expected, label)
            .fix(format!("--class-map {label}=void leaves it out")));
    }
    Ok((read.image, (read.hash, read.mask)))
}

/// Tells whether a checkpoint belongs to this fit: everything that its bits depend on but the
/// files' content.
fn inputs_hash(empty: &Density, precision: Precision, pairs: &[Pair], map: &ClassMap) -> String {
    let mut hasher = Sha256::new();
    hasher.update(&empty.origin.model);
    hasher.update(format!("{:?} {:?}\0", empty.origin.label_rule, empty.origin.resize));
    if empty.weighted.is_some() {
        hasher.update("weighted\0");
    }
    if precision == Precision::Bf16 {
        hasher.update("bf16\0");
    }
    hasher.update(map.table());
    for pair in pairs {
        hasher.update(&pair.name);
        hasher.update("\0");
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

struct Pass<'a> {
    args: &'a Args,
    pairs: &'a [Pair],
    /// Of the pairs that are done.
    files: FileState,
    fit: Fit,
    progress: Progress,
    /// Pixels whose features are not finite, up to pair `looked`: named by then.
    not_finite: u64,
    looked: usize,
    /// Pairs that the last checkpoint has.
    saved: usize,
    bar: &'a ProgressBar,
    /// Spent in the network, and on labels, moments and sample.
    network: Duration,
    fitting: Duration,
}

impl Beside for Pass<'_> {
    fn prepare(&mut self, plan: &Plan) -> Result<()> {
        self.fit.prepare(plan)
    }

    fn release(&mut self) {
        self.fit.release();
    }
}

impl Pass<'_> {
    /// Takes in pairs that ran together; `first`: the place of the run's list in that of the fit.
    fn add(&mut self, first: usize, output: &Output, items: Vec<Item<Labels>>) -> Result<()> {
        let start = Instant::now();
        if !self.fit.counts_later() {
            self.looked = self.progress.done;
        }
        let annotations: Vec<_> = items
            .iter()
            .map(|item| Some(Annotation { hash: item.data.0, mask: &item.data.1 }))
            .collect();
        let new = self.fit.add(output, &annotations)?;
        self.fitting += start.elapsed();
        self.network += output.preprocess + output.network;
        for (item, new) in items.iter().zip(new) {
            let index = first + item.index;
            if new {
                self.done(index);
                continue;
            }
            let image = self.pairs[index].image.display();
            let found = "pixels of an earlier one";
            let error = Error::invalid(image, "an image that is not in the fit yet", found)
                .fix("take one of them from the list");
            self.skip(index, error)?;
        }
        if !self.fit.counts_later() {
            self.name_non_finite();
        }
        Ok(())
    }

    /// Warns of pixels whose features are not finite, and of the pairs they are in: those since the last
    /// look. On the CPU that is one run; a device counts until the next checkpoint.
    fn name_non_finite(&mut self) {
        let (before, now) = (self.not_finite, self.fit.non_finite());
        if now > before {
            let names = &self.pairs[self.looked..self.progress.done];
            let (first, last) = (&names[0].name, &names[names.len() - 1].name);
            let among = if names.len() == 1 { String::new() } else { format!(" to {last}") };
            let count = now - before;
            self.bar.suspend(|| {
                warn(format_args!(
                    "{first}{among}: {count} pixels with features that are not finite: skipped"
                ));
            });
        }
        self.not_finite = now;
        self.looked = self.progress.done;
    }

    /// A pair that cannot be used: fatal with `--fail-fast`.
    fn skip(&mut self, index: usize, error: Error) -> Result<()> {
        if self.args.fail_fast {
            return Err(error);
        }
        let name = &self.pairs[index].name;
        self.bar.suspend(|| warn(format_args!("skipped {name}: {error}")));
        self.progress.skipped.push(format!("{name}: {error}"));
        self.done(index);
        Ok(())
    }

    fn done(&mut self, index: usize) {
        self.progress.done = index + 1;
        self.files.add(&self.pairs[index]);
        self.bar.inc(1);
    }

    /// Writes a checkpoint if N pairs were done since the last. Between runs alone: a fit that goes on
    /// from it forms the same batches as one that was not interrupted.
    fn checkpoint(&mut self) -> Result<()> {
        let (done, every) = (self.progress.done, self.args.checkpoint_every as usize);
        if done / every == self.saved / every || done == self.pairs.len() {
            return Ok(());
        }
        self.save_checkpoint()
    }

    fn save_checkpoint(&mut self) -> Result<()> {
        self.saved = self.progress.done;
        self.progress.files = self.files.hash();
        self.fit.density()?.checkpoint(checkpoint_path(&self.args.output), &self.progress)?;
        self.name_non_finite();
        Ok(())
    }

    /// Keeps what is done, and says how to go on.
    fn interrupted(&mut self) -> Result<ExitCode> {
        let (done, pairs) = (self.progress.done, self.pairs.len());
        if self.saved < done {
            self.save_checkpoint()?;
        }
        let next = match done {
            0 => "no pair is done".to_owned(),
            _ => {
                format!("{done} of {pairs} pairs are done; the same command with --resume goes on")
            }
        };
        warn(format_args!("interrupted: {next}"));
        Ok(interrupt::exit_code())
    }

    fn finish(mut self, wall: Duration) -> anyhow::Result<ExitCode> {
        self.fit.density()?;
        self.name_non_finite();
        let Pass { args, mut fit, progress, network, fitting, .. } = self;
        let density = fit.density()?;
        let (pixels, images) = (&density.origin.pixels, density.origin.images.len());
        if pixels.fitted == 0 {
            let found = format!(
                "none in {images} images ({} skipped, {} void pixels)",
                progress.skipped.len(),
                pixels.void
            );
            return Err(Error::invalid("fit", "pixels of the model's classes", found).into());
        }
        density.save(&args.output)?;
        let checkpoint = checkpoint_path(&args.output);
        match std::fs::remove_file(&checkpoint) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                return Err(Error::io(&checkpoint, "remove", e).into());
            }
            _ => {}
        }
        table::print(density)?;
        for (label, count) in &pixels.unknown {
            warn(format_args!("label {label} is no class of the model: {count} pixels skipped"));
        }
        if pixels.non_finite > 0 {
            warn(format_args!(
                "{} pixels with features that are not finite: skipped",
                pixels.non_finite
            ));
        }
        if !args.quiet {
            let (network, fitting) = (network.as_secs_f64(), fitting.as_secs_f64());
            note(format_args!(
                "wrote {}: {} pixels of {images} images in {:.1} s (network {network:.1} s, moments \
                 {fitting:.1} s){}",
                args.output.display(),
                pixels.fitted,
                wall.as_secs_f64(),
                match progress.skipped.len() {
                    0 => String::new(),
                    n => format!("; {n} pairs skipped"),
                },
            ));
        }
        let clean = progress.skipped.is_empty();
        Ok(ExitCode::from(if clean { 0 } else { exit::SOME_FAILED }))
    }
}
