//! A sample of the fitted features that does not depend on their order: those with the smallest
//! hash of (image content, cell). So shards merge, and the scale of a density map can be drawn
//! from the file alone.

use half::f16;

use super::half::finite_in_half;
use crate::error::{Error, Result};
use crate::splitmix64::splitmix64;

/// Maximum features of a sample: 4 MiB at D = 256.
pub const CAPACITY: usize = 8192;

/// The features lie in one buffer: thousands of small ones, freed and allocated with every image, would
/// fragment the heap.
#[derive(Clone, Debug)]
pub struct Sample {
    channels: usize,
    /// By increasing hash.
    rows: Vec<Row>,
    /// `[slot][D]`
    values: Vec<f16>,
}

#[derive(Clone, Copy, Debug)]
struct Row {
    hash: u64,
    at: At,
}

#[derive(Clone, Copy, Debug)]
enum At {
    /// A slot of the buffer.
    Kept(usize),
    /// An index of what is being offered.
    Offered(usize),
}

impl Sample {
    pub fn new(channels: usize) -> Self {
        Sample { channels, rows: Vec::new(), values: Vec::new() }
    }

    /// Offers the features `[cells, D]` of an image whose label is one of `classes` and which are
    /// finite; `image` is the hash of its content.
    pub fn add(&mut self, image: u64, features: &[f32], labels: &[u8], classes: usize) {
        let channels = self.channels;
        let feature = |cell: usize| &features[cell * channels..][..channels];
        let offered = self.candidates(image, labels.len()).into_iter();
        let usable = |&(_, cell): &(u64, usize)| {
            usize::from(labels[cell]) < classes && finite_in_half(feature(cell))
        };
        self.offer(offered, usable, |cell, row| {
            row.iter_mut().zip(feature(cell)).for_each(|(r, v)| *r = f16::from_f32(*v));
        });
    }

    /// (hash, cell) of the cells of an image that may belong to the sample.
    pub(crate) fn candidates(&self, image: u64, cells: usize) -> Vec<(u64, usize)> {
        let limit = self.limit();
        let hashes = (0..cells).map(|cell| (mix(image, cell as u64), cell));
        hashes.filter(|(hash, _)| *hash <= limit).collect()
    }

    /// Offers features `[hashes, D]`, of which the usable ones are taken: `labelled` says which have a
    /// class; those that are not finite are left out.
    pub(crate) fn take(
        &mut self,
        hashes: &[u64],
        features: &[f16],
        labelled: impl Fn(usize) -> bool,
    ) {
        let channels = self.channels;
        let feature = |i: usize| &features[i * channels..][..channels];
        let offered = hashes.iter().enumerate().map(|(i, hash)| (*hash, i));
        let usable =
            |&(_, i): &(u64, usize)| labelled(i) && feature(i).iter().all(|v| v.is_finite());
        self.offer(offered, usable, |i, row| row.copy_from_slice(feature(i)));
    }

    pub fn merge(&mut self, other: &Sample) {
        let rows: Vec<&[f16]> = other.rows().map(|(_, row)| row).collect();
        let hashes = other.rows.iter().enumerate().map(|(i, row)| (row.hash, i));
        self.offer(hashes, |_| true, |i, row| row.copy_from_slice(rows[i]));
    }

    /// From a density file: hashes and finite features `[hashes, D]`.
    ///
    /// # Errors
    /// More than [`CAPACITY`], or hashes that do not increase; `source` names the file in the message.
    pub(super) fn from_parts(
        source: &str,
        channels: usize,
        hashes: &[u64],
        features: &[f16],
    ) -> Result<Self> {
        let bad = |expected: String, found: String| {
            Err(Error::invalid(format!("{source}: tensor sample_hash"), expected, found))
        };
        if hashes.len() > CAPACITY {
            return bad(format!("at most {CAPACITY} hashes"), hashes.len().to_string());
        }
        if let Some(pair) = hashes.windows(2).find(|pair| pair[0] >= pair[1]) {
            return bad("increasing hashes".into(), format!("{} before {}", pair[0], pair[1]));
        }
        let mut sample = Sample::new(channels);
        sample.take(hashes, features, |_| true);
        Ok(sample)
    }

    /// The greatest hash that the sample still takes.
    fn limit(&self) -> u64 {
        let full = self.rows.len() >= CAPACITY;
        self.rows.last().filter(|_| full).map_or(u64::MAX, |last| last.hash)
    }

