//! DLPack: device memory that libraries of one process hand to each other
//! (<https://dmlc.github.io/dlpack/latest/c_api.html>): the structure of version 0, which every library takes and gives, and that
//! of version 1, which says its version and whether it may be written to. Tensors here are dense and row-major, and only read.

#![allow(unsafe_code)]

use std::ffi::c_void;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use super::Buffer;
use crate::error::{Error, Result};

/// kDLCUDA
pub const CUDA: i32 = 2;

/// The major version of the structure that states one.
const MAJOR: u32 = 1;

/// Which structure a capsule holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// DLManagedTensor, in a capsule "dltensor".
    Unversioned,
    /// DLManagedTensorVersioned, in a capsule "dltensor_versioned".
    Versioned,
}

/// What the elements are: those of pictures, labels and classes, of features, and of scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    U8,
    F16,
    F32,
}

impl Kind {
    pub fn bytes(self) -> usize {
        match self {
            Kind::U8 => 1,
            Kind::F16 => 2,
            Kind::F32 => 4,
        }
    }

    fn raw(self) -> RawType {
        match self {
            Kind::U8 => RawType { code: 1, bits: 8, lanes: 1 },
            Kind::F16 => RawType { code: 2, bits: 16, lanes: 1 },
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

/// DLTensor
#[repr(C)]
struct RawTensor {
    data: *mut c_void,
    device: RawDevice,
    axes: i32,
    element: RawType,
    shape: *mut i64,
    strides: *mut i64,
    byte_offset: u64,
}

/// DLManagedTensor
#[repr(C)]
struct Raw {
    tensor: RawTensor,
    manager: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut Raw)>,
}

/// DLManagedTensorVersioned. What comes before `flags` is the same in every version.
#[repr(C)]
struct RawVersioned {
    major: u32,
    minor: u32,
    manager: *mut c_void,
    deleter: Option<unsafe extern "C" fn(*mut RawVersioned)>,
    flags: u64,
    tensor: RawTensor,
}

/// A tensor that somebody shares, given back when dropped.
pub struct Managed(Pointer);

#[derive(Clone, Copy)]
enum Pointer {
    Unversioned(NonNull<Raw>),
    Versioned(NonNull<RawVersioned>),
}

// SAFETY: DLPack lets any thread read the structure and call its deleter; nobody writes to it.
unsafe impl Send for Managed {}
unsafe impl Sync for Managed {}

impl Managed {
    /// Takes what a capsule points to. None of a null pointer, and of a major version with another structure, which is given back.
    ///
    /// # Safety
    /// It is the structure of that form as its producer made it, and nobody else calls its deleter.
    pub unsafe fn from_raw(form: Form, raw: *mut c_void) -> Option<Self> {
        match form {
            Form::Unversioned => {
                NonNull::new(raw.cast()).map(|raw| Managed(Pointer::Unversioned(raw)))
            }
            Form::Versioned => {
                let raw = NonNull::new(raw.cast::<RawVersioned>())?;
                let managed = Managed(Pointer::Versioned(raw));
                // SAFETY: the caller's obligation; the version comes first in every version.
                (unsafe { (*raw.as_ptr()).major } == MAJOR).then_some(managed)
            }
        }
    }

    /// For a capsule; whoever takes it calls the deleter.
    pub fn into_raw(self) -> *mut c_void {
        let raw = match self.0 {
            Pointer::Unversioned(raw) => raw.as_ptr().cast(),
            Pointer::Versioned(raw) => raw.as_ptr().cast(),
        };
        std::mem::forget(self);
        raw
    }

    /// A buffer from its start on, kept alive as long.
    pub(super) fn of(
        buffer: Arc<Buffer>,
        gpu: usize,
        kind: Kind,
        shape: &[usize],
        form: Form,
    ) -> Result<Self> {
        let bytes = shape.iter().try_fold(kind.bytes(), |bytes, n| bytes.checked_mul(*n));
        if bytes.is_none_or(|bytes| bytes > buffer.all().bytes()) {
            let expected = format!("a tensor inside {} bytes", buffer.all().bytes());
            return Err(Error::invalid("shared tensor", expected, format!("{kind:?} {shape:?}")));
        }
        let address = buffer.address;
        let shape: Box<[i64]> = shape.iter().map(|n| *n as i64).collect();
        let mut owner = Box::new(Owner { shape, _buffer: buffer });
        let tensor = RawTensor {
            data: address as *mut c_void,
            device: RawDevice { kind: CUDA, index: gpu as i32 },
            axes: owner.shape.len() as i32,
            element: kind.raw(),
            shape: owner.shape.as_mut_ptr(),
            // Dense and row-major.
            strides: null_mut(),
            byte_offset: 0,
        };
        let manager = Box::into_raw(owner).cast();
        Ok(Managed(match form {
            Form::Unversioned => {
                let raw = Raw { tensor, manager, deleter: Some(delete) };
                Pointer::Unversioned(NonNull::from(Box::leak(Box::new(raw))))
            }
            Form::Versioned => {
                let (major, deleter) = (MAJOR, Some(delete_versioned as _));
                let raw = RawVersioned { major, minor: 0, manager, deleter, flags: 0, tensor };
                Pointer::Versioned(NonNull::from(Box::leak(Box::new(raw))))
            }
        }))
    }

    fn raw(&self) -> &RawTensor {
        // SAFETY: `from_raw`'s caller or `of` made it whole; it lives until the deleter runs, in `drop`.
        unsafe {
            match &self.0 {
                Pointer::Unversioned(raw) => &raw.as_ref().tensor,
                Pointer::Versioned(raw) => &raw.as_ref().tensor,
            }
        }
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
        // SAFETY: the deleter takes its own structure, once: `self` owns it. In every version it lies at the same place.
        unsafe {
            match self.0 {
                Pointer::Unversioned(raw) => {
                    if let Some(deleter) = (*raw.as_ptr()).deleter {
                        deleter(raw.as_ptr());
                    }
                }
                Pointer::Versioned(raw) => {
                    if let Some(deleter) = (*raw.as_ptr()).deleter {
                        deleter(raw.as_ptr());
                    }
                }
            }
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

/// # Safety
/// As [`delete`].
unsafe extern "C" fn delete_versioned(raw: *mut RawVersioned) {
    // SAFETY: as in `delete`.
    unsafe {
        let raw = Box::from_raw(raw);
        drop(Box::from_raw(raw.manager.cast::<Owner>()));
    }
}
