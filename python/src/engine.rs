//! A model on a device.

use std::sync::{Mutex, MutexGuard};
use std::time::Instant;

use ddu::Precision;
use ddu::device::gpus;
use ddu::ops::Size;
use ddu::score::{Needs, SCORES, Score};
use numpy::ndarray::Array3;
use numpy::{IntoPyArray, PyArray3};
use pyo3::prelude::*;

use crate::convert::Model;
use crate::data::Image;
use crate::density::Density;
use crate::device::{DeviceImage, DeviceMaps};
use crate::fork::threads_started;
use crate::maps::{Maps, on_device, on_host, score};
use crate::{invalid, raised};

#[pyclass(frozen, module = "ddu._ddu")]
pub struct Engine {
    state: Mutex<ddu::Engine>,
    density: Option<Py<Density>>,
    model: Py<Model>,
    device: String,
    /// In the order of [`SCORES`]; the entropy is one of them.
    scores: Vec<Score>,
    precision: Precision,
}

#[pymethods]
impl Engine {
    /// `scores`: None for the entropy and, with a density, its log-density.
    #[new]
    fn new(
        py: Python,
        model: Py<Model>,
        density: Option<Py<Density>>,
        device: &str,
        scores: Option<Vec<String>>,
        precision: &str,
    ) -> PyResult<Self> {
        threads_started()?;
        let precision = crate::named("precision", &Precision::NAMES, precision)?;
        let weights = model.get().model.clone();
        let scores = chosen(scores, density.as_ref().map(Py::get))?;
        let ready = density.as_ref().map(|density| density.get().ready.clone());
        let (engine, device) = py.detach(|| open((*weights).clone(), device))?;
        let engine =
            Engine { state: Mutex::new(engine), density, model, device, scores, precision };
        py.detach(|| {
            let mut state = engine.lock();
            attach(&mut state, ready.as_deref(), &engine.scores, precision)
        })?;
        Ok(engine)
    }

    #[getter]
    fn model(&self, py: Python) -> Py<Model> {
        self.model.clone_ref(py)
    }

    #[getter]
    fn density(&self, py: Python) -> Option<Py<Density>> {
        self.density.as_ref().map(|density| density.clone_ref(py))
    }

    /// "cpu" or "cuda:N".
    #[getter]
    fn device(&self) -> &str {
        &self.device
    }

    /// Names of the scores that a call computes.
    #[getter]
    fn scores(&self) -> Vec<&'static str> {
        self.scores.iter().map(|score| score.info().name).collect()
    }

    /// Runs images of one size together.
    fn run(&self, py: Python, images: Vec<PyRef<Image>>) -> PyResult<Vec<Maps>> {
        threads_started()?;
        let images: Vec<_> = images.iter().map(|image| image.0.clone()).collect();
        let found = py.detach(|| {
            let images: Vec<_> = images.iter().map(|image| &**image).collect();
            let engine = &mut *self.lock();
            let start = Instant::now();
            // Network and maps, in one visit to the pool. What waits for a lock does so before.
            let mut found = ddu::host::in_pool(|| {
                let waited = start.elapsed().as_secs_f64();
                let output = engine.run(&images)?;
                let each = (0..images.len()).map(|at| {
                    let mut found = on_host(&output, at, &self.scores)?;
                    // As `ddu infer` counts it: each visit belongs to the stage that makes it.
                    found.network_s += waited / images.len() as f64;
                    Ok(found)
                });
                each.collect::<ddu::Result<Vec<_>>>()
            })?;
            let back = start.elapsed().as_secs_f64()
                - found.iter().map(|found| found.network_s + found.maps_s).sum::<f64>();
            found.iter_mut().for_each(|each| each.maps_s += back / images.len() as f64);
            Ok(found)
        });
        Ok(found.map_err(raised)?.into_iter().map(|found| Maps::new(py, found)).collect())
    }

    /// The same of images on the engine's GPU, where the maps stay.
    fn run_on_device(&self, py: Python, images: Vec<Py<DeviceImage>>) -> PyResult<Vec<DeviceMaps>> {
        threads_started()?;
        let found = py.detach(|| {
            let images: Vec<_> = images.iter().map(Py::get).collect();
            let size = images.first().map_or(Size::new(0, 0), |image| image.size);
            let slices: Vec<_> = images.iter().map(|image| image.buffer.all()).collect();
            let mut engine = self.lock();
            let output = engine.run_on_device(size, &slices)?;
            let each = (0..images.len()).map(|at| on_device(&output, at, &self.scores));
            let found = each.collect::<ddu::Result<Vec<_>>>()?;
            Ok((output.device(), found))
        });
        let (device, found) = found.map_err(raised)?;
        let device = device.expect("it ran on a device");
        found.into_iter().map(|found| DeviceMaps::new(py, &device, found)).collect()
    }

    /// The features `[h, w, D]` of an image on the feature grid.
    fn features<'py>(&self, py: Python<'py>, image: &Image) -> PyResult<Bound<'py, PyArray3<f32>>> {
        threads_started()?;
        let image = image.0.clone();
        let found = py.detach(|| {
            let mut engine = self.lock();
            let output = engine.run(&[&image])?;
            let shape = (output.grid.h, output.grid.w, output.channels);
            Ok((shape, output.features(0)?.into_owned()))
        });
        let (shape, features) = found.map_err(raised)?;
        Ok(Array3::from_shape_vec(shape, features)
            .expect("D values for each cell")
            .into_pyarray(py))
    }

    fn __repr__(&self) -> String {
        let density = if self.density.is_some() { "with" } else { "without" };
        format!(
            "<ddu.Engine on {}, {density} a density, scores {}>",
            self.device,
            self.scores().join(", ")
        )
    }
}

