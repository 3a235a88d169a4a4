//! Where plans run, and what this machine offers. All `unsafe` of the crate lives beneath this module.
//!
//! Devices with memory of their own: `simt` (the CUDA kernels on the CPU, feature `simt`) and
//! `cuda:N`. A [`Device`] allocates, copies and launches; which kernel runs on what is decided by the
//! typed launches of [`launch`], which check every extent, so that nothing else needs `unsafe`. Memory and
//! launches know the device they belong to, and every other device refuses them.

#[cfg(feature = "cuda")]
pub mod cuda;
#[cfg(feature = "cuda")]
pub mod dlpack;
pub(crate) mod dry_run;
pub mod gpus;
pub mod kernels;
pub mod launch;
#[cfg(feature = "simt")]
pub mod simt;

#[cfg(feature = "cuda")]
include!(concat!(env!("OUT_DIR"), "/fatbins.rs"));

use std::marker::PhantomData;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::error::{Error, Result};
use crate::ops::Size;
pub use launch::{Launch, Work};

/// Which opened device memory and launches belong to: another for each that this process opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeviceId(u64);

impl DeviceId {
    fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        DeviceId(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Refuses what belongs to `owner`, another device.
    fn require(self, what: impl ToString, owner: DeviceId) -> Result<()> {
        if self == owner {
            return Ok(());
        }
        Err(Error::invalid(what, "memory of this device", "memory of another device")
            .fix("allocate it on the device that uses it"))
    }
}

/// How fast a device works, for predictions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speed {
    /// Of a multiprocessor, under load.
    pub clock_hz: f64,
    /// Of its memory.
    pub bytes_per_s: f64,
}

impl Speed {
    /// An H200's (SXM).
    pub const H200: Speed = Speed { clock_hz: launch::conv2d::CLOCK_HZ, bytes_per_s: 4.8e12 };

    /// By what a driver says of a GPU: the highest clock and the memory's in kHz, the bits of its bus; an H200's where it says 0.
    #[cfg(feature = "cuda")]
    fn of_gpu(clock_khz: usize, memory_khz: usize, bus_bits: usize) -> Self {
        // The highest of an H200, which it does not keep under load.
        const HIGHEST_HZ: f64 = 1.98e9;
        let mut speed = Speed::H200;
        if clock_khz > 0 {
            speed.clock_hz *= clock_khz as f64 * 1e3 / HIGHEST_HZ;
        }
        if memory_khz > 0 && bus_bits > 0 {
            // Two bits a clock on each line.
            speed.bytes_per_s = 2.0 * memory_khz as f64 * 1e3 * bus_bits as f64 / 8.0;
        }
        speed
    }
}

/// Where a plan runs. Calls are in order: a copy or launch sees what the ones before it wrote. Memory and
/// launches of another device are refused.
pub trait Device: Send + Sync {
    /// The id that its memory carries; a device that wraps another has the id of that one.
    fn id(&self) -> DeviceId;

    /// Its name on the command line: "simt", "cuda:0".
    fn name(&self) -> String;

    /// Streaming multiprocessors, from which tiles and splits are chosen.
    fn multiprocessors(&self) -> usize;

    /// Bytes of shared memory that a block may have; 99 KiB is what the smallest supported GPU gives.
    fn shared_bytes(&self) -> usize {
        99 << 10
    }

    /// What predictions take for its speed: an H200's, unless it is known.
    fn speed(&self) -> Speed {
        Speed::H200
    }

    /// Whether it has warpgroup matrix products (compute capability 9.0).
    fn wgmma(&self) -> bool {
        false
    }

    /// Uninitialised memory, aligned to 16 bytes at least.
    ///
    /// # Errors
    /// [`Error::Memory`] where the device has no room.
    fn alloc(&self, bytes: usize) -> Result<Buffer>;

    /// Copies to the device; the lengths must agree.
    fn write(&self, to: Slice, from: &[u8]) -> Result<()>;

    /// Copies from the device; the lengths must agree. Waits for what was launched before.
    fn read(&self, from: Slice, to: &mut [u8]) -> Result<()>;

