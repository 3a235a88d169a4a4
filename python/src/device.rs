//! Images and maps that lie on an engine's GPU and never come to the host.

use std::sync::Arc;

use ddu::device::dlpack::{Form, Kind};
use ddu::device::{Buffer, Device};
use ddu::ops::Size;
use ddu::score::Score;
use pyo3::exceptions::PyBufferError;
use pyo3::prelude::*;
use pyo3::types::PyTuple;

use crate::engine::Engine;
use crate::fork::threads_started;
use crate::maps::{Found, Scores};
use crate::{dlpack, invalid, raised};

/// A picture `[H, W, 3]` of u8 on the GPU of an engine, in another library's memory.
#[pyclass(frozen)]
pub struct DeviceImage {
    pub buffer: Buffer,
    pub size: Size,
}

#[pymethods]
impl DeviceImage {
    /// Of a tensor with `__dlpack__`. What its library still does to it comes before what the engine does.
    #[staticmethod]
    fn of(py: Python, engine: &Engine, tensor: &Bound<PyAny>) -> PyResult<Self> {
        threads_started()?;
        let device = py.detach(|| engine.lock().device());
        let there = device.as_deref().and_then(|device| device.cuda());
        let gpu =
            there.ok_or_else(|| invalid("image", "an engine on its GPU", "one on the CPU"))?;
        let tensor = dlpack::tensor_of(tensor, gpu.inbound())?;
        let shape = tensor.shape();
        let size = match shape[..] {
            [h, w, 3] if h > 0 && w > 0 => Size::new(h as usize, w as usize),
            _ => {
                return Err(invalid(
                    "image",
                    "[H, W, 3], H and W at least 1",
                    format!("{shape:?}"),
                ));
            }
        };
        let buffer = py.detach(|| gpu.adopt(tensor, Kind::U8)).map_err(raised)?;
        Ok(DeviceImage { buffer, size })
    }

    #[getter]
    fn size(&self) -> (usize, usize) {
        (self.size.h, self.size.w)
    }
}

/// An array on a GPU; see `ddu.DeviceArray` in the stubs.
#[pyclass(frozen, module = "ddu")]
pub struct DeviceArray {
    buffer: Arc<Buffer>,
    device: Arc<dyn Device>,
    shape: Vec<usize>,
    kind: Kind,
}

impl DeviceArray {
    /// What writes to the buffer has ended.
    pub fn new(
        py: Python,
        device: &Arc<dyn Device>,
        buffer: Buffer,
        shape: &[usize],
        kind: Kind,
    ) -> PyResult<Py<Self>> {
        let (buffer, device) = (Arc::new(buffer), device.clone());
        Py::new(py, DeviceArray { buffer, device, shape: shape.to_vec(), kind })
    }
}

#[pymethods]
impl DeviceArray {
    #[getter]
    fn shape<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyTuple>> {
        PyTuple::new(py, &self.shape)
    }

    #[getter]
    fn dtype(&self) -> &'static str {
        match self.kind {
            Kind::U8 => "uint8",
            Kind::F16 => "float16",
            Kind::F32 => "float32",
        }
    }

    /// What wrote to it has ended, so no stream needs to wait.
    #[pyo3(signature = (*, stream=None, max_version=None, dl_device=None, copy=None))]
    fn __dlpack__<'py>(
        &self,
        py: Python<'py>,
        stream: Option<Bound<'py, PyAny>>,
        max_version: Option<(u32, u32)>,
        dl_device: Option<(i32, i32)>,
        copy: Option<bool>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let _ = stream;
        let here = self.__dlpack_device__();
        if dl_device.is_some_and(|device| device != here) || copy == Some(true) {
            return Err(PyBufferError::new_err(format!(
                "ddu.DeviceArray: expected no copy, and DLPack's device {here:?}, where it lies"
            )));
        }
        let form = match max_version {
            Some((1.., _)) => Form::Versioned,
            _ => Form::Unversioned,
        };
        let gpu = self.device.cuda().expect("made on a GPU");
        let tensor = gpu.share(self.buffer.clone(), self.kind, &self.shape, form);
        dlpack::given(py, tensor.map_err(raised)?, form)
    }

    fn __dlpack_device__(&self) -> (i32, i32) {
        let ordinal = self.device.cuda().map_or(0, |gpu| gpu.ordinal());
        (ddu::device::dlpack::CUDA, ordinal as i32)
    }

    fn __repr__(&self) -> String {
        format!("<ddu.DeviceArray {:?} of {}, {}>", self.shape, self.dtype(), self.device.name())
    }
}

/// Class and scores of every pixel of an image; see `ddu.DeviceMaps` in the stubs.
#[pyclass(frozen, module = "ddu")]
pub struct DeviceMaps {
    size: Size,
    #[pyo3(get)]
    label: Py<DeviceArray>,
    scores: Scores<DeviceArray>,
    #[pyo3(get)]
    non_finite: usize,
    #[pyo3(get)]
    network_s: f64,
    #[pyo3(get)]
    maps_s: f64,
}

impl DeviceMaps {
    pub fn new(
        py: Python,
        device: &Arc<dyn Device>,
        found: Found<Buffer, Buffer>,
    ) -> PyResult<Self> {
        let Found { size, label, scores, non_finite, network_s, maps_s } = found;
        let array = |buffer, kind| DeviceArray::new(py, device, buffer, &[size.h, size.w], kind);
        let score = |(score, map)| Ok((score, array(map, Kind::F32)?));
        let scores = scores.into_iter().map(score).collect::<PyResult<_>>()?;
        let label = array(label, Kind::U8)?;
        Ok(DeviceMaps { size, label, scores: Scores(scores), non_finite, network_s, maps_s })
    }
}

#[pymethods]
impl DeviceMaps {
    #[getter]
    fn shape(&self) -> (usize, usize) {
        (self.size.h, self.size.w)
    }

    #[getter]
    fn scores(&self) -> Vec<&'static str> {
        self.scores.names()
    }

    #[getter]
    fn entropy(&self, py: Python) -> PyResult<Py<DeviceArray>> {
        self.scores.of(py, Score::Entropy)
    }

    #[getter]
    fn density(&self, py: Python) -> PyResult<Py<DeviceArray>> {
        self.scores.of(py, Score::Density)
    }

    fn score(&self, py: Python, name: &str) -> PyResult<Py<DeviceArray>> {
        self.scores.of(py, crate::maps::score(name)?)
    }

    fn __repr__(&self) -> String {
        let names = self.scores.names().join(", ");
        format!(
            "<ddu.DeviceMaps {} on {}, label, {names}>",
            self.size,
            self.label.get().device.name()
        )
    }
}
