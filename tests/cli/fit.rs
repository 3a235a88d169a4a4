//! `ddu fit`: what it takes and skips, and that its bits depend on the images alone.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ddu::density::Density;
use ddu::ops::Size;

use crate::{Bench, Outcome};

/// The random network's classes.
const CLASSES: u8 = 5;

/// Images of a few sizes and masks in blocks of every known class, some void and, in every fourth,
/// an unknown class.
pub fn scenes(bench: &Bench, count: usize) {
    let ids: Vec<String> = (0..count).map(|i| format!("s{i:03}")).collect();
    for (i, id) in ids.iter().enumerate() {
        let (h, w) = [(40, 56), (40, 56), (33, 47)][i % 3];
        scene(bench, id, h, w, i as u32);
    }
    let sets = bench.path("voc/ImageSets/Segmentation");
    std::fs::create_dir_all(&sets).unwrap();
    std::fs::write(sets.join("train.txt"), ids.join("\n")).unwrap();
}

pub fn scene(bench: &Bench, id: &str, h: u32, w: u32, seed: u32) {
    bench.picture(&format!("voc/JPEGImages/{id}.png"), h, w, 100 * seed + 1);
    let label = (0..h * w).map(|p| match (p / w / 8 + p % w / 8 + seed) % 7 {
        5 => 255,
        6 if seed.is_multiple_of(4) => 9,
        block => (block % u32::from(CLASSES)) as u8,
    });
    mask(&bench.path(&format!("voc/SegmentationClass/{id}.png")), h, w, &label.collect::<Vec<_>>());
}

fn mask(path: &Path, h: u32, w: u32, label: &[u8]) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    let palette: Vec<[u8; 3]> = (0..=255).map(|i| [i, 255 - i, 7]).collect();
    let size = Size::new(h as usize, w as usize);
    ddu::data::write_label_png(path, size, label, &palette).unwrap();
}

pub const TRAIN: &str = "--data voc --split train";

pub fn fit(bench: &Bench, arguments: &str) -> Outcome {
    let mut all = vec!["fit", "--model", "model.safetensors"];
    all.extend(arguments.split_whitespace());
    bench.ddu(&all, "")
}

pub fn ok(outcome: Outcome) -> Outcome {
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    outcome
}

pub fn bytes(bench: &Bench, name: &str) -> Vec<u8> {
    std::fs::read(bench.path(name)).unwrap()
}

/// Greatest difference of means (relative) and scatters (over sqrt(S_ii S_jj)).
pub fn difference(a: &Density, b: &Density) -> f64 {
    let (a, b) = (&a.moments, &b.moments);
    assert_eq!(a.count(), b.count());
    let d = a.channels();
    let mut worst = 0f64;
    for class in 0..a.classes() {
        for (x, y) in a.mean(class).iter().zip(b.mean(class)) {
            worst = worst.max((x - y).abs() / y.abs().max(1e-30));
        }
        let (x, y) = (a.scatter(class), b.scatter(class));
        for i in 0..d {
            for j in 0..=i {
                let scale = (y[i * d + i] * y[j * d + j]).sqrt();
                worst = worst.max((x[i * d + j] - y[i * d + j]).abs() / scale.max(1e-30));
            }
        }
    }
    worst
}

