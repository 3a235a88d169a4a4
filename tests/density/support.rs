//! Drawn features and the plain f64 loops that results are compared with.

use ddu::density::{Moments, VOID, round_to_half};

/// A reproducible stream of numbers (xorshift64*); tests must not change from run to run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    pub fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// Box and Muller.
    pub fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Correlated features with means away from zero and variances over several decades, as behind a
/// ReLU, and labels of which some are void or unknown.
pub fn scene(seed: u64, pixels: usize, channels: usize, classes: usize) -> (Vec<f32>, Vec<u8>) {
    let mut random = Random::new(seed);
    let labels: Vec<u8> = (0..pixels)
        .map(|_| match random.next() % 10 {
            0 => VOID,
            1 => classes as u8 + 2,
            // A lopsided share: class 0 has most.
            _ => (random.uniform().powi(2) * classes as f64) as u8,
        })
        .collect();
    let mut features = Vec::with_capacity(pixels * channels);
    for label in &labels {
        let shared = random.normal();
        for k in 0..channels {
            let k = k as f64;
            let scale = 10f64.powf(-2.0 * k / channels as f64);
            let mean = 1.5 + (0.7 * k + f64::from(*label)).sin();
            features.push((mean + scale * (random.normal() + 0.8 * shared)) as f32);
        }
    }
    (features, labels)
}

pub fn rounded(features: &[f32]) -> Vec<f64> {
    features.iter().map(|v| f64::from(round_to_half(*v))).collect()
}

/// Two passes over all images at once: count, mean and the full scatter of each class, f64.
pub fn plain_moments(
    images: &[(Vec<f32>, Vec<u8>)],
    channels: usize,
    classes: usize,
) -> (Vec<i64>, Vec<f64>, Vec<f64>) {
    let mut count = vec![0i64; classes];
    let mut mean = vec![0.0; classes * channels];
    let mut scatter = vec![0.0; classes * channels * channels];
    let samples: Vec<(Vec<f64>, usize)> = images
        .iter()
        .flat_map(|(features, labels)| features.chunks_exact(channels).zip(labels))
        .filter(|(_, label)| usize::from(**label) < classes)
        .map(|(z, label)| (rounded(z), usize::from(*label)))
        .collect();
    for (z, label) in &samples {
        count[*label] += 1;
        for (mean, z) in mean[label * channels..].iter_mut().zip(z) {
            *mean += z;
        }
    }
    for (class, mean) in mean.chunks_exact_mut(channels).enumerate() {
        mean.iter_mut().for_each(|m| *m /= count[class].max(1) as f64);
    }
    for (z, label) in &samples {
        let mean = &mean[label * channels..][..channels];
        let d: Vec<f64> = z.iter().zip(mean).map(|(z, m)| z - m).collect();
        for i in 0..channels {
            for j in 0..channels {
                scatter[(label * channels + i) * channels + j] += d[i] * d[j];
            }
        }
    }
    (count, mean, scatter)
}

/// Greatest |delta S_ij| / sqrt(S_ii S_jj) over the lower triangles of all classes.
pub fn scatter_error(moments: &Moments, expected: &[f64]) -> f64 {
    let channels = moments.channels();
    let mut worst = 0f64;
    for (class, expected) in expected.chunks_exact(channels * channels).enumerate() {
        let found = moments.scatter(class);
        for i in 0..channels {
            for j in 0..=i {
                let at = i * channels + j;
                let scale = (expected[i * channels + i] * expected[j * channels + j]).sqrt();
                let delta = (found[at] - expected[at]).abs();
                assert!(scale > 0.0 || delta == 0.0, "class {class}, {i}, {j}: {delta}");
                worst = worst.max(if scale > 0.0 { delta / scale } else { 0.0 });
            }
        }
    }
    worst
}

pub fn fit(images: &[(Vec<f32>, Vec<u8>)], channels: usize, classes: usize) -> Moments {
    let mut moments = Moments::new(classes, channels);
    for (features, labels) in images {
        moments.add(features, labels);
    }
    moments
}

/// The bound of the f32 path: f32 sums at condition numbers up to the cap.
pub fn close(found: f32, expected: f64) -> bool {
    (f64::from(found) - expected).abs() <= 1e-3 + 1e-5 * expected.abs()
}
