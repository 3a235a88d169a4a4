//! What a device can do, measured beside what it did: bytes and FLOP per second of two launches of our own kernels that
//! are as good as any for them, and the clocks.
//!
//! Both sizes double until a launch takes long enough for its edges not to count, so that a slow device (the stand-in for
//! the driver) is not kept for hours.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::device::launch::conv2d::{ConvTiling, Operands};
use crate::device::{Buffer, Device, Element, Launch, Tensor, launch};
use crate::error::Result;
use crate::ops::{Conv2d, MaxPool, Size};
use crate::report::json::Summary;
use crate::splitmix64::splitmix64;

use super::measure::microseconds;

/// A launch of this length has edges of less than one percent.
const LONG: Duration = Duration::from_micros(300);
/// Of one of a copy's two buffers.
const MOST_BYTES: usize = 1 << 30;
const MOST_SIDE: usize = 8192;
const REPEATS: usize = 10;

/// The best that two of this project's kernels do on the device; a library may do better.
#[derive(Clone, Copy, Debug, serde::Serialize)]
pub struct Ceilings {
    /// Bytes read and written by a copy of this many, larger than any cache: `max_pool` of 1 x 1.
    pub copied_bytes: usize,
    pub copy_bytes_per_s: f64,
    /// A product of two n x n matrices of random fp16 numbers: `conv2d` of 1 x 1, n channels to n, n pixels.
    pub gemm_side: usize,
    pub gemm_flop_per_s: f64,
}

impl Ceilings {
    pub(super) fn measure(device: &dyn Device, copy: &Copy) -> Result<Self> {
        let best = |list: &[Launch]| -> Result<f64> {
            let times = microseconds(device, &[], list, REPEATS)?;
            Ok(Summary::of(&times).map_or(0.0, |times| times.min) / 1e6)
        };
        let copy_seconds = best(&[copy.launch()?])?;
        let gemm = Gemm::long(device)?;
        let gemm_seconds = best(&gemm.launches(device)?)?;
        let flop = 2.0 * (gemm.side as f64).powi(3);
        Ok(Ceilings {
            copied_bytes: copy.bytes,
            copy_bytes_per_s: 2.0 * copy.bytes as f64 / copy_seconds,
            gemm_side: gemm.side,
            gemm_flop_per_s: flop / gemm_seconds,
        })
    }
}

/// A copy of more than any cache holds, which leaves the caches full of it.
pub(super) struct Copy {
    from: Buffer,
    to: Buffer,
    bytes: usize,
}

impl Copy {
    /// One that takes long.
    pub fn long(device: &dyn Device) -> Result<Self> {
        let mut bytes = 1 << 18;
        loop {
            let copy = Copy { from: device.alloc(bytes)?, to: device.alloc(bytes)?, bytes };
            device.write(copy.from.all(), &vec![0; bytes])?;
            device.measure(&[], &[copy.launch()?])?;
            let time = device.measure(&[], &[copy.launch()?])?.time;
            if time >= LONG || bytes == MOST_BYTES {
                return Ok(copy);
            }
            bytes *= 2;
        }
    }

    pub fn launch(&self) -> Result<Launch<'_>> {
        const ROW: usize = 1024 * 64 * 2;
        let pool = MaxPool { kernel: 1, stride: 1, padding: 0 };
        let size = Size::new(self.bytes / ROW, 1024);
        let tensor = |buffer| Tensor::new(buffer, Element::F16, 1, size, 64, 0, 64);
        launch::max_pool(&pool, tensor(self.from.all())?, tensor(self.to.all())?)
    }
}

/// A product of two square matrices.
struct Gemm {
    side: usize,
    a: Buffer,
    b: Buffer,
    bias: Buffer,
    product: Buffer,
    partial: Buffer,
}

