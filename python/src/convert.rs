//! Models: converted, loaded, saved, sent to other processes.

use std::path::PathBuf;
use std::sync::Arc;

use ddu::import::{Options, import};
use ddu::model::Backbone;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::{named, raised};

/// The weights of a network and what they mean.
#[pyclass(frozen, module = "ddu")]
pub struct Model {
    pub model: Arc<ddu::Model>,
    /// What the checkpoint did not state, a line each.
    #[pyo3(get)]
    assumed: Vec<String>,
}

#[pymethods]
impl Model {
    #[staticmethod]
    fn load(py: Python, path: PathBuf) -> PyResult<Self> {
        let model = py.detach(|| ddu::Model::load(path)).map_err(raised)?;
        Ok(model.into())
    }

    /// Writes the file that `ddu infer --model` takes; it appears whole or not at all.
    fn save(&self, py: Python, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.model.save(path)).map_err(raised)
    }

    #[getter]
    fn classes(&self) -> Vec<String> {
        self.model.config().classes.clone()
    }

    /// D: the channels of a feature.
    #[getter]
    fn channels(&self) -> usize {
        self.model.config().feature_channels()
    }

    #[getter]
    fn family(&self) -> String {
        self.model.config().family.to_string()
    }

    #[getter]
    fn backbone(&self) -> &'static str {
        self.model.config().backbone.name()
    }

    /// SHA-256 (hex) of configuration and weights; a density refers to its model by it.
    #[getter]
    fn sha256(&self, py: Python) -> String {
        py.detach(|| self.model.hash())
    }

    fn __repr__(&self) -> String {
        let config = self.model.config();
        format!(
            "<ddu.Model {} {}, {} classes, {} feature channels>",
            config.family,
            config.backbone,
            config.classes.len(),
            config.feature_channels()
        )
    }

    #[staticmethod]
    fn _from_bytes(py: Python, bytes: &[u8]) -> PyResult<Self> {
        let model = py.detach(|| ddu::Model::from_bytes("a pickled model", bytes));
        Ok(model.map_err(raised)?.into())
    }

    fn __reduce__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>,))> {
        let bytes = py.detach(|| self.model.to_bytes("a model to pickle")).map_err(raised)?;
        let make = py.get_type::<Model>().getattr("_from_bytes")?;
        Ok((make, (PyBytes::new(py, &bytes),)))
    }
}

impl From<ddu::Model> for Model {
    fn from(model: ddu::Model) -> Self {
        Model { model: Arc::new(model), assumed: Vec::new() }
    }
}

/// Reads a checkpoint; see `ddu.convert`.
#[pyfunction]
pub fn convert(
    py: Python,
    path: PathBuf,
    family: Option<String>,
    backbone: Option<&str>,
    output_stride: Option<usize>,
    atrous_rates: Option<Vec<usize>>,
    classes: Option<Vec<String>>,
) -> PyResult<Model> {
    let backbones = Backbone::ALL.map(|backbone| (backbone.name(), backbone));
    let backbone = backbone.map(|name| named("backbone", &backbones, name)).transpose()?;
    let options = Options { family, backbone, output_stride, atrous_rates, classes };
    let imported = py.detach(|| import(&path, &options)).map_err(raised)?;
    Ok(Model { model: Arc::new(imported.model), assumed: imported.assumed })
}
