//! Features of any network that lie on a GPU: their density and their moments, computed there by the kernels of an engine's.

use std::sync::{Arc, Mutex, Weak};

use ddu::device::cuda::{self, Cuda};
use ddu::device::dlpack::Kind;
use ddu::device::launch::density::Precision;
use ddu::device::{Buffer, Device, Element, Tensor};
use ddu::gpu::evaluator::{Evaluator, Scores};
use ddu::ops::Size;
use numpy::PyReadonlyArray2;
use pyo3::prelude::*;

use crate::density::Density;
use crate::device::DeviceArray;
use crate::features::Moments;
use crate::fork::threads_started;
use crate::{dlpack, invalid, raised};

/// `cuda:N`, opened once for all that use it at a time.
fn open(name: &str) -> PyResult<Arc<dyn Device>> {
    static OPEN: Mutex<Vec<(usize, Weak<dyn Device>)>> = Mutex::new(Vec::new());
    let ordinal = name.strip_prefix("cuda:").and_then(|n| n.parse().ok());
    let ordinal = ordinal.ok_or_else(|| invalid("device", "\"cpu\" or \"cuda:N\"", name))?;
    let mut open = OPEN.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    open.retain(|(_, device)| device.strong_count() > 0);
    let found = open.iter().find(|(known, _)| *known == ordinal);
    if let Some(device) = found.and_then(|(_, device)| device.upgrade()) {
        return Ok(device);
    }
    cuda::check(ordinal).map_err(raised)?;
    let device: Arc<dyn Device> = Arc::new(Cuda::new(ordinal).map_err(raised)?);
    open.push((ordinal, Arc::downgrade(&device)));
    Ok(device)
}

fn gpu(device: &dyn Device) -> &Cuda {
    device.cuda().expect("opened as one")
}

/// A dense tensor `[.., D]` of float16 on a GPU, and how many features it has.
fn features_of(
    py: Python,
    device: &dyn Device,
    tensor: &Bound<PyAny>,
    channels: usize,
) -> PyResult<(Buffer, usize)> {
    let tensor = dlpack::tensor_of(tensor, gpu(device).inbound())?;
    let shape = tensor.shape();
    let (pixels, there) = match shape.split_last() {
        Some((there, pixels)) => (pixels.iter().product::<i64>(), *there),
        None => (0, 0),
    };
    if there != channels as i64 || pixels < 1 {
        let expected = format!("{channels} channels last, at least one feature");
        return Err(invalid("features", expected, format!("{shape:?}")));
    }
    let buffer = py.detach(|| gpu(device).adopt(tensor, Kind::F16)).map_err(raised)?;
    Ok((buffer, pixels as usize))
}

/// A density whose Gaussians lie on a GPU.
#[pyclass(frozen)]
pub struct DeviceDensity {
    device: Arc<dyn Device>,
    evaluator: Mutex<Evaluator>,
    channels: usize,
}

#[pymethods]
impl DeviceDensity {
    #[new]
    fn new(py: Python, density: &Density, device: &str) -> PyResult<Self> {
        threads_started()?;
        let gaussians = &density.ready.gaussians;
        py.detach(|| {
            let device = open(device)?;
            let made = Evaluator::new(&*device, gaussians, Precision::Exact).map_err(raised)?;
            Ok(DeviceDensity { device, evaluator: Mutex::new(made), channels: gaussians.channels })
        })
    }

    #[getter]
    fn device(&self) -> String {
        self.device.name()
    }

    /// log q(z), or the relative log-density, of features `[.., D]`, as an array of `shape`.
    fn log_density(
        &self,
        py: Python,
        features: &Bound<PyAny>,
        shape: Vec<usize>,
        relative: bool,
    ) -> PyResult<Py<DeviceArray>> {
        let scores = self.evaluate(py, features, &shape, relative, false)?;
        let values = if relative { scores.relative } else { Some(scores.density) };
        let values = values.expect("what was asked for");
        DeviceArray::new(py, &self.device, values, &shape, Kind::F32)
    }

