//! DLPack's capsules: the only `unsafe` of the package, which is Python's C API for them. What they hold is
//! `ddu::device::dlpack`'s.

#![allow(unsafe_code)]

use std::ffi::CStr;

use ddu::device::dlpack::{Form, Managed};
use pyo3::exceptions::PyTypeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::invalid;

/// Of a capsule, and what it is called once somebody took what it holds.
fn names(form: Form) -> (&'static CStr, &'static CStr) {
    match form {
        Form::Unversioned => (c"dltensor", c"used_dltensor"),
        Form::Versioned => (c"dltensor_versioned", c"used_dltensor_versioned"),
    }
}

/// The tensor of an object with `__dlpack__`, for use in a stream. Libraries that know no versions take no `max_version`.
pub fn tensor_of(object: &Bound<PyAny>, stream: u64) -> PyResult<Managed> {
    let arguments = PyDict::new(object.py());
    arguments.set_item("stream", stream)?;
    arguments.set_item("max_version", (1, 0))?;
    let capsule = match object.call_method("__dlpack__", (), Some(&arguments)) {
        Err(error) if error.is_instance_of::<PyTypeError>(object.py()) => {
            arguments.del_item("max_version")?;
            object.call_method("__dlpack__", (), Some(&arguments))?
        }
        capsule => capsule?,
    };
    taken(&capsule)
}

/// What a capsule holds, which from now on is ours.
fn taken(capsule: &Bound<PyAny>) -> PyResult<Managed> {
    let held = [Form::Versioned, Form::Unversioned].into_iter().find_map(|form| {
        let (name, used) = names(form);
        // SAFETY: the interpreter's lock is held. A capsule of this name holds the structure of this form, and who renames it owns
        // that.
        unsafe {
            if ffi::PyCapsule_IsValid(capsule.as_ptr(), name.as_ptr()) != 1 {
                return None;
            }
            let raw = ffi::PyCapsule_GetPointer(capsule.as_ptr(), name.as_ptr());
            ffi::PyCapsule_SetName(capsule.as_ptr(), used.as_ptr());
            Managed::from_raw(form, raw)
        }
    });
    let expected = "a capsule of DLPack 0 or 1 that nobody took";
    held.ok_or_else(|| invalid("__dlpack__", expected, "another"))
}

/// A capsule of a tensor of that form, given back with it unless somebody takes it.
pub fn given(py: Python, tensor: Managed, form: Form) -> PyResult<Bound<PyAny>> {
    let raw = tensor.into_raw();
    let (name, _) = names(form);
    let destructor = match form {
        Form::Unversioned => unused::<false>,
        Form::Versioned => unused::<true>,
    };
    // SAFETY: the interpreter's lock is held; `raw` belongs to the capsule, or is taken back where there is none.
    unsafe {
        let capsule = ffi::PyCapsule_New(raw, name.as_ptr(), Some(destructor));
        if capsule.is_null() {
            drop(Managed::from_raw(form, raw));
        }
        Bound::from_owned_ptr_or_err(py, capsule)
    }
}

/// # Safety
/// Of a capsule that [`given`] made.
unsafe extern "C" fn unused<const VERSIONED: bool>(capsule: *mut ffi::PyObject) {
    let form = if VERSIONED { Form::Versioned } else { Form::Unversioned };
    let (name, _) = names(form);
    // SAFETY: a capsule that was not renamed still owns what it holds.
    unsafe {
        if ffi::PyCapsule_IsValid(capsule, name.as_ptr()) == 1 {
            drop(Managed::from_raw(form, ffi::PyCapsule_GetPointer(capsule, name.as_ptr())));
        }
    }
}
