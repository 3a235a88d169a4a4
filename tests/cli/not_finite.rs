//! A network that overflows: never read as certain, counted per image and named.

use ddu::model::{Backbone, Model};
use serde_json::Value;

use crate::fit::{TRAIN, fit, ok, scenes};
use crate::{Bench, models, read_npy};

/// Norms of a huge scale.
fn overflowing(bench: &Bench) {
    let model = models::random_model(models::small(Backbone::Resnet18), 7);
    let mut tensors = model.tensors().clone();
    for (name, tensor) in &mut tensors {
        if name.ends_with(".norm.weight") {
            tensor.data.iter_mut().for_each(|value| *value *= 1e30);
        }
    }
    let model = Model::new("test", model.config().clone(), tensors).unwrap();
    model.save(bench.path("model.safetensors")).unwrap();
}

#[test]
fn an_overflow_is_counted_for_each_image_and_warned_of_once() {
    let bench = Bench::new();
    scenes(&bench, 3);
    let before = ok(bench.infer("voc/JPEGImages -o out --json -"));
    assert!(!before.stderr.contains("warning"), "{}", before.stderr);
    let report: Value = serde_json::from_str(&before.stdout).unwrap();
    assert_eq!(report["images"][0]["non_finite_pixels"], 0);
    overflowing(&bench);
    let outcome = ok(bench.infer("voc/JPEGImages -o out --force --overlay --json -"));
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    for (i, pixels) in [40 * 56, 40 * 56, 33 * 47].into_iter().enumerate() {
        let (_, entropy) = read_npy(&bench.path(&format!("out/s00{i}.entropy.npy")));
        let count = entropy.iter().filter(|value| value.is_nan()).count();
        assert!(count > pixels / 2, "{count} of {pixels}");
        assert_eq!(report["images"][i]["non_finite_pixels"], count);
        let start =
            format!("warning: voc/JPEGImages/s00{i}.png: the network's output is not finite");
        let said = format!(" at {count} of {pixels} pixels");
        let mut lines = outcome.stderr.lines().filter(|line| line.starts_with(&start));
        assert!(lines.next().is_some_and(|line| line.contains(&said)) && lines.next().is_none());
    }
}

#[test]
fn a_fit_names_the_images_whose_features_are_not_finite() {
    let bench = Bench::new();
    scenes(&bench, 3);
    overflowing(&bench);
    let outcome = fit(&bench, &format!("{TRAIN} -o d"));
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    for name in ["s000", "s001", "s002"] {
        let named = |line: &str| {
            line.starts_with(&format!("warning: {name}: "))
                && line.ends_with(" pixels with features that are not finite: skipped")
        };
        assert!(outcome.stderr.lines().any(named), "{name}: {}", outcome.stderr);
    }
}