impl Gemm {
    fn long(device: &dyn Device) -> Result<Self> {
        let mut side = 64;
        loop {
            let gemm = Gemm::new(device, side)?;
            device.measure(&[], &gemm.launches(device)?)?;
            let time = device.measure(&[], &gemm.launches(device)?)?.time;
            if time >= LONG || side == MOST_SIDE {
                return Ok(gemm);
            }
            side *= 2;
        }
    }

    fn new(device: &dyn Device, side: usize) -> Result<Self> {
        let mut state = side as u64;
        // Random: zeros take less power and leave the clock higher than a network does. In +-(0.5 .. 1).
        let mut random = || -> Result<Buffer> {
            let words: Vec<u64> = (0..side * side / 4)
                .map(|_| splitmix64(&mut state) & 0x83ff_83ff_83ff_83ff | 0x3800_3800_3800_3800)
                .collect();
            let buffer = device.alloc(words.len() * 8)?;
            device.write(buffer.all(), bytemuck::cast_slice(&words))?;
            Ok(buffer)
        };
        let (a, b) = (random()?, random()?);
        let bias = device.alloc(side * 4)?;
        device.write(bias.all(), &vec![0; side * 4])?;
        let (conv, tiling) = Gemm::division(device, side);
        let partial = device.alloc(tiling.partial_bytes(&conv, side).max(16))?;
        Ok(Gemm { side, a, b, bias, product: device.alloc(side * side * 2)?, partial })
    }

    fn division(device: &dyn Device, side: usize) -> (Conv2d, ConvTiling) {
        let conv = Conv2d::dense(side, side, 1);
        (conv, ConvTiling::on(&conv, side, device))
    }

    fn launches(&self, device: &dyn Device) -> Result<Vec<Launch<'_>>> {
        let side = self.side;
        let tensor =
            |buffer| Tensor::new(buffer, Element::F16, 1, Size::new(1, side), side, 0, side);
        let (conv, tiling) = Gemm::division(device, side);
        let operands = Operands {
            x: tensor(self.a.all())?,
            weight: self.b.all(),
            bias: self.bias.all(),
            residual: None,
            relu: false,
            y: tensor(self.product.all())?,
            partial: Some(self.partial.all()),
            multiprocessors: device.multiprocessors(),
        };
        launch::conv2d(&conv, operands, tiling)
    }
}

/// What nvidia-smi says of a GPU while it works.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Clocks {
    pub multiprocessors_mhz: f64,
    pub memory_mhz: f64,
    /// The highest that the multiprocessors may take.
    pub multiprocessors_limit_mhz: f64,
}

impl Clocks {
    /// Keeps the GPU of this PCI bus busy by `work` until nvidia-smi has answered; None where it does not.
    pub(super) fn measure(
        pci_bus_id: &str,
        mut work: impl FnMut() -> Result<()>,
    ) -> Result<Option<Self>> {
        let fields = "--query-gpu=clocks.sm,clocks.mem,clocks.max.sm";
        let mut command = Command::new("nvidia-smi");
        command.args(["-i", pci_bus_id, fields, "--format=csv,noheader,nounits"]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let Ok(mut child) = command.spawn() else { return Ok(None) };
        let start = Instant::now();
        while matches!(child.try_wait(), Ok(None)) {
            let late = start.elapsed() > Duration::from_secs(20);
            if let Err(error) = if late { Ok(()) } else { work() } {
                stop(child);
                return Err(error);
            }
            if late {
                stop(child);
                return Ok(None);
            }
        }
        let Ok(output) = child.wait_with_output() else { return Ok(None) };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let numbers: Vec<f64> = text.split(',').filter_map(|n| n.trim().parse().ok()).collect();
        let [multiprocessors_mhz, memory_mhz, multiprocessors_limit_mhz] = numbers[..] else {
            return Ok(None);
        };
        Ok(Some(Clocks { multiprocessors_mhz, memory_mhz, multiprocessors_limit_mhz }))
    }
}

fn stop(mut child: Child) {
    let _ = child.kill();
    let _ = child.wait();
}
