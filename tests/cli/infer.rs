//! `ddu infer` on good images: what it writes, where, and what it says.

use ddu::data::decode;
use ddu::engine::Engine;
use ddu::model::Model;
use serde_json::Value;

use crate::{Bench, Outcome, read_label, read_npy};

fn ok(outcome: Outcome) -> Outcome {
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    outcome
}

#[test]
fn files_hold_what_the_engine_computes() {
    let bench = Bench::new();
    // A run of equal sizes, so that batches form, broken by others.
    let sizes = [(33, 47), (33, 47), (33, 47), (20, 61), (33, 47), (64, 64), (64, 64)];
    for (i, (h, w)) in sizes.into_iter().enumerate() {
        bench.picture(&format!("in/{i}.png"), h, w, 100 * i as u32);
    }
    ok(bench.infer("in -o one"));
    ok(bench.infer("in -o two --batch 2"));
    ok(bench.infer("in -o again"));
    let mut engine = Engine::new(Model::load(bench.path("model.safetensors")).unwrap());
    for (i, (h, w)) in sizes.into_iter().enumerate() {
        let image = decode(&bench.path(&format!("in/{i}.png")), true).unwrap();
        let maps = engine.run(&[&image]).unwrap().maps(0).unwrap();
        for folder in ["one", "two"] {
            let (rows, columns, label) =
                read_label(&bench.path(&format!("{folder}/{i}.label.png")));
            assert_eq!((rows, columns), (h as usize, w as usize));
            let (shape, entropy) = read_npy(&bench.path(&format!("{folder}/{i}.entropy.npy")));
            assert_eq!(shape, [u64::from(h), u64::from(w)]);
            // Each image of a batch goes through the same arithmetic as alone.
            assert_eq!(label, maps.label, "{folder} {i}");
            assert_eq!(entropy, maps.entropy, "{folder} {i}");
        }
    }
    assert_eq!(bench.files("one").len(), 2 * sizes.len(), "{:?}", bench.files("one"));
    for file in bench.files("one") {
        let read = |folder: &str| std::fs::read(bench.path(folder).join(&file)).unwrap();
        assert_eq!(read("one"), read("again"), "{file}");
    }
}

#[test]
fn every_format_gives_the_same_maps_whatever_its_name() {
    let bench = Bench::new();
    for name in ["a.png", "b.bmp", "c.tiff", "d.webp"] {
        bench.picture(name, 24, 40, 5);
    }
    std::fs::rename(bench.path("c.tiff"), bench.path("c.jpg")).unwrap();
    std::fs::rename(bench.path("d.webp"), bench.path("d")).unwrap();
    ok(bench.infer("a.png b.bmp c.jpg d -o out"));
    let entropy = |stem: &str| read_npy(&bench.path(&format!("out/{stem}.entropy.npy")));
    for stem in ["b", "c", "d"] {
        assert_eq!(entropy(stem), entropy("a"), "{stem}");
    }
}

#[test]
fn trees_are_mirrored_for_folders_globs_and_lists() {
    let bench = Bench::new();
    for name in ["in/1.png", "in/a/1.png", "in/a/b/2.png"] {
        bench.picture(name, 16, 16, 0);
    }
    bench.write("in/notes.txt", b"no image");
    let outcome = ok(bench.infer("in -o folder"));
    assert!(outcome.stderr.contains("left out: 1 files"), "{}", outcome.stderr);
    let labels = |folder: &str| {
        let files = bench.files(folder);
        files.into_iter().filter(|f| f.ends_with(".label.png")).collect::<Vec<_>>()
    };
    let expected = ["1.label.png", "a/1.label.png", "a/b/2.label.png"];
    assert_eq!(labels("folder"), expected);
    for (pattern, out) in [("in/**/*.png", "glob"), ("./in/**/*.png", "dotted")] {
        ok(bench.infer(&format!("{pattern} -o {out}")));
        assert_eq!(labels(out), expected);
    }
    let list = "in/1.png\nin/a/b/2.png\n";
    ok(bench.ddu(&["infer", "-m", "model.safetensors", "-", "-o", "list", "-q"], list));
    assert_eq!(labels("list"), ["1.label.png", "2.label.png"]);
    // Results inside the searched folder are not taken for inputs.
    ok(bench.infer("in -o in/out"));
    ok(bench.infer("in -o in/out --force"));
    assert_eq!(labels("in/out"), expected);
}

