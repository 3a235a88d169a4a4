//! From a trained checkpoint to a [`Model`]: reads the file (`torch`, `safetensors`), detects
//! the family and the shape of the network from the keys (`detect`), maps every key to its canonical
//! name (one file per family, the differences in `family::Rules`) and folds spectral normalisation.
//!
//! ```text
//! file -> StateDict (keys, shapes, where the numbers lie) -> Rules -> Config -> units -> tensors
//! ```
//! Every key is used, ignored by name, or an error; no number is read before all shapes are right.

mod detect;
mod family;
mod jfzhang95;
mod machine;
mod pickle;
mod safetensors;
mod smp;
mod spectral;
mod state_dict;
mod torch;
mod torchvision;
mod vainf;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use family::Rules;
use smp::HubConfig;
use state_dict::StateDict;

use crate::data::read_file;
use crate::error::{Error, Result};
use crate::model::config::SMP;
use crate::model::{Backbone, Config, Model, Tensor, units};

/// Whose checkpoints are read. A new family is a file with its [`Rules`] and a line here.
const FAMILIES: [&Rules; 4] = [&smp::RULES, &torchvision::RULES, &vainf::RULES, &jfzhang95::RULES];

/// Names of the families, as [`Options::family`] takes them.
pub fn families() -> [&'static str; FAMILIES.len()] {
    FAMILIES.map(|rules| rules.family)
}

/// Bounds a hostile file's claims; a ResNet-101 DeepLab has 2^26 weights.
const MAX_WEIGHTS: usize = 1 << 28;

/// Of a file that is read whole: the largest network in f64 with two moments per weight is 6 GiB.
const MAX_FILE_BYTES: u64 = 1 << 34;

/// What the user says about a checkpoint; None is detected or assumed.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// One of [`families`].
    pub family: Option<String>,
    pub backbone: Option<Backbone>,
    pub output_stride: Option<usize>,
    pub atrous_rates: Option<Vec<usize>>,
    /// One name per class.
    pub classes: Option<Vec<String>>,
}

#[derive(Debug)]
pub struct Imported {
    pub model: Model,
    /// What nothing in the checkpoint says, one line each.
    pub assumed: Vec<String>,
    /// The `config.json` of segmentation-models-pytorch that was read beside the weights.
    pub hub_config: Option<PathBuf>,
    /// Keys that inference does not need, grouped, with their numbers.
    pub ignored: Vec<String>,
    /// Where in the file the state dict was, and the prefixes taken off its keys.
    pub nested: Vec<String>,
    /// Convolutions whose spectral normalisation was folded.
    pub folded: usize,
}

/// Reads a checkpoint: a PyTorch file (zip or legacy), `.safetensors`, or an smp hub folder. Where
/// smp's `config.json` lies beside a file of its weights, it is read as well.
///
/// # Errors
/// One line that names the file and, where it is one, the key.
pub fn import(path: &Path, options: &Options) -> Result<Imported> {
    let metadata = std::fs::metadata(path).map_err(|e| Error::io(path, "read", e))?;
    let (mut dict, mut hub) = if metadata.is_dir() {
        let config = path.join("config.json");
        let weights = path.join("model.safetensors");
        if !config.is_file() || !weights.is_file() {
            let expected = "a checkpoint, or a folder with config.json and model.safetensors";
            return Err(Error::invalid(path.display(), expected, "a folder without them"));
        }
        let hub = HubConfig::read(&config)?;
        (open(&weights)?, Some((config, hub)))
    } else if metadata.is_file() {
        (open(path)?, HubConfig::in_folder_of(path)?)
    } else {
        return Err(Error::invalid(path.display(), "a checkpoint", "a device or pipe"));
    };

    let rules = detect::family(&dict, options.family.as_deref())?;
    hub.take_if(|_| rules.family != SMP);
    let (hub_path, hub) = hub.unzip();
    let detect::Detected { config, assumed } = detect::config(&dict, rules, hub.as_ref(), options)?;
    let wanted = wanted(&dict, rules, &config)?;
    let ignored = account(&dict, rules, &wanted)?;
    let mut tensors = BTreeMap::new();
    let keys: Vec<&str> = wanted.iter().flat_map(Want::keys).collect();
    let mut read = dict.read(&keys)?;
    for want in &wanted {
        tensors.insert(want.name.clone(), want.tensor(&dict.source, &mut read)?);
    }
    let model = Model::new(&dict.source, config, tensors)?;
    let folded = wanted.iter().filter(|want| want.spectral.is_some()).count();
    Ok(Imported { model, assumed, hub_config: hub_path, ignored, nested: dict.nested, folded })
}

