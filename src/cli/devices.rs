//! `ddu devices`, and the `--device` option of every command that runs a network.

use std::fmt::Write as _;
use std::process::ExitCode;
use std::str::FromStr;

use ddu::device::gpus::{self, Gpu};
use ddu::engine::Engine;
use ddu::model::Model;
use ddu::report::json::Host;
use ddu::{Error, host};
use serde::Serialize;

use super::scoring::Precision;

/// List what can run a model here
#[derive(clap::Args)]
pub struct Args {
    /// Print JSON instead of text
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    schema_version: u32,
    host: Host,
    memory_available_bytes: Option<u64>,
    devices: Vec<Listed>,
    /// Why no GPU is among them.
    cuda_problem: Option<String>,
}

#[derive(Serialize)]
struct Listed {
    /// As `--device` takes it.
    name: String,
    description: String,
    gpu: Option<Gpu>,
    /// Why it cannot be used.
    problem: Option<String>,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    super::print_report(&look(), args.json, text)
}

fn look() -> Report {
    let usable = |device: Device| Listed {
        name: device.to_string(),
        description: device.describe(),
        gpu: None,
        problem: None,
    };
    let mut devices = vec![usable(Device::Cpu)];
    #[cfg(feature = "simt")]
    devices.push(usable(Device::Simt));
    let found = gpus::find();
    devices.extend(found.gpus.into_iter().map(|gpu| {
        let (memory, capability) = (gigabytes(gpu.memory_total_bytes), &gpu.compute_capability);
        Listed {
            name: format!("cuda:{}", gpu.ordinal),
            description: format!("{}, {memory}, compute capability {capability}", gpu.name),
            problem: unusable(gpu.ordinal),
            gpu: Some(gpu),
        }
    }));
    Report {
        schema_version: 1,
        host: Host::here(),
        memory_available_bytes: host::memory().map(|memory| memory.available),
        devices,
        cuda_problem: found.problem,
    }
}

fn text(report: &Report) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    for Listed { name, description, problem, .. } in &report.devices {
        write!(text, "{name:<8}{description}")?;
        match problem {
            None => writeln!(text)?,
            Some(problem) => writeln!(text, "; not usable: {problem}")?,
        }
    }
    if let Some(problem) = &report.cuda_problem {
        writeln!(text, "{:<8}none: {problem}", "cuda")?;
    }
    Ok(text)
}

fn cpu_line() -> String {
    let memory = host::memory().map_or(String::new(), |m| {
        format!(", {} of {} free", gigabytes(m.available), gigabytes(m.total))
    });
    let threads = rayon::current_num_threads();
    format!("{}, {threads} threads, SIMD {}{memory}", host::cpu_name(), ddu::cpu::simd::name())
}

/// What keeps networks from running on `cuda:ordinal`, in words.
pub fn unusable(ordinal: usize) -> Option<String> {
    cuda(ordinal).err().map(|error| error.to_string())
}

#[cfg(feature = "cuda")]
fn cuda(ordinal: usize) -> ddu::Result<Device> {
    ddu::device::cuda::check(ordinal).map(|_| Device::Cuda(ordinal))
}

#[cfg(not(feature = "cuda"))]
fn cuda(ordinal: usize) -> ddu::Result<Device> {
    let found = "a build without the feature `cuda`";
    Err(ddu::Error::invalid(format!("cuda:{ordinal}"), "CUDA kernels", found)
        .fix("build with it, or take --device cpu"))
}

fn gigabytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

/// What `--device` may say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    Auto,
    Cpu,
    Simt,
    Cuda(usize),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Choice::Auto),
            "cpu" => Ok(Choice::Cpu),
            "simt" => Ok(Choice::Simt),
            _ => match text.strip_prefix("cuda:").map(str::parse) {
                Some(Ok(ordinal)) => Ok(Choice::Cuda(ordinal)),
                _ => Err("expected auto, cpu, simt or cuda:N; the first GPU is cuda:0".into()),
            },
        }
    }
}

/// Where a plan runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Device {
    Cpu,
    #[cfg(feature = "simt")]
    Simt,
    #[cfg(feature = "cuda")]
    Cuda(usize),
}

impl std::fmt::Display for Device {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            #[cfg(feature = "simt")]
            Device::Simt => f.write_str("simt"),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
        }
    }
}

impl Device {
    /// What a message says of the device after its name.
    pub fn describe(self) -> String {
        match self {
            Device::Cpu => cpu_line(),
            #[cfg(feature = "simt")]
            Device::Simt => format!("the CUDA kernels on {}", cpu_line()),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => match gpus::find().gpus.get(ordinal) {
                Some(gpu) if gpu.confirmed() => {
                    format!("{}, {}", gpu.name, gigabytes(gpu.memory_total_bytes))
                }
                Some(gpu) => format!(
                    "{}, {}; no GPU has confirmed these kernels yet, `ddu compare` holds them \
                     against the CPU here",
                    gpu.name,
                    gigabytes(gpu.memory_total_bytes)
                ),
                None => "gone".into(),
            },
        }
    }

