//! Features that another network made, as arrays of f32, f16 or bf16 in any layout, and their moments.

use std::borrow::Cow;
use std::path::PathBuf;

use ddu::data::LabelRule;
use ddu::density::{Covariance, Prior, Tally, finite_in_half};
use half::{bf16, f16};
use numpy::ndarray::{ArrayView2, ArrayView3, Axis, s};
use numpy::{PyArray3, PyArrayMethods, PyReadonlyArray2, PyReadonlyArray3, PyUntypedArrayMethods};
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use rayon::prelude::*;

use crate::density::Density;
use crate::fork::threads_started;
use crate::{invalid, named, raised};

/// Pixels whose features are brought to f32 `[pixels, D]` at a time: 16 MiB at D = 256. Memory does not grow with
/// what comes in.
const STRIP: usize = 1 << 14;
/// Pixels of a task of theirs.
const TASK: usize = 64;

/// An array `[N, P, D]` of any strides: N images of P pixels.
pub enum FeatureArray<'py> {
    F32(PyReadonlyArray3<'py, f32>),
    F16(PyReadonlyArray3<'py, f16>),
    /// As their bits.
    Bf16(PyReadonlyArray3<'py, u16>),
}

impl<'py> FeatureArray<'py> {
    /// `channels`: those that they must have.
    pub fn of(array: &Bound<'py, PyAny>, bf16: bool, channels: usize) -> PyResult<Self> {
        let found = match bf16 {
            true => three_axes(array).map(FeatureArray::Bf16),
            false => three_axes(array)
                .map(FeatureArray::F32)
                .or_else(|| three_axes(array).map(FeatureArray::F16)),
        };
        let expected = "[N, P, D] of float32, float16 or bfloat16";
        let found = found.ok_or_else(|| invalid("features", expected, "another array"))?;
        let there = found.view().shape().2;
        match there == channels {
            true => Ok(found),
            false => Err(invalid(
                "features",
                format!("{channels} channels"),
                format!("{there} (is the layout right?)"),
            )),
        }
    }

    /// What a thread without the interpreter's lock reads.
    pub fn view(&self) -> Features<'_> {
        match self {
            FeatureArray::F32(array) => Features::F32(array.as_array()),
            FeatureArray::F16(array) => Features::F16(array.as_array()),
            FeatureArray::Bf16(array) => Features::Bf16(array.as_array()),
        }
    }
}

fn three_axes<'py, T: numpy::Element>(
    array: &Bound<'py, PyAny>,
) -> Option<PyReadonlyArray3<'py, T>> {
    array.cast::<PyArray3<T>>().ok()?.try_readonly().ok()
}

pub enum Features<'a> {
    F32(ArrayView3<'a, f32>),
    F16(ArrayView3<'a, f16>),
    Bf16(ArrayView3<'a, u16>),
}

impl Features<'_> {
    fn shape(&self) -> (usize, usize, usize) {
        match self {
            Features::F32(array) => array.dim(),
            Features::F16(array) => array.dim(),
            Features::Bf16(array) => array.dim(),
        }
    }

    /// Calls `each` with f32 features `[pixels, D]`, strip by strip, in order. What lies so already is not copied.
    pub fn strips(&self, mut each: impl FnMut(&[f32])) {
        let (images, pixels, channels) = self.shape();
        if let Features::F32(array) = self
            && let Some(all) = array.as_slice()
        {
            return all.chunks(STRIP * channels.max(1)).for_each(each);
        }
        let mut strip = vec![0.0; STRIP.min(pixels) * channels];
        for image in 0..images {
            for from in (0..pixels).step_by(STRIP) {
                let to = pixels.min(from + STRIP);
                let strip = &mut strip[..(to - from) * channels];
                self.copy(image, from, strip);
                each(strip);
            }
        }
    }

    /// The features of an image `[P, D]` in f32.
    fn image(&self, image: usize) -> Cow<'_, [f32]> {
        let (_, pixels, channels) = self.shape();
        let len = pixels * channels;
        if let Features::F32(array) = self
            && let Some(all) = array.as_slice()
        {
            return all[image * len..][..len].into();
        }
        let mut values = vec![0.0; len];
        self.copy(image, 0, &mut values);
        values.into()
    }

    /// Pixels from `from` of an image, as many as `to` has room for.
    fn copy(&self, image: usize, from: usize, to: &mut [f32]) {
        match self {
            Features::F32(array) => rows(array.index_axis(Axis(0), image), from, to, |v| v),
            Features::F16(array) => rows(array.index_axis(Axis(0), image), from, to, f16::to_f32),
            Features::Bf16(array) => {
                rows(array.index_axis(Axis(0), image), from, to, |bits| {
                    bf16::from_bits(bits).to_f32()
                });
            }
        }
    }
}

/// Copies pixels of a view `[P, D]`, whichever of its axes is the dense one.
fn rows<T: Copy + Send + Sync>(
    view: ArrayView2<T>,
    from: usize,
    to: &mut [f32],
    value: impl Fn(T) -> f32 + Sync,
) {
    let channels = view.ncols();
    to.par_chunks_mut(TASK * channels.max(1)).enumerate().for_each(|(task, to)| {
        let first = from + task * TASK;
        let pixels = to.len() / channels;
        let part = view.slice(s![first..first + pixels, ..]);
        for (channel, column) in part.columns().into_iter().enumerate() {
            for (pixel, v) in column.iter().enumerate() {
                to[pixel * channels + channel] = value(*v);
            }
        }
    });
}

