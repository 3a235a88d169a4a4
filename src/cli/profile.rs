//! `ddu profile`: what every kernel of a network costs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use ddu::data::{Image, Reads};
use ddu::engine::Engine;
use ddu::model::Model;
use ddu::ops::Size;
use ddu::profile::{self, Profile, Row};
use ddu::report::json;
use ddu::score::Score;
use ddu::{Error, data};
use serde::Serialize;

use super::{devices, scoring};

/// Time, share, TFLOP/s and GB/s of every kernel of a network, with --density of the density's as well
///
/// Runs on a picture of stripes, or on --input: how much the density's early exit skips depends on it.
/// On simt the time says nothing of a GPU; the counts of instructions do. With --dry-run nothing runs:
/// tile, splits, blocks and waves of every launch, the time predicted for an H200 and what bounds it.
#[derive(clap::Args)]
pub struct Args {
    /// Model written by `ddu convert`
    #[arg(short, long, value_name = "MODEL")]
    model: PathBuf,
    /// Size of the images, height first
    #[arg(long, value_name = "HxW", default_value = "513x513", conflicts_with = "input")]
    size: ImageSize,
    /// Image to run on, of its own size
    #[arg(long, value_name = "IMAGE")]
    input: Option<PathBuf>,
    #[command(flatten)]
    scoring: scoring::Args,
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: u16,
    /// simt or cuda:N
    #[arg(long, required_unless_present = "dry_run")]
    device: Option<devices::Choice>,
    /// Run nothing: how each kernel is spread, and what is predicted for an H200
    #[arg(long)]
    dry_run: bool,
    /// Write the table to FILE as CSV
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,
    /// Write the table to FILE, or to stdout for -
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Overwrite an existing FILE
    #[arg(long)]
    force: bool,
}

#[derive(Clone, Copy)]
struct ImageSize(Size);