#[test]
fn two_images_with_one_output_name_are_refused_up_front() {
    let bench = Bench::new();
    bench.picture("a/1.png", 16, 16, 0);
    bench.picture("b/1.png", 16, 16, 0);
    let outcome = bench.infer("a/1.png b/1.png -o out");
    assert_eq!(outcome.code, 2);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("a/1.png and b/1.png"), "{}", outcome.stderr);
    assert!(!bench.path("out").exists());
}

#[test]
fn results_are_overwritten_only_with_force() {
    let bench = Bench::new();
    bench.picture("1.png", 16, 16, 0);
    bench.picture("2.png", 16, 16, 9);
    std::fs::create_dir(bench.path("out")).unwrap();
    bench.write("out/2.entropy.npy", b"mine");
    let outcome = bench.infer("1.png 2.png -o out");
    assert_eq!(outcome.code, 2);
    assert!(outcome.stderr.contains("2.entropy.npy") && outcome.stderr.contains("--force"));
    // Nothing was done, not even for the other image.
    assert_eq!(bench.files("out"), ["2.entropy.npy"]);
    ok(bench.infer("1.png 2.png -o out --force"));
    assert_eq!(bench.files("out").len(), 4);
    assert_eq!(read_npy(&bench.path("out/2.entropy.npy")).0, [16, 16]);
    // An input is never overwritten.
    bench.picture("x.png", 16, 16, 0);
    bench.picture("x.overlay.png", 16, 16, 0);
    let before = std::fs::read(bench.path("x.overlay.png")).unwrap();
    let outcome = bench.infer("x.png x.overlay.png -o . --overlay --force");
    assert_eq!(outcome.code, 2, "{}", outcome.stderr);
    assert_eq!(std::fs::read(bench.path("x.overlay.png")).unwrap(), before);
}

#[test]
fn overlays_are_pictures() {
    let bench = Bench::new();
    bench.picture("1.png", 33, 47, 0);
    ok(bench.infer("1.png -o out --overlay"));
    let expected = ["1.entropy.npy", "1.entropy.png", "1.label.png", "1.overlay.png"];
    assert_eq!(bench.files("out"), expected);
    for name in ["out/1.entropy.png", "out/1.overlay.png"] {
        let picture = decode(&bench.path(name), false).unwrap();
        assert!(picture.size.h > 33 && picture.size.w > 47, "{name}: {}", picture.size);
    }
}

#[test]
fn resize_scales_the_shorter_side_and_the_maps() {
    let bench = Bench::new();
    bench.picture("1.png", 40, 60, 0);
    let outcome = ok(bench.infer("1.png -o out --resize 20 --json -"));
    assert_eq!(read_npy(&bench.path("out/1.entropy.npy")).0, [20, 30]);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["images"][0]["image_px"]["h"], 40);
    assert_eq!(report["images"][0]["map_px"]["w"], 30);
}

#[test]
fn orientation_is_respected() {
    let bench = Bench::new();
    let picture = bench.picture("1.png", 20, 36, 0);
    let mut bytes = Vec::new();
    let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
    // Tag 0x112 = 6: shown turned by a quarter.
    let exif = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
    image::ImageEncoder::set_exif_metadata(&mut encoder, exif.to_vec()).unwrap();
    let color = image::ExtendedColorType::Rgb8;
    image::ImageEncoder::write_image(encoder, picture.as_raw(), 36, 20, color).unwrap();
    bench.write("turned.png", &bytes);
    ok(bench.infer("turned.png -o out"));
    assert_eq!(read_npy(&bench.path("out/turned.entropy.npy")).0, [36, 20]);
}

