//! `ddu demo`: everything on scenes that the program draws itself.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use ddu::demo::{self, Extent, Summary, scenes};
use indicatif::{ProgressBar, ProgressStyle};

/// Show both uncertainties on street scenes that ddu draws itself; nothing is downloaded
///
/// Fits the density of a small network that ships with ddu to scenes it was trained on, runs it on
/// scenes it has never seen, in which objects of unknown classes stand, and writes pictures,
/// summary.json and index.html. On one machine, one version writes the same files every time.
#[derive(clap::Args)]
pub struct Args {
    /// Folder for the results
    #[arg(short, long, value_name = "DIR", default_value = "out/demo")]
    output: PathBuf,

    /// Only draw scenes, and write them to DIR as a dataset in VOC layout, for training/
    #[arg(long, value_name = "DIR", conflicts_with = "output")]
    scenes: Option<PathBuf>,

    /// Training scenes to draw; a tenth as many each for validation and test (with unknown objects)
    #[arg(long, value_name = "N", default_value_t = 1000, requires = "scenes")]
    count: usize,

    /// Seed of the first training scene
    #[arg(long, value_name = "S", default_value_t = 0, requires = "scenes")]
    seed: u64,

    /// Overwrite what is in DIR
    #[arg(long)]
    force: bool,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let folder = args.scenes.as_ref().unwrap_or(&args.output);
    let filled = std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some());
    if filled && !args.force {
        return Err(super::exists(folder, 0).into());
    }
    if let Some(folder) = args.scenes {
        scenes::dump(&folder, args.count, args.seed)?;
        let (count, tenth) = (args.count, args.count.div_ceil(10));
        super::note(format_args!(
            "drew {count} training scenes, {tenth} for validation and {tenth} for test in {}",
            folder.display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let start = Instant::now();
    let bar = if std::io::stderr().is_terminal() {
        let style = ProgressStyle::with_template("{bar:40} {pos}/{len} scenes")?;
        ProgressBar::new(0).with_style(style)
    } else {
        ProgressBar::hidden()
    };
    let summary = demo::run(Extent::default(), &args.output, &|done, of| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        Ok(())
    })?;
    bar.finish_and_clear();
    let (page, seconds) = (args.output.join("index.html"), start.elapsed().as_secs_f64());
    super::print(&format!("{}\n{seconds:.1} s; see {}\n", table(&summary), page.display()))?;
    Ok(ExitCode::SUCCESS)
}

fn table(s: &Summary) -> String {
    let mut lines = vec![format!(
        "{} unseen scenes; density fitted to {} pixels of {} training scenes",
        s.test_scenes, s.fit_pixels, s.fit_scenes
    )];
    lines.push(format!(
        "known classes: pixel accuracy {}, mIoU {}\n",
        number(s.pixel_accuracy, 4),
        number(s.mean_iou, 4)
    ));
    lines.push(format!(
        "{:22}{:>9}{:>10}{:>14}{:>21}",
        "", "pixels", "accuracy", "mean entropy", "median log-density"
    ));
    for zone in &s.zones {
        lines.push(format!(
            "{:22}{:>9}{:>10}{:>14}{:>21}",
            zone.name,
            zone.pixels,
            number(zone.accuracy, 4),
            number(zone.entropy_mean, 3),
            number(zone.log_density_median.map(f64::from), 1)
        ));
    }
    lines.push(format!("\n{:40}{:>8}{:>8}{:>8}", "", "AUROC", "AP", "FPR95"));
    for (what, found) in [("errors", &s.errors), ("unknown objects", &s.unknown)] {
        for (by, d) in found.rows() {
            let title = format!("{what} by {by}");
            lines.push(format!(
                "{title:40}{:>8}{:>8}{:>8}",
                number(Some(d.auroc), 3),
                number(Some(d.average_precision), 3),
                number(Some(d.fpr95), 3)
            ));
        }
    }
    lines.push(format!(
        "\n{:22}{:>9}{:>10}{:>10}{:>12}",
        "AUROC of", "pixels", "entropy", "density", "relative"
    ));
    for o in &s.strangers {
        lines.push(format!(
            "{:22}{:>9}{:>10}{:>10}{:>12}",
            o.name,
            o.pixels,
            number(o.entropy_auroc, 3),
            number(o.density_auroc, 3),
            number(o.relative_density_auroc, 3)
        ));
    }
    lines.push(String::new());
    lines.extend(s.findings.iter().map(|finding| format!("* {finding}")));
    lines.join("\n") + "\n"
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or("-".into(), |v| format!("{v:.decimals$}"))
}
