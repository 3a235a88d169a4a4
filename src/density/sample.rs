//! A sample of the fitted features that does not depend on their order: those with the smallest
//! hash of (image content, cell). So shards merge, and the scale of a density map can be drawn
//! from the file alone.

use std::collections::BTreeMap;

use half::f16;

use super::half::finite_in_half;

/// Most features that a sample keeps: 4 MiB at D = 256.
pub const CAPACITY: usize = 8192;

#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    channels: usize,
    /// hash -> feature `[D]`
    rows: BTreeMap<u64, Vec<f16>>,
}

impl Sample {
    pub fn new(channels: usize) -> Self {
        Sample { channels, rows: BTreeMap::new() }
    }

    /// Offers the features `[cells, D]` of an image whose label is one of `classes` and which are
    /// finite; `image` is the hash of its content.
    pub fn add(&mut self, image: u64, features: &[f32], labels: &[u8], classes: usize) {
        let labelled = labels.iter().enumerate().filter(|(_, l)| usize::from(**l) < classes);
        for (cell, _) in labelled {
            let hash = mix(image, cell as u64);
            if self.rows.len() == CAPACITY
                && self.rows.last_key_value().is_some_and(|l| hash > *l.0)
            {
                continue;
            }
            let feature = &features[cell * self.channels..][..self.channels];
            if finite_in_half(feature) {
                self.insert(hash, feature.iter().map(|v| f16::from_f32(*v)).collect());
            }
        }
    }

    pub fn merge(&mut self, other: &Sample) {
        for (hash, row) in &other.rows {
            self.insert(*hash, row.clone());
        }
    }

    pub(super) fn insert(&mut self, hash: u64, row: Vec<f16>) {
        // Of two cells with one 64-bit hash the first stays, so the order of images could show: a
        // chance of 10^-5 over a million images.
        self.rows.entry(hash).or_insert(row);
        if self.rows.len() > CAPACITY {
            self.rows.pop_last();
        }
    }

    pub fn len(&self) -> usize {
        self.rows.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// D
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// (hash, feature `[D]`), by increasing hash.
    pub fn rows(&self) -> impl Iterator<Item = (u64, &[f16])> {
        self.rows.iter().map(|(hash, row)| (*hash, row.as_slice()))
    }

    /// All features, `[len, D]`.
    pub fn features(&self) -> Vec<f32> {
        self.rows.values().flatten().map(|v| v.to_f32()).collect()
    }
}

/// A 64-bit hash of (image, cell): two rounds of the finaliser of SplitMix64 (Steele et al. 2014).
fn mix(image: u64, cell: u64) -> u64 {
    let finalise = |mut x: u64| {
        x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    };
    finalise(finalise(image) ^ cell)
}