#[test]
fn json_reports_everything_and_stdout_nothing_else() {
    let bench = Bench::new();
    bench.picture("in/1.png", 33, 47, 0);
    bench.picture("in/2.png", 33, 47, 1);
    bench.write("in/3.png", b"");
    let outcome = bench.infer("in -o out --batch 2 --json -");
    assert_eq!(outcome.code, 3);
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["ddu_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(report["command"][1], "infer");
    assert_eq!(report["device"], "cpu");
    assert_eq!(report["host"]["threads"], 1);
    let model = Model::load(bench.path("model.safetensors")).unwrap();
    assert_eq!(report["model"]["sha256"], model.hash());
    let images = report["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    for (image, name) in images.iter().zip(["1", "2"]) {
        assert_eq!(image["path"], format!("in/{name}.png"));
        assert_eq!(image["outputs"][1], format!("out/{name}.entropy.npy"));
        assert_eq!(image["batch"], 2);
        for stage in ["decode", "preprocess", "network", "maps", "write"] {
            assert!(image["stages_ms"][stage].as_f64().unwrap() > 0.0, "{stage}");
        }
    }
    assert_eq!(report["failed"][0]["path"], "in/3.png");
    assert!(report["failed"][0]["error"].as_str().unwrap().contains("an empty file"));
    let totals = &report["totals"];
    assert_eq!((&totals["images_written"], &totals["images_failed"]), (&2.into(), &1.into()));
    let network = &totals["stages_ms"]["network"];
    assert!(network["p50"].as_f64().unwrap() <= network["max"].as_f64().unwrap());
    // To a file; then nothing is on stdout.
    let outcome = bench.infer("in/1.png -o out --force --json reports/new.json");
    assert_eq!((outcome.code, outcome.stdout.as_str()), (0, ""));
    assert!(
        serde_json::from_slice::<Value>(&std::fs::read(bench.path("reports/new.json")).unwrap())
            .is_ok()
    );
}

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let bench = Bench::new();
    bench.picture("in/1.png", 33, 47, 0);
    bench.picture("in/2.png", 33, 47, 0);
    bench.picture("in/3.png", 50, 20, 0);
    bench.write("in/4.png", b"text");
    let outcome = bench.infer("in -o out --dry-run --batch 2");
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    assert!(outcome.stdout.contains("in/1.png -> out/1.label.png, out/1.entropy.npy"));
    assert!(!bench.path("out").exists());
    let outcome = bench.infer("in -o out --dry-run --batch 2 --json -");
    let report: Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["images"].as_array().unwrap().len(), 3);
    assert_eq!(report["failed"][0]["path"], "in/4.png");
    let mut engine = Engine::new(Model::load(bench.path("model.safetensors")).unwrap());
    let sizes = report["sizes"].as_array().unwrap();
    for (cost, (batch, h, w)) in sizes.iter().zip([(2, 33, 47), (1, 50, 20)]) {
        let plan = engine.plan(batch, ddu::ops::Size::new(h, w)).unwrap();
        assert_eq!(cost["batch"], batch);
        assert_eq!(cost["ops"], plan.nodes.len());
        assert_eq!(cost["arena_bytes"], plan.arena_bytes(4));
        assert_eq!(cost["gflop"].as_f64().unwrap(), plan.flops() as f64 / 1e9);
        assert_eq!(cost["problem"], Value::Null);
    }
    assert_eq!(sizes.len(), 2);
    assert!(!bench.path("out").exists());
}

#[test]
fn a_size_beyond_the_memory_says_which_would_fit() {
    let bench = Bench::new();
    // Only the header is looked at; 256 such images need more than a terabyte.
    let huge = crate::malformed::png_of_size(11000, 11000);
    std::fs::create_dir(bench.path("in")).unwrap();
    for i in 0..256 {
        bench.write(&format!("in/{i}.png"), &huge);
    }
    let outcome = bench.infer("in -o out --dry-run --batch 256");
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    let line = outcome.stdout.lines().find(|line| line.contains("does not fit")).unwrap();
    assert!(line.contains("256 images of 11000 x 11000: needs "), "{line}");
    let short = line.split("--resize ").nth(1).unwrap().split(' ').next().unwrap();
    // What it advises does fit.
    let outcome = bench.infer(&format!("in -o out --dry-run --batch 256 --resize {short}"));
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
}

