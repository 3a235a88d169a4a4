//! `ddu._ddu`: the engine as Python sees it. `ddu/*.py` has what users call: it turns what they give into arrays, and
//! loops, so that Ctrl-C works between images and a bar can be shown.
//!
//! Every call that takes time runs without the interpreter's lock; an engine or fit that several threads use takes
//! them one after another.

mod convert;
mod data;
mod demo;
mod density;
mod device;
mod device_features;
mod dlpack;
mod engine;
mod evaluate;
mod features;
mod fit;
mod fork;
mod maps;

use pyo3::prelude::*;

#[pymodule]
mod _ddu {
    #[pymodule_export]
    use super::convert::{Model, convert};
    #[pymodule_export]
    use super::data::{Dataset, Image, Labelled, class_names, sample_labels};
    #[pymodule_export]
    use super::demo::{demo, demo_model, scenes};
    #[pymodule_export]
    use super::density::Density;
    #[pymodule_export]
    use super::device::{DeviceArray, DeviceImage, DeviceMaps};
    #[pymodule_export]
    use super::device_features::{DeviceDensity, DeviceMoments};
    #[pymodule_export]
    use super::engine::Engine;
    #[pymodule_export]
    use super::evaluate::Evaluation;
    #[pymodule_export]
    use super::features::Moments;
    #[pymodule_export]
    use super::fit::{Fit, Shard};
    #[pymodule_export]
    use super::fork::threads;
    #[pymodule_export]
    use super::maps::{Maps, score_names};

    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        module.add("__version__", env!("CARGO_PKG_VERSION"))
    }
}

/// The exceptions, which `ddu/_errors.py` defines.
mod errors {
    pyo3::import_exception!(ddu._errors, InvalidError);
    pyo3::import_exception!(ddu._errors, FileError);
    pyo3::import_exception!(ddu._errors, OutOfMemoryError);
    pyo3::import_exception!(ddu._errors, DeviceError);
}

/// The exception of an error: its one line.
fn raised(error: ddu::Error) -> PyErr {
    let line = error.to_string();
    match error {
        ddu::Error::Io { .. } => errors::FileError::new_err(line),
        ddu::Error::Invalid { .. } | ddu::Error::Usage(_) => errors::InvalidError::new_err(line),
        ddu::Error::Kernel(_) => errors::DeviceError::new_err(line),
        ddu::Error::Memory { .. } => errors::OutOfMemoryError::new_err(line),
    }
}

fn invalid(what: impl ToString, expected: impl ToString, found: impl ToString) -> PyErr {
    raised(ddu::Error::invalid(what, expected, found))
}

/// The value of a name; the names are those of the command line.
fn named<T: Copy>(what: &str, names: &[(&'static str, T)], name: &str) -> PyResult<T> {
    let found = names.iter().find(|(known, _)| *known == name);
    found.map(|(_, value)| *value).ok_or_else(|| {
        let known: Vec<&str> = names.iter().map(|(known, _)| *known).collect();
        invalid(what, format!("one of {}", known.join(", ")), name)
    })
}
