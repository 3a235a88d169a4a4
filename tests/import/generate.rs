//! The weights and images of tests/golden/make_families.py, bit for bit: an integer hash of a name
//! and an index, scaled in f64. A golden then holds only keys, shapes and results.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ddu::data::Image;
use ddu::ops::Size;

/// Uniform in [0, 1): FNV-1a of the name, splitmix64 of the index.
pub fn value(name: &str, index: u64) -> f64 {
    let seed = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |seed, byte| {
        (seed ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let mut z = seed.wrapping_add((index + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    (z >> 40) as f64 / f64::from(1 << 24)
}

pub fn image(size: Size) -> Image {
    let name = format!("image {} x {}", size.h, size.w);
    let count = size.pixels() as u64 * 3;
    let rgb = (0..count).map(|i| (value(&name, i) * 256.0) as u8).collect();
    Image { size, rgb }
}

/// A tensor of a checkpoint, row-major.
#[derive(Clone, Debug)]
pub struct Weight {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

pub type Weights = BTreeMap<String, Weight>;

/// Weights for keys with their shapes; `num_batches_tracked` becomes zeros.
pub fn weights(keys: &BTreeMap<String, Vec<usize>>) -> Weights {
    let bottleneck = keys.keys().any(|key| key.contains("bn3"));
    let last = if bottleneck { ".bn3.weight" } else { ".bn2.weight" };
    let make = |(key, shape): (&String, &Vec<usize>)| {
        let count: usize = shape.iter().product();
        let scaled = |u: f64| {
            if key.ends_with("num_batches_tracked") {
                0.0
            } else if shape.len() == 4 {
                let fan_in: usize = shape[1..].iter().product();
                (2.0 * u - 1.0) * (6.0 / fan_in as f64).sqrt()
            } else if key.ends_with("running_var") {
                0.5 + u
            } else if key.ends_with("weight") {
                let residual = key.contains(".layer") && key.ends_with(last);
                (0.5 + u) * if residual { 0.1 } else { 1.0 }
            } else {
                u - 0.5
            }
        };
        let data = (0..count as u64).map(|i| scaled(value(key, i)) as f32).collect();
        (key.clone(), Weight { shape: shape.clone(), data })
    };
    keys.iter().map(make).collect()
}

pub fn golden(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(path)
}

/// The keys of the checkpoint that a golden file was made from.
pub fn keys(path: &Path) -> BTreeMap<String, Vec<usize>> {
    let bytes = std::fs::read(path).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    serde_json::from_str(&header.metadata().as_ref().unwrap()["keys"]).unwrap()
}

/// The smallest network at hand: smp's ResNet-18, channels divided by 16.
pub fn small() -> Weights {
    weights(&keys(&golden("families/smp-resnet18.safetensors")))
}