    /// The class of the least Mahalanobis distance, and that distance.
    fn nearest(
        &self,
        py: Python,
        features: &Bound<PyAny>,
        shape: Vec<usize>,
    ) -> PyResult<(Py<DeviceArray>, Py<DeviceArray>)> {
        let scores = self.evaluate(py, features, &shape, false, true)?;
        let (class, distance) = scores.nearest.expect("what was asked for");
        Ok((
            DeviceArray::new(py, &self.device, class, &shape, Kind::U8)?,
            DeviceArray::new(py, &self.device, distance, &shape, Kind::F32)?,
        ))
    }
}

impl DeviceDensity {
    /// Complete when it returns.
    fn evaluate(
        &self,
        py: Python,
        features: &Bound<PyAny>,
        shape: &[usize],
        relative: bool,
        nearest: bool,
    ) -> PyResult<Scores> {
        threads_started()?;
        let device = &*self.device;
        let (features, pixels) = features_of(py, device, features, self.channels)?;
        if pixels != shape.iter().product::<usize>() {
            return Err(invalid("features", format!("those of {shape:?}"), pixels));
        }
        py.detach(|| {
            let mut evaluator = self.evaluator.lock().unwrap_or_else(|p| p.into_inner());
            let scores = evaluator.evaluate(device, features.all(), pixels, relative, nearest)?;
            device.synchronize()?;
            Ok(scores)
        })
        .map_err(raised)
    }
}

/// Moments that lie on a GPU: those that were started from, and features since.
#[pyclass]
pub struct DeviceMoments {
    device: Arc<dyn Device>,
    moments: ddu::gpu::moments::DeviceMoments,
    start: Moments,
}

#[pymethods]
impl DeviceMoments {
    #[new]
    fn new(py: Python, start: &Moments, device: &str) -> PyResult<Self> {
        threads_started()?;
        py.detach(|| {
            let device = open(device)?;
            let moments = ddu::gpu::moments::DeviceMoments::new(&*device, &start.moments);
            Ok(DeviceMoments { moments: moments.map_err(raised)?, device, start: start.clone() })
        })
    }

    /// Folds in features `[.., D]`, image by image, and a label for each: `[N, P]` of uint8, of numpy or on the GPU.
    fn update(
        &mut self,
        py: Python,
        features: &Bound<PyAny>,
        labels: &Bound<PyAny>,
        images: usize,
    ) -> PyResult<()> {
        threads_started()?;
        let channels = self.start.moments.channels();
        let device = self.device.clone();
        let (features, pixels) = features_of(py, &*device, features, channels)?;
        let unequal =
            |found: String| invalid("labels", format!("{pixels}, one for each feature"), found);
        let labels = match labels.extract::<PyReadonlyArray2<u8>>() {
            Ok(labels) => {
                let values = labels.as_slice().map_err(|_| unequal("strides".into()))?;
                let uploaded = || {
                    let buffer = device.alloc(values.len())?;
                    device.write(buffer.all(), values)?;
                    Ok(buffer)
                };
                py.detach(uploaded).map_err(raised)?
            }
            Err(_) => {
                let tensor = dlpack::tensor_of(labels, gpu(&*device).inbound())?;
                py.detach(|| gpu(&*device).adopt(tensor, Kind::U8)).map_err(raised)?
            }
        };
        if labels.all().bytes() != pixels || images == 0 || pixels % images != 0 {
            return Err(unequal(format!("{} of {images} images", labels.all().bytes())));
        }
        py.detach(|| {
            let size = Size::new(1, pixels / images);
            let all = features.all();
            let features = Tensor::new(all, Element::F16, images, size, channels, 0, channels)?;
            self.moments.add(&*device, features, labels.all(), None)?;
            // What is launched reads both, which their owners may want back.
            device.synchronize()
        })
        .map_err(raised)
    }

    /// All of them, on the host.
    fn moments(&self, py: Python) -> PyResult<Moments> {
        threads_started()?;
        py.detach(|| {
            let (moments, tally) = self.moments.read(&*self.device).map_err(raised)?;
            let mut all = self.start.clone();
            all.moments = moments;
            all.tally += tally;
            Ok(all)
        })
    }
}
