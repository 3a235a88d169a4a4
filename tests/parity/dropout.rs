//! MC Dropout on the CPU path against the f64 walk of `plan`: the masks where the training graph has them, each
//! pass from the same start, and the network's own results as if no pass had run.

use ddu::engine::Engine;
use ddu::model::{Backbone, Config, Dropout};
use ddu::ops::mixture::Mixed;
use ddu::ops::{Passes, Size};

use crate::models::{random_model, small};
use crate::plan::{BOUND, Walk, images, input};

const COUNT: u32 = 3;

fn dropout(places: &[(&str, f32)]) -> Vec<Dropout> {
    let place = |&(after, probability): &(&str, f32)| Dropout { after: after.into(), probability };
    places.iter().map(place).collect()
}

/// Confidence, predictive entropy and mutual information of one pixel's distributions.
fn mean(distributions: &[Vec<f64>]) -> [f64; 3] {
    let entropy = |p: &[f64]| p.iter().map(|p| -p * p.ln()).sum::<f64>();
    let share = 1.0 / distributions.len() as f64;
    let classes = distributions[0].len();
    let p: Vec<f64> =
        (0..classes).map(|c| distributions.iter().map(|d| d[c] * share).sum()).collect();
    let conditional: f64 = distributions.iter().map(|d| entropy(d) * share).sum();
    [p.iter().copied().fold(0.0, f64::max), entropy(&p), entropy(&p) - conditional]
}

fn check(name: &str, config: Config, size: Size) {
    let model = random_model(config, 7);
    let images = images(3, size);
    let mut plain = Engine::new(model.clone());
    let mut engine = Engine::new(model.clone());
    let passes = Passes::new(COUNT, 5).unwrap();
    engine.sample_dropout(passes).unwrap();
    let mut alone: Vec<Mixed> = Vec::new();
    for image in &images {
        alone.extend(engine.mc_dropout(&[image]).unwrap());
    }
    let together: Vec<_> = images.iter().collect();
    let output = engine.run(&together).unwrap();
    let own = plain.run(&together).unwrap();
    for (i, image) in images.iter().enumerate() {
        assert_eq!(output.logits(i).unwrap(), own.logits(i).unwrap(), "{name}: the network's own");
        assert_eq!(output.features(i).unwrap(), own.features(i).unwrap(), "{name}");
        let found = output.mc_dropout(i).unwrap();
        assert_eq!(found, alone[i], "{name}: image {i} of a batch and alone");

        let (mut scale, mut upsampled) = (0f64, Vec::new());
        for pass in passes.iter() {
            let walk = Walk { model: &model, pass: Some(pass) };
            let (_, logits) = walk.run(&input(model.config(), image, output.padded));
            scale = logits.data.iter().fold(scale, |most, value| most.max(value.abs()));
            upsampled.push(walk.resize(&logits, output.padded));
        }
        // dp_c = p_c (dz_c - sum p dz) and dH = -sum_c p_c (ln p_c + H) dz_c, so a logit that is off by d moves a
        // probability by at most d / 2, an entropy by 2 ln C d and the difference of two by twice that.
        let d = BOUND * scale;
        let ln_c = (output.classes as f64).ln();
        let (mut least, mut most) = (f64::MAX, 0f64);
        for pixel in 0..size.pixels() {
            let at = pixel / size.w * output.padded.w + pixel % size.w;
            let softmax = |map: &crate::plan::Map| {
                let e: Vec<f64> =
                    (0..map.c).map(|c| map.data[c * map.size.pixels() + at].exp()).collect();
                let total: f64 = e.iter().sum();
                e.into_iter().map(|e| e / total).collect::<Vec<f64>>()
            };
            let expected = mean(&upsampled.iter().map(softmax).collect::<Vec<_>>());
            let found = [&found.confidence, &found.entropy, &found.mutual_information]
                .map(|map| f64::from(map[pixel]));
            for ((found, expected), bound) in
                found.into_iter().zip(expected).zip([d, 2.0 * ln_c * d, 4.0 * ln_c * d])
            {
                assert!(
                    (found - expected).abs() <= bound + 1e-5,
                    "{name}: image {i}, pixel {pixel}: {found} for {expected}"
                );
            }
            (least, most) = (least.min(expected[2]), most.max(expected[2]));
        }
        assert!(least > -1e-12, "{name}: a mutual information of {least}");
        let bound = 4.0 * ln_c * d;
        assert!(most > 5.0 * bound, "{name}: the test would show nothing: {most}, bound {bound}");
    }
}

#[test]
fn dropouts_of_the_aspp_and_the_decoder() {
    let places = [("aspp.project", 0.5), ("decoder.0", 0.5), ("decoder.1", 0.1)];
    let config = Config { dropout: dropout(&places), ..small(Backbone::Resnet18) };
    check("jfzhang95's three", config, Size::new(49, 35));
    let config = Config {
        aspp_separable: true,
        decoder_separable: true,
        post_aspp_channels: vec![12],
        input_multiple: 16,
        dropout: dropout(&[("aspp.project", 0.5)]),
        ..small(Backbone::Resnet18)
    };
    check("smp's one", config, Size::new(41, 30));
    let config = Config {
        decoder: None,
        post_aspp_channels: vec![20],
        align_corners: false,
        dropout: dropout(&[("aspp.project", 0.5), ("post.0", 0.2)]),
        ..small(Backbone::Resnet18)
    };
    check("v3", config, Size::new(33, 40));
}

#[test]
fn what_cannot_be_sampled_is_refused() {
    assert!(Passes::new(0, 0).is_err() && Passes::new(1, 0).is_err());
    let passes = Passes::new(2, 0).unwrap();
    for dropout in [vec![], dropout(&[("aspp.project", 0.0)])] {
        let config = Config { dropout, ..small(Backbone::Resnet18) };
        let mut engine = Engine::new(random_model(config, 7));
        let error = engine.sample_dropout(passes).unwrap_err().to_string();
        assert!(error.contains("expected a network with dropout"), "{error}");
        let output = engine.run(&[&images(1, Size::new(9, 9))[0]]).map(|output| {
            assert!(output.mc_dropout(0).is_err());
        });
        output.unwrap();
    }
}
