//! `ddu infer --thresholds` and `--page`: which pixels are marked, how images are ranked, the page.

use ddu::data::content_hash;
use ddu::density::{Covariance, Density, Evaluator, Options, Prior};
use ddu::model::Model;
use serde_json::{Value, json};

use crate::fit::{TRAIN, fit, ok, scenes};
use crate::{Bench, Outcome, read_label, read_npy};

const IMAGES: usize = 4;
const INFER: &str = "--density d.safetensors voc/JPEGImages -o out --force";

fn bench() -> Bench {
    let bench = Bench::new();
    scenes(&bench, IMAGES);
    ok(fit(&bench, &format!("{TRAIN} -o d.safetensors")));
    bench
}

/// Writes thresholds.json for the bench's model and density.
fn thresholds(bench: &Bench, entropy: Option<f32>, density: Option<f32>) {
    let model = Model::load(bench.path("model.safetensors")).unwrap().hash();
    let hash = content_hash::stored(&bench.path("d.safetensors")).unwrap();
    let threshold = |value: Option<f32>| value.map(|value| json!({ "threshold": value }));
    let file = json!({
        "schema_version": 1, "model_sha256": model, "density_sha256": hash, "split": "val",
        "target": { "p_accurate_certain": 0.95 },
        "entropy": threshold(entropy), "density": threshold(density),
    });
    bench.write("thresholds.json", file.to_string().as_bytes());
}

fn maps(bench: &Bench, stem: &str) -> [Vec<f32>; 2] {
    ["entropy", "density"].map(|name| read_npy(&bench.path(&format!("out/{stem}.{name}.npy"))).1)
}

fn middle(values: impl Iterator<Item = f32>) -> f32 {
    let mut values: Vec<f32> = values.collect();
    values.sort_by(f32::total_cmp);
    values[values.len().saturating_sub(1) / 2]
}

fn line(outcome: &Outcome, code: i32, words: &str) {
    assert_eq!(outcome.code, code, "{}", outcome.stderr);
    let lines: Vec<&str> = outcome.stderr.lines().filter(|line| line.contains("error")).collect();
    assert!(lines.len() == 1 && lines[0].contains(words), "{}", outcome.stderr);
}