    /// Copies on the device; the lengths must agree.
    fn copy(&self, to: Slice, from: Slice) -> Result<()> {
        let mut bytes = vec![0; from.bytes];
        self.read(from, &mut bytes)?;
        self.write(to, &bytes)
    }

    /// The GPU, where it is one.
    #[cfg(feature = "cuda")]
    fn cuda(&self) -> Option<&cuda::Cuda> {
        None
    }

    fn launch(&self, launch: &Launch) -> Result<()>;

    /// Launches all, in order. A device may keep what it made of them for the next time the same
    /// launches come (a CUDA graph).
    fn run(&self, launches: &[Launch]) -> Result<()> {
        launches.iter().try_for_each(|launch| self.launch(launch))
    }

    /// Waits until everything launched so far is done.
    ///
    /// # Errors
    /// Those of the launches, on a device that reports them late.
    fn synchronize(&self) -> Result<()>;

    /// Launches `before`, then `launches` as [`Self::run`] does, and waits: what these cost, from the end of `before`
    /// to their own. What a device makes of a list for later runs (a CUDA graph) is made before the clock starts.
    fn measure(&self, before: &[Launch], launches: &[Launch]) -> Result<Cost>;
}

/// What a list of launches took.
#[derive(Clone, Debug, Default)]
pub struct Cost {
    pub time: Duration,
    /// Instructions by class; on `simt` only.
    pub counts: Option<Counts>,
}

/// Instructions that `simt` executed: of a warp for mma, ldmatrix and shuffle, of a thread for the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    pub mma: u64,
    pub ldmatrix: u64,
    pub cp_async: u64,
    pub shuffle: u64,
    pub barrier: u64,
    /// 128-bit global loads and stores.
    pub load: u64,
    pub store: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.mma += other.mma;
        self.ldmatrix += other.ldmatrix;
        self.cp_async += other.cp_async;
        self.shuffle += other.shuffle;
        self.barrier += other.barrier;
        self.load += other.load;
        self.store += other.store;
    }
}

/// Device memory; freed when dropped.
pub struct Buffer {
    device: DeviceId,
    address: u64,
    bytes: usize,
    _memory: Box<dyn Send + Sync>,
}

impl Buffer {
    fn new(
        device: DeviceId,
        address: u64,
        bytes: usize,
        memory: impl Send + Sync + 'static,
    ) -> Self {
        Buffer { device, address, bytes, _memory: Box::new(memory) }
    }

    /// Bytes `offset..offset + bytes` of `parent`, which stays alive as long: for a device that keeps guards
    /// around its buffers (tests/kernels/guarded.rs).
    ///
    /// # Errors
    /// Where they are not all inside.
    pub fn inside(parent: Arc<Buffer>, offset: usize, bytes: usize) -> Result<Buffer> {
        let Slice { device, address, .. } = parent.slice(offset, bytes)?;
        Ok(Buffer::new(device, address, bytes, parent))
    }

    pub fn all(&self) -> Slice<'_> {
        let Buffer { device, address, bytes, .. } = *self;
        Slice { device, address, bytes, buffer: PhantomData }
    }

    /// Bytes `offset..offset + bytes`.
    ///
    /// # Errors
    /// Where they are not all inside.
    pub fn slice(&self, offset: usize, bytes: usize) -> Result<Slice<'_>> {
        self.all().part(offset, bytes)
    }
}

/// Makes each of `buffers` at least as large as `needed` says; allocates only where one is not.
pub(crate) fn grow(device: &dyn Device, buffers: &mut Vec<Buffer>, needed: &[usize]) -> Result<()> {
    let have = |i: usize| buffers.get(i).map_or(0, |buffer: &Buffer| buffer.bytes);
    // A device need not support empty buffers.
    let sizes: Vec<usize> = (0..needed.len()).map(|i| needed[i].max(have(i)).max(16)).collect();
    if sizes.iter().enumerate().all(|(i, bytes)| have(i) == *bytes) {
        return Ok(());
    }
    // Freed first: both at once would double the peak.
    buffers.clear();
    *buffers = sizes.into_iter().map(|bytes| device.alloc(bytes)).collect::<Result<_>>()?;
    Ok(())
}

