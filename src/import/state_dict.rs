//! A state dict as a file holds it: for every key where its numbers lie and how they are strided.
//! Numbers are read only when asked for, so what a checkpoint holds besides (an optimizer) costs
//! nothing. Time and memory follow the file's size, whatever it claims: a storage is unpacked once,
//! archives have a budget ([`max_unpacked`]), and weights are no more than their storages hold.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{BufReader, ErrorKind, Read};
use std::ops::Range;
use std::rc::Rc;

use half::{bf16, f16};
use zip::ZipArchive;
use zip::read::ZipReadOptions;

use super::shown;
use crate::error::{Error, Result};
use crate::model::Tensor;

/// Bytes that all storages of an archive may unpack to, given the file's length. Trained weights hardly
/// compress (and `torch.save` does not try), zeros a thousandfold; all weights of a ResNet-101 take
/// 2^28 bytes.
pub fn max_unpacked(file_bytes: u64) -> u64 {
    file_bytes.saturating_mul(32).clamp(1 << 26, 1 << 30)
}

#[derive(Clone, Debug, PartialEq)]
pub enum Dtype {
    F16,
    Bf16,
    F32,
    F64,
    /// No floating-point type that a weight may have: its name.
    Other(String),
}

impl Dtype {
    fn bytes(&self) -> Option<usize> {
        match self {
            Dtype::F16 | Dtype::Bf16 => Some(2),
            Dtype::F32 => Some(4),
            Dtype::F64 => Some(8),
            Dtype::Other(_) => None,
        }
    }
}

/// A strided view of a storage; offset and strides count elements.
#[derive(Clone, Debug)]
pub struct Entry {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub strides: Vec<usize>,
    pub offset: usize,
    pub storage: Rc<str>,
}

impl Entry {
    /// Row-major strides of a shape; saturating, since the file may claim any shape.
    pub fn contiguous(shape: &[usize]) -> Vec<usize> {
        let mut strides = vec![1usize; shape.len()];
        for i in (1..shape.len()).rev() {
            strides[i - 1] = strides[i].saturating_mul(shape[i]);
        }
        strides
    }

    /// None where the product overflows.
    pub fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, &n| product.checked_mul(n))
    }

    /// Elements of the storage up to the last one that the view touches.
    fn end(&self) -> Option<usize> {
        if self.shape.contains(&0) {
            return Some(0);
        }
        let last =
            self.shape.iter().zip(&self.strides).try_fold(self.offset, |sum, (&n, &stride)| {
                (n - 1).checked_mul(stride).and_then(|step| sum.checked_add(step))
            });
        last?.checked_add(1)
    }
}

/// Where the storages are.
pub enum Storages {
    /// Members `FOLDER/data/KEY` of an archive. The last one read is kept; `budget` bytes may still be
    /// unpacked.
    Zip {
        archive: ZipArchive<BufReader<File>>,
        folder: String,
        last: Option<(Rc<str>, Vec<u8>)>,
        budget: u64,
    },
    /// Ranges of a file.
    Bytes { bytes: Vec<u8>, ranges: HashMap<Rc<str>, Range<usize>> },
}

/// What a file says of its network besides the weights (`training/` stores it beside the state dict).
#[derive(Clone, Debug, Default)]
pub struct Stated {
    pub output_stride: Option<usize>,
    pub atrous_rates: Option<Vec<usize>>,
}

pub struct StateDict {
    /// Names the file in messages.
    pub source: String,
    pub entries: BTreeMap<String, Entry>,
    /// Keys whose value is no tensor: what it is.
    pub others: BTreeMap<String, String>,
    pub storages: Storages,
    pub stated: Stated,
    pub big_endian: bool,
    /// The keys under which the file nests the state dict, and the prefixes taken off all keys.
    pub nested: Vec<String>,
}

