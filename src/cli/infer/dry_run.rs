//! `ddu infer --dry-run`: which files would be read and written, and what each size costs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::ExitCode;

use ddu::baseline::Ensemble;
use ddu::data::Inputs;
use ddu::engine::Engine;
use ddu::ops::Size;
use ddu::report::json;
use serde::Serialize;

use super::files::Kind;
use super::report::{Failed, MethodsReport, ModelReport, command};
use super::run::map_size;
use super::{Args, exit, warn};
use crate::cli::devices::Device;

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    ddu_version: &'static str,
    command: Vec<String>,
    dry_run: bool,
    device: String,
    model: ModelReport,
    #[serde(flatten)]
    methods: MethodsReport,
    images: Vec<Planned>,
    failed: Vec<Failed>,
    left_out: Vec<String>,
    sizes: Vec<Cost>,
}

#[derive(Serialize)]
struct Planned {
    path: String,
    outputs: Vec<String>,
    map_px: Size,
}

/// What one size of images costs.
#[derive(Serialize)]
struct Cost {
    images: usize,
    map_px: Size,
    batch: usize,
    padded_px: Size,
    feature_grid: Size,
    ops: usize,
    /// Of a batch, with the passes and the members; a multiply-add counts as two.
    gflop: f64,
    /// Of a batch, the members' included.
    arena_bytes: u64,
    /// Why it cannot run.
    problem: Option<String>,
}

pub fn run(
    args: &Args,
    engine: &mut Engine,
    mut ensemble: Option<&mut Ensemble>,
    device: Device,
    inputs: &Inputs,
    kinds: &[Kind],
) -> anyhow::Result<ExitCode> {
    let mut failed: Vec<Failed> =
        inputs.failed.iter().map(|(path, error)| Failed::new(path, error)).collect();
    let mut images = Vec::with_capacity(inputs.images.len());
    let mut counts: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for input in &inputs.images {
        match map_size(&input.path, args.running.resize(), args.running.max_pixels) {
            Ok(size) => {
                *counts.entry((size.h, size.w)).or_default() += 1;
                let output = |k: &Kind| input.output(&args.output, &k.suffix());
                images.push(Planned {
                    path: input.path.display().to_string(),
                    outputs: kinds.iter().map(|k| output(k).display().to_string()).collect(),
                    map_px: size,
                });
            }
            Err(error) => {
                warn(format_args!("would skip: {error}"));
                failed.push(Failed::new(&input.path, &error));
            }
        }
    }
    let mut sizes = Vec::with_capacity(counts.len());
    for ((h, w), count) in counts {
        let size = Size::new(h, w);
        let batch = args.running.batch.of(engine, &mut ensemble, size, count).min(count);
        let members = ensemble.as_mut().map(|ensemble| ensemble.members()).unwrap_or_default();
        sizes.push(cost(engine, members, size, count, batch)?);
    }
    let report = Report {
        schema_version: 1,
        ddu_version: env!("CARGO_PKG_VERSION"),
        command: command(),
        dry_run: true,
        device: device.to_string(),
        model: ModelReport::new(&args.model, engine.model()),
        methods: MethodsReport::new(args, ensemble),
        images,
        failed,
        left_out: inputs.left_out.iter().map(|path| path.display().to_string()).collect(),
        sizes,
    };
    match &args.json {
        Some(target) => json::write(target, &report)?,
        None => crate::cli::print(&text(&report, device)?)?,
    }
    let refused = report.sizes.iter().any(|size| size.problem.is_some());
    let code = if refused || !report.failed.is_empty() { exit::SOME_FAILED } else { 0 };
    Ok(ExitCode::from(code))
}

fn cost(
    engine: &mut Engine,
    members: &mut [Engine],
    size: Size,
    images: usize,
    batch: usize,
) -> ddu::Result<Cost> {
    let plan = engine.plan(batch, size)?;
    let passes = engine.passes() as u64 * plan.pass_flops();
    let mut cost = Cost {
        images,
        map_px: size,
        batch,
        padded_px: plan.padded,
        feature_grid: plan.grid(),
        ops: plan.nodes.len(),
        gflop: (plan.flops() + passes) as f64 / 1e9,
        arena_bytes: plan.arena_bytes(plan.element_bytes()),
        problem: problem(engine.check_memory(&plan, engine.available_memory())),
    };
    let count = members.len() + 1;
    for member in members {
        let plan = member.plan(batch, size)?;
        // Every network keeps its arena.
        let left = member.available_memory().map(|all| all.saturating_sub(cost.arena_bytes));
        cost.gflop += plan.flops() as f64 / 1e9;
        cost.arena_bytes += plan.arena_bytes(plan.element_bytes());
        cost.problem =
            cost.problem.or_else(|| problem(member.check_member_memory(&plan, count, left)));
    }
    Ok(cost)
}

fn problem(checked: ddu::Result<()>) -> Option<String> {
    checked.err().map(|error| error.to_string())
}

fn text(report: &Report, device: Device) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(out, "device {device}: {}", device.describe())?;
    match report.sizes.is_empty() {
        true => writeln!(out, "no maps would be written")?,
        false => out += &table(&report.sizes)?,
    }
    for image in &report.images {
        writeln!(out, "{} -> {}", image.path, image.outputs.join(", "))?;
    }
    for failed in &report.failed {
        writeln!(out, "{}: would be skipped", failed.path)?;
    }
    Ok(out)
}

/// A line per size of images, between empty lines.
fn table(sizes: &[Cost]) -> Result<String, std::fmt::Error> {
    let mut out = String::from("\n");
    let header = ["images", "size", "batch", "padded", "grid", "ops", "GFLOP", "arena MiB"];
    let rows = sizes.iter().map(|size| {
        [
            size.images.to_string(),
            size.map_px.to_string(),
            size.batch.to_string(),
            size.padded_px.to_string(),
            size.feature_grid.to_string(),
            size.ops.to_string(),
            format!("{:.1}", size.gflop),
            format!("{:.1}", size.arena_bytes as f64 / f64::from(1 << 20)),
        ]
    });
    let rows: Vec<[String; 8]> = std::iter::once(header.map(String::from)).chain(rows).collect();
    let widths: Vec<usize> =
        (0..8).map(|i| rows.iter().map(|row| row[i].len()).max().unwrap_or(0)).collect();
    for (i, row) in rows.iter().enumerate() {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        writeln!(out, "{}", cells.join("  "))?;
        if let Some(problem) = i.checked_sub(1).and_then(|i| sizes[i].problem.as_ref()) {
            writeln!(out, "        does not fit: {problem}")?;
        }
    }
    writeln!(out)?;
    Ok(out)
}
