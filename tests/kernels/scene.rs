//! Features and labels for density and moments: random ones like a network's, and a real network's.

use ddu::density::{Moments, VOID};
use half::f16;
use safetensors::SafeTensors;

use crate::shared::shared;
use crate::support::Random;

/// Features `[pixels, channels]` in fp16 and labels `[pixels]`.
#[derive(Clone)]
pub struct Scene {
    pub channels: usize,
    pub features: Vec<f16>,
    pub labels: Vec<u8>,
}

impl Scene {
    /// Correlated channels with means away from zero and deviations over two decades, as behind a ReLU:
    /// raw condition numbers beyond 1e4. A tenth each is void and of an unknown class; class 0 has most.
    pub fn random(seed: u64, pixels: usize, channels: usize, classes: usize) -> Self {
        let mut random = Random(seed);
        // Irwin and Hall: twelve uniform numbers less their mean are nearly normal.
        let normal = |random: &mut Random| (0..12).map(|_| random.value()).sum::<f32>() * 0.5;
        let mut scene = Scene { channels, features: Vec::new(), labels: Vec::new() };
        for _ in 0..pixels {
            let share = random.value().abs() * random.value().abs();
            let label = match random.next() % 10 {
                0 => VOID,
                1 if classes < 250 => classes as u8 + 2,
                _ => (share * classes as f32) as u8,
            };
            let shared = normal(&mut random);
            for k in 0..channels {
                let scale = 10f32.powf(-2.0 * k as f32 / channels as f32);
                let mean = 1.5 + (0.7 * k as f32 + f32::from(label)).sin();
                let z = mean + scale * (normal(&mut random) + 0.8 * shared);
                scene.features.push(f16::from_f32(z));
            }
            scene.labels.push(label);
        }
        scene
    }

    /// One class whose channels `k`, `k + 64`, `k + 128` .. go in step, at means of many deviations: W is large in every
    /// block of 64 x 64, and so is every product.
    pub fn in_step(seed: u64, pixels: usize, channels: usize) -> Self {
        let mut random = Random(seed);
        let normal = |random: &mut Random| (0..12).map(|_| random.value()).sum::<f32>() * 0.5;
        let mut scene = Scene { channels, features: Vec::new(), labels: vec![0; pixels] };
        for _ in 0..pixels {
            let common: Vec<f32> = (0..64).map(|_| 0.04 * normal(&mut random)).collect();
            for k in 0..channels {
                let z = 3.5 + common[k % 64] + 0.02 * normal(&mut random);
                scene.features.push(f16::from_f32(z));
            }
        }
        scene
    }

    pub fn pixels(&self) -> usize {
        self.labels.len()
    }

    /// The features of a pixel.
    pub fn z(&self, pixel: usize) -> Vec<f64> {
        let z = &self.features[pixel * self.channels..][..self.channels];
        z.iter().map(|v| v.to_f64()).collect()
    }

    pub fn f32s(&self) -> Vec<f32> {
        self.features.iter().map(|v| v.to_f32()).collect()
    }
}

/// The goldens of a network trained on CamVid: moments of the fit, features of a test image with the
/// network's own classes as labels.
pub struct CamVid {
    pub moments: Moments,
    pub scene: Scene,
}

impl CamVid {
    /// None where the shared data is absent.
    pub fn open() -> Option<CamVid> {
        let path = shared("golden/camvid-r18/golden.safetensors")?;
        let bytes = std::fs::read(path).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let data = |name: &str| file.tensor(name).unwrap().data();
        let f64s = |name: &str| -> Vec<f64> { bytemuck::pod_collect_to_vec(data(name)) };
        let count: Vec<i64> = bytemuck::pod_collect_to_vec(data("fit.count"));
        let (mean, scatter) = (f64s("fit.mean"), f64s("fit.scatter"));
        let moments = Moments::from_parts("golden", count, mean, scatter).unwrap();
        let stem = "0001TP_008550";
        let features = bytemuck::pod_collect_to_vec(data(&format!("{stem}.feature_grid")));
        let logits: Vec<f32> = bytemuck::pod_collect_to_vec(data(&format!("{stem}.logits_grid")));
        let arg_max = |z: &[f32]| (0..9).max_by(|a, b| z[*a].total_cmp(&z[*b])).unwrap() as u8;
        let labels = logits.chunks_exact(9).map(arg_max).collect();
        Some(CamVid { moments, scene: Scene { channels: 256, features, labels } })
    }
}