#[test]
fn a_named_device_never_falls_back() {
    let bench = Bench::new();
    bench.picture("1.png", 16, 16, 0);
    // What this build or machine lacks.
    let lacking: &[&str] = if cfg!(feature = "simt") { &["cuda:0"] } else { &["simt", "cuda:0"] };
    for device in lacking {
        let outcome = bench.infer(&format!("1.png -o out --device {device}"));
        assert_eq!(outcome.code, 1);
        assert!(outcome.stderr.contains(device) && outcome.stderr.lines().count() == 1);
        assert!(!bench.path("out").exists());
    }
    let outcome = ok(bench.infer("1.png -o out --device auto"));
    assert!(outcome.stderr.starts_with("device cpu: "), "{}", outcome.stderr);
}

#[test]
fn quiet_is_quiet_and_nothing_is_coloured() {
    let bench = Bench::new();
    bench.picture("1.png", 16, 16, 0);
    let outcome = ok(bench.infer("1.png -o out -q"));
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("", ""));
    let outcome = ok(bench.infer("1.png -o out --force"));
    assert!(!outcome.stderr.contains('\x1b'), "{}", outcome.stderr);
}

#[test]
fn an_output_folder_that_cannot_be_is_one_line() {
    let bench = Bench::new();
    bench.picture("1.png", 16, 16, 0);
    let outcome = bench.infer("1.png -o 1.png");
    assert_eq!(outcome.code, 1);
    assert!(outcome.stderr.starts_with("error: 1.png: cannot create"), "{}", outcome.stderr);
    assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
}

#[test]
fn a_result_that_cannot_be_written_costs_one_image() {
    let bench = Bench::new();
    bench.picture("1.png", 16, 16, 0);
    // Names end at 255 bytes on every file system in use: the label fits, the entropy does not.
    let long = "n".repeat(255 - ".label.png".len());
    bench.picture(&format!("{long}.png"), 16, 16, 0);
    let outcome = bench.infer(&format!("{long}.png 1.png -o out"));
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    assert_eq!(bench.files("out"), ["1.entropy.npy", "1.label.png"]);
}

#[test]
fn without_an_image_nothing_is_made() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("empty")).unwrap();
    for input in ["mistyped", "empty", "none/*.png"] {
        let outcome = bench.infer(&format!("{input} -o out"));
        assert_eq!(outcome.code, 3, "{input}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("no maps were written"), "{}", outcome.stderr);
        assert!(!bench.path("out").exists(), "{input}: the output folder was made");
        let outcome = bench.infer(&format!("{input} -o out --dry-run"));
        assert_eq!(outcome.code, 3, "{input}: {}", outcome.stderr);
        assert!(outcome.stdout.contains("no maps would be written"), "{}", outcome.stdout);
        assert!(!outcome.stdout.contains("GFLOP"), "an empty table: {}", outcome.stdout);
    }
}

/// bf16 runs where the CPU has the instructions, and is refused in one line elsewhere; fast is of a density.
#[test]
fn precisions_are_taken_where_they_mean_something() {
    let bench = Bench::new();
    bench.picture("in.png", 33, 47, 3);
    ok(bench.infer("in.png -o exact --device cpu"));
    let outcome = bench.infer("in.png -o bf16 --device cpu --precision bf16");
    if ddu::cpu::pairs::available() {
        ok(outcome);
        let [exact, bf16] =
            ["exact", "bf16"].map(|run| bench.path(&format!("{run}/in.entropy.npy")));
        let [(size, exact), (same, bf16)] = [exact, bf16].map(|path| read_npy(&path));
        assert_eq!(size, same);
        let off = exact.iter().zip(&bf16).map(|(a, b)| (a - b).abs()).fold(0f32, f32::max);
        // The engine's bounds are in tests/parity/bf16.rs; here: near, and not f32's bits.
        assert!(off > 0.0 && off < 0.5, "{off}");
    } else {
        assert_eq!((outcome.code, outcome.stderr.lines().count()), (1, 1), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("AVX512-BF16"), "{}", outcome.stderr);
    }
    let fast = bench.infer("in.png -o fast --device cpu --precision fast");
    assert_eq!(fast.code, 2, "{}", fast.stderr);
    assert!(fast.stderr.contains("needs --density"), "{}", fast.stderr);
}
