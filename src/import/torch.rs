//! PyTorch's files: the zip archive that `torch.save` writes since 1.6 and the stream of pickles
//! before, both down to a [`StateDict`].
//!
//! ```text
//! zip      FOLDER/data.pkl, FOLDER/byteorder (optional), FOLDER/data/KEY (one per storage)
//! legacy   pickles: magic number, protocol 1001, system info, the object, [keys];
//!          then for each key in order an i64 element count and the elements
//! ```
//! A tensor is a call of `torch._utils._rebuild_tensor_v2(storage, offset, size, stride, ...)`, its
//! storage a persistent id `("storage", torch.FloatStorage, KEY, location, elements[, view])`.
//! Nothing is ever called: these are the only names that mean something here.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::BufReader;
use std::path::Path;
use std::rc::Rc;

use zip::ZipArchive;
use zip::read::{ArchiveOffset, Config};

use super::machine;
use super::pickle::{Node, Pickle, Value};
use super::shown;
use super::state_dict::{Dtype, Entry, StateDict, Stated, Storages, max_unpacked, member};
use crate::error::{Error, Result};

/// `0x1950a86a20f9469cfc6c`, the first pickle of a legacy file, as it is stored.
const MAGIC: [u8; 10] = [0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19];

/// A ResNet-101 checkpoint with its optimizer has about a MiB of it.
const MAX_PICKLE_BYTES: u64 = 1 << 24;

/// Keys under which training scripts nest the state dict, in the order in which they are tried.
const NESTS: [&str; 7] =
    ["model_state", "state_dict", "model_state_dict", "model", "module", "net", "network"];

/// Whether the start of a file is that of a legacy one.
pub fn is_legacy(bytes: &[u8]) -> bool {
    let head = &bytes[..bytes.len().min(32)];
    head.first() == Some(&0x80) && head.windows(MAGIC.len()).any(|part| part == MAGIC)
}

pub fn read_zip(path: &Path) -> Result<StateDict> {
    let source = path.display().to_string();
    let invalid = |found: String| {
        Error::invalid(&source, "a PyTorch zip archive", found)
            .fix("the file may be cut short or damaged: copy it again")
    };
    let file = File::open(path).map_err(|e| Error::io(path, "read", e))?;
    let budget = max_unpacked(file.metadata().map_err(|e| Error::io(path, "read", e))?.len());
    // Left to detect where the archive starts, the zip crate takes the second member for the first
    // where the first one's record is as long as the zip64 end that torch always writes (76 bytes:
    // a folder name of 21 letters).
    let start = Config { archive_offset: ArchiveOffset::Known(0) };
    let mut archive = ZipArchive::with_config(start, BufReader::new(file))
        .map_err(|e| invalid(format!("a broken one: {}", shown(&e.to_string()))))?;
    let is_pickle = |name: &str| {
        name.strip_suffix("data.pkl")
            .filter(|f| f.is_empty() || f.find('/') == Some(f.len() - 1))
            .map(str::to_owned)
    };
    let mut names = archive.file_names().flatten();
    let Some(folder) = names.find_map(|name| is_pickle(&name)) else {
        drop(names);
        return Err(Error::invalid(&source, "a PyTorch archive with data.pkl", "none in the zip")
            .fix("pass a file that torch.save wrote, or .safetensors"));
    };
    drop(names);
    if archive.index_for_name(&format!("{folder}constants.pkl")).is_some() {
        return Err(Error::invalid(&source, "a state dict", "a TorchScript archive").fix(
            "save the weights: torch.save(torch.jit.load(FILE).state_dict(), \"model.pth\")",
        ));
    }
    let big_endian = match archive.index_for_name(&format!("{folder}byteorder")) {
        None => false,
        Some(_) => {
            match &*member(&mut archive, &format!("{folder}byteorder"), 16).map_err(invalid)? {
                b"little" => false,
                b"big" => true,
                _ => return Err(invalid("an unknown byteorder".into())),
            }
        }
    };
    let bytes =
        member(&mut archive, &format!("{folder}data.pkl"), MAX_PICKLE_BYTES).map_err(invalid)?;
    let (pickle, _) = machine::load(&bytes).map_err(invalid)?;
    let storages = Storages::Zip { archive, folder, last: None, budget };
    state_dict(source, &pickle, storages, big_endian)
}

