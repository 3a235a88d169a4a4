//! The cuda device: the kernels of `kernels/*.cu` on an NVIDIA GPU, through the CUDA driver.
//!
//! One context, one stream: work runs in the order in which it is given. Copies go through pinned
//! staging; `write` returns as soon as the host's bytes are copied to staging. A list of launches given to
//! `run` becomes a CUDA graph once, in which each waits for those that it has to wait for, and is replayed whenever
//! the same list comes again. A kernel's fault is reported by the next call that waits.

#![allow(unsafe_code)]

mod driver;
mod queue;
mod staging;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cudarc::driver::DriverError;
use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute, CUresult};

use super::dlpack::{self, Form, Kind, Managed};
use super::gpus::{self, Gpu, words};
use super::kernels::{self, Kernel};
use super::{
    Buffer, Cost, Device, DeviceId, FATBINS, GET_NVCC, Launch, NVCC_RELEASE, Slice, Speed,
};
use crate::error::{Error, Result};
use driver::{Context, DeviceMemory, Event, Function, Module, Stream};
use queue::{Queue, StreamState};
use staging::Staging;

/// The newest driver call that is made (cuEventElapsedTime_v2) came with CUDA 12.8, as did the first nvcc
/// that compiles for every architecture of the list.
const DRIVER: i32 = 12080;

pub struct Cuda {
    id: DeviceId,
    ordinal: usize,
    multiprocessors: usize,
    shared_bytes: usize,
    wgmma: bool,
    speed: Speed,
    queue: Arc<Queue>,
}

/// Whether `cuda:ordinal` can run the kernels of this build, as far as can be told without a context on it.
///
/// # Errors
/// What is missing, and what to do.
pub fn check(ordinal: usize) -> Result<Gpu> {
    let what = format!("cuda:{ordinal}");
    if FATBINS.is_empty() {
        let found = "none: this build found no nvcc";
        let fix = format!("{GET_NVCC}, or take --device cpu");
        return Err(Error::invalid(what, "CUDA kernels", found).fix(fix));
    }
    find(ordinal)
}

fn find(ordinal: usize) -> Result<Gpu> {
    let what = format!("cuda:{ordinal}");
    let refuse = |expected: &str, found: String, fix: &str| {
        let fix = format!("{fix}, or take --device cpu");
        Err(Error::invalid(&what, expected, found).fix(fix))
    };
    let found = gpus::find();
    if let Some(problem) = found.problem {
        let fix = "install the driver and see that nvidia-smi lists a GPU";
        return refuse("an NVIDIA driver with a GPU", problem, fix);
    }
    if found.driver < DRIVER {
        let version = found.driver_cuda_version.unwrap_or_default();
        let found = format!("one that takes CUDA up to {version}");
        return refuse("a driver that takes CUDA 12.8", found, "update the driver");
    }
    let count = found.gpus.len();
    let Some(gpu) = found.gpus.into_iter().nth(ordinal) else {
        let fix = "`ddu devices` lists them; see CUDA_VISIBLE_DEVICES";
        return refuse(&format!("N below {count} in cuda:N"), ordinal.to_string(), fix);
    };
    if gpu.major < 8 {
        let found = format!("{} ({})", gpu.compute_capability, gpu.name);
        return refuse("compute capability 8.0 or newer", found, "take a newer GPU");
    }
    Ok(gpu)
}

impl Cuda {
    /// Opens `cuda:ordinal`.
    ///
    /// # Errors
    /// As [`check`], and where the GPU has no room for a context or does not take the kernels.
    pub fn new(ordinal: usize) -> Result<Self> {
        check(ordinal)?;
        // SAFETY: the fatbins were made from kernels/*.cu by build.rs.
        unsafe { Self::with_kernels(ordinal, FATBINS) }
    }