/// See `ddu.Moments` in the stubs.
#[pyclass(module = "ddu._ddu")]
#[derive(Clone)]
pub struct Moments {
    pub moments: ddu::density::Moments,
    pub tally: Tally,
    names: Vec<String>,
}

/// What the origin of a density of one's own features names as its model.
const MODEL: &str = "features";

#[pymethods]
impl Moments {
    #[new]
    fn new(names: Vec<String>, channels: usize) -> PyResult<Self> {
        let classes = names.len();
        if !(1..=255).contains(&classes) {
            return Err(invalid("classes", "1 to 255", classes));
        }
        if !(1..=1 << 14).contains(&channels) {
            return Err(invalid("channels", "1 to 16384", channels));
        }
        Ok(Moments {
            moments: ddu::density::Moments::new(classes, channels),
            tally: Tally::default(),
            names,
        })
    }

    /// Folds in features `[N, P, D]` and labels `[N, P]`, image by image.
    fn update(
        &mut self,
        py: Python,
        features: &Bound<'_, PyAny>,
        bf16: bool,
        labels: PyReadonlyArray2<u8>,
        skip_non_finite: bool,
    ) -> PyResult<()> {
        threads_started()?;
        let array = FeatureArray::of(features, bf16, self.moments.channels())?;
        let features = array.view();
        let (images, pixels, channels) = features.shape();
        if labels.shape() != [images, pixels] {
            let found = format!("{:?}", labels.shape());
            return Err(invalid(
                "labels",
                format!("[{images}, {pixels}], one for each feature"),
                found,
            ));
        }
        let labels =
            labels.as_slice().map_err(|_| invalid("labels", "a contiguous array", "strides"))?;
        py.detach(|| {
            // All of them are looked at before one is added.
            let bad = (0..images).find_map(|image| {
                let values =
                    if skip_non_finite { Default::default() } else { features.image(image) };
                let at = values.par_chunks(channels).position_first(|z| !finite_in_half(z))?;
                Some((image, at))
            });
            if let Some((image, at)) = bad {
                return Err(ddu::Error::invalid(
                    "features",
                    "values that are finite in float16",
                    format!("others in pixel {at} of image {image}"),
                )
                .fix("non_finite=\"skip\" leaves such pixels out and counts them"));
            }
            for (image, labels) in labels.chunks_exact(pixels.max(1)).enumerate() {
                self.tally += self.moments.add(&features.image(image), labels);
            }
            Ok(())
        })
        .map_err(raised)
    }

    fn add(&self, py: Python, other: &Moments) -> PyResult<Self> {
        threads_started()?;
        let shape = |moments: &Moments| (moments.moments.classes(), moments.moments.channels());
        if shape(self) != shape(other) || self.names != other.names {
            let say = |moments: &Moments| {
                format!("{} channels of {}", shape(moments).1, moments.names.join(", "))
            };
            return Err(invalid("moments to add", say(self), say(other)));
        }
        Ok(py.detach(|| {
            let mut sum = self.clone();
            sum.moments.merge(&other.moments);
            sum.tally += other.tally.clone();
            sum
        }))
    }

    #[getter]
    fn names(&self) -> Vec<String> {
        self.names.clone()
    }

    #[getter]
    fn channels(&self) -> usize {
        self.moments.channels()
    }

    #[getter]
    fn count(&self) -> Vec<i64> {
        self.moments.count().to_vec()
    }

    /// Pixels: fitted, void, not finite, of labels that are no class.
    #[getter]
    fn pixels(&self) -> (u64, u64, u64, u64) {
        let Tally { fitted, void, unknown, non_finite } = &self.tally;
        (*fitted, *void, *non_finite, unknown.values().sum())
    }

    fn density(
        &self,
        py: Python,
        covariance: &str,
        prior: &str,
        condition: Option<f64>,
    ) -> PyResult<Density> {
        let covariance = named("covariance", &Covariance::NAMES, covariance)?;
        let prior = named("prior", &Prior::NAMES, prior)?;
        threads_started()?;
        py.detach(|| Density::new(self.whole(), covariance, prior, condition))
    }

    fn save(&self, py: Python, path: PathBuf) -> PyResult<()> {
        py.detach(|| self.whole().save(path)).map_err(raised)
    }

    #[staticmethod]
    fn load(py: Python, path: PathBuf) -> PyResult<Self> {
        let density = py.detach(|| ddu::Density::load(&path)).map_err(raised)?;
        Ok(density.into())
    }

    #[staticmethod]
    fn _from_bytes(py: Python, bytes: &[u8]) -> PyResult<Self> {
        let density =
            py.detach(|| ddu::Density::from_bytes("pickled moments", bytes)).map_err(raised)?;
        Ok(density.into())
    }

    fn to_bytes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyBytes>> {
        let bytes = py.detach(|| self.whole().to_bytes("moments to pickle")).map_err(raised)?;
        Ok(PyBytes::new(py, &bytes))
    }
}

impl Moments {
    /// As the content of a density file.
    fn whole(&self) -> ddu::Density {
        let (names, channels) = (self.names.clone(), self.moments.channels());
        let mut density =
            ddu::Density::new(MODEL.into(), names, channels, LabelRule::HalfPixel, None);
        density.moments = self.moments.clone();
        density.origin.pixels = self.tally.clone();
        density
    }
}

impl From<ddu::Density> for Moments {
    fn from(density: ddu::Density) -> Self {
        Moments {
            moments: density.moments,
            tally: density.origin.pixels,
            names: density.origin.classes,
        }
    }
}
