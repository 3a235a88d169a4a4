//! A device that allocates addresses only: what a plan would launch on an H200 (SXM), without running it.
//! Its memory is refused by every device that writes or launches; `profile::dry_run` alone uses it.

use super::{Buffer, Cost, Device, DeviceId, Launch, Slice};
use crate::error::{Error, Result};

/// Streaming multiprocessors of an H200.
pub const MULTIPROCESSORS: usize = 132;
/// Bytes of shared memory of one of them.
pub const SHARED_BYTES: usize = 227 << 10;

/// A device that allocates addresses only: what a plan would launch, without running it.
pub struct Paper(DeviceId);

impl Paper {
    pub fn new() -> Self {
        Paper(DeviceId::new())
    }
}

impl Device for Paper {
    fn id(&self) -> DeviceId {
        self.0
    }

    fn name(&self) -> String {
        "paper".into()
    }

    fn multiprocessors(&self) -> usize {
        MULTIPROCESSORS
    }

    fn shared_bytes(&self) -> usize {
        SHARED_BYTES
    }

    fn wgmma(&self) -> bool {
        true
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        Ok(Buffer::new(self.0, 1 << 20, bytes, ()))
    }

    fn write(&self, to: Slice, from: &[u8]) -> Result<()> {
        to.check_copy(self.0, from.len())
    }

    fn read(&self, _: Slice, _: &mut [u8]) -> Result<()> {
        Err(Error::invalid("a plan on paper", "a device", "nothing to read from"))
    }

    fn launch(&self, _: &Launch) -> Result<()> {
        Err(Error::invalid("a plan on paper", "a device", "nothing to run on"))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn measure(&self, before: &[Launch], launches: &[Launch]) -> Result<Cost> {
        self.run(before).and_then(|()| self.run(launches)).map(|()| Cost::default())
    }
}

#[cfg(all(test, feature = "simt"))]
mod tests {
    use super::*;
    use crate::device::simt::Simt;
    use crate::device::{Element, Tensor, launch};
    use crate::ops::{MaxPool, Size};

    /// Its addresses are invented: nothing that writes may take them.
    #[test]
    fn its_memory_is_refused_by_a_device_that_writes() {
        let (paper, simt) = (Paper::new(), Simt::default());
        let x = paper.alloc(256).unwrap();
        let pool = MaxPool { kernel: 1, stride: 1, padding: 0 };
        let tensor = || Tensor::new(x.all(), Element::F16, 1, Size::new(4, 4), 8, 0, 8).unwrap();
        let launch = launch::max_pool(&pool, tensor(), tensor()).unwrap();
        let refused = |result: Result<()>| {
            let message = result.unwrap_err().to_string();
            assert!(message.contains("memory of another device"), "{message}");
        };
        refused(simt.write(x.all(), &[0; 256]));
        refused(simt.read(x.all(), &mut [0; 256]));
        refused(simt.launch(&launch));
        refused(simt.run(&[launch.clone(), launch.clone()]));
        refused(simt.measure(&[], std::slice::from_ref(&launch)).map(|_| ()));
        assert!(paper.launch(&launch).is_err(), "paper runs nothing itself");
    }
}