    /// Takes in those of the offered (hash, index) that are `usable` and belong to the smallest.
    fn offer(
        &mut self,
        offered: impl Iterator<Item = (u64, usize)>,
        usable: impl Fn(&(u64, usize)) -> bool,
        write: impl Fn(usize, &mut [f16]),
    ) {
        let limit = self.limit();
        let known = self.rows.len();
        let new = offered.filter(|(hash, _)| *hash <= limit).filter(usable);
        self.rows.extend(new.map(|(hash, index)| Row { hash, at: At::Offered(index) }));
        if self.rows.len() == known {
            return;
        }
        // Stable: of two cells with one 64-bit hash the first stays, so the order of images could
        // show: a chance of 10^-5 over a million images.
        self.rows.sort_by_key(|row| row.hash);
        self.rows.dedup_by_key(|row| row.hash);
        self.rows.truncate(CAPACITY);

        let mut free = vec![true; self.rows.len()];
        for row in &self.rows {
            if let At::Kept(slot) = row.at {
                free[slot] = false;
            }
        }
        self.values.resize(self.rows.len() * self.channels, f16::ZERO);
        let mut free = (0..free.len()).filter(|slot| free[*slot]);
        for row in &mut self.rows {
            let At::Offered(index) = row.at else { continue };
            let slot = free.next().expect("as many slots as rows");
            write(index, &mut self.values[slot * self.channels..][..self.channels]);
            row.at = At::Kept(slot);
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
        self.rows.iter().map(|row| {
            let (At::Kept(slot) | At::Offered(slot)) = row.at;
            (row.hash, &self.values[slot * self.channels..][..self.channels])
        })
    }

    /// All features, `[len, D]`.
    pub fn features(&self) -> Vec<f32> {
        self.rows().flat_map(|(_, row)| row).map(|v| v.to_f32()).collect()
    }
}

impl PartialEq for Sample {
    fn eq(&self, other: &Self) -> bool {
        self.channels == other.channels && self.rows().eq(other.rows())
    }
}

/// A 64-bit hash of (image, cell): two rounds of SplitMix64.
fn mix(image: u64, cell: u64) -> u64 {
    let hash = |mut x: u64| splitmix64(&mut x);
    hash(hash(image) ^ cell)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLASSES: usize = 3;

    /// Cell `i` of image `image` holds features that tell both.
    fn image(image: u64, cells: usize) -> (u64, Vec<f32>, Vec<u8>) {
        let features = (0..cells).flat_map(|i| [image as f32, i as f32]).collect();
        (image, features, (0..cells).map(|i| [0, 2, 255, 7][i % 4]).collect())
    }

    fn sample(images: &[(u64, Vec<f32>, Vec<u8>)]) -> Sample {
        let mut sample = Sample::new(2);
        for (hash, features, labels) in images {
            sample.add(*hash, features, labels, CLASSES);
        }
        sample
    }

    #[test]
    fn it_keeps_the_smallest_hashes_and_their_features() {
        let images: Vec<_> = (0..30).map(|i| image(i, 2000)).collect();
        let sample = sample(&images);
        let mut expected: Vec<(u64, [f32; 2])> = images
            .iter()
            .flat_map(|(hash, features, labels)| {
                let rows = features.as_chunks::<2>().0.iter().enumerate().zip(labels);
                rows.filter(|(_, label)| usize::from(**label) < CLASSES)
                    .map(|((cell, row), _)| (mix(*hash, cell as u64), *row))
            })
            .collect();
        assert_eq!(expected.len(), 30_000);
        expected.sort_by_key(|(hash, _)| *hash);
        assert_eq!(sample.len(), CAPACITY);
        for ((hash, row), expected) in sample.rows().zip(expected) {
            assert_eq!((hash, [row[0].to_f32(), row[1].to_f32()]), expected);
        }
    }

    #[test]
    fn order_and_shards_do_not_show() {
        let images: Vec<_> = (0..12).map(|i| image(i, 3000)).collect();
        let expected_sample = sample(&images);
        let mut reversed = images.clone();
        reversed.reverse();
        assert_eq!(sample(&reversed), expected_sample);
        let (mut a, b) = (sample(&images[7..]), sample(&images[..7]));
        a.merge(&b);
        assert_eq!(a, expected_sample);
        let hashes: Vec<u64> = expected_sample.rows().map(|(hash, _)| hash).collect();
        let features: Vec<f16> = expected_sample.rows().flat_map(|(_, row)| row).copied().collect();
        assert_eq!(Sample::from_parts("file", 2, &hashes, &features).unwrap(), expected_sample);
    }

    #[test]
    fn what_is_not_finite_is_left_out() {
        let (hash, mut features, labels) = image(5, 8);
        features[0] = f32::NAN;
        features[3] = 70000.0;
        let sample = sample(&[(hash, features, labels)]);
        assert_eq!(sample.len(), 2);
        assert!(sample.features().iter().all(|v| v.is_finite()));
    }
}
