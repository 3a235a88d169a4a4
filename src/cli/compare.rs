//! `ddu compare`: a device compared with the CPU path.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use ddu::compare::{Comparison, OpError, compare};
use ddu::model::Model;
use ddu::report::json;
use ddu::{Error, data};
use serde::Serialize;

use super::{devices, exit};

/// Compare a device with the CPU path on an image, op by op and end to end
///
/// Op by op, each op is fed the reference's input, everything rounded to fp16 on both sides; end to
/// end, the device's chain of ops is compared with plain f32. Exit code 4 if anything is out of
/// tolerance.
#[derive(clap::Args)]
pub struct Args {
    /// Model written by `ddu convert`
    #[arg(short, long, value_name = "MODEL")]
    model: PathBuf,
    /// An image; a small crop is enough
    #[arg(value_name = "INPUT")]
    input: PathBuf,
    /// The device to compare: simt or cuda:N
    #[arg(long)]
    device: devices::Choice,
    /// Write the comparison to FILE, or to stdout for -
    #[arg(long, value_name = "FILE|-")]
    json: Option<PathBuf>,
    /// Overwrite an existing FILE
    #[arg(long)]
    force: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    schema_version: u32,
    #[serde(flatten)]
    comparison: &'a Comparison,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let device = args.device.resolve()?.open().ok_or_else(|| {
        Error::Usage(
            "--device cpu is what the others are compared with: take simt or cuda:N".into(),
        )
    })?;
    if let Some(file) = super::file(&args.json) {
        let reads = data::Reads::new([&*args.model, &args.input]);
        super::check_output(&reads, file, args.force)?;
    }
    let model = Model::load(&args.model)?;
    let image = data::decode(&args.input, true)?;
    let comparison = compare(model, device?, &image)?;
    match &args.json {
        Some(target) => {
            json::write(target, &Report { schema_version: 1, comparison: &comparison })?
        }
        None => super::print(&text(&comparison)?)?,
    }
    let code = if comparison.pass() { 0 } else { exit::OUT_OF_TOLERANCE };
    Ok(ExitCode::from(code))
}

fn text(comparison: &Comparison) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "{:<28} {:<24} {:>17} {:>10} {:>10} {:>10}  worst at (row, column, channel)",
        "op", "kernel", "output", "max abs", "nrms", "limit"
    )?;
    for op in &comparison.ops {
        let OpError { name, kernels, shape: [_, h, w, c], max_abs, nrms, limit, .. } = op;
        let [_, row, column, channel] = op.worst;
        let shape = format!("{h} x {w} x {c}");
        let verdict = if op.pass { "" } else { "  OUT OF TOLERANCE" };
        writeln!(
            out,
            "{name:<28} {:<24} {shape:>17} {max_abs:>10.2e} {nrms:>10.2e} {limit:>10.2e}  \
             ({row}, {column}, {channel}){verdict}",
            kernels.join(" + ")
        )?;
    }
    let end = &comparison.end_to_end;
    writeln!(
        out,
        "\nend to end, against f32: logits nrms {:.2e} (limit {:.2e}), max abs {:.2e}; labels equal \
         on {:.3} % (limit {:.1} %); entropy within {:.2e} nats",
        end.logits_nrms,
        end.logits_limit,
        end.logits_max_abs,
        100.0 * end.labels_equal,
        100.0 * end.labels_limit,
        end.entropy_max_abs
    )?;
    writeln!(out, "{}", if comparison.pass() { "pass" } else { "OUT OF TOLERANCE" })?;
    Ok(out)
}
