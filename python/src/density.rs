//! A density, ready to evaluate: of an engine's features, or of any others.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use ddu::density::{Covariance, Evaluator, Gaussians, ModelGaussians, Options, Prior, Warning};
use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray1, PyArray2};
use pyo3::prelude::*;
use pyo3::types::PyBytes;

use crate::features::FeatureArray;
use crate::fork::threads_started;
use crate::{named, raised};

/// See `ddu.Density` in the stubs.
#[pyclass(frozen, module = "ddu._ddu")]
pub struct Density {
    pub density: ddu::Density,
    pub ready: Arc<ModelGaussians>,
    covariance: Covariance,
    prior: Prior,
    condition: Option<f64>,
    /// Lines about doubtful classes.
    #[pyo3(get)]
    warnings: Vec<String>,
    evaluator: OnceLock<Evaluator>,
}

impl Density {
    pub fn new(
        density: ddu::Density,
        covariance: Covariance,
        prior: Prior,
        condition: Option<f64>,
    ) -> PyResult<Self> {
        let (ready, warnings) = match condition {
            None => density.gaussians(covariance, prior),
            Some(cap) => capped(&density, covariance, prior, cap),
        }
        .map_err(raised)?;
        let message = |warning: &Warning| warning.message(&density.origin.classes[warning.class()]);
        let warnings = warnings.iter().map(message).collect();
        let evaluator = OnceLock::new();
        Ok(Density {
            ready: Arc::new(ready),
            density,
            covariance,
            prior,
            condition,
            warnings,
            evaluator,
        })
    }

    fn gaussians(&self) -> &Gaussians {
        &self.ready.gaussians
    }

    fn evaluator(&self) -> &Evaluator {
        self.evaluator.get_or_init(|| Evaluator::new(self.gaussians()))
    }

    fn evaluate(
        &self,
        py: Python,
        features: &Bound<PyAny>,
        bf16: bool,
        options: Options,
    ) -> PyResult<ddu::density::Evaluation> {
        threads_started()?;
        let array = FeatureArray::of(features, bf16, self.gaussians().channels)?;
        let features = array.view();
        Ok(py.detach(|| {
            let mut all = ddu::density::Evaluation::default();
            features.strips(|strip| {
                let found = self.evaluator().evaluate(strip, None, options);
                all.score.extend(found.score);
                all.nearest.extend(found.nearest);
                all.distance.extend(found.distance);
            });
            all
        }))
    }
}

/// As `ddu::Density::gaussians`, with another limit of the condition number.
fn capped(
    density: &ddu::Density,
    covariance: Covariance,
    prior: Prior,
    cap: f64,
) -> ddu::Result<(ModelGaussians, Vec<Warning>)> {
    let (gaussians, mut warnings) =
        Gaussians::with_condition(&density.moments, covariance, prior, cap)?;
    let mut weighted = None;
    if let Some(moments) = &density.weighted {
        let (made, more) = Gaussians::with_condition(moments, covariance, prior, cap)?;
        warnings.extend(more.into_iter().map(|warning| Warning::Weighted(Box::new(warning))));
        weighted = Some(made);
    }
    Ok((ModelGaussians { model: density.origin.model.clone(), gaussians, weighted }, warnings))
}

/// Class and distance of each feature.
type NearestClass<'py> = (Bound<'py, PyArray1<u8>>, Bound<'py, PyArray1<f32>>);

/// `(mean [D], covariance [D, D], ln pi, eps)` of a class.
type ClassParameters<'py> = (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray2<f64>>, f64, f64);

#[pymethods]
impl Density {
    #[staticmethod]
    fn load(
        py: Python,
        path: PathBuf,
        covariance: &str,
        prior: &str,
        condition: Option<f64>,
    ) -> PyResult<Self> {
        let covariance = named("covariance", &Covariance::NAMES, covariance)?;
        let prior = named("prior", &Prior::NAMES, prior)?;
        threads_started()?;
        py.detach(|| {
            let density = ddu::Density::load(path).map_err(raised)?;
            Density::new(density, covariance, prior, condition)
        })
    }

    /// The same moments evaluated otherwise.
    fn with_options(
        &self,
        py: Python,
        covariance: &str,
        prior: &str,
        condition: Option<f64>,
    ) -> PyResult<Self> {
        let covariance = named("covariance", &Covariance::NAMES, covariance)?;
        let prior = named("prior", &Prior::NAMES, prior)?;
        threads_started()?;
        py.detach(|| Density::new(self.density.clone(), covariance, prior, condition))
    }

