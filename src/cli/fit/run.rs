//! The pass over the pairs: network, labels, moments; skipping, checkpoints and the closing words.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ddu::data::{ClassMap, Dataset, FileState, LabelRule, Pair};
use ddu::density::{Density, Progress, VOID};
use ddu::fit::Fit;
use ddu::model::Model;
use ddu::{Error, Result};
use indicatif::ProgressBar;
use sha2::{Digest, Sha256};

use super::{Args, checkpoint_path, table};
use crate::cli::labelled::{self, Computed};
use crate::cli::{exit, note, progress_bar, warn};

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let device = args.device.resolve()?;
    let path = args.model.as_ref().ok_or_else(|| Error::Usage("--model: name a model".into()))?;
    let model = Model::load(path)?;
    let data = dataset(&args)?;
    let config = model.config();
    let names = config.has_class_names().then_some(config.classes.as_slice());
    let map = ClassMap::new(data.classes.as_deref(), names, config.classes.len(), &args.class_map)?;
    let resize = args.resize.map(|short| short as usize);
    let empty = Density::new(
        model.hash(),
        config.classes.clone(),
        config.feature_channels(),
        LabelRule::of(config.align_corners),
        resize,
    );
    let inputs = inputs_hash(&empty, &data.pairs, &map);
    let (density, progress) = super::start(&args, empty, inputs, &data)?;
    let mut engine = device.engine(model)?;
    let classes = density.origin.classes.len();
    let fit = Fit::new(density, &engine)?;
    if !args.quiet {
        note(format_args!("device {device}: {}", device.describe()));
    }

    let start = Instant::now();
    let first = progress.done;
    let pairs = &data.pairs[first..];
    let bar = progress_bar(pairs.len(), args.quiet);
    let mut pass = Pass {
        args: &args,
        pairs: &data.pairs,
        files: FileState::of(&data.pairs[..progress.done]),
        map,
        classes,
        fit,
        progress,
        bar: &bar,
        network: Duration::ZERO,
        fitting: Duration::ZERO,
    };
    let job = labelled::Job { pairs, resize, batch: usize::from(args.batch) };
    let ended = labelled::run(&job, &mut engine, |index, pair| pass.take(first + index, pair));
    bar.finish_and_clear();
    ended?;
    pass.finish(start.elapsed())
}

fn dataset(args: &Args) -> Result<Dataset> {
    match (&args.data, &args.split, &args.images, &args.masks) {
        (Some(root), Some(split), _, _) => Dataset::voc(root, split),
        (_, _, Some(images), Some(masks)) => Dataset::folders(images, masks),
        _ => Err(Error::Usage("name --data and --split, or --images and --masks".into())),
    }
}

/// Tells whether a checkpoint belongs to this fit: everything that its bits depend on but the
/// files' content.
fn inputs_hash(empty: &Density, pairs: &[Pair], map: &ClassMap) -> String {
    let mut hasher = Sha256::new();
    hasher.update(&empty.origin.model);
    hasher.update(format!("{:?} {:?}\0", empty.origin.label_rule, empty.origin.resize));
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
    map: ClassMap,
    /// C
    classes: usize,
    fit: Fit,
    progress: Progress,
    bar: &'a ProgressBar,
    /// Spent in the network, and on labels, moments and sample.
    network: Duration,
    fitting: Duration,
}

impl Pass<'_> {
    /// Takes the next pair of the list, or skips it.
    fn take(&mut self, index: usize, pair: Result<Computed>) -> Result<()> {
        let name = &self.pairs[index].name;
        let run = pair.as_ref().ok().map(|computed| (computed.output, computed.at, computed.batch));
        let added = pair.and_then(|computed| self.add(index, computed));
        if let Err(error) = added {
            if self.args.fail_fast {
                return Err(error);
            }
            self.bar.suspend(|| warn(format_args!("skipped {name}: {error}")));
            self.progress.skipped.push(format!("{name}: {error}"));
        }
        self.progress.done = index + 1;
        self.files.add(&self.pairs[index]);
        let every = self.args.checkpoint_every as usize;
        let due = self.progress.done.is_multiple_of(every) && self.progress.done < self.pairs.len();
        // The next run overwrites the features of this one.
        if let Some((output, at, batch)) = run
            && (due || at + 1 == batch)
        {
            let start = Instant::now();
            self.fit.fold(output)?;
            self.fitting += start.elapsed();
        }
        if due {
            self.progress.files = self.files.hash();
            self.fit.density()?.checkpoint(checkpoint_path(&self.args.output), &self.progress)?;
        }
        self.bar.inc(1);
        Ok(())
    }

    fn add(&mut self, index: usize, computed: Computed) -> Result<()> {
        let Computed { mut labelled, output, at, batch } = computed;
        let start = Instant::now();
        self.map.apply(&mut labelled.mask.label);
        if self.args.fail_fast {
            self.refuse_unknown(index, &labelled.mask.label)?;
        }
        let new = self.fit.add(output, at, labelled.hash, labelled.mask)?;
        self.fitting += start.elapsed();
        self.network += (output.preprocess + output.network) / batch as u32;
        if !new {
            let image = self.pairs[index].image.display();
            return Err(Error::invalid(image, "an image of its own", "pixels of an earlier one")
                .fix("take one of them from the list"));
        }
        Ok(())
    }

    fn refuse_unknown(&self, index: usize, label: &[u8]) -> Result<()> {
        match label.iter().find(|l| usize::from(**l) >= self.classes && **l != VOID) {
            None => Ok(()),
            Some(label) => {
                let mask = self.pairs[index].mask.display();
                let expected = format!("labels 0 to {} or 255", self.classes - 1);
                Err(Error::invalid(mask, expected, label)
                    .fix(format!("--class-map {label}=void leaves it out")))
            }
        }
    }

    fn finish(self, wall: Duration) -> anyhow::Result<ExitCode> {
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
        if checkpoint.exists() {
            std::fs::remove_file(&checkpoint).map_err(|e| Error::io(&checkpoint, "remove", e))?;
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
