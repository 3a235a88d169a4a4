//! Images and labelled images, from files and from arrays.

use std::path::PathBuf;
use std::sync::Arc;

use ddu::data::{self, LabelRule, Mask, label_grid, read_class_names};
use ddu::ops::Size;
use numpy::ndarray::Array2;
use numpy::{IntoPyArray, PyArray2, PyReadonlyArray2, PyReadonlyArray3, PyUntypedArrayMethods};
use pyo3::prelude::*;

use crate::{invalid, raised};

/// An 8-bit RGB picture of its own memory: what comes from an array is copied, so that other threads of the
/// interpreter may write to it while the network runs.
#[pyclass(frozen)]
pub struct Image(pub Arc<data::Image>);

#[pymethods]
impl Image {
    /// `upright`: turned as its EXIF data says.
    #[staticmethod]
    #[pyo3(signature = (path, upright, resize=None))]
    fn read(py: Python, path: PathBuf, upright: bool, resize: Option<usize>) -> PyResult<Self> {
        let read = || {
            let image = data::decode(&path, upright)?;
            resized(image, &path.display().to_string(), resize)
        };
        Ok(Image(Arc::new(py.detach(read).map_err(raised)?)))
    }

    /// From `[H, W, 3]`.
    #[staticmethod]
    #[pyo3(signature = (rgb, resize=None))]
    fn of(py: Python, rgb: PyReadonlyArray3<u8>, resize: Option<usize>) -> PyResult<Self> {
        let image = image_of(&rgb)?;
        let image = py.detach(|| resized(image, "image", resize)).map_err(raised)?;
        Ok(Image(Arc::new(image)))
    }

    #[getter]
    fn size(&self) -> (usize, usize) {
        (self.0.size.h, self.0.size.w)
    }
}

fn image_of(rgb: &PyReadonlyArray3<u8>) -> PyResult<data::Image> {
    let &[h, w, channels] = rgb.shape() else { unreachable!("three axes") };
    if channels != 3 || h == 0 || w == 0 {
        return Err(invalid(
            "image",
            "[H, W, 3], H and W at least 1",
            format!("{:?}", rgb.shape()),
        ));
    }
    let rgb = match rgb.as_slice() {
        Ok(rgb) => rgb.to_vec(),
        Err(_) => rgb.as_array().iter().copied().collect(),
    };
    Ok(data::Image { size: Size::new(h, w), rgb })
}

fn resized(image: data::Image, source: &str, resize: Option<usize>) -> ddu::Result<data::Image> {
    match resize {
        Some(short) => image.resize_short(source, short),
        None => Ok(image),
    }
}

/// An image and its mask, in the dataset's classes.
#[pyclass(frozen)]
pub struct Labelled {
    pub image: Arc<data::Image>,
    pub mask: Mask,
    /// Of the image's content before any resize.
    pub hash: u64,
    pub name: String,
}

#[pymethods]
impl Labelled {
    /// From `[H, W, 3]` and `[H, W]`.
    #[staticmethod]
    fn of(
        py: Python,
        name: String,
        rgb: PyReadonlyArray3<u8>,
        mask: PyReadonlyArray2<u8>,
        resize: Option<usize>,
    ) -> PyResult<Self> {
        let image = image_of(&rgb)?;
        let mask = mask_of(&mask);
        if mask.size != image.size {
            return Err(invalid(
                format!("{name}: mask"),
                format!("{} as its image", image.size),
                mask.size,
            ));
        }
        let make = || {
            let hash = data::image_hash(&image);
            Ok(Labelled { image: Arc::new(resized(image, &name, resize)?), mask, hash, name })
        };
        py.detach(make).map_err(raised)
    }

    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    #[getter]
    fn hash(&self) -> u64 {
        self.hash
    }
}

fn mask_of(mask: &PyReadonlyArray2<u8>) -> Mask {
    let size = Size::new(mask.shape()[0], mask.shape()[1]);
    Mask { size, label: mask.as_array().iter().copied().collect() }
}

/// Images and masks on disk.
#[pyclass(frozen, module = "ddu._ddu")]
pub struct Dataset(data::Dataset);

#[pymethods]
impl Dataset {
    /// A folder in Pascal VOC's layout and one of its lists.
    #[staticmethod]
    fn voc(py: Python, root: PathBuf, split: &str) -> PyResult<Self> {
        py.detach(|| data::Dataset::voc(&root, split)).map(Dataset).map_err(raised)
    }

    /// A folder of images, and one of masks of the same relative paths.
    #[staticmethod]
    fn folders(py: Python, images: PathBuf, masks: PathBuf) -> PyResult<Self> {
        py.detach(|| data::Dataset::folders(&images, &masks)).map(Dataset).map_err(raised)
    }

    /// Pairs of paths.
    #[staticmethod]
    fn pairs(pairs: Vec<(PathBuf, PathBuf)>) -> Self {
        let pair = |(image, mask): (PathBuf, PathBuf)| data::Pair {
            name: image.display().to_string(),
            image,
            mask,
        };
        Dataset(data::Dataset::of(pairs.into_iter().map(pair).collect()))
    }

    #[getter]
    fn classes(&self) -> Option<Vec<String>> {
        self.0.classes.clone()
    }

    fn paths(&self, index: usize) -> PyResult<(String, PathBuf, PathBuf)> {
        let pair = self.pair(index)?;
        Ok((pair.name.clone(), pair.image.clone(), pair.mask.clone()))
    }

    fn __len__(&self) -> usize {
        self.0.pairs.len()
    }

    fn read(&self, py: Python, index: usize, resize: Option<usize>) -> PyResult<Labelled> {
        let pair = self.pair(index)?;
        let read = py.detach(|| pair.read(resize)).map_err(raised)?;
        let data::Labelled { image, mask, hash } = read;
        Ok(Labelled { image: Arc::new(image), mask, hash, name: pair.name.clone() })
    }
}

impl Dataset {
    fn pair(&self, index: usize) -> PyResult<&data::Pair> {
        let missing = || {
            invalid("dataset", format!("{} pairs", self.0.pairs.len()), format!("index {index}"))
        };
        self.0.pairs.get(index).ok_or_else(missing)
    }
}

/// The labels of the cells of a grid over a mask: the pixel under each cell's middle, or with `align_corners` under
/// its corner-aligned place.
#[pyfunction]
pub fn sample_labels<'py>(
    py: Python<'py>,
    mask: PyReadonlyArray2<u8>,
    grid: (usize, usize),
    align_corners: bool,
) -> Bound<'py, PyArray2<u8>> {
    let mask = mask_of(&mask);
    let size = Size::new(grid.0, grid.1);
    let labels = label_grid(&mask, mask.size, mask.size, size, LabelRule::of(align_corners));
    array(py, size, labels)
}

/// Class names of a file, one per line.
#[pyfunction]
pub fn class_names(path: PathBuf) -> PyResult<Vec<String>> {
    read_class_names(&path).map_err(raised)
}

/// An array that owns the values of a map; nothing is copied.
pub fn array<'py, T: numpy::Element>(
    py: Python<'py>,
    size: Size,
    values: Vec<T>,
) -> Bound<'py, PyArray2<T>> {
    let map = Array2::from_shape_vec((size.h, size.w), values).expect("a value for each pixel");
    map.into_pyarray(py)
}
