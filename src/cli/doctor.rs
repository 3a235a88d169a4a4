//! `ddu doctor`: what this build and this machine can do, and what to do about what they cannot.

use std::fmt::Write as _;
use std::process::ExitCode;

use ddu::device::gpus::{self, Gpus};
use ddu::host;
use ddu::report::json::Host;
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
    /// The CUDA release of that nvcc ("13.0").
    nvcc_cuda_version: Option<&'static str>,
    host: Host,
    memory_available_bytes: Option<u64>,
    cuda: Gpus,
    working_folder: String,
    working_folder_writable: bool,
    advice: Vec<String>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::print_report(&examine(), args.json, text)
}

fn examine() -> Report {
    let folder = std::env::current_dir().unwrap_or_else(|_| ".".into());
    let mut report = Report {
        schema_version: 1,
        ddu_version: env!("CARGO_PKG_VERSION"),
        debug_build: cfg!(debug_assertions),
        features: features(),
        cuda_kernels_compiled: nvcc_cuda_version().is_some(),
        nvcc_cuda_version: nvcc_cuda_version(),
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

fn nvcc_cuda_version() -> Option<&'static str> {
    #[cfg(feature = "cuda")]
    return (!ddu::device::FATBINS.is_empty()).then_some(ddu::device::NVCC_RELEASE);
    #[cfg(not(feature = "cuda"))]
    None
}

/// (13, 0) of "13.0".
fn version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// What to know where the kernels are of a newer CUDA than the driver's: within one major version it runs them
/// (the CUDA documentation, "Minor Version Compatibility"), of the next it does not.
fn newer_kernels(nvcc: &str, driver: &str) -> Option<String> {
    let (kernels, takes) = (version(nvcc)?, version(driver)?);
    let versions = format!("the kernels are of CUDA {nvcc}, the driver takes {driver}");
    let cure = format!("update the driver, or build with an nvcc of CUDA {driver}");
    match kernels.0.cmp(&takes.0) {
        std::cmp::Ordering::Greater => Some(format!("{versions}, and will refuse them: {cure}")),
        std::cmp::Ordering::Equal if kernels.1 > takes.1 => {
            Some(format!("{versions}: should one not load, {cure}"))
        }
        _ => None,
    }
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
    let driver = report.cuda.driver_cuda_version.as_deref();
    let newer = report.nvcc_cuda_version.zip(driver).and_then(|(k, d)| newer_kernels(k, d));
    add(newer.is_some(), &newer.unwrap_or_default());
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
    let kernels = match report.nvcc_cuda_version {
        Some(release) => format!("compiled in, by nvcc of CUDA {release}"),
        None => "none: built without nvcc".into(),
    };
    line("cuda kernels", kernels)?;
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

#[cfg(test)]
mod tests {
    use super::newer_kernels;

    #[test]
    fn kernels_of_a_newer_cuda_than_the_drivers() {
        let says = |nvcc, driver, words: &str| {
            newer_kernels(nvcc, driver).is_some_and(|text: String| text.contains(words))
        };
        assert!(says("13.5", "12.8", "will refuse them: update the driver"));
        assert!(says("13.5", "13.0", "should one not load"));
        for (nvcc, driver) in [("13.0", "13.0"), ("12.8", "13.0"), ("13.0", "13.10"), ("", "13.0")]
        {
            assert_eq!(newer_kernels(nvcc, driver), None, "{nvcc}, {driver}");
        }
    }
}
