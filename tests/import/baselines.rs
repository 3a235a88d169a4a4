//! MC Dropout and an ensemble against PyTorch with the same masks, and the clipped entropy: the goldens of tests/golden/make_baselines.py, whose
//! networks and images are those of `families`.

use ddu::baseline::{self, Ensemble};
use ddu::data::LabelRule;
use ddu::density::{Covariance, Density, Prior};
use ddu::device::launch::density::Precision;
use ddu::engine::Engine;
use ddu::eval::Prediction;
use ddu::import::{Options, import};
use ddu::model::Model;
use ddu::ops::{Passes, Size};
use ddu::score::Score;
use safetensors::SafeTensors;

use crate::checkpoint::{Dtype, TorchFile};
use crate::generate::{golden, image, keys, value, weights};

const SEED: u64 = 20_211_029;
const SIZES: [Size; 2] = [Size { h: 97, w: 131 }, Size { h: 360, w: 480 }];
/// Of every map.
const TOLERANCE: f32 = 1e-4;

fn model(name: &str) -> Model {
    let folder = tempfile::tempdir().unwrap();
    let checkpoint = folder.path().join("checkpoint.pth");
    let weights = weights(&keys(&golden(&format!("families/{name}.safetensors"))));
    std::fs::write(&checkpoint, TorchFile::new(&weights, Dtype::F32).zip()).unwrap();
    let options = Options { output_stride: Some(16), ..Options::default() };
    import(&checkpoint, &options).unwrap().model
}

fn check(file: &SafeTensors, case: &str, found: &Prediction) {
    let [(_, pe), (_, mi)] = &found.scores[..] else { panic!("two scores") };
    for (what, found) in [("confidence", &found.confidence), ("pe", pe), ("mi", mi)] {
        check_map(file, case, &format!("{case}.{what}"), found);
    }
}

/// Compares a map with a tensor of the file, at the places that `case` draws.
fn check_map(file: &SafeTensors, case: &str, tensor: &str, found: &[f32]) {
    let (mut worst, mut largest) = (0f32, 0f32);
    for (i, expected) in numbers(file, tensor).into_iter().enumerate() {
        let found = found[(value(case, i as u64) * found.len() as f64) as usize];
        // A NaN fails as well.
        assert!((found - expected).abs() <= TOLERANCE, "{tensor}: {found} for {expected}");
        (worst, largest) = (worst.max((found - expected).abs()), largest.max(expected));
    }
    assert!(largest > 0.01, "{tensor} is nearly zero, the test would show nothing");
    println!("{tensor}: {worst:.1e}, largest {largest:.2}");
}

fn numbers(file: &SafeTensors, tensor: &str) -> Vec<f32> {
    let bytes = file.tensor(tensor).unwrap().data();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn mean_predictions_are_those_of_pytorch() {
    let bytes = std::fs::read(golden("baselines.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut engines: Vec<(&str, Engine)> = ["smp-resnet18", "torchvision-resnet50"]
        .map(|name| (name, Engine::new(model(name))))
        .into();
    for (_, engine) in &mut engines {
        engine.sample_dropout(Passes::new(5, SEED).unwrap()).unwrap();
    }
    let others = ["smp-resnet34", "torchvision-resnet50"].map(|name| (name.into(), model(name)));
    let mut ensemble = Ensemble::new(&engines[0].1, others.into()).unwrap();
    for size in SIZES {
        let (image, case) = (image(size), format!("{}x{}", size.h, size.w));
        for (name, engine) in &mut engines {
            let output = engine.run(&[&image]).unwrap();
            let found = baseline::mc_dropout(&output, 0).unwrap();
            check(&file, &format!("{name}.{case}"), &found);
        }
        let output = engines[0].1.run(&[&image]).unwrap();
        let found = ensemble.predict(&output, 0, &[&image]).unwrap().remove(0);
        check(&file, &format!("ensemble.{case}"), &found);
    }
}

#[test]
fn the_clipped_entropy_is_that_of_pytorch() {
    let bytes = std::fs::read(golden("baselines.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let model = model("smp-resnet18");
    let (config, hash) = (model.config().clone(), model.hash());
    let channels = config.feature_channels();
    let mut density = Density::new(hash, config.classes, channels, LabelRule::HalfPixel, None);
    let mut engine = Engine::new(model);
    let output = engine.run(&[&image(SIZES[0])]).unwrap();
    let cells = output.grid.pixels() as u64;
    let labels: Vec<u8> = (0..cells).map(|i| (value("labels", i) * 7.0) as u8).collect();
    assert!(density.add(0, &output.features(0).unwrap(), &labels));
    let (ready, _) = density.gaussians(Covariance::Full, Prior::Empirical).unwrap();
    let limits = numbers(&file, "clipped.limits");
    assert_eq!(limits.len(), channels);
    for (found, expected) in ready.gaussians.limits.iter().zip(limits) {
        // Features that differ in their last bits round to fp16 alike, but for a few.
        assert!((found - expected).abs() <= 1e-6 * expected, "{found} for {expected}");
    }
    engine.score_with(&ready, &[Score::ClippedEntropy], Precision::Exact).unwrap();
    for size in SIZES {
        let case = format!("clipped.{}x{}", size.h, size.w);
        let output = engine.run(&[&image(size)]).unwrap();
        let found = output.score(0, Score::ClippedEntropy).unwrap();
        check_map(&file, &case, &case, &found.values);
    }
}
