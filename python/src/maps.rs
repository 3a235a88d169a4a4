//! What an engine says of an image, as arrays that own the engine's own vectors.

use std::time::Instant;

use ddu::ops::Size;
use ddu::score::{SCORES, Score};
use numpy::PyArray2;
use pyo3::prelude::*;

use crate::data::array;
use crate::{invalid, named};

/// Class and scores of every pixel of an image; see `ddu.Maps` in the stubs.
#[pyclass(frozen, module = "ddu")]
pub struct Maps {
    size: Size,
    #[pyo3(get)]
    label: Py<PyArray2<u8>>,
    scores: Vec<(Score, Py<PyArray2<f32>>)>,
    /// Cells of the feature grid with a feature that is not finite.
    #[pyo3(get)]
    non_finite: usize,
    /// Seconds in preprocessing and network, and from there to the maps.
    #[pyo3(get)]
    network_s: f64,
    #[pyo3(get)]
    maps_s: f64,
}

/// The same without the interpreter's lock.
pub struct Computed {
    pub size: Size,
    pub label: Vec<u8>,
    pub scores: Vec<(Score, ddu::engine::ScoreMap)>,
    pub network_s: f64,
    pub maps_s: f64,
}

impl Computed {
    pub fn of(output: &ddu::engine::Output, at: usize, scores: &[Score]) -> ddu::Result<Self> {
        let start = Instant::now();
        let (label, maps) = output.scored(at, scores)?;
        let maps_s = start.elapsed().as_secs_f64();
        let network_s = (output.preprocess + output.network).as_secs_f64() / output.batch() as f64;
        let scores = scores.iter().copied().zip(maps).collect();
        Ok(Computed { size: output.size, label, scores, network_s, maps_s })
    }

    pub fn maps(self, py: Python) -> Maps {
        let Computed { size, label, scores, network_s, maps_s } = self;
        let non_finite = scores.iter().map(|(_, map)| map.non_finite).max().unwrap_or(0);
        let scores =
            scores.into_iter().map(|(score, map)| (score, array(py, size, map.values).unbind()));
        Maps {
            size,
            label: array(py, size, label).unbind(),
            scores: scores.collect(),
            non_finite,
            network_s,
            maps_s,
        }
    }
}

#[pymethods]
impl Maps {
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.size.h, self.size.w)
    }

    /// Names of the scores that were computed.
    #[getter]
    fn scores(&self) -> Vec<&'static str> {
        self.scores.iter().map(|(score, _)| score.info().name).collect()
    }

    #[getter]
    fn entropy(&self, py: Python) -> PyResult<Py<PyArray2<f32>>> {
        self.map(py, Score::Entropy)
    }

    #[getter]
    fn density(&self, py: Python) -> PyResult<Py<PyArray2<f32>>> {
        self.map(py, Score::Density)
    }

    fn score(&self, py: Python, name: &str) -> PyResult<Py<PyArray2<f32>>> {
        self.map(py, score(name)?)
    }

    fn __repr__(&self) -> String {
        format!("<ddu.Maps {}, label, {}>", self.size, self.scores().join(", "))
    }
}

impl Maps {
    fn map(&self, py: Python, score: Score) -> PyResult<Py<PyArray2<f32>>> {
        let found = self.scores.iter().find(|(known, _)| *known == score);
        found.map(|(_, map)| map.clone_ref(py)).ok_or_else(|| {
            let name = score.info().name;
            invalid(
                "score",
                format!("one that was computed ({})", self.scores().join(", ")),
                format!("{name}; name it to ddu.load(..., scores=[...]), with a density where it needs one"),
            )
        })
    }
}

/// The score of a name.
pub fn score(name: &str) -> PyResult<Score> {
    let names: Vec<(&str, Score)> = SCORES.iter().map(|info| (info.name, info.score)).collect();
    named("score", &names, name)
}

/// Name, unit and equation of every score.
#[pyfunction]
pub fn score_names() -> Vec<(&'static str, &'static str, &'static str)> {
    SCORES.iter().map(|info| (info.name, info.unit, info.equation)).collect()
}