/// Part of a [`Buffer`] that outlives the slice.
#[derive(Clone, Copy)]
pub struct Slice<'a> {
    device: DeviceId,
    address: u64,
    bytes: usize,
    buffer: PhantomData<&'a Buffer>,
}

impl Slice<'_> {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes `offset..offset + bytes`.
    ///
    /// # Errors
    /// Where they are not all inside.
    pub fn part(self, offset: usize, bytes: usize) -> Result<Self> {
        match offset.checked_add(bytes) {
            Some(end) if end <= self.bytes => {
                Ok(Slice { address: self.address + offset as u64, bytes, ..self })
            }
            _ => {
                let expected = format!("a range inside its {} bytes", self.bytes);
                Err(Error::invalid("device buffer", expected, format!("{bytes} at {offset}")))
            }
        }
    }

    /// Refuses a copy by `device` to or from `host` bytes where the memory is another device's or the
    /// lengths differ.
    fn check_copy(self, device: DeviceId, host: usize) -> Result<()> {
        device.require("copy", self.device)?;
        if self.bytes == host {
            return Ok(());
        }
        Err(Error::invalid("copy", format!("{} bytes", self.bytes), format!("{host} bytes")))
    }
}

/// What a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub enum Element {
    F16,
    F32,
}

impl Element {
    pub fn bytes(self) -> usize {
        match self {
            Element::F16 => 2,
            Element::F32 => 4,
        }
    }
}

/// `[batch, size.h, size.w, channels]` on a device, pixels `stride` elements apart: a channel slice of
/// a wider tensor where `stride > channels`.
#[derive(Clone, Copy)]
pub struct Tensor<'a> {
    data: Slice<'a>,
    // Private, so that what was checked against the memory stays as it is.
    pub(crate) element: Element,
    pub(crate) batch: usize,
    pub(crate) size: Size,
    pub(crate) channels: usize,
    pub(crate) stride: usize,
}

impl<'a> Tensor<'a> {
    /// Channels `first..first + channels` of a tensor of `stride` channels that starts `data`.
    ///
    /// # Errors
    /// Where the tensor is empty, exceeds `data`, has channels outside its stride, or where a pixel's
    /// channels do not start at a multiple of 16 bytes (the image's 4 channels: 8).
    pub fn new(
        data: Slice<'a>,
        element: Element,
        batch: usize,
        size: Size,
        stride: usize,
        first: usize,
        channels: usize,
    ) -> Result<Self> {
        let bad = |expected: String| {
            let found = format!(
                "channels {first}..{} of {stride}, {batch} x {size}, {} bytes",
                first.saturating_add(channels),
                data.bytes
            );
            Err(Error::invalid("device tensor", expected, found))
        };
        let needed = [size.h, size.w, stride, element.bytes()]
            .iter()
            .try_fold(batch, |product, &n| product.checked_mul(n));
        if needed.is_none_or(|n| n == 0 || n > data.bytes) {
            return bad("a tensor inside its memory".into());
        }
        if channels == 0 || first.checked_add(channels).is_none_or(|end| end > stride) {
            return bad("channels inside the pixel".into());
        }
        let aligned = if channels == 4 && stride == 4 { 8 } else { 16 };
        let offset = (first * element.bytes()) as u64;
        if ![data.address + offset, (stride * element.bytes()) as u64]
            .iter()
            .all(|n| n % aligned == 0)
        {
            return bad(format!("pixels at multiples of {aligned} bytes"));
        }
        let data =
            Slice { address: data.address + offset, bytes: data.bytes - offset as usize, ..data };
        Ok(Tensor { data, element, batch, size, channels, stride })
    }

    pub fn pixels(&self) -> usize {
        self.batch * self.size.pixels()
    }

    /// A range of its images.
    ///
    /// # Errors
    /// Where they are not all among them.
    pub fn images(self, images: Range<usize>) -> Result<Self> {
        if images.start >= images.end || images.end > self.batch {
            let expected = format!("images of {}", self.batch);
            return Err(Error::invalid("device tensor", expected, format!("{images:?}")));
        }
        let offset = images.start * self.size.pixels() * self.stride * self.element.bytes();
        let data = self.data.part(offset, self.data.bytes - offset)?;
        Ok(Tensor { data, batch: images.len(), ..self })
    }
}
