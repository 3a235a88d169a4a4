//! A SHA-256 over the content of a safetensors file, kept in its metadata: what was damaged after it
//! was written is refused when it is read. Model, density and checkpoint files carry it.
//!
//! The hash is over the metadata other than itself and the tensors (name, type, shape, bytes), each by
//! name and each part behind its length, so it does not depend on how the container orders them.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// The metadata key that holds the hash, in hex.
pub const KEY: &str = "sha256";

/// The bytes of a safetensors file with its hash. Equal content gives equal bytes: the keys of the
/// header are sorted, which the `safetensors` crate leaves to chance.
///
/// # Errors
/// Tensors that the format cannot hold; `source` names the file in the message.
pub fn serialize(
    source: &str,
    tensors: &[(&str, TensorView)],
    mut metadata: HashMap<String, String>,
) -> Result<Vec<u8>> {
    let impossible = |found: String| Error::invalid(source, "tensors that can be stored", found);
    metadata.insert(KEY.into(), hash(tensors.iter().map(|(name, view)| (*name, view)), &metadata));
    let views = tensors.iter().map(|(name, view)| (*name, view));
    let mut bytes =
        safetensors::serialize(views, Some(metadata)).map_err(|e| impossible(e.to_string()))?;
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("8 bytes"));
    // It is in memory, behind its length.
    let header = &mut bytes[8..8 + length as usize];
    let mut parts: BTreeMap<String, serde_json::Value> =
        serde_json::from_slice(header).map_err(|e| impossible(e.to_string()))?;
    if let Some(part) = parts.get_mut("__metadata__") {
        part.sort_all_objects();
    }
    let sorted = serde_json::to_vec(&parts).map_err(|e| impossible(e.to_string()))?;
    // The same text in another order, with the same spaces behind it.
    header[..sorted.len()].copy_from_slice(&sorted);
    Ok(bytes)
}

/// Compares a file's content with the hash in its metadata.
///
/// # Errors
/// No hash, or another; `source` names the file in the message and `fix` says what to do.
pub fn check(
    source: &str,
    file: &SafeTensors,
    metadata: &HashMap<String, String>,
    fix: &str,
) -> Result<()> {
    let views = file.tensors();
    let now = hash(views.iter().map(|(name, view)| (name.as_str(), view)), metadata);
    let found = match metadata.get(KEY) {
        Some(stored) if *stored == now => return Ok(()),
        Some(_) => "another: the file is damaged",
        None => "none",
    };
    Err(Error::invalid(source, "the SHA-256 of its content in its metadata", found).fix(fix))
}

/// The hash that a file carries, from its header alone; it was checked when the file was loaded.
///
/// # Errors
/// A file that cannot be read, or one without a hash.
pub fn stored(path: &Path) -> Result<String> {
    let source = path.display();
    let fail = |e| Error::io(path, "read", e);
    let none = || Error::invalid(&source, "a SHA-256 in its metadata", "none");
    let mut file = File::open(path).map_err(fail)?;
    let mut length = [0; 8];
    file.read_exact(&mut length).map_err(fail)?;
    let mut header = Vec::new();
    // The safetensors crate allows no larger header.
    let length = u64::from_le_bytes(length).min(100_000_000);
    file.take(length).read_to_end(&mut header).map_err(fail)?;
    let header: serde_json::Value = serde_json::from_slice(&header).map_err(|_| none())?;
    header["__metadata__"][KEY].as_str().map(str::to_owned).ok_or_else(none)
}

fn hash<'a>(
    tensors: impl Iterator<Item = (&'a str, &'a TensorView<'a>)>,
    metadata: &HashMap<String, String>,
) -> String {
    let mut hasher = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hasher.update((bytes.len() as u64).to_le_bytes());
        hasher.update(bytes);
    };
    let metadata: BTreeMap<_, _> = metadata.iter().filter(|(key, _)| *key != KEY).collect();
    part(format!("{} keys", metadata.len()).as_bytes());
    for (key, value) in metadata {
        part(key.as_bytes());
        part(value.as_bytes());
    }
    for (name, view) in tensors.collect::<BTreeMap<_, _>>() {
        part(name.as_bytes());
        part(format!("{:?} {:?}", view.dtype(), view.shape()).as_bytes());
        part(view.data());
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use safetensors::tensor::Dtype;

    use super::*;

    fn file(value: u8) -> Vec<u8> {
        let data = [[value; 4], [7; 4]];
        let view = |data, shape: &[usize]| TensorView::new(Dtype::U8, shape.to_vec(), data);
        let tensors =
            [("b", view(&data[0], &[2, 2]).unwrap()), ("a", view(&data[1], &[4]).unwrap())];
        let metadata = [("zeta", "1"), ("alpha", "2"), ("mid", "\u{e9}\n")];
        let metadata = metadata.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        serialize("file", &tensors, metadata).unwrap()
    }

    fn checked(bytes: &[u8]) -> Result<()> {
        let broken = |e: safetensors::SafeTensorError| Error::invalid("file", "safetensors", e);
        let (_, header) = SafeTensors::read_metadata(bytes).map_err(broken)?;
        let metadata = header.metadata().clone().unwrap_or_default();
        let file = SafeTensors::deserialize(bytes).map_err(broken)?;
        check("file", &file, &metadata, "copy it again")
    }

    #[test]
    fn equal_content_gives_equal_bytes_and_passes() {
        for _ in 0..20 {
            assert_eq!(file(3), file(3));
        }
        checked(&file(3)).unwrap();
    }

    #[test]
    fn the_stored_hash_is_that_of_the_content() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, file(3)).unwrap();
        let found = stored(&path).unwrap();
        let text = String::from_utf8_lossy(&file(3)).into_owned();
        assert!(found.len() == 64 && text.contains(&found), "{found}");
        std::fs::write(&path, [1, 2, 3]).unwrap();
        assert!(stored(&path).is_err());
    }

    /// Whatever byte changes, the file no longer loads, but for spaces behind the header.
    #[test]
    fn any_changed_byte_is_found() {
        let good = file(3);
        let header = 8 + u64::from_le_bytes(good[..8].try_into().unwrap()) as usize;
        let text = good[..header].trim_ascii_end().len();
        for at in (0..text).chain(header..good.len()) {
            for flip in [1, 0x20, 0x80] {
                let mut bytes = good.clone();
                bytes[at] ^= flip;
                let error = checked(&bytes).expect_err(&format!("byte {at}")).to_string();
                assert!(error.starts_with("file: ") && !error.contains('\n'), "{error}");
            }
        }
    }
}
