//! The primary context of a device, and the time for which it is a thread's current one.

use std::ffi::c_int;
use std::ptr::null_mut;

use cudarc::driver::sys;

use super::Result;

/// The primary context of a device, kept until dropped.
pub struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
}

// SAFETY: the driver takes its handles on any thread that the context is current on; a graph, which it does
// not lock itself, is launched behind a mutex alone.
unsafe impl Send for Context {}
unsafe impl Sync for Context {}

impl Context {
    /// Of the device `ordinal`; the driver must be present and initialised.
    pub fn retain(ordinal: usize) -> Result<Self> {
        let (mut device, mut context) = (0, null_mut());
        // SAFETY: both write one handle through a pointer that is valid for it; `device` is the driver's own.
        unsafe {
            sys::cuDeviceGet(&mut device, ordinal as c_int).result()?;
            sys::cuDevicePrimaryCtxRetain(&mut context, device).result()?;
        }
        Ok(Context { device, context })
    }

    /// Makes it current on this thread, until what is returned is dropped there: then the one before is so again. A library that
    /// shares the thread (PyTorch) may take the current context for its choice of a GPU.
    pub fn make_current(&self) -> Result<Current> {
        // SAFETY: the context is retained until `self` is dropped.
        unsafe { sys::cuCtxPushCurrent_v2(self.context) }.result()?;
        Ok(Current(()))
    }

    pub fn attribute(&self, attribute: sys::CUdevice_attribute) -> Result<usize> {
        let mut value = 0;
        // SAFETY: one integer is written through a pointer that is valid for it.
        unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, self.device) }.result()?;
        Ok(value.max(0) as usize)
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: retained once by `retain`, released once here, after every handle made in it and after it was current (the
        // last field of its owner).
        unsafe {
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

/// A context that is current on the thread that made it so, which drops this.
pub struct Current(());

impl Drop for Current {
    fn drop(&mut self) {
        let mut ours = null_mut();
        // SAFETY: one handle is written through a pointer that is valid for it.
        unsafe {
            let _ = sys::cuCtxPopCurrent_v2(&mut ours);
        }
    }
}
