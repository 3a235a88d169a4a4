//! DLPack: device memory that libraries of one process hand to each other
//! (<https://dmlc.github.io/dlpack/latest/c_api.html>; the structure of version 0, which every library takes and gives). Tensors here are
//! dense and row-major.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use super::Buffer;
use crate::error::{Error, Result};

/// kDLCUDA
pub const CUDA: i32 = 2;

/// What the elements are: those of pictures and labels, and of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    U8,
    F32,
}

impl Kind {
    pub fn bytes(self) -> usize {
        match self {
            Kind::U8 => 1,
            Kind::F32 => 4,
        }
    }

    fn raw(self) -> RawType {
        match self {
            Kind::U8 => RawType { code: 1, bits: 8, lanes: 1 },
            Kind::F32 => RawType { code: 2, bits: 32, lanes: 1 },
        }
    }
}

#[repr(C)]
struct RawDevice {
    kind: i32,
    index: i32,
}

#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq)]
struct RawType {
    code: u8,
    bits: u8,
    lanes: u16,
}

/// DLManagedTensor, its DLTensor first.
#[repr(C)]
struct Raw {
    data: *mut c_void,
    device: RawDevice,
    axes: i32,
    element: RawType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
    manager: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Raw)>,
}

/// A tensor that somebody shares, given back when dropped.
pub struct Managed(NonNull<Raw>);

// SAFETY: DLPack lets any thread read the structure and call its deleter; nobody writes to it.
unsafe impl Send for Managed {}
unsafe impl Sync for Managed {}

impl Managed {
    /// Takes what a capsule "dltensor" points to; None of a null pointer.
    ///
    /// # Safety
    /// It is a DLManagedTensor as its producer made it, and nobody else calls its deleter.
    pub unsafe fn from_raw(raw: *mut c_void) -> Option<Self> {
        NonNull::new(raw.cast()).map(Managed)
    }

    /// For a capsule; whoever takes it calls the deleter.
    pub fn into_raw(self) -> *mut c_void {
        let raw = self.0.as_ptr().cast();
        std::mem::forget(self);
        raw
    }

    /// A buffer from its start on, kept alive as long.
    pub(super) fn of(buffer: Arc<Buffer>, gpu: usize, kind: Kind, shape: &[usize]) -> Result<Self> {
        let bytes = shape.iter().try_fold(kind.bytes(), |bytes, n| bytes.checked_mul(*n));
        if bytes.is_none_or(|bytes| bytes > buffer.all().bytes()) {
            let expected = format!("a tensor inside {} bytes", buffer.all().bytes());
            return Err(Error::invalid("shared tensor", expected, format!("{kind:?} {shape:?}")));
        }
        let address = buffer.address;
        let shape: Box<[i64]> = shape.iter().map(|n| *n as i64).collect();
        let mut owner = Box::new(Owner { shape, _buffer: buffer });
        let raw = Box::new(Raw {
            data: address as *mut c_void,
            device: RawDevice { kind: CUDA, index: gpu as i32 },
            axes: owner.shape.len() as i32,
            element: kind.raw(),
            shape: owner.shape.as_mut_ptr(),
            // Dense and row-major.
            strides: null_mut(),
            byte_offset: 0,
            manager: Box::into_raw(owner).cast(),
            deleter: Some(delete),
        });
        Ok(Managed(NonNull::from(Box::leak(raw))))
    }

    fn raw(&self) -> &Raw {
        // SAFETY: `from_raw`'s caller or `of` made it whole; it lives until the deleter runs, in `drop`.
        unsafe { self.0.as_ref() }
    }

    /// kDLCUDA and the like, and which of them.
    pub fn device(&self) -> (i32, i32) {
        (self.raw().device.kind, self.raw().device.index)
    }

    /// Its extents, and of each axis how many elements lie between neighbours.
    fn axes(&self) -> (&[i64], Option<&[i64]>) {
        let raw = self.raw();
        let axes = if raw.shape.is_null() { 0 } else { raw.axes.max(0) as usize };
        if axes == 0 {
            return (&[], None);
        }
        // SAFETY: a tensor has that many extents, and strides or none at all; they live as long as it.
        unsafe {
            let strides = NonNull::new(raw.strides);
            (
                std::slice::from_raw_parts(raw.shape, axes),
                strides.map(|strides| std::slice::from_raw_parts(strides.as_ptr(), axes)),
            )
        }
    }

    pub fn shape(&self) -> Vec<i64> {
        self.axes().0.to_vec()
    }

    /// Whether its elements are of this kind, dense and row-major.
    pub fn is_dense(&self, kind: Kind) -> bool {
        let (shape, strides) = self.axes();
        let mut expected = 1;
        let dense = strides.is_none_or(|strides| {
            shape.iter().zip(strides).rev().all(|(n, stride)| {
                let fits = *n == 1 || *stride == expected;
                expected *= n;
                fits
            })
        });
        dense && self.raw().element == kind.raw()
    }

    pub(super) fn address(&self) -> u64 {
        (self.raw().data as u64).wrapping_add(self.raw().byte_offset)
    }
}

impl Drop for Managed {
    fn drop(&mut self) {
        if let Some(deleter) = self.raw().deleter {
            // SAFETY: the deleter takes its own structure, once: `self` owns it.
            unsafe { deleter(self.0.as_ptr()) };
        }
    }
}

/// What lives as long as a tensor of ours.
struct Owner {
    shape: Box<[i64]>,
    _buffer: Arc<Buffer>,
}

/// # Safety
/// `raw` was made by [`Managed::of`], and this is its only deletion.
unsafe extern "C" fn delete(raw: *mut Raw) {
    // SAFETY: both boxes were leaked by `of` and are taken back once.
    unsafe {
        let raw = Box::from_raw(raw);
        drop(Box::from_raw(raw.manager.cast::<Owner>()));
    }
}