#[test]
fn the_same_images_give_the_same_bytes_for_any_batch_and_threads() {
    let bench = Bench::new();
    scenes(&bench, 10);
    let first = ok(fit(&bench, &format!("{TRAIN} -o a")));
    ok(fit(&bench, &format!("{TRAIN} -o b")));
    ok(fit(&bench, &format!("{TRAIN} -o c --batch 4 --checkpoint-every 3")));
    let status = Command::new(env!("CARGO_BIN_EXE_ddu"))
        .args(["fit", "--model", "model.safetensors", "--data", "voc", "--split", "train"])
        .args(["-o", "d"])
        .current_dir(bench.folder.path())
        .env("RAYON_NUM_THREADS", "3")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(status.success());
    for other in ["b", "c", "d"] {
        assert_eq!(bytes(&bench, "a"), bytes(&bench, other), "{other}");
    }
    assert!(!bench.path("c.partial").exists(), "the checkpoint goes once the density is there");

    // The table: a row a class with its pixels, and the pool.
    let density = Density::load(bench.path("a")).unwrap();
    for (class, count) in density.moments.count().iter().enumerate() {
        let row = first.stdout.lines().nth(1 + class).unwrap();
        assert!(row.contains(&format!("class {class}")), "{row}");
        assert!(row.split_whitespace().any(|word| word == count.to_string()), "{row}");
    }
    assert!(first.stdout.lines().last().unwrap().contains("pooled"), "{}", first.stdout);
    // Unknown classes are counted and named, and fail nothing.
    assert!(first.stderr.contains("label 9"), "{}", first.stderr);
    assert!(density.origin.pixels.unknown[&9] > 0);
    assert_eq!(density.origin.images.len(), 10);
    assert_eq!(density.origin.pixels.fitted, density.moments.count().iter().sum::<i64>() as u64);
}

#[test]
fn folders_of_images_and_masks_are_the_same_as_a_split() {
    let bench = Bench::new();
    scenes(&bench, 4);
    ok(fit(&bench, &format!("{TRAIN} -o a")));
    ok(fit(&bench, "--images voc/JPEGImages --masks voc/SegmentationClass -o b"));
    assert_eq!(bytes(&bench, "a"), bytes(&bench, "b"));
}

#[test]
fn shards_merge_to_the_whole_and_overlapping_ones_are_refused() {
    let bench = Bench::new();
    scenes(&bench, 9);
    let sets = bench.path("voc/ImageSets/Segmentation");
    for (name, range) in [("x", 0..2), ("y", 2..5), ("z", 5..9), ("late", 4..9)] {
        let ids: Vec<String> = range.map(|i| format!("s{i:03}")).collect();
        std::fs::write(sets.join(format!("{name}.txt")), ids.join("\n")).unwrap();
        ok(fit(&bench, &format!("--data voc --split {name} -o {name}.d")));
    }
    ok(fit(&bench, &format!("{TRAIN} -o whole")));
    let whole = Density::load(bench.path("whole")).unwrap();
    for (name, order) in [("m1", ["x.d", "y.d", "z.d"]), ("m2", ["z.d", "x.d", "y.d"])] {
        let merge = ["fit", "--merge", order[0], order[1], order[2], "-o", name];
        let outcome = ok(bench.ddu(&merge, ""));
        assert!(outcome.stdout.contains("pooled"));
        let merged = Density::load(bench.path(name)).unwrap();
        assert_eq!(merged.origin, whole.origin);
        assert_eq!(merged.sample, whole.sample);
        // f64 sums in another order.
        let difference = difference(&merged, &whole);
        assert!(difference < 1e-12, "{difference:e}");
    }
    let overlap = bench.ddu(&["fit", "--merge", "y.d", "late.d", "-o", "bad"], "");
    assert_eq!(overlap.code, 1);
    assert!(overlap.stderr.contains("late.d") && overlap.stderr.contains("overlap"));
    assert!(!bench.path("bad").exists());
    let foreign = bench.ddu(&["fit", "--merge", "x.d", "model.safetensors", "-o", "bad"], "");
    assert_eq!(foreign.code, 1);
    assert!(foreign.stderr.contains("a model"), "{}", foreign.stderr);
}

