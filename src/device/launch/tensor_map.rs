//! Tensor maps: which box of a tensor one copy of a kernel takes (PTX ISA, "Tensors"), of fp16 values with the 128-byte swizzle and
//! zeros outside the tensor. A launch's parameters hold them as `kernels/simt/tensor_map.h` states them, which the simt device reads;
//! the cuda device gives the same to the driver and puts what it answers in their place.

use bytemuck::{Pod, Zeroable};

use super::{Address, Addresses, param, require};
use crate::device::{Element, Slice, Tensor};
use crate::error::Result;
use crate::ops::Conv2d;

/// `TensorMap` of `kernels/simt/tensor_map.h`, whose comments say what the fields are.
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub(in crate::device) struct TensorMap {
    address: Address,
    pub mode: u32,
    pub rank: u32,
    pub strides: [u64; 3],
    pub sizes: [u32; 4],
    pub taken: [u32; 4],
    pub steps: [u32; 4],
    pub lower: [i32; 2],
    pub upper: [i32; 2],
    swizzle: u32,
    reserved: [u32; 5],
}

/// Values of `mode`.
pub(in crate::device) const TILED: u32 = 1;
pub(in crate::device) const IM2COL: u32 = 2;
/// The 128-byte one.
const SWIZZLE: u32 = 1;

/// Fp16 values in the 128 bytes that the swizzle permutes: the channels of a copy.
pub(super) const CHANNELS: usize = 64;

impl TensorMap {
    #[cfg(feature = "cuda")]
    pub fn address(&self) -> u64 {
        self.address.get()
    }

    /// Copies of `rows` pixels, row after row as they lie in memory: a tensor `[pixels, 1, channels]`.
    pub(super) fn pixels(memory: &mut Addresses, x: &Tensor, rows: usize) -> Result<Self> {
        let address = Self::fp16(memory, x)?;
        let stride = x.stride as u64 * 2;
        Self::tiled(memory.kernel(), address, [x.channels, 1, x.pixels()], [stride, stride], rows)
    }

    /// Copies of one filter position of `rows` filters of `[filters, positions, channels]`.
    pub(super) fn filters(
        memory: &mut Addresses,
        weight: Slice,
        [filters, positions, channels]: [usize; 3],
        rows: usize,
    ) -> Result<Self> {
        let stride = channels as u64 * 2;
        let bytes = filters * positions * channels * 2;
        let address = memory.slice("weight", weight, bytes)?;
        let strides = [stride, stride * positions as u64];
        Self::tiled(memory.kernel(), address, [channels, positions, filters], strides, rows)
    }

    /// Copies of one filter position under `rows` output pixels of a convolution, zeros around the image.
    ///
    /// # Errors
    /// What [`fits`] refuses.
    pub(super) fn positions(
        memory: &mut Addresses,
        x: &Tensor,
        conv: &Conv2d,
        rows: usize,
    ) -> Result<Self> {
        let what = memory.kernel();
        require(
            what,
            fits(conv),
            "a filter that an im2col tensor map can walk over",
            format!("{conv:?}"),
        )?;
        let address = Self::fp16(memory, x)?;
        let pixel = x.stride as u64 * 2;
        let row = pixel * x.size.w as u64;
        let lower = -(conv.padding as i32);
        let upper = conv.padding as i32 - reach(conv) as i32;
        let step = conv.stride as u32;
        let size = |n| param(what, n).map(|n| n as u32);
        Ok(TensorMap {
            address,
            mode: IM2COL,
            rank: 4,
            strides: [pixel, row, row * x.size.h as u64],
            sizes: [size(x.channels)?, size(x.size.w)?, size(x.size.h)?, size(x.batch)?],
            taken: [CHANNELS as u32, rows as u32, 0, 0],
            steps: [1, step, step, 1],
            lower: [lower; 2],
            upper: [upper; 2],
            swizzle: SWIZZLE,
            reserved: [0; 5],
        })
    }

    fn fp16(memory: &mut Addresses, x: &Tensor) -> Result<Address> {
        let what = memory.kernel();
        require(what, x.element == Element::F16, "an fp16 tensor", format!("{:?}", x.element))?;
        memory.tensor(x)
    }

    fn tiled(
        what: &str,
        address: Address,
        sizes: [usize; 3],
        [first, second]: [u64; 2],
        rows: usize,
    ) -> Result<Self> {
        let size = |n| param(what, n).map(|n| n as u32);
        Ok(TensorMap {
            address,
            mode: TILED,
            rank: 3,
            strides: [first, second, 0],
            sizes: [size(sizes[0])?, size(sizes[1])?, size(sizes[2])?, 0],
            taken: [CHANNELS as u32, 1, rows as u32, 0],
            steps: [1, 1, 1, 0],
            lower: [0; 2],
            upper: [0; 2],
            swizzle: SWIZZLE,
            reserved: [0; 5],
        })
    }
}

/// From the first position of a filter to its last.
fn reach(conv: &Conv2d) -> usize {
    conv.dilation.saturating_mul(conv.kernel - 1)
}

/// Whether an im2col map of two image dimensions can hold a filter: corners of eight bits with a sign, offsets of eight bits,
/// strides up to 8.
pub(super) fn fits(conv: &Conv2d) -> bool {
    conv.padding <= 127 && reach(conv) <= 128 && conv.stride <= 8
}
