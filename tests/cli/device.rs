//! `--device simt`, `ddu compare`, `ddu profile`.

#[cfg(feature = "simt")]
use ddu::density::{Density, Sample};

#[cfg(feature = "simt")]
use crate::fit::{TRAIN, bytes, difference, fit, ok, scenes};
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
    // Far from its roof a launch says what it needs beside it.
    for more in ["", " --size 513x513", " --size 513x513 --batch 16"] {
        let paper = format!("profile -m model.safetensors --dry-run --json -{more}");
        let report: serde_json::Value = serde_json::from_str(&run(&bench, &paper).stdout).unwrap();
        for launch in report["launches"].as_array().unwrap() {
            let far = launch["h200_predicted_roof_percent"].as_f64().unwrap() < 40.0;
            let bound = launch["h200_bound"].as_str().unwrap();
            assert!(!far || !["tensor", "memory"].contains(&bound), "{more}: {launch}");
        }
    }
    // The ASPP's branches overlap: less than one after another, and no less than the longest.
    let us: Vec<f64> =
        launches.iter().map(|launch| launch["h200_predicted_us"].as_f64().unwrap()).collect();
    let run = report["h200_predicted_run_us"].as_f64().unwrap();
    let longest = us.iter().copied().fold(0.0, f64::max);
    assert!((longest..us.iter().sum::<f64>() - 1.0).contains(&run), "{run} us of {us:?}");
    let csv = std::fs::read_to_string(bench.path("table.csv")).unwrap();
    let columns = csv.lines().next().unwrap().split(',').count();
    assert_eq!(csv.lines().count(), launches.len() + 1);
    assert!(csv.lines().all(|line| line.split(',').count() == columns), "{csv}");
}

/// The density's launches and their FLOP: two terms of a triangle for each pixel and class.
#[test]
fn profile_with_a_density() {
    let bench = Bench::new();
    crate::models::random_model(crate::models::wide(32), 7)
        .save(bench.path("model.safetensors"))
        .unwrap();
    crate::fit::scenes(&bench, 4);
    crate::fit::ok(crate::fit::fit(&bench, "--data voc --split train -o d"));
    let paper = "profile -m model.safetensors --density d --batch 2 --json -";
    let report = |arguments: &str| -> serde_json::Value {
        let outcome = run(&bench, &format!("{paper} {arguments}"));
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        serde_json::from_str(&outcome.stdout).unwrap()
    };
    let flop = |report: &serde_json::Value| {
        let of = |l: &&serde_json::Value| l["kernel"].as_str().unwrap().starts_with("density_");
        let launches = report["launches"].as_array().unwrap().iter();
        launches.filter(of).map(|l| l["flop"].as_u64().unwrap()).sum::<u64>()
    };
    let plain = report("--size 33x65 --dry-run");
    let with_moments = report("--size 33x65 --dry-run --moments");
    let of_moments = |report: &serde_json::Value| {
        let launches = report["launches"].as_array().unwrap().iter();
        launches.filter(|l| l["kernel"].as_str().unwrap().starts_with("moments_")).count()
    };
    assert_eq!((of_moments(&plain), of_moments(&with_moments)), (0, 7));
    // 2 x (9 x 17) cells, 5 classes, 2 terms.
    assert_eq!(flop(&plain), 2 * 9 * 17 * 5 * 2 * 32 * 33);
    assert!(plain["early_exit_skipped"].is_null());
    let kernels: Vec<&str> = plain["launches"]
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .take(4)
        .map(|l| l["kernel"].as_str().unwrap())
        .collect();
    assert_eq!((kernels[0], kernels[1], kernels[3]), ("upsample", "density_merge", "arg_max"));
    // Features, predicted classes and W are read once, in fp16; the squared distances to each class are written and read once more.
    let launches = plain["launches"].as_array().unwrap();
    let launch = |kernel: &str| {
        let of = |l: &&serde_json::Value| l["kernel"].as_str().unwrap().starts_with(kernel);
        let found = launches.iter().find(of).unwrap();
        found["bytes"].as_u64().unwrap()
    };
    let (pixels, w) = (2 * 9 * 17, 5 * (2 * 2 * 64 * 32 * 2 + 64 * 8));
    let squares = pixels * 5 * 4;
    assert_eq!(launch("density_"), pixels * (32 * 2 + 1) + w + squares);
    assert_eq!(launch("density_merge"), squares + pixels * 4);
    let relative = report("--size 33x65 --dry-run --score relative");
    assert_eq!(flop(&relative), 2 * 9 * 17 * 6 * 2 * 32 * 33, "the background is one class more");
    let fast = report("--size 33x65 --dry-run --precision fast");
    assert_eq!(flop(&fast), 2 * 9 * 17 * 5 * 32 * 33);
    assert_eq!(run(&bench, &format!("{paper} --size 3x3 --input 1.png --dry-run")).code, 2);

    #[cfg(feature = "simt")]
    {
        let measured = report("--input voc/JPEGImages/s000.png --device simt");
        assert_eq!(measured["image_px"], serde_json::json!({"h": 40, "w": 56}));
        let skipped = measured["early_exit_skipped"].as_f64().unwrap();
        assert!((0.0..1.0).contains(&skipped), "{skipped}");
        for launch in measured["launches"].as_array().unwrap() {
            let kernel = launch["kernel"].as_str().unwrap();
            let mma = launch["measured"]["counts"]["mma"].as_u64().unwrap();
            assert!(mma > 0 || !kernel.starts_with("density_") || kernel == "density_merge");
        }
        let text =
            run(&bench, "profile -m model.safetensors --density d --size 33x33 --device simt");
        assert!(text.stdout.contains("early exit skipped"), "{}", text.stdout);
        assert!(text.stdout.contains("a picture of stripes"), "{}", text.stdout);
        assert!(text.stdout.contains("times on simt say nothing of a GPU"), "{}", text.stdout);
    }
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
        assert!(launch["measured"]["flushed_us"].is_null(), "{launch}");
    }
    // Of a GPU alone.
    for field in ["run_us", "moments_us", "ceilings", "clocks", "gpu"] {
        assert!(report[field].is_null(), "{field}: {}", report[field]);
    }
    let outcome =
        run(&bench, "profile -m model.safetensors --size 17x21 --device simt --tilings t.csv");
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--tilings needs --device cuda:N"), "{}", outcome.stderr);
    assert!(!bench.path("t.csv").exists());
}