#[test]
fn a_killed_fit_resumes_to_the_same_bits() {
    let bench = Bench::new();
    scenes(&bench, 150);
    ok(fit(&bench, &format!("{TRAIN} -o whole")));
    let mut child = Command::new(env!("CARGO_BIN_EXE_ddu"))
        .args(["fit", "--model", "model.safetensors", "--data", "voc", "--split", "train"])
        .args(["-o", "part", "--checkpoint-every", "7"])
        .current_dir(bench.folder.path())
        .env("RAYON_NUM_THREADS", "1")
        .stderr(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let checkpoint = bench.path("part.partial");
    let start = Instant::now();
    while !checkpoint.exists() && start.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap(); // SIGKILL
    assert!(!child.wait().unwrap().success(), "it was killed in the middle");
    assert!(!bench.path("part").exists());
    let (density, progress) = Density::resume(&checkpoint).unwrap();
    assert_eq!(progress.done % 7, 0);
    assert_eq!(density.origin.images.len(), progress.done);

    // Without --resume the work done is not thrown away by accident.
    let again = fit(&bench, &format!("{TRAIN} -o part"));
    assert_eq!(again.code, 2, "{}", again.stderr);
    assert!(again.stderr.contains("--resume"), "{}", again.stderr);
    // Nor is it continued with other inputs.
    let other = fit(&bench, &format!("{TRAIN} -o part --resume --resize 30"));
    assert_eq!(other.code, 1, "{}", other.stderr);
    assert!(other.stderr.contains("part.partial"), "{}", other.stderr);
    ok(fit(&bench, &format!("{TRAIN} -o part --resume")));
    assert_eq!(bytes(&bench, "whole"), bytes(&bench, "part"));
    assert!(!checkpoint.exists());
}

#[test]
fn a_fit_that_stopped_at_a_bad_pair_resumes_once_it_is_mended() {
    let bench = Bench::new();
    scenes(&bench, 8);
    for seed in [0, 4] {
        // No unknown classes: --fail-fast would stop at them.
        scene(&bench, &format!("s00{seed}"), 40, 56, seed + 1000 + 1);
    }
    ok(fit(&bench, &format!("{TRAIN} -o whole --fail-fast")));
    let victim = bench.path("voc/SegmentationClass/s005.png");
    let good = std::fs::read(&victim).unwrap();
    std::fs::write(&victim, &good[..good.len() / 2]).unwrap();
    let stopped = fit(&bench, &format!("{TRAIN} -o part --fail-fast --checkpoint-every 2"));
    assert_eq!(stopped.code, 1);
    assert!(stopped.stderr.contains("s005.png"), "{}", stopped.stderr);
    assert_eq!(Density::resume(bench.path("part.partial")).unwrap().1.done, 4);
    std::fs::write(&victim, good).unwrap();
    ok(fit(&bench, &format!("{TRAIN} -o part --fail-fast --checkpoint-every 2 --resume")));
    assert_eq!(bytes(&bench, "whole"), bytes(&bench, "part"));
}

#[test]
fn bad_pairs_are_named_counted_and_skipped() {
    let bench = Bench::new();
    scenes(&bench, 8);
    let path = |name: &str| bench.path(&format!("voc/{name}"));
    std::fs::remove_file(path("JPEGImages/s000.png")).unwrap();
    std::fs::remove_file(path("SegmentationClass/s001.png")).unwrap();
    mask(&path("SegmentationClass/s002.png"), 56, 40, &[0; 56 * 40]);
    bench.picture("voc/SegmentationClass/s003.png", 40, 56, 3); // colours
    std::fs::write(path("JPEGImages/s004.png"), "no picture").unwrap();
    std::fs::copy(path("JPEGImages/s007.png"), path("JPEGImages/s006.png")).unwrap();
    scene(&bench, "s006", 40, 56, 7);
    scene(&bench, "s007", 40, 56, 7);
    let outcome = fit(&bench, &format!("{TRAIN} -o a"));
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    for (id, reason) in [
        ("s000", "cannot read"),
        ("s001", "cannot read"),
        ("s002", "56 x 40"),
        ("s003", "Rgb"),
        ("s004", "image"),
        ("s007", "an earlier one"),
    ] {
        let line = outcome.stderr.lines().find(|l| l.contains(&format!("skipped {id}")));
        assert!(line.is_some_and(|l| l.contains(reason)), "{id}: {}", outcome.stderr);
    }
    assert!(outcome.stderr.contains("6 pairs skipped"), "{}", outcome.stderr);
    assert_eq!(Density::load(bench.path("a")).unwrap().origin.images.len(), 2);

    let outcome = fit(&bench, &format!("{TRAIN} -o b --fail-fast"));
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("s000"), "{}", outcome.stderr);
    assert!(!bench.path("b").exists());
}

