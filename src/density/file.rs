//! The density file: safetensors with `count [C] i64`, `mean [C, D] f64`, `scatter [C, D, D] f64`,
//! `sample [<= 8192, D] f16` and `sample_hash [<= 8192] u64` (by which samples merge), `images [N] u64`, and the rest of
//! the origin as JSON under the metadata key `ddu.density`. A SHA-256 over all of it (`data::content_hash`) detects
//! damage; the values are checked for plausibility as well, since a faulty writer can hash nonsense.
//!
//! A fit with `--weight confidence` adds the weighted moments: `weighted.count [C] i64`, `weighted.sum` and
//! `weighted.squares [C] f64` (of the weights), `weighted.mean` and `weighted.scatter`.
//!
//! It holds moments, not Gaussians: they merge, and covariance, prior and score are chosen when they
//! are evaluated. Equal content gives equal bytes.

use std::collections::HashMap;
use std::io::Write;
use std::path::Path;

use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde::{Deserialize, Serialize};

use super::{Density, Moments, Origin, Sample, Tally, WeightSums};
use crate::data::{LabelRule, content_hash, read_file};
use crate::error::{Error, Result};

const FORMAT: &str = "ddu-density-3";
/// As [`FORMAT`], but for the images, which stood in the JSON, in hex: a header, of 100 MB at most, had room for
/// 4.7 million of them.
const FORMAT_2: &str = "ddu-density-2";
const KEY: &str = "ddu.density";
const EXPECTED: &str = "a density written by `ddu fit`";
const FIT: &str = "fit one: ddu fit --model M --data VOC_ROOT --split train -o density.safetensors";
/// 256 classes of 2048 channels would be 8 GiB, twice that with weighted moments.
const MAX_FILE_BYTES: u64 = 1 << 35;
/// The weights that there are.
const CONFIDENCE: &str = "confidence";

/// Where an unfinished fit stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Hash of the list of pairs and of what is done with them.
    pub inputs: String,
    /// [`crate::data::FileState`] of the pairs that are done: their labels may not change meanwhile.
    pub files: String,
    /// Pairs taken from the front of the list.
    pub done: usize,
    /// Those of them that were skipped, and why.
    pub skipped: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Header {
    format: String,
    model: String,
    classes: Vec<String>,
    label_rule: LabelRule,
    resize: Option<usize>,
    short_side_px: Option<[usize; 2]>,
    pixels: Tally,
    image_count: usize,
    /// Of a file of [`FORMAT_2`]: [`Origin::images`] in hex.
    #[serde(skip_serializing, default)]
    images: Vec<String>,
    /// What the weighted moments are weighted by, where there are some.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    weight: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    progress: Option<Progress>,
}

impl Density {
    /// Writes a temporary file beside `path` and renames it.
    ///
    /// # Errors
    /// A density that could not be loaded again; what the system refuses.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        self.write(path.as_ref(), None)
    }

    /// Writes an unfinished fit, from which [`Density::resume`] continues to the same bits.
    pub fn checkpoint(&self, path: impl AsRef<Path>, progress: &Progress) -> Result<()> {
        self.write(path.as_ref(), Some(progress.clone()))
    }

    /// # Errors
    /// A file that is no finished density: another format, damaged, or tensors that contradict each
    /// other or that no features can have.
    pub fn load(path: impl AsRef<Path>) -> Result<Density> {
        let path = path.as_ref();
        finished(&path.display().to_string(), read(path)?)
    }

    /// Reads what [`Density::checkpoint`] wrote.
    pub fn resume(path: impl AsRef<Path>) -> Result<(Density, Progress)> {
        let path = path.as_ref();
        match read(path)? {
            (density, Some(progress)) => Ok((density, progress)),
            (_, None) => {
                Err(Error::invalid(path.display(), "the checkpoint of a fit", "a finished density"))
            }
        }
    }

    /// What [`Density::save`] writes, for a network or another process; `source` names it in messages.
    ///
    /// # Errors
    /// A density that could not be loaded again.
    pub fn to_bytes(&self, source: &str) -> Result<Vec<u8>> {
        self.bytes(source, None)
    }

    /// From the content of a file; `source` names it in messages.
    ///
    /// # Errors
    /// As [`Density::load`].
    pub fn from_bytes(source: &str, bytes: &[u8]) -> Result<Density> {
        finished(source, parse(source, bytes)?)
    }

    fn write(&self, path: &Path, progress: Option<Progress>) -> Result<()> {
        let bytes = self.bytes(&path.display().to_string(), progress)?;
        crate::data::write_atomic(path, |file| file.write_all(&bytes))
    }

    fn bytes(&self, source: &str, progress: Option<Progress>) -> Result<Vec<u8>> {
        self.check(source)?;
        let Density { moments, weighted, sample, origin } = self;
        let header = Header {
            format: FORMAT.into(),
            model: origin.model.clone(),
            classes: origin.classes.clone(),
            label_rule: origin.label_rule,
            resize: origin.resize,
            short_side_px: origin.short_side,
            pixels: origin.pixels.clone(),
            image_count: origin.images.len(),
            images: Vec::new(),
            weight: weighted.as_ref().map(|_| CONFIDENCE.into()),
            progress,
        };
        let text = serde_json::to_string(&header).expect("a header is plain data");
        let channels = moments.channels();
        let hash = le_bytes(sample.rows().map(|(hash, _)| hash.to_le_bytes()));
        let rows = le_bytes(sample.rows().flat_map(|(_, row)| row).map(|v| v.to_le_bytes()));
        let mut stored = moment_tensors("", moments);
        stored.extend(weighted.iter().flat_map(|weighted| moment_tensors(WEIGHTED, weighted)));
        stored.push(("sample".into(), Dtype::F16, vec![sample.len(), channels], rows));
        stored.push(("sample_hash".into(), Dtype::U64, vec![sample.len()], hash));
        let images = le_bytes(origin.images.iter().map(|hash| hash.to_le_bytes()));
        stored.push(("images".into(), Dtype::U64, vec![origin.images.len()], images));
        let views = stored.iter().map(|(name, dtype, shape, bytes)| {
            let view = TensorView::new(*dtype, shape.clone(), bytes);
            (name.as_str(), view.expect("bytes of the tensor's size"))
        });
        let tensors: Vec<_> = views.collect();
        let metadata = HashMap::from([(KEY.to_owned(), text)]);
        content_hash::serialize(source, &tensors, metadata)
    }
}

