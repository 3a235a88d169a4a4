//! `ddu doctor`: what this build and this machine can do, and what to do about what they cannot.

use std::fmt::Write as _;
use std::process::ExitCode;

use ddu::device::gpus::{self, Gpus};
use ddu::host;
use ddu::report::json::{self, Host};
use serde::Serialize;

/// Check this build and this machine
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    ddu_version: &'static str,
    /// Compiled with debug assertions: slower.
    debug_build: bool,
    features: Vec<&'static str>,
    /// Whether the build found nvcc.
    cuda_kernels_compiled: bool,
    host: Host,
    memory_available_bytes: Option<u64>,
    cuda: Gpus,
    working_folder: String,
    working_folder_writable: bool,
    advice: Vec<String>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let report = examine();
    if args.json {
        json::write("-".as_ref(), &report)?;
    } else {
        super::print(&text(&report)?)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn examine() -> Report {
    let folder = std::env::current_dir().unwrap_or_else(|_| ".".into());
    let mut report = Report {
        schema_version: 1,
        ddu_version: env!("CARGO_PKG_VERSION"),
        debug_build: cfg!(debug_assertions),
        features: features(),
        cuda_kernels_compiled: cuda_kernels_compiled(),
        host: Host::here(),
        memory_available_bytes: host::memory().map(|memory| memory.available),
        cuda: gpus::find(),
        working_folder: folder.display().to_string(),
        working_folder_writable: tempfile::tempfile_in(&folder).is_ok(),
        advice: Vec::new(),
    };
    report.advice = advice(&report);
    report
}

fn features() -> Vec<&'static str> {
    let all = [("cuda", cfg!(feature = "cuda")), ("simt", cfg!(feature = "simt"))];
    all.into_iter().filter(|(_, on)| *on).map(|(name, _)| name).collect()
}

fn cuda_kernels_compiled() -> bool {
    #[cfg(feature = "cuda")]
    return !ddu::device::FATBINS.is_empty();
    #[cfg(not(feature = "cuda"))]
    false
}

fn advice(report: &Report) -> Vec<String> {
    let mut advice = Vec::new();
    let mut add = |wrong: bool, text: &str| {
        if wrong {
            advice.push(text.to_owned());
        }
    };
    add(report.debug_build, "this is a debug build: cargo build --release makes a faster one");
    let simd = report.host.simd;
    let baseline = simd == "none" && cfg!(any(target_arch = "x86_64", target_arch = "aarch64"));
    add(baseline, "this CPU lacks AVX2 and FMA: expect several times the time of newer ones");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let fewer = report.host.threads < cores;
    add(fewer, &format!("RAYON_NUM_THREADS leaves some of the {cores} cores idle"));
    let scarce = report.memory_available_bytes.is_some_and(|bytes| bytes < 1 << 30);
    add(scarce, "less than 1 GiB of memory is free: large images may not fit, see --resize");
    let place = "this folder cannot be written: give -o a folder that can";
    add(!report.working_folder_writable, place);
    let no_gpu = "no GPU that this build can ask: networks run on the CPU";
    add(report.cuda.gpus.is_empty(), no_gpu);
    for gpu in &report.cuda.gpus {
        match super::devices::unusable(gpu.ordinal) {
            Some(problem) => add(true, &problem),
            None => add(!gpu.confirmed(), &super::devices::untried(gpu)),
        }
    }
    advice
}

fn text(report: &Report) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    let mut line = |name: &str, value: String| writeln!(out, "{name:<14}{value}");
    let build = if report.debug_build { "debug" } else { "release" };
    let features = match report.features.as_slice() {
        [] => "no features".to_owned(),
        some => format!("features {}", some.join(", ")),
    };
    line("ddu", format!("{} ({build} build, {features})", report.ddu_version))?;
    let kernels =
        if report.cuda_kernels_compiled { "compiled in" } else { "none: built without nvcc" };
    line("cuda kernels", kernels.into())?;
    let host = &report.host;
    line("system", format!("{} {}", host.os, host.architecture))?;
    line("cpu", format!("{}, {} threads, SIMD {}", host.cpu, host.threads, host.simd))?;
    let mebibytes = |bytes: Option<u64>| match bytes {
        Some(bytes) => format!("{} MiB", bytes >> 20),
        None => "unknown".into(),
    };
    let (free, total) = (report.memory_available_bytes, host.memory_total_bytes);
    line("memory", format!("{} available of {}", mebibytes(free), mebibytes(total)))?;
    if let Some(version) = &report.cuda.driver_cuda_version {
        line("cuda driver", format!("takes CUDA up to {version}"))?;
    }
    for gpu in &report.cuda.gpus {
        let memory = mebibytes(Some(gpu.memory_total_bytes));
        let capability = &gpu.compute_capability;
        let name = format!("cuda:{}", gpu.ordinal);
        line(&name, format!("{}, {memory}, compute capability {capability}", gpu.name))?;
    }
    if let Some(problem) = &report.cuda.problem {
        line("cuda", problem.clone())?;
    }
    let writable = if report.working_folder_writable { "writable" } else { "not writable" };
    line("folder", format!("{} ({writable})", report.working_folder))?;
    for advice in &report.advice {
        line("advice", advice.clone())?;
    }
    Ok(out)
}
