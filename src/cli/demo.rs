//! `ddu demo`: everything on scenes that the program draws itself.

use std::path::PathBuf;
use std::process::ExitCode;

/// Draw street scenes and write them as a dataset for `training/`
#[derive(clap::Args)]
pub struct Args {
    /// Write a dataset of scenes in VOC layout to this folder
    #[arg(long, value_name = "DIR")]
    scenes: PathBuf,

    /// Training scenes to draw; a tenth as many are drawn for validation and for test
    #[arg(long, default_value_t = 1500, requires = "scenes")]
    count: usize,

    /// Seed of the first scene
    #[arg(long, default_value_t = 0, requires = "scenes")]
    seed: u64,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    ddu::demo::scenes::dump(&args.scenes, args.count, args.seed)?;
    Ok(ExitCode::SUCCESS)
}