/// The readers of checkpoints without a network around them, for `tests/fuzz.rs`: a whole import takes
/// too long for a million of them.
#[doc(hidden)]
pub mod readers {
    use super::*;

    /// Reads the pickle at the start of `bytes`.
    pub fn pickle(bytes: &[u8]) -> Result<(), String> {
        super::machine::load(bytes).map(drop)
    }

    /// Reads every tensor of at most 2^12 elements (an import reads none before it knows all shapes).
    pub fn tensors(path: &Path) -> Result<()> {
        let mut dict = open(path)?;
        let small = |n: Option<usize>| n.is_some_and(|n| n <= 1 << 12);
        let keys = dict.entries.iter().filter(|(_, entry)| small(entry.elements()));
        let keys: Vec<String> = keys.map(|(key, _)| key.clone()).collect();
        // One by one: a tensor that is refused does not hide the next.
        let read: Vec<_> = keys.iter().map(|key| dict.read(&[key]).map(drop)).collect();
        read.into_iter().collect()
    }
}

/// Recognises a file by its first bytes.
fn open(path: &Path) -> Result<StateDict> {
    let error = |e| Error::io(path, "read", e);
    let mut head = Vec::new();
    File::open(path).map_err(error)?.take(64).read_to_end(&mut head).map_err(error)?;
    if head.starts_with(b"PK") {
        return torch::read_zip(path);
    }
    let all = || read_file(path, "a checkpoint", MAX_FILE_BYTES);
    if torch::is_legacy(&head) {
        torch::read_legacy(path, all()?)
    } else if safetensors::is_safetensors(&head) {
        safetensors::read(path, all()?)
    } else {
        let text = String::from_utf8_lossy(&head);
        let begins = text.trim_start().to_ascii_lowercase();
        let found = if head.is_empty() {
            "an empty file".to_owned()
        } else if begins.starts_with("<!doctype") || begins.starts_with("<html") {
            "an HTML page: the download did not give the file".into()
        } else if begins.starts_with("version https://git-lfs") {
            "a Git LFS pointer: fetch the file itself with git lfs pull".into()
        } else if head.first() == Some(&0x80) {
            "another pickle, or one that is cut short: save it with torch.save".into()
        } else if head.iter().all(|b| b.is_ascii_graphic() || b.is_ascii_whitespace()) {
            format!("text: {}", shown(text.lines().next().unwrap_or_default()))
        } else {
            let bytes: Vec<_> = head.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
            format!("a file that begins with {}", bytes.join(" "))
        };
        Err(Error::invalid(path.display(), "a PyTorch or safetensors checkpoint", found))
    }
}

/// A tensor of the model and where it comes from.
struct Want {
    /// Canonical name.
    name: String,
    key: String,
    /// Keys of u and v, where the weight is spectrally normalised.
    spectral: Option<[String; 2]>,
}

impl Want {
    fn keys(&self) -> impl Iterator<Item = &str> {
        std::iter::once(&self.key).chain(self.spectral.iter().flatten()).map(String::as_str)
    }

    /// The tensor from what was read; `source` names the file in messages.
    fn tensor(&self, source: &str, read: &mut HashMap<&str, Tensor>) -> Result<Tensor> {
        let mut take = |key: &str| read.remove(key).expect("every wanted key was read");
        let mut tensor = take(&self.key);
        let what = || format!("{source}: {}", self.key);
        if self.name.ends_with(".norm.var")
            && let Some(i) = tensor.data.iter().position(|v| *v < 0.0)
        {
            let found = format!("{} at element {i}", tensor.data[i]);
            return Err(Error::invalid(what(), "variances of at least 0", found));
        }
        if let Some([u, v]) = &self.spectral {
            let (u, v) = (take(u).data, take(v).data);
            spectral::fold(&mut tensor, &u, &v).map_err(|found| {
                Error::invalid(what(), "a positive spectral norm u^T W v", found)
            })?;
        }
        Ok(tensor)
    }
}

