//! `--device simt`, `ddu compare`, `ddu profile`.

use crate::{Bench, Outcome};

fn run(bench: &Bench, arguments: &str) -> Outcome {
    bench.ddu(&arguments.split_whitespace().collect::<Vec<_>>(), "")
}

/// What an H200's roofs allow on paper needs no device, and no feature.
#[test]
fn profile_on_paper() {
    let bench = Bench::new();
    let paper = "profile -m model.safetensors --size 33x65 --batch 2 --dry-run";
    let outcome = run(&bench, paper);
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    for word in ["preprocess", "backbone.stem", "conv2d_", "head", "not a measurement"] {
        assert!(outcome.stdout.contains(word), "no {word} in: {}", outcome.stdout);
    }
    let outcome = run(&bench, &format!("{paper} --json - --csv table.csv"));
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let launches = report["launches"].as_array().unwrap();
    assert_eq!(report["device"], "paper");
    for launch in launches {
        let roof = launch["h200_predicted_roof_percent"].as_f64().unwrap();
        assert!((0.0..=100.0).contains(&roof) && launch["measured"].is_null(), "{launch}");
    }
    let csv = std::fs::read_to_string(bench.path("table.csv")).unwrap();
    let columns = csv.lines().next().unwrap().split(',').count();
    assert_eq!(csv.lines().count(), launches.len() + 1);
    assert!(csv.lines().all(|line| line.split(',').count() == columns), "{csv}");
}

#[test]
fn a_device_without_kernels_is_one_line() {
    let bench = Bench::new();
    bench.picture("1.png", 16, 16, 0);
    for (command, code) in [
        ("compare -m model.safetensors 1.png --device cpu", 2),
        ("compare -m model.safetensors 1.png --device cuda:0", 1),
        ("profile -m model.safetensors --device cpu", 2),
        ("profile -m model.safetensors", 2),
        ("profile -m model.safetensors --dry-run --size 12", 2),
    ] {
        let outcome = run(&bench, command);
        assert_eq!(outcome.code, code, "{command}: {}", outcome.stderr);
        assert!(outcome.stderr.starts_with("error: "), "{command}: {}", outcome.stderr);
    }
}

#[cfg(feature = "simt")]
#[test]
fn simt_infers_compares_and_profiles() {
    let bench = Bench::new();
    bench.picture("1.png", 35, 49, 0);
    let outcome = bench.infer("1.png -o out --device simt");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stderr.starts_with("device simt: "), "{}", outcome.stderr);
    let outcome = bench.infer("1.png -o cpu --device cpu");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let (h, w, simt) = crate::read_label(&bench.path("out/1.label.png"));
    let (_, _, cpu) = crate::read_label(&bench.path("cpu/1.label.png"));
    let equal = simt.iter().zip(&cpu).filter(|(a, b)| a == b).count();
    assert!(equal * 200 >= h * w * 199, "{equal} of {} labels agree", h * w);

    let outcome = run(&bench, "compare -m model.safetensors 1.png --device simt");
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stdout.ends_with("pass\n"), "{}", outcome.stdout);
    let outcome = run(&bench, "compare -m model.safetensors 1.png --device simt --json -");
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert!(report["ops"].as_array().unwrap().iter().all(|op| op["pass"] == true));

    let outcome = run(&bench, "profile -m model.safetensors --size 17x21 --device simt --json -");
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let launches = report["launches"].as_array().unwrap();
    let mma = |l: &serde_json::Value| l["measured"]["counts"]["mma"].as_u64().unwrap();
    for launch in launches {
        let kernel = launch["kernel"].as_str().unwrap();
        let tensor = kernel == "stem" || kernel.starts_with("conv2d_") && kernel != "conv2d_reduce";
        assert_eq!(mma(launch) > 0, tensor, "{kernel}");
    }
}
