//! `ddu infer --density` and `ddu eval`: what a fitted density adds.

use ddu::density::{Covariance, Density, Evaluator, Gaussians, Options, Prior};
use ddu::engine::Engine;
use ddu::eval::thresholds::Thresholds;
use ddu::model::Model;
use ddu::score::{Needs, ScoreInfo};

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
    for (options, covariance, prior, name) in [
        ("", Covariance::Full, Prior::Empirical, "density"),
        ("--score relative --prior uniform", Covariance::Full, Prior::Uniform, "relative"),
        ("--covariance tied", Covariance::Tied, Prior::Empirical, "density"),
        ("--covariance diagonal", Covariance::Diagonal, Prior::Empirical, "density"),
    ] {
        ok(ddu(&bench, &format!("{INFER} -o out --force {options}")));
        let (gaussians, _) = Gaussians::new(&density.moments, covariance, prior).unwrap();
        let relative = name == "relative";
        let exit_off = Options { relative, early_exit: false, ..Options::default() };
        let grid = Evaluator::new(&gaussians).evaluate(&features, None, exit_off).score;
        let wanted = output.upsample(&grid);
        let found = map(&bench, &format!("out/s000.{name}.npy"));
        assert_eq!(found.len(), wanted.len());
        for (found, wanted) in found.iter().zip(&wanted) {
            // Early exit may leave out C e^-20 nats; the order of the classes moves the sums by f32
            // rounding of values of this size.
            let allowed = 1e-7 + 1e-5 * wanted.abs().max(1.0);
            assert!((found - wanted).abs() <= allowed, "{options}: {found} for {wanted}");
        }
    }
}