    /// As [`Self::new`], with the kernels of `files`, each by the name of its file.
    ///
    /// # Safety
    /// Every image is one that the driver loads, and its kernels are those of `kernels/*.cu`.
    pub unsafe fn with_kernels(ordinal: usize, files: &[(&str, &[u8])]) -> Result<Self> {
        let gpu = find(ordinal)?;
        let name = format!("cuda:{ordinal}");
        let refuse = |error| {
            let fix = "see nvidia-smi: another process may fill the GPU or hold it for itself";
            Error::invalid(&name, "room for a context", words(error)).fix(fix)
        };
        let context = Context::retain(ordinal).map_err(refuse)?;
        let _current = context.make_current().map_err(refuse)?;
        let attribute = |which| context.attribute(which).map_err(refuse);
        use CUdevice_attribute as A;
        let multiprocessors = attribute(A::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        let shared = attribute(A::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;

        // A driver that does not know one of them: 0.
        let speed = [
            A::CU_DEVICE_ATTRIBUTE_CLOCK_RATE,
            A::CU_DEVICE_ATTRIBUTE_MEMORY_CLOCK_RATE,
            A::CU_DEVICE_ATTRIBUTE_GLOBAL_MEMORY_BUS_WIDTH,
        ];
        let [clock, memory, bus] = speed.map(|which| context.attribute(which).unwrap_or(0));
        let speed = Speed::of_gpu(clock, memory, bus);

        let mut modules = Vec::new();
        for (file, image) in files {
            // SAFETY: the caller's obligation.
            let module = unsafe { Module::load(image) };
            modules.push((*file, module.map_err(|error| not_taken(&name, file, error))?));
        }
        let function = |kernel: &Kernel| {
            let module = modules.iter().find(|(file, _)| *file == kernel.file);
            let Some((_, module)) = module else {
                return Err(Error::invalid(
                    &name,
                    format!("{}.cu", kernel.file),
                    "no such kernels",
                ));
            };
            function(&name, module, kernel, shared)
        };
        let functions = kernels::all().map(function).collect::<Result<_>>()?;
        let (stream, inbound) = (Stream::new().map_err(refuse)?, Stream::new().map_err(refuse)?);
        let staging = Staging::new().map_err(refuse)?;
        let arrived = Event::new(false).map_err(refuse)?;
        let queue = Queue {
            work: Mutex::new(StreamState { staging, arrived, graphs: Vec::new() }),
            stream,
            inbound,
            functions,
            _modules: modules.into_iter().map(|(_, module)| module).collect(),
            leaving: None,
            context,
            name,
        };
        let queue = Arc::new(queue);
        // Its code is of sm_90a, which no other architecture takes.
        let wgmma = gpu.major == 9;
        let id = DeviceId::new();
        Ok(Cuda { id, ordinal, multiprocessors, shared_bytes: shared, wgmma, speed, queue })
    }

    /// N of `cuda:N`.
    pub fn ordinal(&self) -> usize {
        self.ordinal
    }

    /// The stream (a CUstream) that a library must make wait for what it shares before [`Self::adopt`]: what it gives to
    /// `__dlpack__(stream=...)`.
    pub fn inbound(&self) -> u64 {
        self.queue.inbound.handle()
    }

    /// Memory that another library shares, as a buffer of this device: what is given to the device from now on comes after
    /// what [`Self::inbound`] waits for. It is given back when the buffer is dropped.
    ///
    /// # Errors
    /// A tensor of another device, kind of element or layout than dense and row-major.
    pub fn adopt(&self, tensor: Managed, kind: Kind) -> Result<Buffer> {
        let shape = tensor.shape();
        let (device, index) = tensor.device();
        if device != dlpack::CUDA || usize::try_from(index) != Ok(self.ordinal) {
            let found = format!("one of DLPack's device {device}, index {index}");
            let expected = format!("a tensor on {}", self.queue.name);
            return Err(Error::invalid("shared tensor", expected, found));
        }
        let bytes = shape
            .iter()
            .try_fold(kind.bytes(), |bytes, n| bytes.checked_mul(usize::try_from(*n).ok()?));
        let Some(bytes) = bytes.filter(|_| tensor.is_dense(kind)) else {
            let expected = format!("a dense, row-major tensor of {kind:?}");
            let found = format!("{shape:?} of another layout or type");
            return Err(Error::invalid("shared tensor", expected, found));
        };
        let work = self.queue.enter()?;
        self.queue
            .inbound
            .record(&work.arrived)
            .and_then(|()| self.queue.stream.wait_for(&work.arrived))
            .map_err(|error| self.queue.fault("a shared tensor", error))?;
        drop(work);
        let address = tensor.address();
        let adopted = Adopted { tensor: Some(tensor), queue: self.queue.clone() };
        Ok(Buffer::new(self.id, address, bytes, adopted))
    }

    /// A buffer of this device, from its start on, for other libraries. What writes to it must have ended
    /// ([`Device::synchronize`]); they may use it in any stream at once.
    ///
    /// # Errors
    /// A buffer of another device, or smaller than the tensor.
    pub fn share(
        &self,
        buffer: Arc<Buffer>,
        kind: Kind,
        shape: &[usize],
        form: Form,
    ) -> Result<Managed> {
        self.id.require("shared tensor", buffer.device)?;
        Managed::of(buffer, self.ordinal, kind, shape, form)
    }
}

fn not_taken(name: &str, file: &str, error: DriverError) -> Error {
    use CUresult::*;
    let expected = format!("kernels/{file}.cu to load");
    let fix = match error.0 {
        CUDA_ERROR_NO_BINARY_FOR_GPU
        | CUDA_ERROR_INVALID_IMAGE
        | CUDA_ERROR_INVALID_PTX
        | CUDA_ERROR_UNSUPPORTED_PTX_VERSION => {
            format!(
                "the kernels are of CUDA {NVCC_RELEASE}: update the driver, or build with an nvcc that is no \
                 newer than the CUDA that `ddu doctor` says the driver takes"
            )
        }
        _ => "see nvidia-smi: another process may fill the GPU".into(),
    };
    Error::invalid(name, expected, words(error)).fix(fix)
}

/// The function of a kernel, checked against the table and prepared for its shared memory, where the device
/// has that much (`launch::density` chooses by [`Device::shared_bytes`]).
fn function(name: &str, module: &Module, kernel: &Kernel, shared: usize) -> Result<Function> {
    let what = format!("{name}, kernel {}", kernel.name);
    let refuse = |error| Error::invalid(&what, "a kernel of this build", words(error));
    let mut function = module.function(kernel.name).map_err(refuse)?;
    let threads = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK;
    let threads = function.attribute(threads).map_err(refuse)?;
    let first = function.parameter_bytes(0).map_err(refuse)?;
    let second = function.parameter_bytes(1).map_err(refuse)?;
    if threads < kernel.threads || first != Some(kernel.params_bytes) || second.is_some() {
        let (bytes, limit) = (kernel.params_bytes, kernel.threads);
        let expected = format!("one parameter of {bytes} bytes, blocks of {limit} threads");
        let found = format!("{first:?}, {second:?} and {threads}");
        return Err(Error::invalid(what, expected, found).fix("build again from clean"));
    }
    // Asked for below 48 KiB too: from 9.0 on the compiler counts a reserved KiB as static shared memory.
    // Where the driver does not give it, this kernel alone cannot be launched.
    if kernel.shared_bytes > 0 && kernel.shared_bytes <= shared {
        match function.allow_shared(kernel.shared_bytes) {
            Err(error) if error.0 != CUresult::CUDA_ERROR_INVALID_VALUE => {
                return Err(refuse(error));
            }
            _ => {}
        }
    }
    Ok(function)
}

/// What a [`Buffer`] holds.
struct Allocation {
    memory: Option<DeviceMemory>,
    queue: Arc<Queue>,
}

impl Drop for Allocation {
    fn drop(&mut self) {
        // Kernels that were given its address may still run. An error: the context is lost, and with it
        // the memory.
        if let Ok(_work) = self.queue.enter() {
            let _ = self.queue.stream.wait();
            drop(self.memory.take());
        }
    }
}

/// What a [`Buffer`] of another library's memory holds.
struct Adopted {
    tensor: Option<Managed>,
    queue: Arc<Queue>,
}

impl Drop for Adopted {
    fn drop(&mut self) {
        // As for `Allocation`; the other library's deleter runs without our lock.
        if let Ok(work) = self.queue.enter() {
            let _ = self.queue.stream.wait();
            drop(work);
            drop(self.tensor.take());
        }
    }
}

impl Device for Cuda {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn name(&self) -> String {
        self.queue.name.clone()
    }

    fn multiprocessors(&self) -> usize {
        self.multiprocessors
    }

    fn shared_bytes(&self) -> usize {
        self.shared_bytes
    }

    fn speed(&self) -> Speed {
        self.speed
    }

    fn wgmma(&self) -> bool {
        self.wgmma
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        let _work = self.queue.enter()?;
        // The driver cannot allocate 0 bytes.
        let memory = DeviceMemory::new(bytes.max(1)).map_err(|error| match error.0 {
            CUresult::CUDA_ERROR_OUT_OF_MEMORY => Error::Memory {
                what: format!("{}, a buffer", self.queue.name),
                needed: bytes as u64,
                available: driver::free_memory().unwrap_or(0) as u64,
                fix: "take a smaller --batch or --resize; nvidia-smi says who else uses the GPU"
                    .into(),
            },
            _ => self.queue.fault("allocation", error),
        })?;
        let address = memory.address();
        let allocation = Allocation { memory: Some(memory), queue: self.queue.clone() };
        Ok(Buffer::new(self.id, address, bytes, allocation))
    }

    fn write(&self, to: Slice, from: &[u8]) -> Result<()> {
        to.check_copy(self.id, from.len())?;
        let mut work = self.queue.enter()?;
        // SAFETY: the slice lies in a live buffer and has `from.len()` bytes; a dropped buffer waits for the
        // stream.
        unsafe { work.staging.upload(&self.queue.stream, to.address, from) }
            .map_err(|error| self.queue.fault("upload", error))
    }

    fn read(&self, from: Slice, to: &mut [u8]) -> Result<()> {
        from.check_copy(self.id, to.len())?;
        let mut work = self.queue.enter()?;
        // SAFETY: the slice lies in a live buffer and has `to.len()` bytes.
        unsafe { work.staging.download(&self.queue.stream, to, from.address) }
            .map_err(|error| self.queue.fault("download", error))
    }

    fn copy(&self, to: Slice, from: Slice) -> Result<()> {
        self.id.require("copy", from.device)?;
        to.check_copy(self.id, from.bytes)?;
        let _work = self.queue.enter()?;
        // SAFETY: both slices lie in live buffers and have as many bytes; a dropped buffer waits for the stream.
        unsafe { self.queue.stream.copy(to.address, from.address, from.bytes) }
            .map_err(|error| self.queue.fault("copy", error))
    }

    fn cuda(&self) -> Option<&Cuda> {
        Some(self)
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        launch.check(self.id)?;
        let _work = self.queue.enter()?;
        self.queue.launch(launch).map_err(|error| self.queue.fault(launch.kernel().name, error))
    }

    fn run(&self, launches: &[Launch]) -> Result<()> {
        launches.iter().try_for_each(|launch| launch.check(self.id))?;
        let mut work = self.queue.enter()?;
        self.queue.run(&mut work, launches)
    }

    fn synchronize(&self) -> Result<()> {
        let _work = self.queue.enter()?;
        self.queue.stream.wait().map_err(|error| self.queue.fault("a run", error))
    }

    fn measure(&self, before: &[Launch], launches: &[Launch]) -> Result<Cost> {
        before.iter().chain(launches).try_for_each(|launch| launch.check(self.id))?;
        let queue = &self.queue;
        let mut work = queue.enter()?;
        let fault = |error| queue.fault("a measured run", error);
        let (start, end) = (Event::new(true).map_err(fault)?, Event::new(true).map_err(fault)?);
        if launches.len() > 1 {
            queue.graph(&mut work, launches)?;
        }
        // While the device is busy with `before`, what follows is given to it: its own submission is not timed.
        queue.run(&mut work, before)?;
        queue.stream.record(&start).map_err(fault)?;
        queue.run(&mut work, launches)?;
        queue.stream.record(&end).map_err(fault)?;
        let milliseconds = end.wait().and_then(|()| end.since(&start)).map_err(fault)?;
        let time = Duration::from_secs_f64(f64::from(milliseconds.max(0.0)) / 1e3);
        Ok(Cost { time, counts: None })
    }
}