impl StateDict {
    /// The prefixes that wrappers put before every key: DataParallel, Lightning, `torch.compile`.
    pub fn strip_prefixes(mut self) -> Self {
        const PREFIXES: [&str; 4] = ["module.", "model.", "_orig_mod.", "net."];
        let mut stripped = 0;
        let all = |map: &Self, stripped: usize, prefix: &str| {
            let mut keys = map.entries.keys().chain(map.others.keys());
            !map.entries.is_empty() && keys.all(|key| key[stripped..].starts_with(prefix))
        };
        while let Some(prefix) = PREFIXES.into_iter().find(|prefix| all(&self, stripped, prefix)) {
            stripped += prefix.len();
            self.nested.push(prefix.to_owned());
        }
        // The keys are rewritten once, however many wrappers there are.
        let strip = |key: String| key[stripped..].to_owned();
        self.entries = self.entries.into_iter().map(|(k, v)| (strip(k), v)).collect();
        self.others = self.others.into_iter().map(|(k, v)| (strip(k), v)).collect();
        self
    }

    /// Reads tensors into row-major f32, storage by storage, so that each is unpacked once.
    ///
    /// # Errors
    /// The first key that is missing, has a type that is no float or a storage that is missing or too
    /// short, or holds a value that is not finite.
    pub fn read<'k>(&mut self, keys: &[&'k str]) -> Result<HashMap<&'k str, Tensor>> {
        let mut storages: Vec<(Option<Rc<str>>, Vec<&'k str>)> = Vec::new();
        let mut places = HashMap::new();
        for key in keys {
            let storage = self.entries.get(*key).map(|entry| entry.storage.clone());
            let place = *places.entry(storage.clone()).or_insert(storages.len());
            if place == storages.len() {
                storages.push((storage, Vec::new()));
            }
            storages[place].1.push(key);
        }
        let mut tensors = HashMap::new();
        for (_, keys) in storages {
            // Bytes of this storage that became weights.
            let mut used = 0;
            for key in keys {
                tensors.insert(key, self.read_one(key, &mut used)?);
            }
        }
        Ok(tensors)
    }

    fn read_one(&mut self, key: &str, used: &mut usize) -> Result<Tensor> {
        let what = || format!("{}: {}", self.source, shown(key));
        let Some(entry) = self.entries.get(key) else {
            return Err(Error::invalid(what(), "a tensor", "no such key"));
        };
        let size = match (&entry.dtype, entry.dtype.bytes()) {
            (_, Some(size)) => size,
            (Dtype::Other(name), _) => {
                let expected = "float16, bfloat16, float32 or float64 weights";
                return Err(Error::invalid(what(), expected, shown(name)));
            }
            _ => unreachable!("every float type has a size"),
        };
        let too_large = || Error::invalid(what(), "a tensor of a sane size", "an overflowing size");
        let elements = entry.elements().ok_or_else(too_large)?;
        let bytes = elements.checked_mul(size).ok_or_else(too_large)?;
        let needed = entry.end().and_then(|end| end.checked_mul(size)).ok_or_else(too_large)?;
        let storage = match self.storages.bytes(&entry.storage, needed) {
            Ok(bytes) => bytes,
            Err(found) => {
                let expected = format!("a storage of {needed} bytes or more");
                let advice = "the file may be cut short or damaged: copy it again";
                return Err(Error::invalid(what(), expected, found).fix(advice));
            }
        };
        // Vectors may be expanded from one number; without a limit a small file could expand to any size.
        if entry.shape.len() > 1 {
            *used = used.saturating_add(bytes);
        }
        if *used > storage.len() {
            let expected = "weights that each have their place in the file";
            let found = format!("{used} bytes of weights in a storage of {}", storage.len());
            return Err(Error::invalid(what(), expected, found).fix(
                "save plain copies: torch.save({k: v.clone() for k, v in \
                 model.state_dict().items()}, \"model.pth\")",
            ));
        }
        let value = |i: usize| decode(&entry.dtype, self.big_endian, &storage[i * size..]);
        let mut data = Vec::new();
        data.try_reserve_exact(elements)
            .map_err(|_| Error::io(&self.source, "read", std::io::ErrorKind::OutOfMemory.into()))?;
        if entry.strides == Entry::contiguous(&entry.shape) {
            data.extend((entry.offset..entry.offset + elements).map(value));
        } else {
            gather(entry, elements, |i| data.push(value(i)));
        }
        if let Some(i) = data.iter().position(|v| !v.is_finite()) {
            let found = format!("{} at element {i}", data[i]);
            return Err(Error::invalid(what(), "finite weights", found)
                .fix("use a checkpoint of a training that did not diverge"));
        }
        Ok(Tensor { shape: entry.shape.clone(), data })
    }
}

