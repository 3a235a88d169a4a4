//! What a command reads stays as it is, whatever it is told to write and to overwrite.

use crate::Bench;
use crate::fit::{TRAIN, fit, ok, scenes};

#[test]
fn no_command_overwrites_what_it_reads() {
    let bench = Bench::new();
    scenes(&bench, 6);
    ok(fit(&bench, &format!("{TRAIN} -o d")));
    bench.picture("photo.png", 16, 24, 0);
    let link = |from: &str, to: &str| {
        #[cfg(unix)]
        std::os::unix::fs::symlink(bench.path(from), bench.path(to)).unwrap();
        #[cfg(not(unix))]
        std::fs::copy(bench.path(from), bench.path(to)).unwrap();
    };
    link("voc", "other");
    std::fs::hard_link(bench.path("model.safetensors"), bench.path("m2")).unwrap();
    for (read, folder) in [("model.safetensors", "m3"), ("d", "d3")] {
        std::fs::create_dir(bench.path(folder)).unwrap();
        std::fs::hard_link(bench.path(read), bench.path(folder).join("results.json")).unwrap();
    }
    std::fs::create_dir(bench.path("hub")).unwrap();
    bench.write("hub/model.safetensors", b"a checkpoint");
    bench.write("hub/config.json", b"{}");
    let files = || -> Vec<(String, Vec<u8>)> {
        let content = |name: String| {
            let bytes = std::fs::read(bench.path(&name)).unwrap();
            (name, bytes)
        };
        bench.files(".").into_iter().map(content).collect()
    };
    let before = files();
    let m = "--model model.safetensors";
    for command in [
        format!("infer {m} photo.png -o out --force --json photo.png"),
        format!("infer {m} photo.png -o out --force --json m2"),
        format!("infer {m} photo.png -o out --force --density d --json ./out/../d"),
        format!("fit {m} {TRAIN} --force -o model.safetensors"),
        format!("fit {m} {TRAIN} --force -o m2"),
        format!("fit {m} {TRAIN} --force -o voc/JPEGImages/s000.png"),
        format!("fit {m} {TRAIN} --force -o other/SegmentationClass/s001.png"),
        format!("fit {m} {TRAIN} --force -o voc/classes.txt"),
        format!("fit {m} {TRAIN} --force -o voc/ImageSets/Segmentation/train.txt"),
        "fit --merge d --force -o d".into(),
        "convert hub -o hub/model.safetensors --force".into(),
        "convert hub --classes voc/classes.txt -o voc/classes.txt --force".into(),
        format!("infer {m} photo.png -o out --force --dry-run --json m2"),
        format!("eval {m} {TRAIN} -o m3 --force"),
        format!("eval {m} --density d {TRAIN} -o d3 --force"),
        format!("profile {m} --dry-run --force --json m2"),
        format!("profile {m} --dry-run --force --csv ./voc/../model.safetensors"),
        format!("profile {m} --dry-run --force --density d --csv d3/results.json"),
        format!("profile {m} --dry-run --force --input photo.png --json photo.png"),
        format!("compare {m} photo.png --device simt --force --json m2"),
        format!("compare {m} photo.png --device simt --force --json voc/../photo.png"),
    ] {
        if command.starts_with("compare") && !cfg!(feature = "simt") {
            continue;
        }
        let outcome = bench.ddu(&command.split(' ').collect::<Vec<_>>(), "");
        assert_eq!(outcome.code, 2, "{command}: {}", outcome.stderr);
        assert!(outcome.stderr.contains("is an input of this command"), "{}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        assert!(files() == before, "{command}: a file changed");
    }
}

#[test]
fn a_checkpoint_is_left_once_its_masks_changed_or_a_fit_starts_anew() {
    let bench = Bench::new();
    scenes(&bench, 8);
    // A bad pair behind the first checkpoint: with --fail-fast the fit stops and leaves it.
    let mask = bench.path("voc/SegmentationClass/s006.png");
    let good = std::fs::read(&mask).unwrap();
    std::fs::write(&mask, b"no mask").unwrap();
    let map = "--class-map 9=void";
    let stopped = format!("{TRAIN} -o d {map} --checkpoint-every 3 --fail-fast");
    let stop = || assert_eq!(fit(&bench, &stopped).code, 1);
    stop();
    assert!(bench.path("d.partial").exists());
    // A mask that is in already changes.
    let first = bench.path("voc/SegmentationClass/s001.png");
    let label = std::fs::read(&first).unwrap();
    std::fs::copy(bench.path("voc/SegmentationClass/s002.png"), &first).unwrap();
    let refused = fit(&bench, &format!("{TRAIN} -o d {map} --resume"));
    assert_eq!(refused.code, 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("masks that changed since"), "{}", refused.stderr);
    // --force drops the checkpoint before anything else can go wrong.
    let anew =
        fit(&bench, &format!("{TRAIN} -o d {map} --force --fail-fast --checkpoint-every 100"));
    assert_eq!(anew.code, 1, "{}", anew.stderr);
    assert!(!bench.path("d.partial").exists());
    // A later pair may be mended.
    std::fs::write(&first, label).unwrap();
    stop();
    std::fs::write(&mask, good).unwrap();
    ok(fit(&bench, &format!("{TRAIN} -o d {map} --resume")));
}

#[cfg(unix)]
#[test]
fn a_device_is_neither_read_nor_replaced() {
    let bench = Bench::new();
    scenes(&bench, 3);
    std::os::unix::fs::symlink("/dev/null", bench.path("null")).unwrap();
    let outcome = fit(&bench, &format!("{TRAIN} -o null --force"));
    assert_eq!(outcome.code, 1, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("found a pipe, socket or device"), "{}", outcome.stderr);
    assert!(bench.path("null").is_symlink());
    let outcome = bench.infer("/dev/zero -o out");
    assert_eq!(outcome.code, 3, "{}", outcome.stderr);
    assert!(outcome.stderr.contains("a pipe, socket or device"), "{}", outcome.stderr);
}

#[test]
fn nonsense_around_a_run_is_named() {
    let bench = Bench::new();
    let empty = bench.infer("- -o out");
    assert_eq!(empty.code, 3, "{}", empty.stderr);
    assert!(empty.stderr.contains("stdin: expected paths of images"), "{}", empty.stderr);
    let run = std::process::Command::new(env!("CARGO_BIN_EXE_ddu"))
        .args(["doctor"])
        .env("RAYON_NUM_THREADS", "many")
        .output()
        .unwrap();
    assert_eq!(run.status.code(), Some(2));
    let text = String::from_utf8(run.stderr).unwrap();
    assert!(text.starts_with("error: RAYON_NUM_THREADS: expected a number"), "{text}");
}
