//! The addresses that kernels are given: each has passed [`Addresses`], so it lies in memory that is large
//! enough and belongs to the same device as the launch's other operands.

use bytemuck::{Pod, Zeroable};

use super::require;
use crate::device::{DeviceId, Slice, Tensor};
use crate::error::Result;

/// A pointer of a parameter struct; made by [`Addresses`] alone.
#[repr(transparent)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(in crate::device) struct Address(u64);

impl Address {
    /// Of an operand that is absent.
    pub const NULL: Address = Address(0);

    #[cfg(feature = "cuda")]
    pub fn get(self) -> u64 {
        self.0
    }
}

/// The memory of one launch's operands.
#[derive(Clone, Copy)]
pub(super) struct Addresses {
    kernel: &'static str,
    device: Option<DeviceId>,
}

impl Addresses {
    pub fn new(kernel: &'static str) -> Self {
        Addresses { kernel, device: None }
    }

    /// The kernel's name, for errors.
    pub fn kernel(&self) -> &'static str {
        self.kernel
    }

    /// The device of all operands; None before the first.
    pub fn device(&self) -> Option<DeviceId> {
        self.device
    }

    fn add(&mut self, slice: Slice) -> Result<Address> {
        match self.device {
            Some(device) => device.require(self.kernel, slice.device)?,
            None => self.device = Some(slice.device),
        }
        Ok(Address(slice.address))
    }

    pub fn tensor(&mut self, tensor: &Tensor) -> Result<Address> {
        self.add(tensor.data)
    }

    /// Of an operand that has `bytes`.
    pub fn slice(&mut self, operand: &str, slice: Slice, bytes: usize) -> Result<Address> {
        let what = format!("{}, {operand}", self.kernel);
        require(&what, slice.bytes >= bytes, &format!("{bytes} bytes"), slice.bytes)?;
        let aligned = slice.address.is_multiple_of(16);
        require(&what, aligned, "an address that is a multiple of 16", slice.address)?;
        self.add(slice)
    }

    /// As [`Self::slice`]; null where there is none.
    pub fn optional(
        &mut self,
        operand: &str,
        slice: Option<Slice>,
        bytes: usize,
    ) -> Result<Address> {
        slice.map_or(Ok(Address::NULL), |slice| self.slice(operand, slice, bytes))
    }
}