/// Masks and summaries against the maps that the same run wrote.
#[test]
fn pixels_are_judged_and_images_ranked() {
    let bench = bench();
    ok(bench.infer(INFER));
    let all: Vec<[Vec<f32>; 2]> = (0..IMAGES).map(|i| maps(&bench, &format!("s{i:03}"))).collect();
    // Limits that divide the pixels.
    let entropy = middle(all.iter().flat_map(|[e, _]| e.iter().copied()));
    let density =
        middle(all.iter().flat_map(|[_, d]| d.iter().copied()).filter(|d| d.is_finite())) - 1.0;
    thresholds(&bench, Some(entropy), Some(density));
    let run =
        ok(bench.infer(&format!("{INFER} --page --thresholds thresholds.json --json r.json")));

    let report: Value =
        serde_json::from_slice(&std::fs::read(bench.path("r.json")).unwrap()).unwrap();
    let limit = |name: &str| report["limits_nats"][name].as_f64().unwrap() as f32;
    assert_eq!([limit("entropy"), limit("density")], [entropy, density]);
    let fitted = Density::load(bench.path("d.safetensors")).unwrap();
    let (ready, _) = fitted.gaussians(Covariance::Full, Prior::Empirical).unwrap();
    let sample = fitted.sample.features();
    let sample = Evaluator::new(&ready.gaussians).evaluate(&sample, None, Options::default()).score;
    let mut ranks = Vec::new();
    let mut seen = [0usize; 3];
    for (i, [e, d]) in all.iter().enumerate() {
        let (_, _, mask) = read_label(&bench.path(&format!("out/s{i:03}.mask.png")));
        let expected: Vec<u8> = e
            .iter()
            .zip(d)
            .map(|(e, d)| if *d < density { 2 } else { u8::from(*e > entropy) })
            .collect();
        assert_eq!(mask, expected, "image {i}");
        let image = &report["images"][i];
        let found = |name: &str| image["attention"][name].as_f64().unwrap();
        let share =
            |state: u8| mask.iter().filter(|s| **s == state).count() as f64 / mask.len() as f64;
        mask.iter().for_each(|state| seen[usize::from(*state)] += 1);
        // serde_json reads a double only to its last place but one.
        for (state, name) in
            ["certain_share", "ambiguous_share", "unfamiliar_share"].iter().enumerate()
        {
            assert!((found(name) - share(state as u8)).abs() < 1e-12, "image {i}: {name}");
        }
        let mean = e.iter().map(|v| f64::from(*v)).sum::<f64>() / e.len() as f64;
        assert!((found("entropy_mean_nats") - mean).abs() < 1e-9);
        let median = middle(d.iter().copied());
        let below = sample.iter().filter(|s| **s < median).count();
        let equal = sample.iter().filter(|s| **s == median).count();
        let percentile = 100.0 * (below as f64 + 0.5 * equal as f64) / sample.len() as f64;
        assert!((found("density_percentile") - percentile).abs() < 1e-9, "image {i}");
        let classes = image["attention"]["class_shares"].as_array().unwrap();
        let sum: f64 = classes.iter().map(|c| c["share"].as_f64().unwrap()).sum();
        assert!((sum - 1.0).abs() < 1e-9);
        ranks.push((1.0 - share(0), image["path"].as_str().unwrap().to_owned()));
    }
    assert!(seen.iter().all(|count| *count > 0), "{seen:?}");

    // On the terminal, the one that needs attention most first; on the page as well.
    ranks.sort_by(|a, b| b.0.total_cmp(&a.0));
    let names: Vec<&str> = ranks.iter().map(|(_, name)| name.as_str()).collect();
    let rows: Vec<&str> =
        run.stdout.lines().skip(1).map(|row| row.split_whitespace().next().unwrap()).collect();
    assert_eq!(rows, names, "{}", run.stdout);
    let page = std::fs::read_to_string(bench.path("out/index.html")).unwrap();
    let places: Vec<usize> = names
        .iter()
        .map(|name| {
            page.find(&format!("<section class=\"panel\" aria-label=\"{name}\">")).expect(name)
        })
        .collect();
    assert!(places.is_sorted() && page.contains("thresholds of thresholds.json"));
    assert!(page.contains("Nearest class") && page.contains("of the fitted sample"));
}

#[test]
fn thresholds_that_do_not_fit_are_one_line() {
    let bench = bench();
    thresholds(&bench, Some(1.0), Some(-9.0));
    let with = |rest: &str| bench.infer(&format!("--thresholds thresholds.json -o out {rest}"));
    line(&with("voc/JPEGImages"), 2, "--density");
    thresholds(&bench, None, None);
    line(&with("voc/JPEGImages"), 1, "no target was reached");
    let file = std::fs::read_to_string(bench.path("thresholds.json")).unwrap();
    let hash = Model::load(bench.path("model.safetensors")).unwrap().hash();
    bench.write("thresholds.json", file.replace(&hash, "0123").as_bytes());
    line(&with("voc/JPEGImages"), 1, "thresholds for this model");
    bench.write("thresholds.json", b"{}");
    line(&with("voc/JPEGImages"), 1, "thresholds.json");
    assert!(bench.files("out").is_empty(), "{:?}", bench.files("out"));
}

#[test]
fn a_page_without_a_density_and_one_that_is_there() {
    let bench = Bench::new();
    bench.picture("in/a.png", 33, 47, 1);
    ok(bench.infer("in -o out --page"));
    let page = std::fs::read_to_string(bench.path("out/index.html")).unwrap();
    assert!(page.contains("Softmax entropy") && !page.contains("Log-density"));
    line(&bench.infer("in -o out --page"), 2, "exist");
    line(&bench.infer("out/index.html in -o out --page --force"), 2, "is an input");
}
