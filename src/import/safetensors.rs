//! `.safetensors`, and the folder in which segmentation-models-pytorch saves a model for the hub
//! (`model.safetensors` beside `config.json`).

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::rc::Rc;

use safetensors::SafeTensors;
use safetensors::tensor::Dtype as Stored;

use super::shown;
use super::state_dict::{Dtype, Entry, StateDict, Stated, Storages};
use crate::error::{Error, Result};

/// Whether a file starts as safetensors does: a header length, then a JSON object.
pub fn is_safetensors(bytes: &[u8]) -> bool {
    bytes.get(8) == Some(&b'{')
}

pub fn read(path: &Path, bytes: Vec<u8>) -> Result<StateDict> {
    let source = path.display().to_string();
    let invalid = |e: safetensors::SafeTensorError| {
        Error::invalid(
            &source,
            "a safetensors file",
            format!("a broken one: {}", shown(&e.to_string())),
        )
        .fix("the file may be cut short or damaged: copy it again")
    };
    let (header, metadata) = SafeTensors::read_metadata(&bytes).map_err(invalid)?;
    if metadata.metadata().as_ref().is_some_and(|m| m.contains_key("ddu.format")) {
        let found = "a model that is converted already";
        return Err(Error::invalid(&source, "a checkpoint", found)
            .fix("pass it to the other commands as --model"));
    }
    // Checks that the tensors lie within the file and have their shape's size.
    SafeTensors::deserialize(&bytes).map_err(invalid)?;
    let data = 8 + header;
    let (mut entries, mut ranges) = (BTreeMap::new(), HashMap::new());
    for (key, info) in metadata.tensors() {
        let dtype = match info.dtype {
            Stored::F16 => Dtype::F16,
            Stored::BF16 => Dtype::Bf16,
            Stored::F32 => Dtype::F32,
            Stored::F64 => Dtype::F64,
            other => Dtype::Other(format!("{other:?}")),
        };
        let (start, end) = info.data_offsets;
        let storage: Rc<str> = key.as_str().into();
        ranges.insert(storage.clone(), data + start..data + end);
        let strides = Entry::contiguous(&info.shape);
        let shape = info.shape.clone();
        let entry = Entry { dtype, shape, strides, offset: 0, storage };
        entries.insert(key, entry);
    }
    let storages = Storages::Bytes { bytes, ranges };
    let dict = StateDict {
        source,
        entries,
        others: BTreeMap::new(),
        storages,
        stated: Stated::default(),
        big_endian: false,
        nested: Vec::new(),
    };
    Ok(dict.strip_prefixes())
}