    /// What the driver says of it, where it is a GPU.
    pub fn gpu(self) -> Option<Gpu> {
        #[cfg(feature = "cuda")]
        if let Device::Cuda(ordinal) = self {
            return gpus::find().gpus.into_iter().nth(ordinal);
        }
        None
    }

    /// The device, None for the CPU path.
    pub fn open(self) -> Option<ddu::Result<Box<dyn ddu::device::Device>>> {
        match self {
            Device::Cpu => None,
            #[cfg(feature = "simt")]
            Device::Simt => Some(Ok(Box::new(ddu::device::simt::Simt::default()))),
            #[cfg(feature = "cuda")]
            Device::Cuda(ordinal) => {
                let cuda = ddu::device::cuda::Cuda::new(ordinal);
                Some(cuda.map(|cuda| Box::new(cuda) as Box<dyn ddu::device::Device>))
            }
        }
    }

    /// A model made ready to run here.
    ///
    /// # Errors
    /// A precision that it does not have.
    pub fn engine(self, model: Model, precision: Precision) -> ddu::Result<Engine> {
        match (self.open(), precision) {
            (None, Precision::Bf16) => Engine::in_bf16(model),
            (None, _) => Ok(Engine::new(model)),
            (Some(_), Precision::Bf16) => {
                Err(Error::invalid("--precision bf16", "the CPU path", self)
                    .fix("leave it out, as a device computes in fp16, or take --device cpu"))
            }
            (Some(device), _) => Engine::on(model, device?),
        }
    }
}

/// The device of `--device auto`; says how to try a GPU that is not taken.
fn auto() -> Device {
    let Ok(device) = cuda(0) else { return Device::Cpu };
    match gpus::find().gpus.first() {
        Some(gpu) if gpu.confirmed() => device,
        Some(gpu) => {
            super::warn(untried(gpu));
            Device::Cpu
        }
        None => Device::Cpu,
    }
}

/// Why `--device auto` does not take a GPU that could run the kernels, and how to try it.
pub fn untried(gpu: &gpus::Gpu) -> String {
    format!(
        "cuda:{} ({}) is not used: no GPU of compute capability {} has confirmed the kernels yet; try it with \
         --device cuda:{0}, and check it with `ddu compare --device cuda:{0}`",
        gpu.ordinal, gpu.name, gpu.compute_capability
    )
}

impl Choice {
    /// The device to run on. `auto` takes cuda:0 where that can run this build's kernels and a GPU of its
    /// compute capability has confirmed them, else the CPU; an explicit device never falls back.
    pub fn resolve(self) -> ddu::Result<Device> {
        match self {
            Choice::Auto => Ok(auto()),
            Choice::Cpu => Ok(Device::Cpu),
            #[cfg(feature = "simt")]
            Choice::Simt => Ok(Device::Simt),
            #[cfg(not(feature = "simt"))]
            Choice::Simt => {
                let found = "a build without the feature `simt`";
                Err(ddu::Error::invalid("simt", "kernels for it", found)
                    .fix("build with --features simt"))
            }
            Choice::Cuda(ordinal) => cuda(ordinal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_that_auto_does_not_take_is_told_how_to_be_tried() {
        let gpu = gpus::Gpu {
            ordinal: 0,
            name: "a GPU".into(),
            compute_capability: "9.0".into(),
            major: 9,
            memory_total_bytes: 1 << 34,
            pci_bus_id: "00000000:17:00.0".into(),
        };
        assert!(!gpu.confirmed());
        let line = untried(&gpu);
        assert!(!line.contains('\n'), "{line}");
        for word in ["a GPU", "9.0", "--device cuda:0", "`ddu compare --device cuda:0`"] {
            assert!(line.contains(word), "no {word} in: {line}");
        }
    }

    #[test]
    fn names_are_parsed_and_a_named_device_never_falls_back() {
        let auto = "auto".parse::<Choice>().unwrap().resolve().unwrap();
        // No GPU has confirmed the kernels: an explicit device is the only way to one.
        assert_eq!((gpus::CONFIRMED.len(), auto.to_string().as_str()), (0, "cpu"));
        assert_eq!("cuda:3".parse(), Ok(Choice::Cuda(3)));
        for bad in ["", "gpu", "cuda", "cuda:", "cuda:x", "cuda:-1", "CPU"] {
            assert!(bad.parse::<Choice>().is_err(), "{bad}");
        }
        let message = Choice::Cuda(99).resolve().unwrap_err().to_string();
        assert!(message.contains("--device cpu") && !message.contains('\n'), "{message}");
        match Choice::Simt.resolve() {
            Ok(device) => assert_eq!(device.to_string(), "simt"),
            Err(error) => assert!(error.to_string().contains("--features simt"), "{error}"),
        }
    }
}
