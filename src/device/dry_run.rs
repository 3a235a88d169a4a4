//! A device that allocates addresses only: what a plan would launch on an H200 (SXM), without running it.

use super::{Buffer, Cost, Device, Launch, Slice};
use crate::error::{Error, Result};

/// Streaming multiprocessors of an H200.
pub const MULTIPROCESSORS: usize = 132;
/// Bytes of shared memory of one of them.
pub const SHARED_BYTES: usize = 227 << 10;

/// A device that allocates addresses only: what a plan would launch, without running it.
pub struct Paper;

impl Device for Paper {
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
        Ok(Buffer::new(1 << 20, bytes, ()))
    }

    fn write(&self, _: Slice, _: &[u8]) -> Result<()> {
        Ok(())
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

    fn measure(&self, launch: &Launch) -> Result<Cost> {
        self.launch(launch).map(|()| Cost::default())
    }
}