/// Every score by its name, from a fit with weights, as file and picture; where weights or density are missing it
/// is said. The ordinary moments are what they are without the weights.
#[test]
fn every_score_is_written_and_weights_are_fitted_on_request() {
    let bench = bench();
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.safetensors");
    std::fs::copy(demo, bench.path("model.safetensors")).unwrap();
    // Masks that the network is sure of: its own.
    ok(ddu(&bench, "infer --model model.safetensors voc/JPEGImages -o labels"));
    for folder in ["JPEGImages", "SegmentationClass", "ImageSets/Segmentation"] {
        std::fs::create_dir_all(bench.path(&format!("sure/{folder}"))).unwrap();
    }
    let copy = |from: &str, to: &str| {
        std::fs::copy(bench.path(from), bench.path(to)).unwrap();
    };
    let list = "ImageSets/Segmentation/train.txt";
    copy(&format!("voc/{list}"), &format!("sure/{list}"));
    for i in 0..6 {
        let image = format!("JPEGImages/s{i:03}.png");
        copy(&format!("voc/{image}"), &format!("sure/{image}"));
        let mask = format!("sure/SegmentationClass/s{i:03}.png");
        copy(&format!("labels/s{i:03}.label.png"), &mask);
    }
    let sure = "--data sure --split train";
    ok(fit(&bench, &format!("{sure} -o d.safetensors --force")));
    ok(fit(&bench, &format!("{sure} -o w.safetensors --weight confidence --batch 4")));
    let [plain, weighted] =
        ["d.safetensors", "w.safetensors"].map(|name| Density::load(bench.path(name)).unwrap());
    assert_eq!((&plain.moments, &plain.sample), (&weighted.moments, &weighted.sample));
    assert!(plain.weighted.is_none() && weighted.weighted.is_some());

    let own = |info: &&ScoreInfo| !matches!(info.needs, Needs::Passes | Needs::Members);
    let names: Vec<&str> = ddu::score::SCORES.iter().filter(own).map(|info| info.name).collect();
    let run = INFER.replace("d.safetensors", "w.safetensors");
    ok(ddu(&bench, &format!("{run} -o all --overlay --score {}", names.join(","))));
    for name in &names {
        let values = map(&bench, &format!("all/s000.{name}.npy"));
        assert!(values.iter().all(|v| v.is_finite()), "{name}");
        assert!(bench.path(&format!("all/s000.{name}.png")).exists(), "{name}");
    }
    let eval = |density: &str| {
        let command = format!("eval --model model.safetensors {density} {TRAIN} -o e --force");
        ok(ddu(&bench, &command)).stdout
    };
    let logits = ["entropy", "max-softmax", "energy", "entropy-t2"];
    for (density, known) in [
        ("", &logits[..]),
        ("--density d.safetensors", &names[..names.len() - 1]),
        ("--density w.safetensors", &names[..]),
    ] {
        let stdout = eval(density);
        for name in &names {
            let row = stdout.contains(&format!("errors by {name} "));
            assert_eq!(row, known.contains(name), "{density}: {name} in {stdout}");
        }
    }
    let outcome = ddu(&bench, &format!("{INFER} -o no --score weighted-density"));
    let errors = outcome.stderr.lines().filter(|line| line.starts_with("error: ")).count();
    assert_eq!((outcome.code, errors), (2, 1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--weight confidence"), "{}", outcome.stderr);
    let none = INFER.replace("--density d.safetensors ", "");
    assert_eq!(ddu(&bench, &format!("{none} -o no --score clipped-entropy")).code, 2);
    #[cfg(feature = "simt")]
    {
        // A device has other features, in fp16, but weighs the same pixels of a network that is sure of them.
        ok(fit(&bench, &format!("{sure} -o s --weight confidence --device simt -q")));
        let on_simt = Density::load(bench.path("s")).unwrap();
        let pixels =
            |density: &Density| density.weighted.as_ref().unwrap().count().iter().sum::<i64>();
        let (found, expected) = (pixels(&on_simt) as f64, pixels(&weighted) as f64);
        assert!((found / expected - 1.0).abs() < 0.01, "{found} pixels, {expected} on the CPU");
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

/// The density remembers how large its images were, and a run says once that its images are of another scale.
#[test]
fn images_of_another_scale_than_the_fit_are_told_once() {
    let bench = bench();
    assert_eq!(
        Density::load(bench.path("d.safetensors")).unwrap().origin.short_side,
        Some([33, 40])
    );
    for (name, h, w) in [("a", 17, 60), ("b", 80, 90), ("c", 16, 60), ("d", 90, 81), ("e", 40, 400)]
    {
        bench.picture(&format!("sizes/{name}.png"), h, w, 3);
    }
    let run = "infer --model model.safetensors --density d.safetensors sizes";
    let outcome = ok(ddu(&bench, &format!("{run} -o out -q")));
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    let [line] = lines.as_slice() else { panic!("{}", outcome.stderr) };
    for word in ["d.safetensors: 2 images", "33 to 40 pixels", "sizes/c.png has 16", "--resize"] {
        assert!(line.contains(word), "no {word} in: {line}");
    }
    // The size that counts is the one at which the network sees the image.
    let outcome = ok(ddu(&bench, &format!("{run} -o small -q --resize 30")));
    assert!(!outcome.stderr.contains("scale"), "{}", outcome.stderr);
    assert!(!ok(ddu(&bench, &format!("{INFER} -o alike -q"))).stderr.contains("scale"));

    let eval = format!("eval --model model.safetensors --density d.safetensors {TRAIN} -q");
    assert!(!ok(ddu(&bench, &format!("{eval} -o e"))).stderr.contains("scale"));
    let outcome = ok(ddu(&bench, &format!("{eval} -o large --resize 81")));
    let told =
        outcome.stderr.lines().filter(|line| line.contains("6 images are of less than half"));
    assert_eq!(told.count(), 1, "{}", outcome.stderr);
    // After a fit that scaled its images, those sizes are what counts.
    ok(fit(&bench, &format!("{TRAIN} -o small.safetensors --resize 24")));
    let small = Density::load(bench.path("small.safetensors")).unwrap();
    assert_eq!(small.origin.short_side, Some([24, 24]));
}

#[test]
fn eval_measures_both_uncertainties() {
    let bench = bench();
    let command = "eval --model model.safetensors --density d.safetensors --data voc \
                   --split train --ood-classes 9 -o e";
    let outcome = ok(ddu(&bench, command));
    let text = std::fs::read_to_string(bench.path("e/results.json")).unwrap();
    let report: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(report["images"], 6);
    // Blocks of 8 by 8 pixels; one in seven is unknown in every fourth scene.
    assert!(report["scores"]["density"]["unknown"]["positives"].as_u64().unwrap() > 100);
    let computed = |info: &&ddu::score::ScoreInfo| {
        !matches!(info.needs, Needs::Weighted | Needs::Passes | Needs::Members)
    };
    for info in ddu::score::SCORES.iter().filter(computed) {
        let by = info.name;
        for what in ["errors", "unknown"] {
            for figure in ["auroc", "ap", "fpr95"] {
                let interval = &report["scores"][by][what][figure];
                let [value, low, high] = ["value", "low", "high"].map(|end| interval[end].as_f64());
                assert!((0.0..=1.0).contains(&value.unwrap()), "{by} {what} {figure}");
                assert!(low.unwrap() < high.unwrap(), "{by} {what} {figure}: {interval}");
            }
        }
        let curve = &report["curves"][by];
        for series in ["percentile", "p_accurate_certain", "p_uncertain_inaccurate", "pavpu"] {
            assert_eq!(curve[series].as_array().unwrap().len(), 100, "{series}");
        }
        // All pixels are certain at the last percentile.
        let last = curve["p_accurate_certain"][99].as_f64().unwrap();
        assert_eq!(last, report["accuracy"]["pixel_accuracy"].as_f64().unwrap());
        assert_eq!(curve["pavpu"][99].as_f64().unwrap(), last);
        assert!(report["patch_curves"]["4"][by]["pavpu"][49].is_number());
    }
    assert!(report["accuracy"]["mean_iou"].is_number() && report["calibration"]["ece"].is_number());
    for method in ["softmax", "ddu"] {
        assert!(report["timing"][method]["median_ms"].as_f64().unwrap() > 0.0);
        assert!(report["timing"][method]["spread_ms"].as_f64().unwrap() >= 0.0);
    }
    assert_eq!(report["positions"]["pairs"].as_array().unwrap().len(), 3);
    assert_eq!(
        bench.files("e"),
        ["report.html", "results.json", "scores.csv", "scores.tex", "table2.csv", "table2.tex"]
    );
    let page = std::fs::read_to_string(bench.path("e/report.html")).unwrap();
    for part in ["worst image", "PAvPU", "beats entropy", "Right and wrong"] {
        assert!(page.contains(part), "{part}");
    }
    let scores = std::fs::read_to_string(bench.path("e/scores.csv")).unwrap();
    assert_eq!(scores.lines().count(), 15, "{scores}");
    for line in ["density does not beat entropy", "density finds"] {
        let said = outcome.stdout.matches(line).count();
        let told = report["findings"].as_array().unwrap();
        let told = told.iter().filter(|f| f.as_str().unwrap().starts_with(line)).count();
        assert_eq!(said, told, "{}", outcome.stdout);
    }
    assert!(outcome.stdout.contains("unknown by relative "), "{}", outcome.stdout);
    assert_eq!(ddu(&bench, command).code, 2, "results.json is there already");
    assert_eq!(ddu(&bench, &command.replace("--ood-classes 9", "--ood-classes 2")).code, 2);
    let plain = "eval --model model.safetensors --data voc --split train -o plain";
    let outcome = ok(ddu(&bench, plain));
    assert!(!outcome.stdout.contains("density"), "{}", outcome.stdout);
}

fn report(bench: &Bench, folder: &str) -> serde_json::Value {
    let text = std::fs::read_to_string(bench.path(&format!("{folder}/results.json"))).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// What a run measured, without what differs from run to run.
fn measured(mut report: serde_json::Value) -> serde_json::Value {
    for field in ["command", "timing", "split"] {
        report[field].take();
    }
    report
}

#[test]
fn eval_takes_what_fit_takes() {
    let bench = bench();
    let eval = "eval --model model.safetensors --density d.safetensors";
    ok(ddu(&bench, &format!("{eval} {TRAIN} -o split")));
    let folders = "--images voc/JPEGImages --masks voc/SegmentationClass";
    ok(ddu(&bench, &format!("{eval} {folders} --batch 4 -o folders")));
    assert_eq!(measured(report(&bench, "split")), measured(report(&bench, "folders")));
    for wrong in ["", "--data voc", "--images voc/JPEGImages", &format!("{TRAIN} {folders}")] {
        assert_eq!(ddu(&bench, &format!("{eval} {wrong} -o none")).code, 2, "{wrong}");
    }
    assert!(!bench.path("none").exists());
}

/// Images are scaled as they were for the fit, and masks are looked up as there.
#[test]
fn eval_scales_as_the_fit_did() {
    let bench = bench();
    ok(fit(&bench, &format!("{TRAIN} -o small.safetensors --resize 24")));
    let eval = format!("eval --model model.safetensors {TRAIN}");
    let outcome = ok(ddu(&bench, &format!("{eval} --density small.safetensors -o own")));
    assert!(!outcome.stderr.contains("warning: small"), "{}", outcome.stderr);
    ok(ddu(&bench, &format!("{eval} --density small.safetensors --resize 24 -o named")));
    let [own, named] = ["own", "named"].map(|folder| report(&bench, folder));
    assert_eq!(own["resize_px"], 24);
    assert_eq!(measured(own.clone()), measured(named));
    let outcome = ok(ddu(&bench, &format!("{eval} --density small.safetensors --resize 40 -o x")));
    assert!(outcome.stderr.contains("fitted with --resize 24"), "{}", outcome.stderr);
    // Pixels are counted at the scaled size: 24 x 34 of four scenes and two of 33 x 47.
    ok(ddu(&bench, &format!("{eval} -o full")));
    let full = report(&bench, "full");
    assert_eq!(full["resize_px"], serde_json::Value::Null);
    let pixels = |report: &serde_json::Value| report["pixels"].as_f64().unwrap();
    let share = pixels(&own) / pixels(&full);
    assert!((share - (24f64 / 40.0).powi(2)).abs() < 0.1, "{share}");
}

/// Without --ood-classes those labels are listed that occurred, with it those that were named.
#[test]
fn eval_lists_the_unknown_labels_that_there_are() {
    let bench = bench();
    let eval = format!("eval --model model.safetensors {TRAIN}");
    for (options, labels) in [
        ("-o a", serde_json::json!([9])),
        ("-o b --ood-classes 9,7", serde_json::json!([7, 9])),
        ("-o c --class-map 9=void", serde_json::json!([])),
    ] {
        ok(ddu(&bench, &format!("{eval} {options}")));
        let found = report(&bench, &options[3..4]);
        assert_eq!(found["ood_labels"], labels, "{options}");
        let some = labels.as_array().unwrap().contains(&9.into());
        let scores = found["scores"].as_object().unwrap();
        assert_eq!(!scores["entropy"]["unknown"].is_null(), some, "{options}");
        // None that needs a density.
        assert!(!scores.contains_key("density"), "{options}");
    }
    let detection = &report(&bench, "a")["scores"]["entropy"]["unknown"];
    for figure in ["auroc", "ap", "fpr95"] {
        assert!(detection[format!("{figure}_error")].as_f64().unwrap() < 0.01, "{detection}");
    }
}

/// Thresholds are chosen on one split and reported on another; on the same one they achieve the same.
#[test]
fn eval_recommends_thresholds_and_reports_them() {
    let bench = bench();
    let eval = format!("eval --model model.safetensors --density d.safetensors {TRAIN} -q");
    let outcome = ok(ddu(&bench, &format!("{eval} --target false-alarm-rate=0.1 -o a")));
    assert!(outcome.stdout.contains("a false-alarm rate <= 0.1"), "{}", outcome.stdout);
    let chosen = Thresholds::load(&bench.path("a/thresholds.json")).unwrap();
    assert_eq!(chosen.split.as_deref(), Some("train"));
    assert_eq!(chosen.model_sha256, report(&bench, "a")["model_sha256"].as_str().unwrap());
    let outcome = ok(ddu(&bench, &format!("{eval} --thresholds a/thresholds.json -o b")));
    assert!(outcome.stdout.contains("At the given thresholds:"), "{}", outcome.stdout);
    let found = report(&bench, "b");
    for (name, chosen) in [("entropy", chosen.entropy), ("density", chosen.density)] {
        let (chosen, found) = (chosen.unwrap(), &found["scores"][name]["at_threshold"]);
        assert!(chosen.achieved.false_alarm_rate.unwrap() <= 0.1, "{chosen:?}");
        assert!(chosen.achieved.false_alarm_rate.unwrap() > 0.09, "{chosen:?}");
        let same = serde_json::to_value(chosen).unwrap();
        for field in ["threshold", "certain_share", "p_accurate_certain", "false_alarm_rate"] {
            assert_eq!(same[field], found[field], "{name} {field}");
        }
    }
    for (wrong, code, says) in [
        ("--target recall=0.5", 2, "p-accurate-certain=SHARE"),
        ("--target false-alarm-rate=0.1 --thresholds a/thresholds.json", 2, "cannot be used"),
        ("--thresholds a/results.json", 1, "a/results.json: expected thresholds"),
        ("--thresholds none.json", 1, "none.json"),
    ] {
        let outcome = ddu(&bench, &format!("{eval} {wrong} -o none"));
        assert_eq!(outcome.code, code, "{wrong}: {}", outcome.stderr);
        assert!(outcome.stderr.contains(says), "{wrong}: {}", outcome.stderr);
        assert!(code == 2 || outcome.stderr.lines().count() == 1, "{}", outcome.stderr);
    }
    // Those of another model.
    crate::models::random_model(crate::models::small(ddu::model::Backbone::Resnet18), 8)
        .save(bench.path("other.safetensors"))
        .unwrap();
    let other = format!("eval -m other.safetensors {TRAIN} --thresholds a/thresholds.json -o none");
    let outcome = ddu(&bench, &other);
    assert_eq!((outcome.code, outcome.stderr.lines().count()), (1, 1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("thresholds for this model"), "{}", outcome.stderr);
    assert!(!bench.path("none").exists());
}

/// Void pixels count nowhere, or as inaccurate in the curves alone.
#[test]
fn void_pixels_count_as_inaccurate_where_that_is_asked_for() {
    let bench = bench();
    let eval = format!("eval --model model.safetensors {TRAIN} --class-map 9=void -q");
    ok(ddu(&bench, &format!("{eval} -o a")));
    ok(ddu(&bench, &format!("{eval} --void-as-inaccurate -o b")));
    let [ignored, inaccurate] = ["a", "b"].map(|folder| report(&bench, folder));
    assert_eq!((&ignored["void"], &inaccurate["void"]), (&"ignored".into(), &"inaccurate".into()));
    assert_eq!(ignored["accuracy"], inaccurate["accuracy"]);
    assert_eq!(ignored["scores"]["entropy"]["errors"], inaccurate["scores"]["entropy"]["errors"]);
    let last =
        |r: &serde_json::Value| r["curves"]["entropy"]["p_accurate_certain"][99].as_f64().unwrap();
    let [pixels, void] = ["pixels", "void_pixels"].map(|field| ignored[field].as_f64().unwrap());
    assert!(void > 100.0);
    let expected = last(&ignored) * pixels / (pixels + void);
    assert!((last(&inaccurate) - expected).abs() < 1e-12, "{expected}");
}

/// Every score that is named has its files; no score needs another.
#[test]
fn scores_are_written_by_name() {
    let bench = bench();
    ok(ddu(&bench, &format!("{INFER} -o both --score relative,density --overlay")));
    let names = ["density", "entropy", "relative"];
    let expected: Vec<String> = names
        .iter()
        .flat_map(|name| [format!("s000.{name}.npy"), format!("s000.{name}.png")])
        .chain(["s000.label.png".into(), "s000.overlay.png".into()])
        .collect();
    let mut expected = expected;
    expected.sort();
    assert_eq!(bench.files("both"), expected);
    ok(ddu(&bench, &format!("{INFER} -o one --score relative")));
    assert_eq!(map(&bench, "one/s000.relative.npy"), map(&bench, "both/s000.relative.npy"));
    assert_eq!(bench.files("one").len(), 3);
    let plain = "infer --model model.safetensors voc/JPEGImages/s000.png";
    ok(ddu(&bench, &format!("{plain} -o plain --score entropy")));
    assert_eq!(bench.files("plain"), ["s000.entropy.npy", "s000.label.png"]);
    let outcome = ddu(&bench, &format!("{plain} -o none --score density"));
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains("--score density needs --density"), "{}", outcome.stderr);
    assert_eq!(ddu(&bench, &format!("{INFER} -o none --score magic")).code, 2);
    assert!(!bench.path("none").exists());
}
