//! A GPU's memory between guards.

use std::sync::{Arc, Mutex, Weak};

use ddu::device::cuda::Cuda;
use ddu::device::{Buffer, Cost, Device, DeviceId, Launch, Slice};

use crate::support::{GUARD, POISON};

/// A GPU whose buffers start as [`POISON`] and lie between bytes that every launch must leave as they are: what
/// simt's memory is by itself.
pub struct Guarded {
    cuda: Arc<Cuda>,
    /// Guards and all.
    buffers: Mutex<Vec<Weak<Buffer>>>,
}

impl Guarded {
    pub fn new(cuda: Arc<Cuda>) -> Self {
        Guarded { cuda, buffers: Mutex::default() }
    }

    /// Writes a byte of the newest buffer's memory, guards and all.
    pub fn spoil(&self, at: usize) {
        let buffers = self.buffers.lock().unwrap();
        let guarded = buffers.last().unwrap().upgrade().unwrap();
        self.cuda.write(guarded.slice(at, 1).unwrap(), &[1]).unwrap();
    }

    pub fn check(&self, kernels: &[Launch]) -> ddu::Result<()> {
        let mut buffers = self.buffers.lock().unwrap();
        buffers.retain(|buffer| buffer.strong_count() > 0);
        for buffer in buffers.iter().filter_map(Weak::upgrade) {
            let bytes = buffer.all().bytes();
            for (from, side) in [(0, "before"), (bytes - GUARD, "after")] {
                let mut guard = [0; GUARD];
                self.cuda.read(buffer.slice(from, GUARD)?, &mut guard)?;
                let names: Vec<&str> = kernels.iter().map(|launch| launch.kernel().name).collect();
                let bytes = bytes - 2 * GUARD;
                assert!(
                    guard == [POISON; GUARD],
                    "{names:?} wrote {side} a buffer of {bytes} bytes"
                );
            }
        }
        Ok(())
    }
}

impl Device for Guarded {
    fn id(&self) -> DeviceId {
        self.cuda.id()
    }

    fn name(&self) -> String {
        self.cuda.name()
    }

    fn multiprocessors(&self) -> usize {
        self.cuda.multiprocessors()
    }

    fn shared_bytes(&self) -> usize {
        self.cuda.shared_bytes()
    }

    /// DDU_TEST_NO_WGMMA: no, so that what takes warpgroup products can be tested last.
    fn wgmma(&self) -> bool {
        std::env::var_os("DDU_TEST_NO_WGMMA").is_none() && self.cuda.wgmma()
    }

    fn alloc(&self, bytes: usize) -> ddu::Result<Buffer> {
        let guarded = Arc::new(self.cuda.alloc(bytes + 2 * GUARD)?);
        self.cuda.write(guarded.all(), &vec![POISON; bytes + 2 * GUARD])?;
        self.buffers.lock().unwrap().push(Arc::downgrade(&guarded));
        Buffer::inside(guarded, GUARD, bytes)
    }

    fn write(&self, to: Slice, from: &[u8]) -> ddu::Result<()> {
        self.cuda.write(to, from)
    }

    fn read(&self, from: Slice, to: &mut [u8]) -> ddu::Result<()> {
        self.cuda.read(from, to)
    }

    fn launch(&self, launch: &Launch) -> ddu::Result<()> {
        self.cuda.launch(launch)?;
        self.check(std::slice::from_ref(launch))
    }

    fn run(&self, launches: &[Launch]) -> ddu::Result<()> {
        self.cuda.run(launches)?;
        self.check(launches)
    }

    fn synchronize(&self) -> ddu::Result<()> {
        self.cuda.synchronize()
    }

    fn measure(&self, before: &[Launch], launches: &[Launch]) -> ddu::Result<Cost> {
        self.cuda.measure(before, launches)
    }
}
