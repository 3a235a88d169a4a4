//! The CPU path's threads, and processes that lost them: fork copies a process without its threads, so that a
//! child would wait for ever for those of its parent.

use std::process;
use std::sync::Mutex;

use pyo3::prelude::*;

use crate::{errors, raised};

/// The process whose threads were started.
static STARTED: Mutex<Option<u32>> = Mutex::new(None);

/// Starts the threads, once for the process; every call that computes begins with it.
///
/// # Errors
/// A process that was forked from one that had started them; a number of threads that the system refuses.
pub fn threads_started() -> PyResult<()> {
    let here = process::id();
    let mut started = STARTED.lock().expect("nothing panics with it");
    match *started {
        Some(process) if process == here => Ok(()),
        Some(parent) => Err(errors::DeviceError::new_err(format!(
            "ddu: process {here} was forked from {parent}, which had used ddu: its threads stayed there; start workers \
             with multiprocessing's \"spawn\" or \"forkserver\", or use ddu in the workers alone"
        ))),
        None => {
            ddu::host::start_threads().map_err(raised)?;
            *started = Some(here);
            Ok(())
        }
    }
}

/// Threads that the CPU path computes with; RAYON_NUM_THREADS sets them before the first use.
#[pyfunction]
pub fn threads() -> PyResult<usize> {
    threads_started()?;
    Ok(rayon::current_num_threads())
}
