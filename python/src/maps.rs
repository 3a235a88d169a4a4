//! What an engine says of an image, as arrays that own the engine's own vectors.

use std::time::Instant;

use ddu::device::Buffer;
use ddu::engine::Output;
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
    scores: Scores<PyArray2<f32>>,
    /// Cells of the feature grid with a feature that is not finite.
    #[pyo3(get)]
    non_finite: usize,
    /// Seconds in preprocessing and network, and from there to the maps.
    #[pyo3(get)]
    network_s: f64,
    #[pyo3(get)]
    maps_s: f64,
}

/// Maps of an image before they are Python's.
pub struct Found<Label, Map> {
    pub size: Size,
    pub label: Label,
    pub scores: Vec<(Score, Map)>,
    pub non_finite: usize,
    pub network_s: f64,
    pub maps_s: f64,
}

/// In the host's memory.
pub fn on_host(
    output: &Output,
    at: usize,
    scores: &[Score],
) -> ddu::Result<Found<Vec<u8>, Vec<f32>>> {
    let start = Instant::now();
    let (label, maps) = output.scored(at, scores)?;
    let maps = maps.into_iter().map(|map| (map.values, map.non_finite));
    Ok(found(output, start, label, scores, maps))
}

/// On the device that it ran on, complete.
pub fn on_device(
    output: &Output,
    at: usize,
    scores: &[Score],
) -> ddu::Result<Found<Buffer, Buffer>> {
    let start = Instant::now();
    let (label, maps) = output.scored_on_device(at, scores)?;
    if let Some(device) = output.device() {
        device.synchronize()?;
    }
    let maps = maps.into_iter().map(|map| (map.values, map.non_finite));
    Ok(found(output, start, label, scores, maps))
}

fn found<Label, Map>(
    output: &Output,
    start: Instant,
    label: Label,
    scores: &[Score],
    maps: impl Iterator<Item = (Map, usize)>,
) -> Found<Label, Map> {
    let maps_s = start.elapsed().as_secs_f64();
    let network_s = (output.preprocess + output.network).as_secs_f64() / output.batch() as f64;
    let (maps, non_finite): (Vec<_>, Vec<_>) = maps.unzip();
    let non_finite = non_finite.into_iter().max().unwrap_or(0);
    let scores = scores.iter().copied().zip(maps).collect();
    Found { size: output.size, label, scores, non_finite, network_s, maps_s }
}

impl Maps {
    pub fn new(py: Python, found: Found<Vec<u8>, Vec<f32>>) -> Self {
        let Found { size, label, scores, non_finite, network_s, maps_s } = found;
        let scores = scores.into_iter().map(|(score, map)| (score, array(py, size, map).unbind()));
        let label = array(py, size, label).unbind();
        Maps { size, label, scores: Scores(scores.collect()), non_finite, network_s, maps_s }
    }
}

/// Arrays of the scores that were computed.
pub struct Scores<A>(pub Vec<(Score, Py<A>)>);

impl<A> Scores<A> {
    pub fn names(&self) -> Vec<&'static str> {
        self.0.iter().map(|(score, _)| score.info().name).collect()
    }

    pub fn of(&self, py: Python, score: Score) -> PyResult<Py<A>> {
        let found = self.0.iter().find(|(known, _)| *known == score);
        found.map(|(_, map)| map.clone_ref(py)).ok_or_else(|| {
            let name = score.info().name;
            invalid(
                "score",
                format!("one that was computed ({})", self.names().join(", ")),
                format!("{name}; name it to ddu.load(..., scores=[...]), with a density where it needs one"),
            )
        })
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
        self.scores.names()
    }

    #[getter]
    fn entropy(&self, py: Python) -> PyResult<Py<PyArray2<f32>>> {
        self.scores.of(py, Score::Entropy)
    }

    #[getter]
    fn density(&self, py: Python) -> PyResult<Py<PyArray2<f32>>> {
        self.scores.of(py, Score::Density)
    }

    fn score(&self, py: Python, name: &str) -> PyResult<Py<PyArray2<f32>>> {
        self.scores.of(py, score(name)?)
    }

    fn __repr__(&self) -> String {
        format!("<ddu.Maps {}, label, {}>", self.size, self.scores().join(", "))
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