#[test]
fn an_unknown_label_is_fatal_with_fail_fast_unless_it_is_mapped() {
    let bench = Bench::new();
    scenes(&bench, 2);
    let outcome = fit(&bench, &format!("{TRAIN} -o a --fail-fast"));
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("s000.png") && outcome.stderr.contains("--class-map 9=void"));
    ok(fit(&bench, &format!("{TRAIN} -o a --fail-fast --class-map 9=void")));
    assert!(Density::load(bench.path("a")).unwrap().origin.pixels.unknown.is_empty());
}

#[test]
fn names_of_data_and_model_must_agree_or_be_mapped() {
    let bench = Bench::new();
    scenes(&bench, 3);
    let mut config = crate::models::small(ddu::model::Backbone::Resnet18);
    config.classes = ["sky", "road", "tree", "car", "pole"].map(String::from).to_vec();
    crate::models::random_model(config, 7).save(bench.path("model.safetensors")).unwrap();
    bench.write("voc/classes.txt", b"sky\nroad\ntree\ncar\npole\nwalker\n");
    ok(fit(&bench, &format!("{TRAIN} -o a")));
    bench.write("voc/classes.txt", b"sky\ntree\nroad\ncar\npole\n");
    let outcome = fit(&bench, &format!("{TRAIN} -o b"));
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("class 1 of the dataset"), "{}", outcome.stderr);
    ok(fit(&bench, &format!("{TRAIN} -o b --class-map tree=tree,road=road")));
    let [a, b] = ["a", "b"].map(|name| Density::load(bench.path(name)).unwrap().moments);
    assert_eq!(a.count()[1], b.count()[2]);
    assert_eq!(a.mean(1), b.mean(2));
}

#[test]
fn resize_is_remembered() {
    let bench = Bench::new();
    scenes(&bench, 3);
    ok(fit(&bench, &format!("{TRAIN} -o a --resize 64")));
    let density = Density::load(bench.path("a")).unwrap();
    assert_eq!(density.origin.resize, Some(64));
    ok(fit(&bench, &format!("{TRAIN} -o b")));
    let merge = bench.ddu(&["fit", "--merge", "a", "b", "-o", "c"], "");
    assert_eq!(merge.code, 1);
    assert!(merge.stderr.contains("--resize 64"), "{}", merge.stderr);
}

#[test]
fn the_command_line_is_checked_before_any_work() {
    let bench = Bench::new();
    scenes(&bench, 2);
    for (arguments, code) in [
        ("-o a", 2),
        ("--data voc -o a", 2),
        ("--images voc/JPEGImages -o a", 2),
        ("--data voc --split none -o a", 1),
        ("--data none --split train -o a", 1),
        ("--data voc --split train --images x --masks y -o a", 2),
        ("--data voc --split train -o voc", 2),
        ("--data voc --split train -o a --merge b", 2),
        ("--data voc --split train -o a --device cuda:0", 1),
        ("--data voc --split train -o a --class-map moon=sky", 2),
        ("--data voc --split train -o a --batch 0", 2),
    ] {
        let outcome = fit(&bench, arguments);
        assert_eq!(outcome.code, code, "{arguments}: {}", outcome.stderr);
        assert!(!bench.path("a").exists(), "{arguments}");
    }
    ok(fit(&bench, &format!("{TRAIN} -o a")));
    let exists = fit(&bench, &format!("{TRAIN} -o a"));
    assert!(exists.code == 2 && exists.stderr.contains("--force"), "{}", exists.stderr);
    ok(fit(&bench, &format!("{TRAIN} -o a --force")));
    // Masks without any class of the model: nothing to fit, nothing written.
    for id in ["s000", "s001"] {
        let path = bench.path(&format!("voc/SegmentationClass/{id}.png"));
        mask(&path, 40, 56, &[255; 40 * 56]);
    }
    let outcome = fit(&bench, &format!("{TRAIN} -o c"));
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.contains("pixels of the model's classes"), "{}", outcome.stderr);
    assert!(!bench.path("c").exists());
}
