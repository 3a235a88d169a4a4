//! The simt device: the kernels of `kernels/*.cu`, compiled by the C++ compiler, on the CPU. The
//! execution model is `kernels/simt/`; this is its C interface.

#![allow(unsafe_code)] // the C interface

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::{Buffer, Cost, Counts, Device, DeviceId, Launch, Slice};
use crate::error::{Error, Result};

/// The order in which blocks and threads take turns; each is one that hardware may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schedule {
    Forward,
    Reverse,
    Random(u64),
}

#[derive(Debug)]
pub struct Simt {
    id: DeviceId,
    schedule: Schedule,
    workers: usize,
    /// Held by each copy and launch, so that threads that share the device take turns.
    queue: Mutex<()>,
}

impl Default for Simt {
    /// Forward, a worker per core.
    fn default() -> Self {
        let workers = std::thread::available_parallelism().map_or(1, |n| n.get());
        Simt::new(Schedule::Forward, workers)
    }
}

/// `DduSimtLaunch` of `kernels/simt/api.h`.
#[repr(C)]
struct Request {
    kernel: *const c_char,
    params: *const c_void,
    params_bytes: u64,
    grid: [u32; 3],
    threads: u32,
    shared_bytes: u64,
    schedule: u32,
    workers: u32,
    cluster: u32,
    seed: u64,
    counts: [u64; 7],
}

unsafe extern "C" {
    fn ddu_simt_launch(request: *mut Request, error: *mut c_char, error_bytes: u64) -> c_int;
    fn ddu_simt_kernel(i: u32, params_bytes: *mut u32, threads: *mut u32) -> *const c_char;
    fn ddu_simt_alloc(bytes: u64) -> *mut c_void;
    fn ddu_simt_free(data: *mut c_void);
}

struct Allocation(u64);

impl Drop for Allocation {
    fn drop(&mut self) {
        // SAFETY: the address came from ddu_simt_alloc and is freed once, here.
        unsafe { ddu_simt_free(self.0 as *mut c_void) }
    }
}

/// Name, bytes of parameters and threads per block of every kernel that was compiled.
pub fn compiled() -> Vec<(String, usize, usize)> {
    let mut all = Vec::new();
    loop {
        let (mut params_bytes, mut threads) = (0, 0);
        // SAFETY: the out-pointers are valid; the name is null or a string of static storage.
        let name = unsafe { ddu_simt_kernel(all.len() as u32, &mut params_bytes, &mut threads) };
        if name.is_null() {
            return all;
        }
        // SAFETY: not null, so a NUL-terminated string literal of the kernel's registration.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned();
        all.push((name, params_bytes as usize, threads as usize));
    }
}

impl Device for Simt {
    fn id(&self) -> DeviceId {
        self.id
    }

    fn name(&self) -> String {
        "simt".into()
    }

    /// An H200's, so that plans take the tiles and splits they would take there.
    fn multiprocessors(&self) -> usize {
        132
    }

    /// An H200's.
    fn shared_bytes(&self) -> usize {
        227 << 10
    }

    /// As an H200.
    fn wgmma(&self) -> bool {
        true
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        // SAFETY: any size may be asked for; null is the answer where there is no room.
        let data = unsafe { ddu_simt_alloc(bytes as u64) };
        if data.is_null() {
            return Err(Error::Memory {
                what: "simt buffer".into(),
                needed: bytes as u64,
                available: 0,
                fix: "use a smaller batch or image".into(),
            });
        }
        Ok(Buffer::new(self.id, data as u64, bytes, Allocation(data as u64)))
    }

    fn write(&self, to: Slice, from: &[u8]) -> Result<()> {
        to.check_copy(self.id, from.len())?;
        let _turn = self.enter();
        // SAFETY: the slice lies in a live buffer of this device, which is host memory, and has `from.len()` bytes; launches
        // are synchronous and device memory is never borrowed as a Rust slice, so nothing else uses it.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to.address as *mut u8, from.len()) }
        Ok(())
    }

    fn read(&self, from: Slice, to: &mut [u8]) -> Result<()> {
        from.check_copy(self.id, to.len())?;
        let _turn = self.enter();
        // SAFETY: as for `write`; every byte was initialised by ddu_simt_alloc.
        unsafe {
            std::ptr::copy_nonoverlapping(from.address as *const u8, to.as_mut_ptr(), to.len())
        }
        Ok(())
    }

    fn launch(&self, launch: &Launch) -> Result<()> {
        self.execute(launch).map(|_| ())
    }

    /// Launches are done when they return.
    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn measure(&self, before: &[Launch], launches: &[Launch]) -> Result<Cost> {
        self.run(before)?;
        let start = Instant::now();
        let mut counts = Counts::default();
        for launch in launches {
            counts += self.execute(launch)?;
        }
        Ok(Cost { time: start.elapsed(), counts: Some(counts) })
    }
}

impl Simt {
    /// `workers` OS threads run the blocks.
    pub fn new(schedule: Schedule, workers: usize) -> Self {
        Simt { id: DeviceId::new(), schedule, workers, queue: Mutex::new(()) }
    }

    fn enter(&self) -> MutexGuard<'_, ()> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn execute(&self, launch: &Launch) -> Result<Counts> {
        launch.check(self.id)?;
        let _turn = self.enter();
        let kernel = launch.kernel();
        let name = CString::new(kernel.name).expect("a kernel's name has no NUL");
        let (schedule, seed) = match self.schedule {
            Schedule::Forward => (0, 0),
            Schedule::Reverse => (1, 0),
            Schedule::Random(seed) => (2, seed),
        };
        let mut request = Request {
            kernel: name.as_ptr(),
            params: launch.params().as_ptr().cast(),
            params_bytes: kernel.params_bytes as u64,
            grid: launch.grid(),
            threads: kernel.threads as u32,
            shared_bytes: kernel.shared_bytes as u64,
            schedule,
            workers: self.workers as u32,
            cluster: launch.cluster(),
            seed,
            counts: [0; 7],
        };
        let mut message = [0u8; 1024];
        // SAFETY: the request's pointers are valid for the call; the parameters have the size that the
        // kernel's table entry is checked against; a Launch is made only by functions that checked
        // that the kernel stays inside live buffers of this device, which its lifetime keeps.
        let failed = unsafe {
            ddu_simt_launch(&mut request, message.as_mut_ptr().cast(), message.len() as u64)
        };
        if failed != 0 {
            let message = CStr::from_bytes_until_nul(&message).unwrap_or_default();
            return Err(Error::Kernel(message.to_string_lossy().into_owned()));
        }
        let [mma, ldmatrix, cp_async, shuffle, barrier, load, store] = request.counts;
        Ok(Counts { mma, ldmatrix, cp_async, shuffle, barrier, load, store })
    }
}