/// With features that the kernels of density and moments take.
#[cfg(feature = "simt")]
fn wide() -> Bench {
    let bench = Bench::new();
    crate::models::random_model(crate::models::wide(32), 7)
        .save(bench.path("model.safetensors"))
        .unwrap();
    bench
}

#[cfg(feature = "simt")]
#[test]
fn simt_fits_and_scores() {
    let bench = wide();
    scenes(&bench, 8);
    ok(fit(&bench, &format!("{TRAIN} -o a --device simt --batch 4")));
    // Runs again, and cut by checkpoints in the middle of a run.
    ok(fit(&bench, &format!("{TRAIN} -o b --device simt --batch 4")));
    ok(fit(&bench, &format!("{TRAIN} -o c --device simt --batch 4 --checkpoint-every 3")));
    ok(fit(&bench, &format!("{TRAIN} -o cpu --device cpu")));
    assert!(bytes(&bench, "a") == bytes(&bench, "b") && bytes(&bench, "a") == bytes(&bench, "c"));
    let [simt, cpu] = ["a", "cpu"].map(|name| Density::load(bench.path(name)).unwrap());
    assert_eq!(simt.origin, cpu.origin);
    assert_eq!(simt.moments.count(), cpu.moments.count());
    let hashes = |sample: &Sample| sample.rows().map(|(hash, _)| hash).collect::<Vec<_>>();
    assert_eq!(hashes(&simt.sample), hashes(&cpu.sample));

    // Either density serves either device; a GPU's precision is refused on the CPU.
    let image = "voc/JPEGImages/s000.png";
    let mut maps = Vec::new();
    for (i, options) in [
        "--density a --device simt",
        "--density a --device cpu",
        "--density cpu --device simt",
        "--density cpu --device cpu",
        "--density a --device simt --score relative",
        "--density a --device simt --precision fast",
    ]
    .iter()
    .enumerate()
    {
        ok(bench.infer(&format!("{image} -o out{i} {options} --overlay")));
        let score = if options.contains("relative") { "relative" } else { "density" };
        maps.push(crate::read_npy(&bench.path(&format!("out{i}/s000.{score}.npy"))));
    }
    let median_off = |a: usize, b: usize| {
        let mut off: Vec<f32> =
            maps[a].1.iter().zip(&maps[b].1).map(|(a, b)| (a - b).abs()).collect();
        off.sort_unstable_by(f32::total_cmp);
        off[off.len() / 2]
    };
    // What the features' rounding does is bounded in tests/kernels/network/score.rs; here: the same scores, not others.
    for (a, b) in [(0, 1), (0, 2), (0, 3), (0, 5)] {
        assert!(median_off(a, b) < 0.5, "{a} and {b}: {}", median_off(a, b));
    }
    assert!(median_off(0, 4) > 5.0 && median_off(0, 5) > 0.0);
    let fast = bench.infer(&format!("{image} -o fast --density a --device cpu --precision fast"));
    assert_eq!((fast.code, fast.stderr.lines().count()), (1, 1), "{}", fast.stderr);
    assert!(fast.stderr.contains("--precision fast"), "{}", fast.stderr);
    let eval = "eval --model model.safetensors --density a --data voc --split train -o e";
    ok(run(&bench, &format!("{eval} --device simt")));
}

