//! The density on the CPU at the size of a 368 x 480 image: 92 x 120 features of 256 channels.
//!
//! Inputs are the golden features of a real network where the shared data is present (early exit
//! and label shares depend on them), else drawn ones. 21 classes are the 9 fitted ones and copies of
//! them with other means.

use std::path::PathBuf;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ddu::density::{Covariance, Evaluator, Gaussians, Moments, Options, Prior, round_to_half};
use safetensors::SafeTensors;

const COLUMNS: usize = 120;
const PIXELS: usize = 92 * COLUMNS;
const CHANNELS: usize = 256;

struct Input {
    name: &'static str,
    features: Vec<f32>,
    predicted: Vec<u8>,
    moments: Moments,
}

fn golden() -> Option<Input> {
    let root = std::env::var_os("DDU_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let bytes = std::fs::read(root.join("golden/camvid-r18/golden.safetensors")).ok()?;
    let file = SafeTensors::deserialize(&bytes).ok()?;
    let f64s = |name: &str| -> Option<Vec<f64>> {
        let view = file.tensor(name).ok()?;
        Some(view.data().as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b)).collect())
    };
    let count = file.tensor("fit.count").ok()?;
    let count = count.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    let features = file.tensor("0001TP_008550.feature_grid").ok()?;
    let halves = features.data().as_chunks::<2>().0.iter();
    let features = halves.map(|b| half::f16::from_le_bytes(*b).to_f32()).collect();
    let logits = file.tensor("0001TP_008550.logits_grid").ok()?;
    let logits: Vec<f32> =
        logits.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let arg_max = |z: &[f32]| (0..9).max_by(|a, b| z[*a].total_cmp(&z[*b])).unwrap_or(0) as u8;
    let predicted = logits.chunks_exact(9).map(arg_max).collect();
    let (mean, scatter) = (f64s("fit.mean")?, f64s("fit.scatter")?);
    let moments = Moments::from_parts("golden", count, mean, scatter).ok()?;
    Some(Input { name: "camvid", features, predicted, moments })
}

/// Smooth blobs of classes with a few shared directions of variation.
fn drawn() -> Input {
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    let predicted: Vec<u8> =
        (0..PIXELS).map(|p| ((p / COLUMNS / 31) * 3 + (p % COLUMNS) / 41) as u8).collect();
    let mut features = Vec::with_capacity(PIXELS * CHANNELS);
    for label in &predicted {
        let shared = random();
        for k in 0..CHANNELS {
            let mean = 1.0 + (0.3 * k as f32 * f32::from(*label)).sin();
            features.push(round_to_half((mean + 0.3 * shared + random()).max(0.0)));
        }
    }
    let mut moments = Moments::new(9, CHANNELS);
    moments.add(&features, &predicted);
    Input { name: "drawn", features, predicted, moments }
}

/// The moments with copies of its classes, their means exchanged, up to `classes`.
fn widen(moments: &Moments, classes: usize) -> Moments {
    let known = moments.classes();
    let count = (0..classes).map(|c| moments.count()[c % known]).collect();
    let mean = (0..classes).flat_map(|c| moments.mean((c + c / known) % known).to_vec()).collect();
    let scatter = (0..classes).flat_map(|c| moments.scatter(c % known).to_vec()).collect();
    Moments::from_parts("widened", count, mean, scatter).expect("parts of good moments")
}

fn evaluate(criterion: &mut Criterion) {
    let input = golden().unwrap_or_else(drawn);
    let mut group = criterion.benchmark_group("density");
    group.throughput(Throughput::Elements(PIXELS as u64)).sample_size(30);
    for classes in [9, 21] {
        let moments = widen(&input.moments, classes);
        let (gaussians, _) = Gaussians::new(&moments, Covariance::Full, Prior::Empirical)
            .expect("classes with many samples");
        let evaluator = Evaluator::new(&gaussians);
        for (name, early_exit) in [("dense", false), ("early-exit", true)] {
            let options = Options { early_exit, columns: Some(COLUMNS), ..Options::default() };
            let run = || evaluator.evaluate(&input.features, Some(&input.predicted), options);
            let work = 100.0 * run().work;
            println!("{} {classes} classes {name}: {work:.1} % of the triangle", input.name);
            group.bench_function(format!("{classes}-{name}"), |b| b.iter(run));
        }
    }
}

fn moments(criterion: &mut Criterion) {
    let input = golden().unwrap_or_else(drawn);
    let mut group = criterion.benchmark_group("moments");
    group.throughput(Throughput::Elements(PIXELS as u64)).sample_size(30);
    let mut moments = Moments::new(9, CHANNELS);
    group.bench_function("add", |b| b.iter(|| moments.add(&input.features, &input.predicted)));
    group.bench_function("gaussians-9", |b| {
        b.iter(|| Gaussians::new(&input.moments, Covariance::Full, Prior::Empirical))
    });
}

criterion_group!(benches, evaluate, moments);
criterion_main!(benches);
