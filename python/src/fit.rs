//! Fitting a density to labelled images, one by one.

use std::sync::Mutex;

use ddu::data::{ClassMap, LabelRule};
use ddu::density::{Covariance, Prior};
use ddu::fit::Annotation;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::data::Labelled;
use crate::density::Density;
use crate::engine::Engine;
use crate::fork::threads_started;
use crate::raised;

#[pyclass(frozen)]
pub struct Fit {
    engine: Py<Engine>,
    fit: Mutex<ddu::fit::Fit>,
    map: ClassMap,
}

#[pymethods]
impl Fit {
    /// `classes`: the dataset's; `class_map`: entries `FROM=TO`.
    #[new]
    fn new(
        py: Python,
        engine: Py<Engine>,
        classes: Option<Vec<String>>,
        class_map: Vec<String>,
        resize: Option<usize>,
        weight: Option<&str>,
    ) -> PyResult<Self> {
        threads_started()?;
        let weighted = weight
            .map(|name| crate::named("weight", &[("confidence", ())], name))
            .transpose()?
            .is_some();
        let here = engine.get();
        let map = class_map_of(here, classes.as_deref(), &class_map)?;
        let fit = py.detach(|| {
            let model = here.weights();
            let config = model.config();
            let rule = LabelRule::of(config.align_corners);
            let mut empty = ddu::Density::new(
                model.hash(),
                config.classes.clone(),
                config.feature_channels(),
                rule,
                resize,
            );
            if weighted {
                empty = empty.with_weights();
            }
            ddu::fit::Fit::new(empty, &here.lock())
        });
        Ok(Fit { fit: Mutex::new(fit.map_err(raised)?), engine, map })
    }

    /// Folds an image in; False where one of the same pixels was.
    fn add(&self, py: Python, labelled: &Labelled) -> PyResult<bool> {
        threads_started()?;
        let (engine, image) = (self.engine.get(), labelled.image.clone());
        let mut mask = labelled.mask.clone();
        self.map.apply(&mut mask.label);
        let hash = labelled.hash;
        let added = py.detach(|| {
            let engine = &mut *engine.lock();
            let fit = &mut *self.fit.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            ddu::host::in_pool(|| {
                let output = engine.run(&[&image])?;
                fit.add(&output, &[Some(Annotation { hash, mask: &mask })])
            })
        });
        Ok(added.map_err(raised)?[0])
    }

    /// What was fitted so far, to be joined with the fits of other images.
    fn shard(&self, py: Python) -> PyResult<Shard> {
        threads_started()?;
        py.detach(|| {
            let mut fit = self.fit.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            Ok(Shard(fit.density().map_err(raised)?.clone()))
        })
    }

    /// What was fitted so far.
    fn density(&self, py: Python) -> PyResult<Density> {
        threads_started()?;
        py.detach(|| {
            let mut fit = self.fit.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            let density = fit.density().map_err(raised)?.clone();
            Density::new(density, Covariance::default(), Prior::default(), None)
        })
    }
}

/// How a dataset's classes become the model's.
pub fn class_map_of(
    engine: &Engine,
    classes: Option<&[String]>,
    entries: &[String],
) -> PyResult<ClassMap> {
    let config = engine.weights().config();
    let names = config.has_class_names().then_some(config.classes.as_slice());
    ClassMap::new(classes, names, config.classes.len(), entries).map_err(raised)
}

/// The fit of some images of many. It may be empty, which a density must not be.
#[pyclass(module = "ddu._ddu")]
pub struct Shard(ddu::Density);

#[pymethods]
impl Shard {
    #[staticmethod]
    fn from_bytes(py: Python, source: &str, bytes: &[u8]) -> PyResult<Self> {
        py.detach(|| ddu::Density::from_bytes(source, bytes)).map(Shard).map_err(raised)
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.0.to_bytes("a shard")).map_err(raised)?;
        Ok(PyBytes::new(py, &bytes))
    }

    /// Joins the images that follow its own.
    fn merge(&mut self, py: Python, source: &str, other: PyRef<Shard>) -> PyResult<()> {
        threads_started()?;
        let other = &other.0;
        py.detach(|| self.0.merge(source, other)).map_err(raised)
    }

    fn density(&self, py: Python) -> PyResult<Density> {
        threads_started()?;
        py.detach(|| Density::new(self.0.clone(), Covariance::default(), Prior::default(), None))
    }
}