/// Pictures that --resize made equal run together; their masks are of their own sizes.
#[cfg(feature = "simt")]
#[test]
fn simt_samples_masks_of_several_sizes() {
    let bench = wide();
    scenes(&bench, 4);
    for (i, (h, w)) in [(40, 56), (80, 112), (60, 84), (60, 84)].into_iter().enumerate() {
        crate::fit::scene(&bench, &format!("s00{i}"), h, w, i as u32);
    }
    let fitted = ["simt", "cpu"].map(|device| {
        let options = format!("-o {device} --device {device} --resize 40 --batch 4");
        ok(fit(&bench, &format!("{TRAIN} {options}")));
        Density::load(bench.path(device)).unwrap()
    });
    let [simt, cpu] = &fitted;
    assert_eq!((&simt.origin, simt.moments.count()), (&cpu.origin, cpu.moments.count()));
    let hashes =
        |density: &Density| density.sample.rows().map(|(hash, _)| hash).collect::<Vec<_>>();
    assert_eq!(hashes(simt), hashes(cpu));
}

/// On a device several images run together where that pays; on the CPU it does not.
#[cfg(feature = "simt")]
#[test]
fn the_batch_may_be_left_to_the_device() {
    let bench = Bench::new();
    for seed in 1..=5 {
        bench.picture(&format!("in/{seed}.png"), 16, 24, seed);
    }
    for (device, batches) in [("simt", [4, 4, 4, 4, 1]), ("cpu", [1; 5])] {
        let options = format!("--device {device} --batch auto --json -");
        let outcome = bench.infer(&format!("in -o {device} {options}"));
        let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        let images = report["images"].as_array().unwrap();
        let found: Vec<u64> = images.iter().map(|i| i["batch"].as_u64().unwrap()).collect();
        assert_eq!(found, batches, "{device}");
        let outcome = bench.infer(&format!("in -o x {options} --dry-run"));
        let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(report["sizes"][0]["batch"], batches[0], "{device}");
    }
    let outcome = bench.infer("in -o x --batch many");
    let line = "expected 1 to 256, or auto";
    assert!(outcome.code == 2 && outcome.stderr.contains(line), "{}", outcome.stderr);
}

/// Beside a device several threads read and several write: the same files, the same report, in the order of the inputs.
#[cfg(feature = "simt")]
#[test]
fn many_threads_beside_a_device_change_nothing() {
    let bench = Bench::new();
    for seed in 0..9 {
        bench.picture(&format!("in/{seed}.png"), 16 + 8 * (seed / 6), 24, seed);
    }
    bench.write("in/4.png", b"text");
    let ran = ["1", "3"].map(|threads| {
        let line = format!("in -o out{threads} --device simt --batch 2 --overlay --json -");
        let outcome = std::process::Command::new(env!("CARGO_BIN_EXE_ddu"))
            .args(["infer", "--model", "model.safetensors"])
            .args(line.split_whitespace())
            .current_dir(bench.folder.path())
            .env("RAYON_NUM_THREADS", threads)
            .output()
            .unwrap();
        assert_eq!(outcome.status.code(), Some(3), "{}", String::from_utf8_lossy(&outcome.stderr));
        let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).unwrap();
        let paths = |list: &str| -> Vec<String> {
            let all = report[list].as_array().unwrap();
            all.iter().map(|one| one["path"].as_str().unwrap().into()).collect()
        };
        let files = bench.files(&format!("out{threads}"));
        let bytes = files.iter().map(|f| bench.path(&format!("out{threads}")).join(f));
        let bytes: Vec<Vec<u8>> = bytes.map(|path| std::fs::read(path).unwrap()).collect();
        (paths("images"), paths("failed"), files, bytes)
    });
    assert!(ran[0] == ran[1], "{:?} and {:?}", ran[0].0, ran[1].0);
    assert_eq!((ran[0].0.len(), &*ran[0].1), (8, &["in/4.png".to_owned()][..]));
    assert!(ran[0].0.is_sorted() && ran[0].2.len() == 8 * 4, "{:?}", ran[0].2);
}