pub fn read_legacy(path: &Path, bytes: Vec<u8>) -> Result<StateDict> {
    let source = path.display().to_string();
    let invalid = |found: String| {
        Error::invalid(&source, "a PyTorch file of the legacy format", found)
            .fix("the file may be cut short or damaged: copy it again")
    };
    let mut at = 0;
    let mut next = || {
        let (pickle, len) = machine::load(&bytes[at..]).map_err(invalid)?;
        at += len;
        Ok(pickle)
    };
    let (_magic, protocol) = (next()?, next()?);
    if protocol.root != Value::Int(1001) {
        return Err(invalid("another protocol than 1001".into()));
    }
    let (system, object, keys) = (next()?, next()?, next()?);
    let little = dict(&system, &system.root)
        .and_then(|pairs| find(pairs, "little_endian"))
        .is_none_or(|value| *value == Value::Bool(true));
    let Some(Node::List(keys)) = keys.node(&keys.root) else {
        return Err(invalid("no list of storages".into()));
    };
    let sizes = element_sizes(&object);
    let mut ranges = HashMap::new();
    for key in keys {
        let Value::Str(key) = key else {
            return Err(invalid("a storage key that is no string".into()));
        };
        let cut = || invalid(format!("an end within storage {}", shown(key)));
        let count: [u8; 8] =
            bytes.get(at..at + 8).ok_or_else(cut)?.try_into().expect("eight bytes");
        let count = if little { i64::from_le_bytes(count) } else { i64::from_be_bytes(count) };
        let size = *sizes.get(&**key).ok_or_else(|| {
            invalid(format!("a storage {} of an unknown element size", shown(key)))
        })?;
        let len = usize::try_from(count).ok().and_then(|n| n.checked_mul(size)).ok_or_else(cut)?;
        let start = at + 8;
        let end = start.checked_add(len).filter(|end| *end <= bytes.len()).ok_or_else(cut)?;
        ranges.insert(key.clone(), start..end);
        at = end;
    }
    state_dict(source, &object, Storages::Bytes { bytes, ranges }, !little)
}

/// Finds the state dict in the object and describes its tensors.
fn state_dict(
    source: String,
    pickle: &Pickle,
    storages: Storages,
    big_endian: bool,
) -> Result<StateDict> {
    let Found { nested, pairs, stated } = find_state_dict(&source, pickle)?;
    let (mut entries, mut others) = (BTreeMap::new(), BTreeMap::new());
    for (key, value) in pairs {
        let Value::Str(key) = key else {
            others.insert(pickle.describe(key), "a key that is no string".into());
            continue;
        };
        // As in Python, a later pair overrides an earlier one.
        entries.remove(&**key);
        others.remove(&**key);
        match tensor(pickle, value) {
            Ok(entry) => drop(entries.insert(key.to_string(), entry)),
            Err(found) => drop(others.insert(key.to_string(), found)),
        }
    }
    let dict = StateDict { source, entries, others, storages, stated, big_endian, nested };
    Ok(dict.strip_prefixes())
}

type Pairs = [(Value, Value)];

fn dict<'a>(pickle: &'a Pickle, value: &Value) -> Option<&'a Pairs> {
    match pickle.node(value) {
        Some(Node::Dict(pairs)) => Some(pairs),
        _ => None,
    }
}

fn find<'a>(pairs: &'a Pairs, key: &str) -> Option<&'a Value> {
    pairs.iter().rev().find(|(k, _)| matches!(k, Value::Str(k) if **k == *key)).map(|(_, v)| v)
}

struct Found<'a> {
    /// The keys that lead to the dict of tensors.
    nested: Vec<String>,
    pairs: &'a Pairs,
    stated: Stated,
}

fn find_state_dict<'a>(source: &str, pickle: &'a Pickle) -> Result<Found<'a>> {
    let mut path = Vec::new();
    let mut stated = Stated::default();
    let mut value = &pickle.root;
    loop {
        let at = if path.is_empty() { String::new() } else { format!(" under {}", path.join(".")) };
        let Some(pairs) = dict(pickle, value) else {
            let error = Error::invalid(source, "a state dict", pickle.describe(value) + &at);
            return Err(match pickle.node(value) {
                Some(Node::Call { .. }) => {
                    error.fix("save its weights: torch.save(model.state_dict(), \"model.pth\")")
                }
                _ => error,
            });
        };
        let direct = pairs.iter().any(|(key, value)| {
            matches!(key, Value::Str(key) if key.contains('.')) && tensor(pickle, value).is_ok()
        });
        if direct {
            return Ok(Found { nested: path, pairs, stated });
        }
        let integer = |key| find(pairs, key).and_then(size);
        stated.output_stride = stated.output_stride.or_else(|| integer("output_stride"));
        let integers = |key| find(pairs, key).and_then(|value| sizes(pickle, value));
        stated.atrous_rates = stated.atrous_rates.or_else(|| integers("atrous_rates"));
        let nest = NESTS.iter().find_map(|name| Some((name, find(pairs, name)?)));
        match nest {
            // A file may nest a dict in itself.
            Some((name, inner)) if path.len() < 4 => {
                path.push((*name).to_owned());
                value = inner;
            }
            _ => {
                let keys = pairs.iter().filter_map(|(key, _)| match key {
                    Value::Str(key) => Some(shown(key)),
                    _ => None,
                });
                let keys: Vec<_> = keys.take(4).collect();
                let found = match keys.len() {
                    0 => format!("an empty dict{at}"),
                    _ => format!("no weights{at} among {}", keys.join(", ")),
                };
                let expected = format!("a state dict, or one under {}", NESTS.join(", "));
                return Err(Error::invalid(source, expected, found));
            }
        }
    }
}

