//! The model file: safetensors whose metadata holds `ddu.format`, the JSON configuration and a SHA-256
//! of the content ([`content_hash`]), which is checked at load.
//!
//! Tensors are stored as f16 where every value survives the round trip, else as f32: lossless
//! either way.

use std::collections::{BTreeMap, HashMap};
use std::io::{ErrorKind, Write};
use std::path::Path;

use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use sha2::{Digest, Sha256};

use super::{Config, Model, Tensor};
use crate::data::{content_hash, read_file};
use crate::error::{Error, Result};

const FORMAT: &str = "ddu-model-2";
const EXPECTED: &str = "a model written by `ddu convert`";
/// Twice what the largest network that is converted takes, 2^28 weights of 4 bytes.
const MAX_FILE_BYTES: u64 = 1 << 31;

impl Model {
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let bytes = read_file(path, EXPECTED, MAX_FILE_BYTES)?;
        Model::from_bytes(&path.display().to_string(), &bytes)
    }

    /// Reads the content of a model file; `source` names it in messages.
    pub fn from_bytes(source: &str, bytes: &[u8]) -> Result<Self> {
        let foreign = |found: String| {
            Error::invalid(source, EXPECTED, found)
                .fix("convert the checkpoint first: ddu convert CHECKPOINT -o model.safetensors")
        };
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(|e| foreign(format!("{e}")))?;
        let metadata = header.metadata().clone().unwrap_or_default();
        match metadata.get("ddu.format").map(String::as_str) {
            Some(FORMAT) => {}
            Some(other) => {
                return Err(Error::invalid(source, format!("a model of format {FORMAT}"), other)
                    .fix(
                        "convert the checkpoint again: ddu convert CHECKPOINT -o model.safetensors",
                    ));
            }
            None => return Err(foreign("safetensors without ddu.format metadata".into())),
        }
        let file = SafeTensors::deserialize(bytes).map_err(|e| foreign(format!("{e}")))?;
        content_hash::check(
            source,
            &file,
            &metadata,
            "copy it again, or convert the checkpoint again",
        )?;
        let text = metadata.get("ddu.config").ok_or_else(|| foreign("no ddu.config".into()))?;
        let config: Config = serde_json::from_str(text)
            .map_err(|e| Error::invalid(format!("{source}: ddu.config"), "a configuration", e))?;
        let mut tensors = BTreeMap::new();
        for (name, view) in file.iter() {
            tensors.insert(name.to_owned(), decode(source, name, &view)?);
        }
        Model::new(source, config, tensors)
    }

    /// Writes a temporary file beside `path` and renames it.
    pub fn save(&self, path: impl AsRef<Path>) -> Result<()> {
        let path = path.as_ref();
        let bytes = self.to_bytes(&path.display().to_string())?;
        crate::data::write_atomic(path, |file| file.write_all(&bytes))
    }

    /// What [`Model::save`] writes; `source` names it in messages.
    pub fn to_bytes(&self, source: &str) -> Result<Vec<u8>> {
        let memory = || Error::io(source, "write", ErrorKind::OutOfMemory.into());
        let mut encoded = Vec::new();
        for tensor in self.tensors.values() {
            encoded.push(encode(tensor).ok_or_else(memory)?);
        }
        // Serialisation allocates this much and would abort without it.
        let total = encoded.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + (1 << 20);
        Vec::<u8>::new().try_reserve_exact(total).map_err(|_| memory())?;
        let views = self.tensors.iter().zip(&encoded).map(|((name, tensor), (dtype, bytes))| {
            let view = TensorView::new(*dtype, tensor.shape.clone(), bytes);
            (name.as_str(), view.expect("a tensor's data has its shape's size"))
        });
        let views: Vec<_> = views.collect();
        let metadata = HashMap::from([
            ("ddu.format".to_owned(), FORMAT.to_owned()),
            ("ddu.config".to_owned(), self.config_json()),
        ]);
        content_hash::serialize(source, &views, metadata)
    }

    /// SHA-256 (hex) of configuration and weights; equal for equal models however they are stored.
    /// A density refers to its model by this hash. Computed on first use.
    pub fn hash(&self) -> String {
        self.hash.get_or_init(|| self.compute_hash()).clone()
    }

    fn compute_hash(&self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.config_json());
        let mut bytes = Vec::new();
        for (name, tensor) in &self.tensors {
            hasher.update(name);
            for values in tensor.data.chunks(1 << 14) {
                bytes.clear();
                bytes.extend(values.iter().flat_map(|value| value.to_le_bytes()));
                hasher.update(&bytes);
            }
        }
        hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn config_json(&self) -> String {
        serde_json::to_string(&self.config).expect("a configuration is plain data")
    }
}

/// None where memory does not suffice.
fn encode(tensor: &Tensor) -> Option<(Dtype, Vec<u8>)> {
    let survives = |v: &f32| f16::from_f32(*v).to_f32().to_bits() == v.to_bits();
    let mut bytes = Vec::new();
    let dtype = if tensor.data.iter().all(survives) {
        bytes.try_reserve_exact(2 * tensor.data.len()).ok()?;
        bytes.extend(tensor.data.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()));
        Dtype::F16
    } else {
        bytes.try_reserve_exact(4 * tensor.data.len()).ok()?;
        bytes.extend(tensor.data.iter().flat_map(|v| v.to_le_bytes()));
        Dtype::F32
    };
    Some((dtype, bytes))
}

fn decode(source: &str, name: &str, view: &TensorView) -> Result<Tensor> {
    let bytes = view.data();
    let mut data: Vec<f32> = Vec::new();
    data.try_reserve_exact(view.shape().iter().product())
        .map_err(|_| Error::io(source, "read", ErrorKind::OutOfMemory.into()))?;
    match view.dtype() {
        Dtype::F32 => {
            data.extend(bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])))
        }
        Dtype::F16 => {
            data.extend(bytes.chunks_exact(2).map(|b| f16::from_le_bytes([b[0], b[1]]).to_f32()));
        }
        other => {
            let what = format!("{source}: tensor {name}");
            return Err(Error::invalid(what, "F32 or F16", format!("{other:?}")));
        }
    }
    Ok(Tensor { shape: view.shape().to_vec(), data })
}
