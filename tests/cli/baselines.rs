//! `ddu infer --method mc-dropout` and `ensemble`: their maps, and what they refuse.

use ddu::baseline::{self, Ensemble};
use ddu::data::decode;
use ddu::engine::Engine;
use ddu::model::{Backbone, Config, Dropout, Model};
use ddu::ops::Passes;
use serde_json::Value;

use crate::fit::scenes;
use crate::models::{random_model, small};
use crate::{Bench, read_label, read_npy};

/// `model.safetensors` with dropout, `deep.safetensors` of another depth, and two pictures.
fn bench() -> Bench {
    let bench = Bench::new();
    let dropout = vec![Dropout { after: "aspp.project".into(), probability: 0.5 }];
    let config = Config { dropout, ..small(Backbone::Resnet18) };
    random_model(config, 7).save(bench.path("model.safetensors")).unwrap();
    random_model(small(Backbone::Resnet34), 8).save(bench.path("deep.safetensors")).unwrap();
    for i in 0..2 {
        bench.picture(&format!("in/{i}.png"), 33, 47, 100 * i);
    }
    bench
}

fn load(bench: &Bench, name: &str) -> Model {
    Model::load(bench.path(name)).unwrap()
}

#[test]
fn maps_and_classes_are_those_of_the_mean_prediction() {
    let bench = bench();
    let ok = |arguments: &str| {
        let outcome = bench.infer(arguments);
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    };
    ok("in -o mc --method mc-dropout --batch 2 --overlay --json mc.json");
    ok("in -o seeded --method mc-dropout --passes 3 --seed 9");
    ok("in -o en --method ensemble --batch 2 --members deep.safetensors model.safetensors");
    ok("in -o all --passes 5 --score entropy,mc-dropout-mi,ensemble-pe --members deep.safetensors");
    let stems = ["label.png", "mc-dropout-mi.npy", "mc-dropout-mi.png", "mc-dropout-pe.npy"];
    let first: Vec<String> = bench.files("mc").into_iter().filter(|f| f.starts_with('0')).collect();
    assert_eq!(first[..4], stems.map(|stem| format!("0.{stem}")), "{first:?}");
    assert_eq!(bench.files("en").len(), 6);
    let report = std::fs::read_to_string(bench.path("mc.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    assert_eq!((&report["method"], &report["passes"]), (&"mc-dropout".into(), &5.into()));

    let mut engine = Engine::new(load(&bench, "model.safetensors"));
    let others = ["deep", "model"].map(|name| {
        let file = format!("{name}.safetensors");
        (file.clone(), load(&bench, &file))
    });
    let mut ensemble = Ensemble::new(&engine, others.into()).unwrap();
    for (folder, count, seed) in [("mc", 5, 0), ("seeded", 3, 9), ("all", 5, 0)] {
        engine.sample_dropout(Passes::new(count, seed).unwrap()).unwrap();
        for i in 0..2 {
            let image = decode(&bench.path(&format!("in/{i}.png")), true).unwrap();
            let output = engine.run(&[&image]).unwrap();
            let found = baseline::mc_dropout(&output, 0).unwrap();
            let label = read_label(&bench.path(&format!("{folder}/{i}.label.png"))).2;
            match folder {
                "all" => assert_eq!(label, output.maps(0).unwrap().label),
                _ => assert_eq!(label, found.label),
            }
            for (score, values) in &found.scores {
                let file = format!("{folder}/{i}.{}.npy", score.info().name);
                if folder != "all" || file.ends_with("-mi.npy") {
                    assert_eq!(read_npy(&bench.path(&file)).1, *values, "{file}");
                }
            }
            if folder == "mc" {
                let found = ensemble.predict(&output, 0, &[&image]).unwrap().remove(0);
                let label = read_label(&bench.path(&format!("en/{i}.label.png"))).2;
                assert_eq!(label, found.label);
                for (score, values) in &found.scores {
                    let file = format!("en/{i}.{}.npy", score.info().name);
                    assert_eq!(read_npy(&bench.path(&file)).1, *values, "{file}");
                }
            }
        }
    }
}

#[test]
fn eval_measures_both_beside_the_scores_of_one_pass() {
    let bench = bench();
    scenes(&bench, 3);
    let command = "eval --model model.safetensors --data voc --split train --passes 2 \
                   --members deep.safetensors -o e";
    let outcome = bench.ddu(&command.split_whitespace().collect::<Vec<_>>(), "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let report = std::fs::read_to_string(bench.path("e/results.json")).unwrap();
    let report: Value = serde_json::from_str(&report).unwrap();
    let methods = ["mc-dropout", "ensemble"];
    for score in ["entropy", "mc-dropout-pe", "mc-dropout-mi", "ensemble-pe", "ensemble-mi"] {
        let auroc = &report["scores"][score]["errors"]["auroc"]["value"];
        assert!(auroc.as_f64().is_some_and(|a| (0.0..=1.0).contains(&a)), "{score}: {auroc}");
        let method = methods.into_iter().find(|m| score.starts_with(m)).unwrap_or("softmax");
        assert_eq!(report["scores"][score]["method"], method);
        assert!(report["timing"][method]["median_ms"].as_f64().is_some_and(|ms| ms > 0.0));
    }
    assert_eq!((&report["passes"], &report["seed"]), (&2.into(), &0.into()));
    assert_eq!(report["members_sha256"].as_array().unwrap().len(), 1);
}

#[test]
fn the_dry_run_counts_passes_and_members() {
    let bench = bench();
    let cost = |options: &str| {
        let outcome = bench.infer(&format!("in -o out --dry-run --json - {options}"));
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
        let size = &report["sizes"][0];
        (size["gflop"].as_f64().unwrap(), size["arena_bytes"].as_u64().unwrap())
    };
    let (one, five) = (cost(""), cost("--method mc-dropout"));
    let (ten, two) = (cost("--passes 10"), cost("--method ensemble --members deep.safetensors"));
    // Each pass costs the same, and less than the network.
    let pass = (five.0 - one.0) / 5.0;
    assert!(pass > 0.0 && pass < 0.9 * one.0, "{pass} of {}", one.0);
    assert!(((ten.0 - one.0) / 10.0 / pass - 1.0).abs() < 0.01, "{ten:?}, {one:?}");
    assert!(five.1 >= one.1 && ten.1 == five.1 && two.1 > one.1 && two.0 > 2.0 * one.0);
}

#[test]
fn what_is_missing_is_one_line() {
    let bench = bench();
    let mut config = small(Backbone::Resnet18);
    random_model(config.clone(), 1).save(bench.path("plain.safetensors")).unwrap();
    config.classes[3] = "tram".into();
    random_model(config.clone(), 1).save(bench.path("tram.safetensors")).unwrap();
    config.classes.pop();
    random_model(config, 1).save(bench.path("four.safetensors")).unwrap();
    for (options, expected) in [
        ("--method mc-dropout --passes 0", "expected at least 2 passes, found 0"),
        ("--passes 1", "expected at least 2 passes, found 1"),
        ("--method ensemble", "an ensemble has at least 2 members"),
        ("--score mc-dropout-pe", "--score mc-dropout-pe needs --passes N"),
        ("--score ensemble-mi", "--score ensemble-mi needs --members"),
        (
            "--method ensemble --members four.safetensors",
            "four.safetensors: classes: expected 5, as the model has, found 4",
        ),
        (
            "--method ensemble --members deep.safetensors tram.safetensors",
            "tram.safetensors: classes: expected class 3 as class 3, as the model has, found tram",
        ),
        ("--method ensemble --members absent.safetensors", "absent.safetensors"),
    ] {
        let outcome = bench.infer(&format!("in -o out {options}"));
        assert_ne!(outcome.code, 0, "{options}");
        assert!(outcome.stderr.contains(expected), "{options}: {}", outcome.stderr);
        assert_eq!(outcome.stderr.trim().lines().count(), 1, "{options}: {}", outcome.stderr);
        assert!(bench.files("out").is_empty(), "{options}");
    }
    let arguments = ["infer", "-m", "plain.safetensors", "in", "-o", "out", "--passes", "5"];
    let outcome = bench.ddu(&arguments, "");
    assert!(outcome.stderr.contains("expected a network with dropout"), "{}", outcome.stderr);
}
