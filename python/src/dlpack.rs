//! DLPack's capsules: the only `unsafe` of the package, which is Python's C API for them. What they hold is
//! `ddu::device::dlpack`'s.

#![allow(unsafe_code)]

use std::ffi::CStr;

use ddu::device::dlpack::Managed;
use pyo3::ffi;
use pyo3::prelude::*;

use crate::invalid;

const NAME: &CStr = c"dltensor";
const USED: &CStr = c"used_dltensor";

/// What a capsule holds, which from now on is ours.
pub fn taken(capsule: &Bound<PyAny>) -> PyResult<Managed> {
    // SAFETY: the interpreter's lock is held. A capsule of this name holds a DLManagedTensor, and who renames it owns that.
    let managed = unsafe {
        match ffi::PyCapsule_IsValid(capsule.as_ptr(), NAME.as_ptr()) {
            1 => {
                let raw = ffi::PyCapsule_GetPointer(capsule.as_ptr(), NAME.as_ptr());
                ffi::PyCapsule_SetName(capsule.as_ptr(), USED.as_ptr());
                Managed::from_raw(raw)
            }
            _ => None,
        }
    };
    managed
        .ok_or_else(|| invalid("__dlpack__", "a capsule \"dltensor\" that nobody took", "another"))
}

/// A capsule of a tensor, given back with it unless somebody takes it.
pub fn given(py: Python, tensor: Managed) -> PyResult<Bound<PyAny>> {
    let raw = tensor.into_raw();
    // SAFETY: the interpreter's lock is held; `raw` belongs to the capsule, or is taken back where there is none.
    unsafe {
        let capsule = ffi::PyCapsule_New(raw, NAME.as_ptr(), Some(unused));
        if capsule.is_null() {
            drop(Managed::from_raw(raw));
        }
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}

/// # Safety
/// Of a capsule that [`given`] made.
unsafe extern "C" fn unused(capsule: *mut ffi::PyObject) {
    // SAFETY: a capsule that was not renamed still owns what it holds.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, NAME.as_ptr()) == 1 {
            drop(Managed::from_raw(ffi::PyCapsule_GetPointer(capsule, NAME.as_ptr())));
        }
    }
}
