//! `ddu profile`: what every kernel of a network costs.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;

use ddu::data::{Image, Reads};
use ddu::device::gpus::Gpu;
use ddu::engine::Engine;
use ddu::model::Model;
use ddu::ops::Size;
use ddu::profile::{self, Profile, Row};
use ddu::report::json::{self, Summary};
use ddu::score::Score;
use ddu::{Error, data, host};
use serde::Serialize;

use super::devices;
use super::scoring::{self, Precision};

/// Time, share, TFLOP/s and GB/s of every kernel of a network, with --density of the density's as well
///
/// Runs on a picture of stripes, or on --input: how much the density's early exit skips depends on it.
/// On a GPU whole runs are timed as graph replays, and each kernel warm, in a loop, and with the caches full of other
/// data; what a copy and a matrix product reach there, and the clocks, are measured beside them.
/// On simt the time says nothing of a GPU; the counts of instructions do. With --dry-run nothing runs:
/// tile, splits, blocks and waves of every launch, the time predicted for an H200 and what bounds it. Splits are joined within
/// clusters of blocks, or by a second kernel.
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
    /// How a device holds the covariances: exact in two fp16 terms; fast in one, half the work
    #[arg(long, default_value = "exact", value_parser = scoring::one_of(&Precision::NAMES[..2]))]
    precision: Precision,
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=256))]
    batch: u16,
    /// simt or cuda:N
    #[arg(long, required_unless_present = "dry_run")]
    device: Option<devices::Choice>,
    /// Run nothing: how each kernel is spread, and what is predicted for an H200
    #[arg(long)]
    dry_run: bool,
    /// Whole runs that are timed, and launches of each kernel in its loop; on simt each is run once
    #[arg(long, value_name = "N", default_value = "200", value_parser = clap::value_parser!(u16).range(1..=10000))]
    repeats: u16,
    /// Time (with --dry-run: predict) folding the features into the moments of a fit as well
    #[arg(long)]
    moments: bool,
    /// Time each convolution under every tile and split, and write the table to FILE as CSV (cuda:N alone)
    #[arg(long, value_name = "FILE", conflicts_with = "dry_run")]
    tilings: Option<PathBuf>,
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
    gpu: Option<Gpu>,
    host: json::Host,
    model_sha256: String,
    density: Option<PathBuf>,
    /// None: a picture of stripes.
    input: Option<PathBuf>,
    image_px: Size,
    batch: usize,
    repeats: u16,
    #[serde(flatten)]
    profile: Profile,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let resolved =
        args.device.filter(|_| !args.dry_run).map(|choice| choice.resolve()).transpose()?;
    let gpu = resolved.and_then(devices::Device::gpu);
    if args.tilings.is_some() && gpu.is_none() {
        let why = "the times of no other device say which tiling is good";
        return Err(Error::Usage(format!("--tilings needs --device cuda:N: {why}")).into());
    }
    let device = match resolved {
        None => None,
        Some(device) => Some(device.open().ok_or_else(|| {
            let fix = "take simt or cuda:N (`cargo bench` times the CPU path)";
            Error::Usage(format!("--device cpu has no kernels to profile: {fix}"))
        })??),
    };
    let mut reads = Reads::new([&*args.model]);
    reads.extend(args.input.as_deref());
    reads.extend(args.scoring.density.as_deref());
    let files = args.csv.as_deref().into_iter().chain(args.tilings.as_deref());
    for output in files.chain(super::file(&args.json)) {
        super::check_output(&reads, output, args.force)?;
    }
    let model = Model::load(&args.model)?;
    let model_sha256 = model.hash();
    let batch = usize::from(args.batch);
    let loaded = args.scoring.load(&model, args.precision)?;
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
        None => ("paper".into(), profile::dry_run(model, scoring, batch, size, args.moments)?),
        Some(device) => {
            let name = device.name();
            let mut engine = Engine::on(model, device)?;
            if let Some(profile::ProfiledDensity { density, scores, precision }) = scoring {
                engine.score_with(density, scores, precision)?;
            }
            let settings = profile::Settings {
                repeats: args.repeats.into(),
                moments: args.moments,
                pci_bus_id: gpu.as_ref().map(|gpu| gpu.pci_bus_id.clone()),
            };
            let profile = profile::profile(&mut engine, batch, &picture, &settings)?;
            if let (Some(file), Some(gpu)) = (&args.tilings, &gpu) {
                let timed = profile::tilings(&mut engine, batch, size, settings.repeats)?;
                let lines = timed.iter().map(|one| one.csv_line(&host::cpu_name(), &gpu.name));
                let text = [profile::CSV_HEADER.to_owned()].into_iter().chain(lines);
                let text = text.collect::<Vec<_>>().join("\n") + "\n";
                data::write_atomic(file, |out| out.write_all(text.as_bytes()))?;
            }
            (name, profile)
        }
    };
    if let Some(file) = &args.csv {
        let text = csv(&profile.launches)?;
        data::write_atomic(file, |out| out.write_all(text.as_bytes()))?;
    }
    match &args.json {
        Some(target) => {
            let report = Report {
                schema_version: 2,
                device: name,
                gpu,
                host: json::Host::here(),
                model_sha256,
                density: args.scoring.density,
                input: args.input,
                image_px: size,
                batch,
                repeats: args.repeats,
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
        "{:<28} {:<21} {:>22} {:>6} {:>7} {:>7} {:>8} {:>9}",
        "op", "kernel", "output", "splits", "cluster", "blocks", "GFLOP", "MB"
    )?;
    if !measured {
        writeln!(out, " {:>7} {:>9} {:>8}  bound by", "waves", "H200 us", "% roof")?;
    } else {
        writeln!(
            out,
            " {:>10} {:>6} {:>8} {:>8}{}",
            "ms",
            "share",
            "TFLOP/s",
            "GB/s",
            if profile.run_us.is_some() {
                format!(" {:>10}", "flushed ms")
            } else {
                format!(" {:>9} {:>9} {:>9} {:>9}", "mma", "ldmatrix", "cp.async", "ld/st 128")
            }
        )?;
    }
    let seconds = |row: &Row| row.measured.as_ref().map_or(0.0, |m| m.warm_us.p50 / 1e6);
    let total: f64 = rows.iter().map(seconds).sum();
    for row in rows {
        let (gflop, mb) = (row.flop as f64 / 1e9, row.bytes as f64 / 1e6);
        write!(
            out,
            "{:<28} {:<21} {:>22} {:>6} {:>7} {:>7} {gflop:>8.3} {mb:>9.3}",
            row.op,
            row.kernel,
            shape(row),
            row.splits,
            row.cluster,
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
        let Some(measured) = &row.measured else { continue };
        if let Some(c) = measured.counts {
            let accesses = c.load + c.store;
            write!(out, " {:>9} {:>9} {:>9} {accesses:>9}", c.mma, c.ldmatrix, c.cp_async)?;
        }
        if let Some(flushed) = measured.flushed_us {
            write!(out, " {:>10.3}", flushed.p50 / 1e3)?;
        }
        writeln!(out)?;
    }
    let gflop: f64 = rows.iter().map(|row| row.flop as f64 / 1e9).sum();
    if measured {
        writeln!(out, "total: {} launches, {gflop:.2} GFLOP, {:.3} ms", rows.len(), total * 1e3)?;
    } else {
        let us: f64 = rows.iter().map(|row| row.h200_predicted_us).sum();
        let at_roof = |row: &Row| row.h200_predicted_us * row.h200_predicted_roof_percent / 100.0;
        let roof: f64 = rows.iter().map(at_roof).sum();
        let run = profile.h200_predicted_run_us;
        writeln!(
            out,
            "total: {} launches, {gflop:.2} GFLOP; predicted for an H200: {run:.0} us, {us:.0} us one after another (on paper, not a measurement; its roofs allow {roof:.0} us)",
            rows.len()
        )?;
    }
    if measured {
        let on = input.map_or("a picture of stripes".into(), |path| path.display().to_string());
        writeln!(out, "run on {on}")?;
        match &profile.run_us {
            Some(run) => write_device(&mut out, profile, run)?,
            None => writeln!(out, "times on simt say nothing of a GPU; the counts do")?,
        }
    }
    if let Some(moments) = &profile.moments_us {
        writeln!(out, "the moments of a fit: {}", spread(moments))?;
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

/// "812.3 us, median (811.0 .. 840.1, 90 % below 820.0)"
fn spread(us: &Summary) -> String {
    let Summary { min, p50, p90, max, .. } = us;
    format!("{p50:.1} us, median ({min:.1} .. {max:.1}, 90 % below {p90:.1})")
}

/// What a device that is timed was found to do.
fn write_device(out: &mut String, profile: &Profile, run: &Summary) -> std::fmt::Result {
    writeln!(out, "a whole run, replayed as a graph: {}", spread(run))?;
    writeln!(
        out,
        "the table: one launch among many of the same in one graph, medians; flushed: alone, caches full of other data"
    )?;
    if let Some(c) = &profile.ceilings {
        let (gb, tflop) = (c.copy_bytes_per_s / 1e9, c.gemm_flop_per_s / 1e12);
        let (mib, side) = (c.copied_bytes as f64 / f64::from(1 << 20), c.gemm_side);
        writeln!(
            out,
            "here max_pool of 1 x 1 copies {mib} MiB at {gb:.1} GB/s (read and written),"
        )?;
        writeln!(
            out,
            "and conv2d of 1 x 1 multiplies {side} x {side} x {side} at {tflop:.2} TFLOP/s"
        )?;
    }
    match &profile.clocks {
        Some(c) => writeln!(
            out,
            "clocks during runs: multiprocessors {} of {} MHz, memory {} MHz",
            c.multiprocessors_mhz, c.multiprocessors_limit_mhz, c.memory_mhz
        ),
        None => writeln!(out, "clocks unknown: nvidia-smi did not say"),
    }
}

fn csv(rows: &[Row]) -> Result<String, std::fmt::Error> {
    let mut out = String::from(
        "op,kernel,output,splits,cluster,blocks,waves,flop,bytes,h200_predicted_us,h200_predicted_roof_percent,h200_bound,\
         measured_us,measured_us_min,measured_us_max,flushed_us,mma,ldmatrix,cp_async,shuffle,barrier,load_128,store_128\n",
    );
    for row in rows {
        write!(
            out,
            "{},{},{},{},{},{},{},{},{},{},{},{}",
            row.op,
            row.kernel,
            shape(row),
            row.splits,
            row.cluster,
            row.blocks,
            row.waves,
            row.flop,
            row.bytes,
            row.h200_predicted_us,
            row.h200_predicted_roof_percent,
            row.h200_bound
        )?;
        let measured = row.measured.as_ref();
        match measured.map(|measured| measured.warm_us) {
            Some(Summary { p50, min, max, .. }) => write!(out, ",{p50},{min},{max}")?,
            None => write!(out, ",,,")?,
        }
        match measured.and_then(|measured| measured.flushed_us) {
            Some(flushed) => write!(out, ",{}", flushed.p50)?,
            None => write!(out, ",")?,
        }
        match measured.and_then(|measured| measured.counts) {
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
