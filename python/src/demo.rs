//! The demo: its scenes, its network, its run.

use std::path::PathBuf;

use ddu::demo::{Extent, model, run, scenes as drawn};
use pyo3::prelude::*;

use crate::convert::Model;
use crate::fork::threads_started;
use crate::raised;

/// Draws labelled scenes; see `ddu.scenes`.
#[pyfunction]
pub fn scenes(py: Python, folder: PathBuf, count: usize, seed: u64) -> PyResult<()> {
    threads_started()?;
    py.detach(|| drawn::dump(&folder, count, seed)).map_err(raised)
}

/// The network that ships with the package.
#[pyfunction]
pub fn demo_model() -> PyResult<Model> {
    Ok(model().map_err(raised)?.into())
}

/// Runs the demo; `progress(done, of)` is called after each scene, and may raise to end it. Returns what
/// `summary.json` holds.
#[pyfunction]
pub fn demo(py: Python, folder: PathBuf, progress: Py<PyAny>) -> PyResult<String> {
    threads_started()?;
    // What it raises, while the demo knows only that it ended.
    let raised_in = std::sync::Mutex::new(None);
    let tell = |done: usize, of: usize| {
        let told =
            Python::attach(|py| progress.call1(py, (done, of)).and_then(|_| py.check_signals()));
        told.map_err(|error| {
            *raised_in.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(error);
            ddu::Error::Usage("demo: ended early".into())
        })
    };
    let summary = py.detach(|| run(Extent::default(), &folder, &tell));
    if let Some(error) = raised_in.into_inner().unwrap_or_else(|poisoned| poisoned.into_inner()) {
        return Err(error);
    }
    let summary = summary.map_err(raised)?;
    Ok(serde_json::to_string(&summary).expect("plain data"))
}
