//! `ddu fit`: a model and labelled images in, a density out; and joining densities of several fits.

mod run;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use ddu::data::{Dataset, FileState, Reads, regular_target};
use ddu::density::{Density, Progress};
use ddu::{Error, Result};

use super::{labelled, note, pipeline};

/// Fit the feature density of a model: one Gaussian per class over the pixels of a labelled data set
///
/// One pass, in memory that does not grow with the number of images. Masks are palette or gray PNGs
/// of class indices, 255 being void; index k is the model's class k. A pair that cannot be used is
/// named and skipped; pixels of classes that the model does not have are counted and skipped. Ends
/// with a table of the classes.
#[derive(clap::Args)]
pub struct Args {
    /// Model written by `ddu convert`
    #[arg(short, long, value_name = "MODEL", required_unless_present = "merge")]
    model: Option<PathBuf>,
    #[command(flatten)]
    labelled: labelled::Args,
    #[command(flatten)]
    running: pipeline::Args,
    /// Join densities of different images instead of fitting
    #[arg(long, value_name = "DENSITY", num_args = 1.., conflicts_with_all = ["model", "data", "images", "class_map", "resize", "resume"])]
    merge: Vec<PathBuf>,
    /// Density file to write
    #[arg(short, long, value_name = "DENSITY")]
    output: PathBuf,
    /// Also store moments weighted by how sure the network is of a pixel's true label, p^32: for
    /// --score weighted-density (on the CPU path)
    #[arg(long, value_name = "BY", conflicts_with = "merge")]
    weight: Option<Weight>,
    /// Continue an interrupted fit from its checkpoint
    #[arg(long)]
    resume: bool,
    /// Write a checkpoint, DENSITY.partial, after every N pairs (of a batch, when it is through)
    #[arg(long, value_name = "N", default_value = "100", value_parser = clap::value_parser!(u32).range(1..))]
    checkpoint_every: u32,
    /// Overwrite an existing density, and drop an unfinished one
    #[arg(long)]
    force: bool,
    /// Stop at the first pair that cannot be used or label that is no class of the model
    #[arg(long)]
    fail_fast: bool,
    /// Print warnings, errors and the table only
    #[arg(short, long)]
    quiet: bool,
}

/// What pixels are weighted by.
#[derive(Clone, Copy, clap::ValueEnum)]
enum Weight {
    Confidence,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    if !args.merge.is_empty() {
        return merge(&args);
    }
    run::run(args)
}

fn merge(args: &Args) -> anyhow::Result<ExitCode> {
    Reads::new(args.merge.iter().map(PathBuf::as_path)).refuse(&args.output)?;
    refuse_existing(&args.output, args.force)?;
    let mut shards = args.merge.iter();
    let first = shards.next().ok_or_else(|| Error::Usage("--merge: name densities".into()))?;
    let mut whole = Density::load(first)?;
    for path in shards {
        whole.merge(&path.display().to_string(), &Density::load(path)?)?;
    }
    whole.save(&args.output)?;
    table::print(&whole)?;
    if !args.quiet {
        let (shards, images) = (args.merge.len(), whole.origin.images.len());
        note(format_args!("wrote {}: {shards} densities, {images} images", args.output.display()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Before any work: the output must be a file that may be written.
fn refuse_existing(output: &Path, force: bool) -> Result<()> {
    if output.is_dir() {
        let message = format!("{}: is a folder; name the density file to write", output.display());
        return Err(Error::Usage(message));
    }
    regular_target(output)?;
    if output.exists() && !force {
        return Err(super::exists(output, 0));
    }
    Ok(())
}

/// `DENSITY.partial`, beside the output.
fn checkpoint_path(output: &Path) -> PathBuf {
    let mut path = output.as_os_str().to_owned();
    path.push(".partial");
    path.into()
}

/// What an earlier run left, or none: an empty density that starts at the first pair.
fn start(
    args: &Args,
    empty: Density,
    inputs: String,
    data: &Dataset,
) -> Result<(Density, Progress)> {
    let (path, pairs) = (checkpoint_path(&args.output), &data.pairs);
    let mut reads = Reads::new(data.files());
    reads.extend(args.model.as_deref());
    reads.refuse(&args.output)?;
    reads.refuse(&path)?;
    let files = FileState::default().hash();
    let progress = Progress { inputs: inputs.clone(), files, done: 0, skipped: Vec::new() };
    let fresh = |empty| (empty, progress);
    if !path.exists() {
        refuse_existing(&args.output, args.force)?;
        if args.resume && !args.quiet {
            note(format_args!("no {}: starting with the first pair", path.display()));
        }
        return Ok(fresh(empty));
    }
    if !args.resume {
        if !args.force {
            return Err(Error::Usage(format!(
                "{}: an unfinished fit is there; continue it with --resume or drop it with --force",
                path.display()
            )));
        }
        // Else a later --resume would go on from it.
        std::fs::remove_file(&path).map_err(|e| Error::io(&path, "remove", e))?;
        return Ok(fresh(empty));
    }
    let (density, progress) = Density::resume(&path)?;
    if progress.inputs != inputs {
        let found =
            "that of another model, list of pairs, --resize, --weight, --class-map or --precision";
        return Err(Error::invalid(path.display(), "the checkpoint of this fit", found)
            .fix("repeat the options it was started with, or drop it with --force"));
    }
    if progress.done > pairs.len() {
        let expected = format!("at most {} pairs done", pairs.len());
        return Err(Error::invalid(path.display(), expected, progress.done));
    }
    if progress.files != FileState::of(&pairs[..progress.done]).hash() {
        let found = "images or masks that changed since";
        return Err(Error::invalid(
            path.display(),
            "the files that this checkpoint took in",
            found,
        )
        .fix("fit anew: drop the checkpoint with --force"));
    }
    if !args.quiet {
        note(format_args!("{}: {} pairs are done", path.display(), progress.done));
    }
    Ok((density, progress))
}