/// A tensor, or what the value is instead.
fn tensor(pickle: &Pickle, value: &Value) -> Result<Entry, String> {
    let Some(Node::Call { callee, args }) = pickle.node(value) else {
        return Err(pickle.describe(value));
    };
    rebuild(pickle, callee, args, 0).ok_or_else(|| pickle.describe(value))
}

/// Reads a call that makes a tensor. `depth` counts the wrappers around it.
fn rebuild(pickle: &Pickle, callee: &Value, args: &Value, depth: usize) -> Option<Entry> {
    let args = pickle.tuple(args)?;
    match pickle.global(callee)? {
        ("torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2") => {
            let (dtype, storage, first) = storage(pickle, args.first()?)?;
            view(pickle, dtype, storage, first, args)
        }
        // The storage is untyped (offset and strides still count elements of the tensor's type).
        ("torch._utils", "_rebuild_tensor_v3") => {
            let (_, storage, _) = storage(pickle, args.first()?)?;
            let (_, name) = pickle.global(args.get(6)?)?;
            view(pickle, dtype(name), storage, 0, args)
        }
        ("torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state") if depth < 4 => {
            match pickle.node(args.first()?)? {
                Node::Call { callee, args } => rebuild(pickle, callee, args, depth + 1),
                _ => None,
            }
        }
        ("torch._tensor", "_rebuild_from_type_v2") if depth < 4 => {
            rebuild(pickle, args.first()?, args.get(2)?, depth + 1)
        }
        _ => None,
    }
}

/// `args` of a rebuild: storage, offset, size, stride.
fn view(
    pickle: &Pickle,
    dtype: Dtype,
    storage: Rc<str>,
    first: usize,
    args: &[Value],
) -> Option<Entry> {
    let offset = size(args.get(1)?)?.checked_add(first)?;
    let shape = sizes(pickle, args.get(2)?)?;
    let strides = sizes(pickle, args.get(3)?)?;
    (shape.len() == strides.len()).then_some(Entry { dtype, shape, strides, offset, storage })
}

/// Type, key and (of a legacy view) first element of a storage.
fn storage(pickle: &Pickle, value: &Value) -> Option<(Dtype, Rc<str>, usize)> {
    let Node::Persistent(id) = pickle.node(value)? else { return None };
    let id = pickle.tuple(id)?;
    let [Value::Str(kind), class, Value::Str(key), rest @ ..] = id else { return None };
    if **kind != *"storage" {
        return None;
    }
    let (_, class) = pickle.global(class)?;
    let first = match rest.get(2) {
        Some(metadata) if *metadata != Value::None => size(pickle.tuple(metadata)?.get(1)?)?,
        _ => 0,
    };
    Some((dtype(class), key.clone(), first))
}

/// The type that a storage class (`HalfStorage`) or a torch dtype (`float16`) names.
fn dtype(name: &str) -> Dtype {
    match name {
        "HalfStorage" | "float16" => Dtype::F16,
        "BFloat16Storage" | "bfloat16" => Dtype::Bf16,
        "FloatStorage" | "float32" => Dtype::F32,
        "DoubleStorage" | "float64" => Dtype::F64,
        _ => Dtype::Other(shown(name)),
    }
}

fn size(value: &Value) -> Option<usize> {
    match value {
        Value::Int(n) => usize::try_from(*n).ok(),
        _ => None,
    }
}

/// A tuple of sizes, or a `torch.Size` of one; of at most 8, twice what any weight has.
fn sizes(pickle: &Pickle, value: &Value) -> Option<Vec<usize>> {
    let items = match pickle.node(value)? {
        Node::Tuple(items) | Node::List(items) => items,
        Node::Call { callee, args } if pickle.global(callee)? == ("torch", "Size") => {
            match pickle.node(pickle.tuple(args)?.first()?)? {
                Node::Tuple(items) | Node::List(items) => items,
                _ => return None,
            }
        }
        _ => return None,
    };
    if items.len() > 8 {
        return None;
    }
    items.iter().map(size).collect()
}

/// Bytes per element of every storage that the object refers to.
fn element_sizes(pickle: &Pickle) -> HashMap<Rc<str>, usize> {
    let mut sizes = HashMap::new();
    for node in &pickle.nodes {
        let Node::Persistent(id) = node else { continue };
        let Some([_, class, Value::Str(key), ..]) = pickle.tuple(id) else { continue };
        let Some((_, class)) = pickle.global(class) else { continue };
        let size = match class {
            "ByteStorage" | "CharStorage" | "BoolStorage" | "UntypedStorage" => 1,
            "HalfStorage" | "BFloat16Storage" | "ShortStorage" => 2,
            "FloatStorage" | "IntStorage" => 4,
            "DoubleStorage" | "LongStorage" | "ComplexFloatStorage" => 8,
            "ComplexDoubleStorage" => 16,
            _ => continue,
        };
        sizes.insert(key.clone(), size);
    }
    sizes
}