/// Every tensor of the model, each checked to be there in the right shape.
fn wanted(dict: &StateDict, rules: &Rules, config: &Config) -> Result<Vec<Want>> {
    let check = |key: &str, shape: &[usize]| {
        let found = match (dict.entries.get(key), dict.others.get(key)) {
            (Some(entry), _) if entry.shape == shape => return Ok(()),
            (Some(entry), _) => format!("{:?}", entry.shape),
            (None, Some(other)) => other.clone(),
            (None, None) => "no such key".into(),
        };
        let what = format!("{}: {}", dict.source, shown(key));
        Err(Error::invalid(what, format!("shape {shape:?}"), found))
    };
    let mut all = Vec::new();
    let mut weights = 0usize;
    for unit in units(config) {
        let keys = rules.keys(&unit.name).ok_or_else(|| {
            let expected = format!("a network of {}", rules.family);
            Error::invalid(&dict.source, expected, format!("one with {}", unit.name))
        })?;
        for (name, shape) in unit.tensors() {
            let (mut key, mut spectral) = (String::new(), None);
            match &name[unit.name.len()..] {
                ".weight" => match detect::weight_key(dict, &keys.conv) {
                    Some((weight, Some([_, u, v]))) => {
                        let [u, v] = [u, v].map(|suffix| format!("{}{suffix}", keys.conv));
                        check(&u, &shape[..1])?;
                        check(&v, &[shape[1..].iter().product()])?;
                        key = weight;
                        spectral = Some([u, v]);
                    }
                    _ => key += &format!("{}.weight", keys.conv),
                },
                ".bias" => key += &format!("{}.bias", keys.conv),
                ".norm.weight" => key += &format!("{}.weight", keys.norm),
                ".norm.bias" => key += &format!("{}.bias", keys.norm),
                ".norm.mean" => key += &format!("{}.running_mean", keys.norm),
                _ => key += &format!("{}.running_var", keys.norm),
            }
            check(&key, &shape)?;
            weights += shape.iter().product::<usize>();
            all.push(Want { name, key, spectral });
        }
    }
    match weights <= MAX_WEIGHTS {
        true => Ok(all),
        false => {
            let expected = format!("at most {MAX_WEIGHTS} weights");
            Err(Error::invalid(&dict.source, expected, weights))
        }
    }
}

/// Names the keys that are not used; those that nobody knows are an error.
fn account(dict: &StateDict, rules: &Rules, wanted: &[Want]) -> Result<Vec<String>> {
    let used: BTreeSet<&str> = wanted.iter().flat_map(Want::keys).collect();
    let (mut batches, mut auxiliary, mut surplus) = (0, 0, Vec::new());
    for key in dict.entries.keys().chain(dict.others.keys()) {
        if used.contains(key.as_str()) {
        } else if rules.auxiliary.is_some_and(|prefix| key.starts_with(prefix)) {
            auxiliary += 1;
        } else if key.ends_with("num_batches_tracked") {
            batches += 1;
        } else {
            surplus.push(key);
        }
    }
    if let [first, rest @ ..] = surplus.as_slice() {
        let more =
            if rest.is_empty() { String::new() } else { format!(" and {} more", rest.len()) };
        let expected = format!("only keys of a DeepLab of {}", rules.family);
        let found = format!("surplus {}{more}", shown(first));
        let error = Error::invalid(&dict.source, expected, found);
        return Err(match surplus.iter().any(|key| key.ends_with("weight_sigma")) {
            true => error.fix(
                "soft spectral normalisation does not store its coefficient: save the \
                 normalised weights",
            ),
            false => error,
        });
    }
    let group = |count: usize, name: String| (count > 0).then(|| format!("{count} x {name}"));
    let batches = group(batches, "num_batches_tracked".into());
    let auxiliary = group(auxiliary, format!("{}*", rules.auxiliary.unwrap_or_default()));
    Ok(batches.into_iter().chain(auxiliary).collect())
}

/// Text from a file, made fit for one line of a message.
fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let mut escaped: String = text.chars().take(LONGEST).flat_map(char::escape_debug).collect();
    if text.chars().nth(LONGEST).is_some() {
        escaped.push_str("...");
    }
    escaped
}
