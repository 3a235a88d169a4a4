//! MC Dropout and an ensemble on a device against the CPU path, through `Engine` as the commands use it.
//!
//! The masks are the same (`ops/dropout.rs`), so the paths differ as their logits do, by dz (`ddu::compare` bounds it). dH = -sum_c p_c
//! (ln p_c + H) dz_c moves an entropy by at most 2 ln C max_c |dz_c|, whose rms over the pixels is at most 2 ln C sqrt(C) rms(dz);
//! mutual information is the difference of two. rms(dz) is that of the networks' own logits; a pass's is taken as at most twice
//! it, since a dropout of 1/2 doubles activations.

use ddu::baseline::{self, Ensemble};
use ddu::data::Image;
use ddu::engine::Engine;
use ddu::eval::Prediction;
use ddu::model::{Backbone, Config, Dropout, Model};
use ddu::ops::{Passes, Size};

use super::picture;
use crate::models::{random_model, small};
use crate::support::device;

/// Depths and families that differ: tests/import/baselines.rs.
fn other_rule() -> Config {
    Config { align_corners: false, ..small(Backbone::Resnet18) }
}

const SIZE: Size = Size { h: 33, w: 42 };

fn model(backbone: Backbone, seed: u64) -> Model {
    let place = |(after, probability): (&str, f32)| Dropout { after: after.into(), probability };
    let dropout = [("aspp.project", 0.5), ("decoder.0", 0.5), ("decoder.1", 0.1)].map(place);
    random_model(Config { dropout: dropout.into(), ..small(backbone) }, seed)
}

fn rms<'a>(values: impl Iterator<Item = f64> + Clone + 'a) -> f64 {
    (values.clone().map(|v| v * v).sum::<f64>() / values.count() as f64).sqrt()
}

/// `dz`: the rms of the difference of the logits. To first order H(p) moves by the covariance under p of ln p and the
/// difference, so at most by V sqrt(C / 2) dz: the variance of ln p is at most V^2 = ln^2(C - 1) / 4 + 1 (Reeb and
/// Wolf 2015), and that of the difference half of its squared norm. So does H of the mean m, whose variance of
/// ln m is the mean of that over the passes. The mutual information is the difference of the two.
fn check(what: &str, device: &Prediction, cpu: &Prediction, dz: f64) {
    let classes = 5f64;
    let entropy = ((classes - 1.0).ln().powi(2) / 4.0 + 1.0).sqrt() * (classes / 2.0).sqrt() * dz;
    for ((score, found), ((_, expected), limit)) in
        device.scores.iter().zip(cpu.scores.iter().zip([entropy, 2.0 * entropy]))
    {
        let differences = found.iter().zip(expected).map(|(a, b)| f64::from(a - b));
        let (off, size) = (rms(differences), rms(expected.iter().map(|v| f64::from(*v))));
        assert!(
            off <= limit && limit < size,
            "{what} {score:?}: {off:e}, limit {limit:e} of {size}"
        );
    }
    let same = device.label.iter().zip(&cpu.label).filter(|(a, b)| a == b).count();
    assert!(same as f64 >= 0.98 * SIZE.pixels() as f64, "{what}: {same} labels agree");
}

#[test]
fn mean_predictions_are_those_of_the_cpu() {
    let images = [picture(SIZE, 1), picture(SIZE, 2)];
    let images: Vec<&Image> = images.iter().collect();
    let others = || {
        vec![
            ("other.safetensors".into(), model(Backbone::Resnet18, 5)),
            ("third.safetensors".into(), random_model(other_rule(), 6)),
        ]
    };
    let mut results = Vec::new();
    for mut engine in [
        Engine::on(model(Backbone::Resnet18, 4), device()).unwrap(),
        Engine::new(model(Backbone::Resnet18, 4)),
    ] {
        let mut ensemble = Ensemble::new(&engine, others()).unwrap();
        engine.sample_dropout(Passes::new(3, 9).unwrap()).unwrap();
        let output = engine.run(&images).unwrap();
        let passes: Vec<_> = (0..2).map(|i| baseline::mc_dropout(&output, i).unwrap()).collect();
        let mut members = ensemble.predict(&output, 0, &images).unwrap();
        // From the second image on, alone.
        members.extend(ensemble.predict(&output, 1, &images[1..]).unwrap());
        // Passes leave the network's own results alone.
        let mut logits = vec![output.logits(1).unwrap().to_vec()];
        let mut plain = match engine.device() {
            Some(_) => Engine::on(model(Backbone::Resnet18, 4), device()).unwrap(),
            None => Engine::new(model(Backbone::Resnet18, 4)),
        };
        assert_eq!(*plain.run(&images).unwrap().logits(1).unwrap(), logits[0][..]);
        for member in ensemble.members() {
            logits.push(member.run(&images).unwrap().logits(1).unwrap().to_vec());
        }
        // The passes alone, without the network's own run.
        for (alone, with) in engine.mc_dropout(&images).unwrap().iter().zip(&passes) {
            assert_eq!((&alone.label, &alone.entropy), (&with.label, &with.scores[0].1));
        }
        results.push((passes, members, logits));
    }
    let [(passes, members, logits), (cpu_passes, cpu_members, cpu_logits)] = &results[..] else {
        panic!("two paths")
    };
    let dz: Vec<f64> = logits
        .iter()
        .zip(cpu_logits)
        .map(|(a, b)| rms(a.iter().zip(b).map(|(a, b)| f64::from(a - b))))
        .collect();
    let largest = dz.iter().copied().fold(0.0, f64::max);
    for i in 0..2 {
        check(&format!("MC Dropout, image {i}"), &passes[i], &cpu_passes[i], 2.0 * dz[0]);
        check(&format!("ensemble, image {i}"), &members[i], &cpu_members[i], largest);
    }
    assert_eq!(cpu_members[2].scores, cpu_members[1].scores, "together and alone");
    assert_eq!(members[2].label.len(), SIZE.pixels());
}