impl Engine {
    /// Waits for other threads: never with the interpreter's lock, which they may need to finish.
    pub fn lock(&self) -> MutexGuard<'_, ddu::Engine> {
        // A panic in the engine leaves nothing that the next run does not set.
        self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    pub fn device_name(&self) -> &str {
        &self.device
    }

    pub fn classes(&self) -> Vec<String> {
        self.model.get().model.config().classes.clone()
    }

    pub fn weights(&self) -> &ddu::Model {
        &self.model.get().model
    }

    pub fn density_used(&self) -> Option<&Density> {
        self.density.as_ref().map(Py::get)
    }

    /// Every score that it could compute.
    pub fn possible(&self) -> Vec<Score> {
        let density = self.density_used();
        SCORES.iter().filter(|info| possible(info.needs, density)).map(|info| info.score).collect()
    }

    /// Has the engine compute these scores from now on. A call still gives those that it was made for.
    pub fn compute(&self, scores: &[Score]) -> PyResult<()> {
        let ready = self.density_used().map(|density| density.ready.clone());
        attach(&mut self.lock(), ready.as_deref(), scores, self.precision)
    }

    /// Those that it was made for.
    pub fn own_scores(&self) -> &[Score] {
        &self.scores
    }
}

fn attach(
    engine: &mut ddu::Engine,
    density: Option<&ddu::density::ModelGaussians>,
    scores: &[Score],
    precision: Precision,
) -> PyResult<()> {
    match density {
        Some(density) => engine.score_with(density, scores, precision).map_err(raised),
        None => {
            engine.score_logits(scores);
            Ok(())
        }
    }
}

fn possible(needs: Needs, density: Option<&Density>) -> bool {
    match needs {
        Needs::Logits => true,
        Needs::Limits | Needs::Density | Needs::Background => density.is_some(),
        Needs::Weighted => density.is_some_and(|density| density.ready.weighted.is_some()),
        // Several passes or networks: the command line has them.
        Needs::Passes | Needs::Members => false,
    }
}

fn chosen(names: Option<Vec<String>>, density: Option<&Density>) -> PyResult<Vec<Score>> {
    let Some(names) = names else {
        let default = [Score::Entropy, Score::Density];
        return Ok(default.into_iter().filter(|s| possible(s.info().needs, density)).collect());
    };
    let mut scores = vec![Score::Entropy];
    for name in names {
        let score = score(&name)?;
        if !possible(score.info().needs, density) {
            let expected = match score.info().needs {
                Needs::Passes | Needs::Members => {
                    "a score of one forward pass (`ddu infer` has the others)"
                }
                Needs::Weighted => {
                    "a density with weighted moments (ddu.fit(..., weight=\"confidence\"))"
                }
                _ => "a density for it: ddu.load(model, density)",
            };
            return Err(invalid(format!("score {name}"), expected, "none"));
        }
        if !scores.contains(&score) {
            scores.push(score);
        }
    }
    scores.sort_by_key(|score| *score as usize);
    Ok(scores)
}

/// `auto` takes cuda:0 where a GPU of its compute capability has confirmed the kernels, as the command line does.
fn open(model: ddu::Model, device: &str) -> PyResult<(ddu::Engine, String)> {
    let cuda = |ordinal: usize| {
        ddu::device::cuda::check(ordinal)?;
        let device = ddu::device::cuda::Cuda::new(ordinal)?;
        Ok((Box::new(device) as Box<dyn ddu::device::Device>, format!("cuda:{ordinal}")))
    };
    let chosen: ddu::Result<Option<_>> = match device {
        "cpu" => Ok(None),
        "auto" => match gpus::find().gpus.first().is_some_and(gpus::Gpu::confirmed) {
            true => Ok(cuda(0).ok()),
            false => Ok(None),
        },
        _ => match device.strip_prefix("cuda:").map(str::parse) {
            Some(Ok(ordinal)) => cuda(ordinal).map(Some),
            _ => Err(ddu::Error::invalid("device", "\"auto\", \"cpu\" or \"cuda:N\"", device)),
        },
    };
    match chosen.map_err(raised)? {
        None => Ok((ddu::Engine::new(model), "cpu".into())),
        Some((device, name)) => Ok((ddu::Engine::on(model, device).map_err(raised)?, name)),
    }
}