/// Before the names of the tensors of weighted moments.
const WEIGHTED: &str = "weighted.";

/// A tensor's name, type, shape and bytes.
type Stored = (String, Dtype, Vec<usize>, Vec<u8>);

fn moment_tensors(prefix: &str, moments: &Moments) -> Vec<Stored> {
    let (classes, channels) = (moments.classes(), moments.channels());
    let count = le_bytes(moments.count().iter().map(|v| v.to_le_bytes()));
    let mean = le_bytes((0..classes).flat_map(|c| moments.mean(c)).map(|v| v.to_le_bytes()));
    let scatter = le_bytes((0..classes).flat_map(|c| {
        let lower = moments.scatter(c);
        (0..channels * channels).map(move |at| {
            let (i, j) = (at / channels, at % channels);
            lower[i.max(j) * channels + i.min(j)].to_le_bytes()
        })
    }));
    let of = |name: &str, dtype, shape: &[usize], bytes| {
        (format!("{prefix}{name}"), dtype, shape.to_vec(), bytes)
    };
    let mut tensors = vec![
        of("count", Dtype::I64, &[classes], count),
        of("mean", Dtype::F64, &[classes, channels], mean),
        of("scatter", Dtype::F64, &[classes, channels, channels], scatter),
    ];
    if let Some(WeightSums { sum, squares }) = moments.weights() {
        for (name, values) in [("sum", sum), ("squares", squares)] {
            let bytes = le_bytes(values.iter().map(|v| v.to_le_bytes()));
            tensors.push(of(name, Dtype::F64, &[classes], bytes));
        }
    }
    tensors
}

fn read(path: &Path) -> Result<(Density, Option<Progress>)> {
    parse(&path.display().to_string(), &read_file(path, EXPECTED, MAX_FILE_BYTES)?)
}

/// Refuses the checkpoint of an unfinished fit.
fn finished(source: &str, (density, progress): (Density, Option<Progress>)) -> Result<Density> {
    let Some(progress) = progress else { return Ok(density) };
    let found = format!("the checkpoint of a fit that took {} pairs", progress.done);
    Err(Error::invalid(source, "a finished density", found)
        .fix("finish it: the same `ddu fit` with --resume"))
}