impl FromStr for ImageSize {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |n: &str| n.parse().ok().filter(|n| (1..=65535).contains(n));
        let (h, w) = text.split_once('x').ok_or("expected HEIGHTxWIDTH, like 513x513")?;
        match (side(h), side(w)) {
            (Some(h), Some(w)) => Ok(ImageSize(Size::new(h, w))),
            _ => Err("expected sides of 1 to 65535 pixels".into()),
        }
    }
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    device: String,
    host: json::Host,
    model_sha256: String,
    density: Option<PathBuf>,
    /// None: a picture of stripes.
    input: Option<PathBuf>,
    image_px: Size,
    batch: usize,
    #[serde(flatten)]
    profile: Profile,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let device = match args.device.filter(|_| !args.dry_run) {
        None => None,
        Some(choice) => Some(choice.resolve()?.open().ok_or_else(|| {
            let fix = "take simt or cuda:N (`cargo bench` times the CPU path)";
            Error::Usage(format!("--device cpu has no kernels to profile: {fix}"))
        })??),
    };
    let mut reads = Reads::new([&*args.model]);
    reads.extend(args.input.as_deref());
    reads.extend(args.scoring.density.as_deref());
    for output in args.csv.as_deref().into_iter().chain(super::file(&args.json)) {
        super::check_output(&reads, output, args.force)?;
    }
    let model = Model::load(&args.model)?;
    let model_sha256 = model.hash();
    let batch = usize::from(args.batch);
    let loaded = args.scoring.load(&model)?;
    let scores = args.scoring.scores(loaded.as_ref(), &[], |score| score == Score::Density)?;
    let picture = match &args.input {
        Some(path) => data::decode(path, true)?,
        None => stripes(args.size.0),
    };
    let size = picture.size;
    let scoring = loaded.as_ref().map(|loaded| profile::ProfiledDensity {
        density: &loaded.ready,
        scores: &scores,
        precision: loaded.precision,
    });
    let (name, profile) = match device {
        None => ("paper".into(), profile::dry_run(model, scoring, batch, size)?),
        Some(device) => {
            let name = device.name();
            let mut engine = Engine::on(model, device)?;
            if let Some(profile::ProfiledDensity { density, scores, precision }) = scoring {
                engine.score_with(density, scores, precision)?;
            }
            (name, profile::profile(&mut engine, batch, &picture)?)
        }
    };
    if let Some(file) = &args.csv {
        let text = csv(&profile.launches)?;
        data::write_atomic(file, |out| out.write_all(text.as_bytes()))?;
    }
    match &args.json {
        Some(target) => {
            let report = Report {
                schema_version: 1,
                device: name,
                host: json::Host::here(),
                model_sha256,
                density: args.scoring.density,
                input: args.input,
                image_px: size,
                batch,
                profile,
            };
            json::write(target, &report)?;
        }
        None => super::print(&text(&profile, !args.dry_run, args.input.as_deref())?)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn stripes(size: Size) -> Image {
    Image { size, rgb: (0..size.pixels() * 3).map(|i| (i * 7 % 256) as u8).collect() }
}

fn shape(row: &Row) -> String {
    let [n, h, w, c] = row.shape;
    format!("{n} x {h} x {w} x {c}")
}

fn text(
    profile: &Profile,
    measured: bool,
    input: Option<&Path>,
) -> Result<String, std::fmt::Error> {
    let rows = &profile.launches;
    let mut out = String::new();
    write!(
        out,
        "{:<28} {:<20} {:>22} {:>6} {:>7} {:>8} {:>9}",
        "op", "kernel", "output", "splits", "blocks", "GFLOP", "MB"
    )?;
    if !measured {
        writeln!(out, " {:>7} {:>9} {:>8}  bound by", "waves", "H200 us", "% roof")?;
    } else {
        writeln!(
            out,
            " {:>10} {:>6} {:>8} {:>8} {:>9} {:>9} {:>9} {:>9}",
            "ms", "share", "TFLOP/s", "GB/s", "mma", "ldmatrix", "cp.async", "ld/st 128"
        )?;
    }
    let seconds = |row: &Row| row.measured.as_ref().map_or(0.0, |cost| cost.time.as_secs_f64());
    let total: f64 = rows.iter().map(seconds).sum();
    for row in rows {
        let (gflop, mb) = (row.flop as f64 / 1e9, row.bytes as f64 / 1e6);
        write!(
            out,
            "{:<28} {:<20} {:>22} {:>6} {:>7} {gflop:>8.3} {mb:>9.3}",
            row.op,
            row.kernel,
            shape(row),
            row.splits,
            row.blocks
        )?;
        if !measured {
            let (us, roof) = (row.h200_predicted_us, row.h200_predicted_roof_percent);
            writeln!(out, " {:>7.2} {us:>9.2} {roof:>8.1}  {}", row.waves, row.h200_bound)?;
            continue;
        }
        let time = seconds(row);
        write!(
            out,
            " {:>10.3} {:>5.1}% {:>8.4} {:>8.3}",
            time * 1e3,
            100.0 * time / total,
            gflop / 1e3 / time,
            mb / 1e3 / time
        )?;
        match row.measured.as_ref().and_then(|cost| cost.counts) {
            Some(c) => writeln!(
                out,
                " {:>9} {:>9} {:>9} {:>9}",
                c.mma,
                c.ldmatrix,
                c.cp_async,
                c.load + c.store
            )?,
            None => writeln!(out)?,
        }
    }
    let gflop: f64 = rows.iter().map(|row| row.flop as f64 / 1e9).sum();
    if measured {
        writeln!(out, "total: {} launches, {gflop:.2} GFLOP, {:.3} ms", rows.len(), total * 1e3)?;
    } else {
        let us: f64 = rows.iter().map(|row| row.h200_predicted_us).sum();
        let at_roof = |row: &Row| row.h200_predicted_us * row.h200_predicted_roof_percent / 100.0;
        let roof: f64 = rows.iter().map(at_roof).sum();
        writeln!(
            out,
            "total: {} launches, {gflop:.2} GFLOP; predicted for an H200: {us:.0} us (on paper, not a measurement; its roofs allow {roof:.0} us)",
            rows.len()
        )?;
    }
    if measured {
        let on = input.map_or("a picture of stripes".into(), |path| path.display().to_string());
        writeln!(out, "run on {on}")?;
    }
    if let Some(skipped) = profile.early_exit_skipped {
        let percent = 100.0 * skipped;
        writeln!(
            out,
            "early exit skipped {percent:.1} % of the density's blocks of W (its GFLOP above are all of them)"
        )?;
    }
    Ok(out)
}

fn csv(rows: &[Row]) -> Result<String, std::fmt::Error> {
    let mut out = String::from(
        "op,kernel,output,splits,blocks,waves,flop,bytes,h200_predicted_us,h200_predicted_roof_percent,h200_bound,\
         measured_us,mma,ldmatrix,cp_async,shuffle,barrier,load_128,store_128\n",
    );
    for row in rows {
        write!(
            out,
            "{},{},{},{},{},{},{},{},{},{},{}",
            row.op,
            row.kernel,
            shape(row),
            row.splits,
            row.blocks,
            row.waves,
            row.flop,
            row.bytes,
            row.h200_predicted_us,
            row.h200_predicted_roof_percent,
            row.h200_bound
        )?;
        let cost = row.measured.as_ref();
        match cost {
            Some(cost) => write!(out, ",{}", cost.time.as_secs_f64() * 1e6)?,
            None => write!(out, ",")?,
        }
        match cost.and_then(|cost| cost.counts) {
            Some(c) => writeln!(
                out,
                ",{},{},{},{},{},{},{}",
                c.mma, c.ldmatrix, c.cp_async, c.shuffle, c.barrier, c.load, c.store
            )?,
            None => writeln!(out, ",,,,,,,")?,
        }
    }
    Ok(out)
}