    fn save(&self, py: Python, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.density.save(path)).map_err(raised)
    }

    /// The fits of other images folded in, one after another.
    fn merged(&self, py: Python, others: Vec<PyRef<Density>>) -> PyResult<Self> {
        threads_started()?;
        let others: Vec<&ddu::Density> = others.iter().map(|other| &other.density).collect();
        py.detach(|| {
            let mut all = self.density.clone();
            for (at, other) in others.into_iter().enumerate() {
                all.merge(&format!("density {}", at + 1), other).map_err(raised)?;
            }
            Density::new(all, self.covariance, self.prior, self.condition)
        })
    }

    #[getter]
    fn classes(&self) -> Vec<String> {
        self.density.origin.classes.clone()
    }

    /// D
    #[getter]
    fn channels(&self) -> usize {
        self.density.moments.channels()
    }

    /// Pixels of each class.
    #[getter]
    fn count(&self) -> Vec<i64> {
        self.density.moments.count().to_vec()
    }

    #[getter]
    fn images(&self) -> usize {
        self.density.origin.images.len()
    }

    /// Pixels: fitted, void, not finite, and of each label that is no class.
    #[getter]
    fn pixels(&self) -> (u64, u64, u64, Vec<(u8, u64)>) {
        let pixels = &self.density.origin.pixels;
        let unknown = pixels.unknown.iter().map(|(label, count)| (*label, *count)).collect();
        (pixels.fitted, pixels.void, pixels.non_finite, unknown)
    }

    /// The shorter side that images were scaled to in the fit.
    #[getter]
    fn resize(&self) -> Option<usize> {
        self.density.origin.resize
    }

    #[getter]
    fn model_sha256(&self) -> &str {
        &self.density.origin.model
    }

    #[getter]
    fn covariance(&self) -> &'static str {
        name_of(&Covariance::NAMES, self.covariance)
    }

    #[getter]
    fn prior(&self) -> &'static str {
        name_of(&Prior::NAMES, self.prior)
    }

    /// What each fitted class is evaluated with, by index, for a comparison with another implementation. The covariance has
    /// eps on its diagonal.
    fn parameters<'py>(&self, py: Python<'py>) -> PyResult<Vec<(usize, ClassParameters<'py>)>> {
        let moments = &self.density.moments;
        let channels = moments.channels();
        let full = self.covariance == Covariance::Full;
        if !full {
            return Err(crate::invalid(
                "parameters",
                "a density of covariance \"full\"",
                self.covariance(),
            ));
        }
        let of = |class: &ddu::density::ClassGaussian| {
            let (scatter, freedom) = (moments.scatter(class.class), moments.freedom(class.class));
            let entry = |(i, j): (usize, usize)| {
                let sigma = scatter[i.max(j) * channels + i.min(j)] / freedom;
                if i == j { sigma + class.gaussian.eps } else { sigma }
            };
            let covariance = Array2::from_shape_fn((channels, channels), entry).into_pyarray(py);
            let mean = PyArray1::from_slice(py, &class.gaussian.mean);
            (class.class, (mean, covariance, class.log_prior, class.gaussian.eps))
        };
        Ok(self.gaussians().classes.iter().map(of).collect())
    }

    /// The background's: mean, W `[D, D]` (lower triangular), ln of the density's peak.
    fn background<'py>(
        &self,
        py: Python<'py>,
    ) -> (Bound<'py, PyArray1<f64>>, Bound<'py, PyArray2<f64>>, f64) {
        let g = &self.gaussians().background;
        let channels = g.mean.len();
        let whitening =
            Array2::from_shape_vec((channels, channels), g.whitening.clone()).expect("square");
        (PyArray1::from_slice(py, &g.mean), whitening.into_pyarray(py), g.log_peak())
    }

    /// Condition numbers before and after eps, of each fitted class.
    fn conditions(&self) -> Vec<(usize, f64, f64)> {
        let of = |c: &ddu::density::ClassGaussian| {
            (c.class, c.gaussian.condition_before, c.gaussian.condition_after)
        };
        self.gaussians().classes.iter().map(of).collect()
    }

    /// log q(z) `[N x P]` of features `[N, P, D]`, or the relative log-density.
    fn log_density<'py>(
        &self,
        py: Python<'py>,
        features: &Bound<'py, PyAny>,
        bf16: bool,
        relative: bool,
    ) -> PyResult<Bound<'py, PyArray1<f32>>> {
        let found =
            self.evaluate(py, features, bf16, Options { relative, ..Options::default() })?;
        Ok(found.score.into_pyarray(py))
    }

    /// The class of the least Mahalanobis distance, and that distance, each `[N x P]`.
    fn nearest<'py>(
        &self,
        py: Python<'py>,
        features: &Bound<'py, PyAny>,
        bf16: bool,
    ) -> PyResult<NearestClass<'py>> {
        let found =
            self.evaluate(py, features, bf16, Options { nearest: true, ..Options::default() })?;
        Ok((found.nearest.into_pyarray(py), found.distance.into_pyarray(py)))
    }

    fn __repr__(&self) -> String {
        let fitted = self.density.moments.count().iter().filter(|count| **count > 1).count();
        format!(
            "<ddu.Density of {} pixels, {fitted} of {} classes, {} channels, {} covariance>",
            self.density.origin.pixels.fitted,
            self.density.moments.classes(),
            self.channels(),
            self.covariance()
        )
    }

    #[staticmethod]
    fn _from_bytes(
        py: Python,
        bytes: &[u8],
        covariance: &str,
        prior: &str,
        condition: Option<f64>,
    ) -> PyResult<Self> {
        let covariance = named("covariance", &Covariance::NAMES, covariance)?;
        let prior = named("prior", &Prior::NAMES, prior)?;
        threads_started()?;
        py.detach(|| {
            let density = ddu::Density::from_bytes("a pickled density", bytes).map_err(raised)?;
            Density::new(density, covariance, prior, condition)
        })
    }

    /// The content of its file.
    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.density.to_bytes("a density to pickle")).map_err(raised)?;
        Ok(PyBytes::new(py, &bytes))
    }

    #[expect(clippy::type_complexity, reason = "a pickle's callable and its arguments")]
    fn __reduce__<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyAny>, (Bound<'py, PyBytes>, &'static str, &'static str, Option<f64>))>
    {
        let make = py.get_type::<Density>().getattr("_from_bytes")?;
        Ok((make, (self.to_bytes(py)?, self.covariance(), self.prior(), self.condition)))
    }
}

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: T) -> &'static str {
    names.iter().find(|(_, known)| *known == value).map_or("", |(name, _)| name)
}
