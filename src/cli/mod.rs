//! The command line: one file per subcommand, each with its `Args` and `run`. This one parses,
//! dispatches and turns an error into one line on stderr and an exit code.

mod batch;
mod compare;
mod completions;
mod convert;
#[cfg(feature = "demo")]
mod demo;
mod devices;
mod doctor;
mod eval;
mod fit;
mod infer;
mod interrupt;
mod labelled;
mod layers;
mod methods;
mod pipeline;
mod profile;
mod scoring;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use ddu::data::{Reads, regular_target};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

/// Semantic segmentation with an uncertainty per pixel: class, softmax entropy and feature density
/// in one forward pass of a DeepLab.
#[derive(Parser)]
#[command(name = "ddu", version, propagate_version = true, after_help = EXIT_CODES)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Convert(convert::Args),
    Infer(infer::Args),
    Fit(fit::Args),
    Eval(eval::Args),
    Devices(devices::Args),
    Doctor(doctor::Args),
    #[cfg(feature = "demo")]
    Demo(demo::Args),
    Compare(compare::Args),
    Profile(profile::Args),
    Completions(completions::Args),
}

const EXIT_CODES: &str = "Exit codes: 0 ok; 1 fatal; 2 usage (also: an output \
                          exists and --force was not given); 3 some inputs failed; \
                          4 out of tolerance; \
                          130 and 143 interrupted.";

/// Exit codes of every subcommand.
#[allow(dead_code)]
pub mod exit {
    pub const FATAL: u8 = 1;
    pub const USAGE: u8 = 2;
    pub const SOME_FAILED: u8 = 3;
    pub const OUT_OF_TOLERANCE: u8 = 4;
}

pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let started = interrupt::install();
    let started = started.and_then(|()| Ok(ddu::host::start_threads()?));
    let result = started.and_then(|()| match cli.command {
        Command::Convert(args) => convert::run(args),
        Command::Infer(args) => infer::run(args),
        Command::Fit(args) => fit::run(args),
        Command::Eval(args) => eval::run(args),
        Command::Devices(args) => devices::run(args),
        Command::Doctor(args) => doctor::run(args),
        #[cfg(feature = "demo")]
        Command::Demo(args) => demo::run(args),
        Command::Compare(args) => compare::run(args),
        Command::Profile(args) => profile::run(args),
        Command::Completions(args) => completions::run(args),
    });
    result.unwrap_or_else(|error| {
        // Ours say their cause themselves; others leave it to the chain.
        let line = match error.downcast_ref::<ddu::Error>() {
            Some(error) => error.to_string(),
            None => format!("{error:#}"),
        };
        let _ = writeln!(std::io::stderr(), "error: {}", ddu::error::line(line));
        ExitCode::from(exit_code(&error))
    })
}

fn exit_code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(ddu::Error::Usage(_)) => exit::USAGE,
        _ => exit::FATAL,
    }
}

/// A report: as JSON on stdout where that is asked for, else its text.
fn print_report<R: serde::Serialize>(
    report: &R,
    as_json: bool,
    text: fn(&R) -> Result<String, std::fmt::Error>,
) -> anyhow::Result<ExitCode> {
    if as_json {
        ddu::report::json::write("-".as_ref(), report)?;
    } else {
        print(&text(report)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Makes a folder, and checks that files can be written there, before any work is done.
fn prepare_folder(folder: &Path) -> ddu::Result<()> {
    let named = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    std::fs::create_dir_all(named).map_err(|e| ddu::Error::io(named, "create", e))?;
    check_folder(folder)
}

/// Checks that files can be written to a folder.
fn check_folder(folder: &Path) -> ddu::Result<()> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    // Its own message would name a temporary file.
    let fail = |e: std::io::Error| ddu::Error::io(folder, "write to", e.kind().into());
    tempfile::tempfile_in(folder).map(drop).map_err(fail)
}

/// The file of `--json FILE|-`; None for stdout.
fn file(target: &Option<PathBuf>) -> Option<&Path> {
    target.as_deref().filter(|target| target.as_os_str() != "-")
}

/// Before any work, of a file that a command will write: never one that it reads, never a device or the
/// like, and one that is there needs `--force`.
fn check_output(reads: &Reads, output: &Path, force: bool) -> ddu::Result<()> {
    reads.refuse(output)?;
    regular_target(output)?;
    if output.exists() && !force { Err(exists(output, 0)) } else { Ok(()) }
}

/// An output that is there already and may not be overwritten, and `more` of them.
fn exists(path: &Path, more: usize) -> ddu::Error {
    let path = path.display();
    let also = if more == 0 { String::new() } else { format!(" (and {more} more)") };
    ddu::Error::Usage(format!(
        "{path}: exists already{also}; give another output, or --force to overwrite"
    ))
}

/// Text on stdout. That nobody reads it (`ddu ... | head`) is no error: the exit code is that of the work.
/// Not `println!`, which panics then.
fn print(text: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

/// A line on stderr that `--quiet` does not silence.
fn warn(message: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "warning: {}", ddu::error::line(message));
}

/// A line on stderr for people.
fn note(message: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "{}", ddu::error::line(message));
}

/// A bar on stderr where that is a terminal.
fn progress_bar(images: usize, quiet: bool) -> ProgressBar {
    let shown = !quiet && std::io::stderr().is_terminal();
    let target = if shown { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} images{pace}, {eta} left")
        .expect("the template is valid")
        .with_key("pace", |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // Broken: the terminal, which the bar cannot mend.
            let _ = out.write_str(&pace(state.per_sec()));
        });
    ProgressBar::with_draw_target(Some(images as u64), target).with_style(style)
}

/// The pace of a run, after a comma; nothing before its first image.
fn pace(images_per_s: f64) -> String {
    match images_per_s {
        rate if rate >= 10.0 => format!(", {rate:.0} images/s"),
        rate if rate >= 1.0 => format!(", {rate:.1} images/s"),
        rate if rate > 0.0 => format!(", {:.1} s/image", 1.0 / rate),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        super::Cli::command().debug_assert();
    }

    #[test]
    fn a_pace_has_the_decimals_that_say_something() {
        let paces = [0.0, 0.0801, 0.999, 1.0, 2.3451, 12.3451, 1234.5].map(super::pace);
        let expected =
            ["", "12.5 s/image", "1.0 s/image", "1.0 images/s", "2.3 images/s", "12 images/s"];
        assert_eq!(paces[0], expected[0]);
        for (pace, expected) in paces[1..6].iter().zip(&expected[1..]) {
            assert_eq!(pace, &format!(", {expected}"));
        }
        assert_eq!(paces[6], ", 1234 images/s");
    }
}
