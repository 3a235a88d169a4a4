//! `ddu infer --density` and `ddu eval`: what a fitted density adds.

use ddu::density::{Covariance, Density, Evaluator, Gaussians, Options, Prior, Score};
use ddu::engine::Engine;
use ddu::model::Model;

use crate::Bench;
use crate::fit::{TRAIN, fit, ok, scenes};

fn bench() -> Bench {
    let bench = Bench::new();
    scenes(&bench, 6);
    ok(fit(&bench, &format!("{TRAIN} -o d.safetensors")));
    bench
}

fn ddu(bench: &Bench, arguments: &str) -> crate::Outcome {
    bench.ddu(&arguments.split_whitespace().collect::<Vec<_>>(), "")
}

const INFER: &str =
    "infer --model model.safetensors --density d.safetensors voc/JPEGImages/s000.png";

fn map(bench: &Bench, name: &str) -> Vec<f32> {
    let npy = npyz::NpyFile::new(std::fs::File::open(bench.path(name)).unwrap()).unwrap();
    npy.into_vec().unwrap()
}

/// The file against the f64 log-density of each grid cell, upsampled; every score and covariance.
#[test]
fn the_density_map_is_the_upsampled_log_density() {
    let bench = bench();
    let model = Model::load(bench.path("model.safetensors")).unwrap();
    let density = Density::load(bench.path("d.safetensors")).unwrap();
    let mut engine = Engine::new(model);
    let image = ddu::data::decode(&bench.path("voc/JPEGImages/s000.png"), true).unwrap();
    let output = engine.run(&[&image]).unwrap();
    let features = output.features(0).unwrap();
    for (options, covariance, prior, score) in [
        ("", Covariance::Full, Prior::Empirical, Score::Density),
        ("--score relative --prior uniform", Covariance::Full, Prior::Uniform, Score::Relative),
        ("--covariance tied", Covariance::Tied, Prior::Empirical, Score::Density),
        ("--covariance diagonal", Covariance::Diagonal, Prior::Empirical, Score::Density),
    ] {
        ok(ddu(&bench, &format!("{INFER} -o out --force {options}")));
        let (gaussians, _) = Gaussians::new(&density.moments, covariance, prior).unwrap();
        let cells = vec![0; output.grid.pixels()];
        let exit_off = Options { score, early_exit: false, ..Options::default() };
        let grid = Evaluator::new(&gaussians).evaluate(&features, &cells, exit_off).score;
        let wanted = output.upsample(&grid);
        let found = map(&bench, "out/s000.density.npy");
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(&wanted) {
            // Early exit may leave out C e^-20 nats; the order of the classes moves the sums by f32
            // rounding of values of this size.
            let allowed = 1e-7 + 1e-5 * wanted.abs().max(1.0);
            assert!((found - wanted).abs() <= allowed, "{options}: {found} for {wanted}");
        }
    }
}

#[test]
fn pictures_and_plain_runs() {
    let bench = bench();
    ok(ddu(&bench, &format!("{INFER} -o out --overlay")));
    assert!(bench.path("out/s000.density.png").exists());
    let plain = "infer --model model.safetensors voc/JPEGImages/s000.png -o plain --overlay";
    ok(ddu(&bench, plain));
    assert!(!bench.path("plain/s000.density.npy").exists());
    assert_eq!(ddu(&bench, &format!("{plain} --score relative")).code, 2);
}

#[test]
fn a_foreign_density_is_refused_and_another_resize_told() {
    let bench = bench();
    let outcome = ok(ddu(&bench, &format!("{INFER} -o small --resize 32")));
    assert!(outcome.stderr.contains("fitted without --resize"), "{}", outcome.stderr);
    crate::models::random_model(crate::models::small(ddu::model::Backbone::Resnet18), 8)
        .save(bench.path("model.safetensors"))
        .unwrap();
    let outcome = ddu(&bench, &format!("{INFER} -o out"));
    assert_eq!((outcome.code, outcome.stderr.lines().count()), (1, 1), "{}", outcome.stderr);
    assert!(!bench.path("out").exists());
}

#[test]
fn eval_measures_both_uncertainties() {
    let bench = bench();
    let command = "eval --model model.safetensors --density d.safetensors --data voc \
                   --split train --ood-classes 9 -o e";
    let outcome = ok(ddu(&bench, command));
    let text = std::fs::read_to_string(bench.path("e/eval.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["images"], 6);
    // Blocks of 8 by 8 pixels; one in seven is unknown in every fourth scene.
    assert!(report["unknown"]["density"]["positives"].as_u64().unwrap() > 100);
    for by in ["entropy", "density", "relative_density"] {
        for what in ["errors", "unknown"] {
            let auroc = report[what][by]["auroc"].as_f64().unwrap();
            assert!((0.0..=1.0).contains(&auroc));
        }
    }
    assert!(outcome.stdout.contains("unknown by relative density"), "{}", outcome.stdout);
    assert_eq!(ddu(&bench, command).code, 1, "eval.json is there already");
    assert_eq!(ddu(&bench, &command.replace("--ood-classes 9", "--ood-classes 2")).code, 2);
    let plain = "eval --model model.safetensors --data voc --split train -o plain";
    let outcome = ok(ddu(&bench, plain));
    assert!(!outcome.stdout.contains("density"), "{}", outcome.stdout);
}