/// A fit may change devices between its checkpoints.
#[cfg(feature = "simt")]
#[test]
fn a_checkpoint_goes_on_on_another_device() {
    let bench = wide();
    scenes(&bench, 8);
    let sets = bench.path("voc/ImageSets/Segmentation");
    for (name, range) in [("front", 0..4), ("back", 4..8)] {
        let ids: Vec<String> = range.map(|i| format!("s{i:03}")).collect();
        std::fs::write(sets.join(format!("{name}.txt")), ids.join("\n")).unwrap();
    }
    let victim = bench.path("voc/SegmentationClass/s005.png");
    let good = std::fs::read(&victim).unwrap();
    for (first, second) in [("cpu", "simt"), ("simt", "cpu")] {
        // s004 goes in before the fault and is done again: the checkpoint has four.
        std::fs::write(&victim, &good[..good.len() / 2]).unwrap();
        let command = format!("{TRAIN} -o {first} --class-map 9=void --checkpoint-every 4");
        let stopped = fit(&bench, &format!("{command} --fail-fast --device {first}"));
        assert_eq!(stopped.code, 1);
        std::fs::write(&victim, &good).unwrap();
        let resumed = ok(fit(&bench, &format!("{command} --device {second} --resume")));
        assert!(resumed.stderr.contains("4 pairs are done"), "{}", resumed.stderr);
        // The same pixels in two shards, each on its device.
        for (shard, device) in [("front", first), ("back", second)] {
            let output = format!("{first}-{shard}");
            let options = format!("--data voc --split {shard} -o {output} --class-map 9=void");
            ok(fit(&bench, &format!("{options} --device {device}")));
        }
        let shards = [format!("{first}-front"), format!("{first}-back")];
        let merged = format!("{first}-merged");
        ok(bench.ddu(&["fit", "--merge", &shards[0], &shards[1], "-o", &merged], ""));
        let [whole, merged] =
            [first, merged.as_str()].map(|name| Density::load(bench.path(name)).unwrap());
        assert_eq!((&whole.origin, &whole.sample), (&merged.origin, &merged.sample));
        // f64 sums in another order.
        let difference = difference(&whole, &merged);
        assert!(difference < 1e-12, "{difference:e}");
    }
}

/// The same lines as on the CPU, wherever in a run the pair is.
#[cfg(feature = "simt")]
#[test]
fn simt_skips_the_same_pairs() {
    let bench = wide();
    scenes(&bench, 9);
    let path = |name: &str| bench.path(&format!("voc/{name}"));
    let copy = |from: &str, to: &str| {
        std::fs::copy(path(&format!("JPEGImages/{from}")), path(&format!("JPEGImages/{to}")))
            .unwrap();
    };
    // Of the runs 0 1 | 2 | 3 4 | 5 | 6 7 | 8: in the middle, at the end, alone.
    copy("s000.png", "s003.png");
    copy("s001.png", "s007.png");
    copy("s002.png", "s005.png");
    std::fs::remove_file(path("SegmentationClass/s008.png")).unwrap();
    let skipped = |device: &str| {
        let outcome = fit(&bench, &format!("{TRAIN} -o {device} --batch 2 --device {device}"));
        assert_eq!(outcome.code, 3, "{}", outcome.stderr);
        let lines = outcome.stderr.lines().filter(|line| line.contains("skipped s"));
        lines.map(String::from).collect::<Vec<_>>()
    };
    let (simt, cpu) = (skipped("simt"), skipped("cpu"));
    assert_eq!(simt.len(), 4);
    assert_eq!(simt, cpu);
    let [simt, cpu] = ["simt", "cpu"].map(|name| Density::load(bench.path(name)).unwrap().origin);
    assert_eq!(simt, cpu);
}

#[cfg(feature = "simt")]
#[test]
fn features_that_the_kernels_cannot_take_are_one_line() {
    let bench = Bench::new();
    scenes(&bench, 2);
    let outcome = fit(&bench, &format!("{TRAIN} -o a --device simt"));
    assert_eq!((outcome.code, outcome.stderr.lines().count()), (1, 1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("20") && outcome.stderr.contains("--device cpu"));
    ok(fit(&bench, &format!("{TRAIN} -o a --device cpu")));
    let outcome = bench.infer("voc/JPEGImages/s000.png -o out --density a --device simt");
    assert_eq!((outcome.code, outcome.stderr.lines().count()), (1, 1), "{}", outcome.stderr);
    assert!(outcome.stderr.contains("--device cpu") && !bench.path("out").exists());
}