impl Storages {
    /// At least `needed` bytes of a storage, or what is wrong with it.
    fn bytes(&mut self, key: &Rc<str>, needed: usize) -> Result<&[u8], String> {
        let short = |found: usize| format!("{found} bytes in storage {}", shown(key));
        match self {
            Storages::Bytes { bytes, ranges } => {
                let range = ranges.get(key).ok_or_else(|| format!("no storage {}", shown(key)))?;
                match bytes.get(range.clone()) {
                    Some(part) if part.len() >= needed => Ok(part),
                    _ => Err(short(range.len())),
                }
            }
            Storages::Zip { archive, folder, last, budget } => {
                if last.as_ref().is_none_or(|(kept, _)| kept != key) {
                    // The old storage is freed before the new one is read.
                    *last = None;
                    let bytes = member(archive, &format!("{folder}data/{key}"), *budget)?;
                    *budget -= bytes.len() as u64;
                    *last = Some((key.clone(), bytes));
                }
                let (_, bytes) = last.as_ref().expect("filled above");
                if bytes.len() < needed { Err(short(bytes.len())) } else { Ok(bytes) }
            }
        }
    }
}

/// The content of an archive's member, or what is wrong with it.
pub fn member(
    archive: &mut ZipArchive<BufReader<File>>,
    name: &str,
    limit: u64,
) -> Result<Vec<u8>, String> {
    let index = archive.index_for_name(name).ok_or_else(|| format!("no member {}", shown(name)))?;
    let broken = |e: &dyn std::fmt::Display| {
        format!("a broken member {}: {}", shown(name), shown(&e.to_string()))
    };
    let checksum = archive.by_index_raw(index).map_err(|e| broken(&e))?.crc32();
    // torch.serialization.set_crc32_options(False) writes 0 instead of the sum.
    let options = ZipReadOptions::new().ignore_crc32(checksum == 0);
    let member = archive.by_index_with_options(index, options).map_err(|e| broken(&e))?;
    if member.size() > limit {
        return Err(format!("{} bytes in {}, above {limit}", member.size(), shown(name)));
    }
    let mut bytes = Vec::new();
    // The header's size may be false: the reader stops at the limit, and the buffer grows with
    // the bytes that are read.
    let size = member.size();
    member.take(limit).read_to_end(&mut bytes).map_err(|e| match e.kind() {
        ErrorKind::OutOfMemory => format!("no memory for the {size} bytes of {}", shown(name)),
        _ => broken(&e),
    })?;
    Ok(bytes)
}

/// Element indices of a strided view in row-major order.
fn gather(entry: &Entry, elements: usize, mut visit: impl FnMut(usize)) {
    let mut at = vec![0usize; entry.shape.len()];
    let mut index = entry.offset;
    for _ in 0..elements {
        visit(index);
        for axis in (0..at.len()).rev() {
            at[axis] += 1;
            index += entry.strides[axis];
            if at[axis] < entry.shape[axis] {
                break;
            }
            index -= entry.strides[axis] * entry.shape[axis];
            at[axis] = 0;
        }
    }
}

/// The number at the start of `bytes`. An f64 beyond f32's range becomes infinite, which the caller
/// refuses.
fn decode(dtype: &Dtype, big_endian: bool, bytes: &[u8]) -> f32 {
    fn first<const N: usize>(bytes: &[u8], big_endian: bool) -> [u8; N] {
        let mut first: [u8; N] = bytes[..N].try_into().expect("N bytes");
        if big_endian {
            first.reverse();
        }
        first
    }
    match dtype {
        Dtype::F16 => f16::from_le_bytes(first(bytes, big_endian)).to_f32(),
        Dtype::Bf16 => bf16::from_le_bytes(first(bytes, big_endian)).to_f32(),
        Dtype::F32 => f32::from_le_bytes(first(bytes, big_endian)),
        Dtype::F64 => f64::from_le_bytes(first(bytes, big_endian)) as f32,
        Dtype::Other(_) => unreachable!("refused before reading"),
    }
}