fn parse(source: &str, bytes: &[u8]) -> Result<(Density, Option<Progress>)> {
    let foreign = |found: String| Error::invalid(source, EXPECTED, found).fix(FIT);
    let (_, metadata) = SafeTensors::read_metadata(bytes).map_err(|e| foreign(e.to_string()))?;
    let metadata = metadata.metadata().clone().unwrap_or_default();
    let text = metadata.get(KEY).ok_or_else(|| {
        foreign(match metadata.contains_key("ddu.format") {
            true => "a model".into(),
            false => format!("safetensors without {KEY} metadata"),
        })
    })?;
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|e| foreign(format!("{KEY} metadata: {e}")))?;
    let listed = value["format"] == FORMAT_2;
    if value["format"] != FORMAT && !listed {
        let found = value["format"].as_str().unwrap_or("none").to_owned();
        return Err(Error::invalid(source, format!("format {FORMAT}"), found)
            .fix("this version of ddu cannot read it: fit again with `ddu fit`"));
    }
    let header: Header = serde_json::from_value(value)
        .map_err(|e| Error::invalid(format!("{source}: {KEY}"), "the origin of a density", e))?;

    let file = SafeTensors::deserialize(bytes).map_err(|e| foreign(e.to_string()))?;
    content_hash::check(source, &file, &metadata, "copy it again, or fit again with `ddu fit`")?;
    let tensors = Tensors { source, file };
    let classes = header.classes.len();
    let moments = tensors.moments("", classes)?;
    let weighted = match header.weight.as_deref() {
        None => None,
        Some(CONFIDENCE) => Some(tensors.moments(WEIGHTED, classes)?),
        Some(other) => {
            let what = format!("{source}: {KEY}: weight");
            return Err(Error::invalid(what, CONFIDENCE, other).fix("a newer ddu wrote it"));
        }
    };
    let channels = moments.channels();
    let (shape, hash) = tensors.values("sample_hash", Dtype::U64, &[None], u64::from_le_bytes)?;
    let two = [Some(shape[0]), Some(channels)];
    let rows = tensors.values("sample", Dtype::F16, &two, f16::from_le_bytes)?.1;

    if let Some(v) = rows.iter().find(|v| !v.is_finite()) {
        return Err(Error::invalid(format!("{source}: tensor sample"), "finite values", v));
    }
    let sample = Sample::from_parts(source, channels, &hash, &rows)?;
    let mut images = match listed {
        true => (header.images.iter().map(|text| u64::from_str_radix(text, 16)))
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Error::invalid(format!("{source}: images"), "hashes in hex", e))?,
        false => tensors.values("images", Dtype::U64, &[None], u64::from_le_bytes)?.1,
    };
    images.sort_unstable();
    if images.len() != header.image_count {
        let expected = format!("{}, as image_count says", header.image_count);
        return Err(Error::invalid(format!("{source}: images"), expected, images.len()));
    }
    let origin = Origin {
        model: header.model,
        classes: header.classes,
        label_rule: header.label_rule,
        resize: header.resize,
        short_side: header.short_side_px,
        pixels: header.pixels,
        images,
    };
    let density = Density { moments, weighted, sample, origin };
    density.check(source)?;
    Ok((density, header.progress))
}

fn le_bytes<const N: usize>(values: impl Iterator<Item = [u8; N]>) -> Vec<u8> {
    values.flatten().collect()
}

struct Tensors<'a> {
    source: &'a str,
    file: SafeTensors<'a>,
}

impl Tensors<'_> {
    /// Moments of `classes` classes, weighted ones where the names of their tensors begin with `prefix`.
    fn moments(&self, prefix: &str, classes: usize) -> Result<Moments> {
        let name = |name: &str| format!("{prefix}{name}");
        let count =
            self.values(&name("count"), Dtype::I64, &[Some(classes)], i64::from_le_bytes)?.1;
        let vector = |part: &str| {
            self.values(&name(part), Dtype::F64, &[Some(classes)], f64::from_le_bytes).map(|v| v.1)
        };
        let weights = match prefix {
            "" => None,
            _ => Some(WeightSums { sum: vector("sum")?, squares: vector("squares")? }),
        };
        let (shape, mean) =
            self.values(&name("mean"), Dtype::F64, &[Some(classes), None], f64::from_le_bytes)?;
        let channels = shape[1];
        let square = [Some(classes), Some(channels), Some(channels)];
        let scatter = self.values(&name("scatter"), Dtype::F64, &square, f64::from_le_bytes)?.1;
        for (class, square) in scatter.chunks_exact((channels * channels).max(1)).enumerate() {
            let places = (0..channels).flat_map(|i| (0..i).map(move |j| (i, j)));
            let mut pairs =
                places.map(|(i, j)| (square[i * channels + j], square[j * channels + i]));
            // NaN is named below.
            if let Some((lower, upper)) = pairs.find(|(a, b)| a != b && !a.is_nan()) {
                let expected = "the same value at [i, j] and [j, i]";
                let found = format!("{lower} and {upper} in class {class}");
                let what = format!("{}: {}", self.source, name("scatter"));
                return Err(Error::invalid(what, expected, found));
            }
        }
        match weights {
            None => Moments::from_parts(self.source, count, mean, scatter),
            Some(weights) => {
                let source = format!("{}: weighted", self.source);
                Moments::from_weighted_parts(&source, count, weights, mean, scatter)
            }
        }
    }

    /// Shape and values of a tensor; `shape` holds the extents that are known.
    fn values<T, const N: usize>(
        &self,
        name: &str,
        dtype: Dtype,
        shape: &[Option<usize>],
        decode: fn([u8; N]) -> T,
    ) -> Result<(Vec<usize>, Vec<T>)> {
        let describe = |dtype: Dtype, shape: String| format!("{dtype:?} {shape}");
        let wanted = || {
            let extents: Vec<String> =
                shape.iter().map(|n| n.map_or("n".into(), |n| n.to_string())).collect();
            describe(dtype, format!("[{}]", extents.join(", ")))
        };
        let what = || format!("{}: tensor {name}", self.source);
        let view = self
            .file
            .tensor(name)
            .map_err(|_| Error::invalid(what(), wanted(), "no such tensor"))?;
        let agrees = view.shape().len() == shape.len()
            && view.shape().iter().zip(shape).all(|(n, known)| known.is_none_or(|k| k == *n));
        if view.dtype() != dtype || !agrees {
            let found = describe(view.dtype(), format!("{:?}", view.shape()));
            return Err(Error::invalid(what(), wanted(), found));
        }
        let (chunks, _) = view.data().as_chunks::<N>();
        Ok((view.shape().to_vec(), chunks.iter().map(|b| decode(*b)).collect()))
    }
}
