//! The binary on the stand-in. It has no kernels where the build found no nvcc.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use ddu::device::FATBINS;

use crate::models::{random_model, wide};
use crate::standin::{count, folder, skipped, stand_in};

struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
    calls: Vec<String>,
}

struct Bench {
    standin: &'static Path,
    folder: tempfile::TempDir,
}

impl Bench {
    /// A model, two pictures of one size and their masks.
    fn new() -> Option<Self> {
        let bench = Bench { standin: folder()?, folder: tempfile::tempdir().unwrap() };
        let folder = bench.folder.path();
        let model = random_model(wide(32), 7);
        model.save(folder.join("model.safetensors")).unwrap();
        for name in ["pictures", "masks"] {
            std::fs::create_dir(folder.join(name)).unwrap();
        }
        for (name, seed) in [("1.png", 3), ("2.png", 50)] {
            let wave = |a: u32| (128.0 + 120.0 * ((a + seed) as f32 / 23.0).sin()) as u8;
            let picture = image::RgbImage::from_fn(49, 35, |x, y| {
                image::Rgb([wave(x + 2 * y), wave(3 * x + y), wave(2 * x + 5 * y)])
            });
            picture.save(folder.join("pictures").join(name)).unwrap();
            let mask = image::GrayImage::from_fn(49, 35, |x, y| image::Luma([((x + y) % 4) as u8]));
            mask.save(folder.join("masks").join(name)).unwrap();
        }
        Some(bench)
    }

    fn ddu(&self, arguments: &str, options: &str) -> Outcome {
        let log = self.folder.path().join("log");
        let _ = std::fs::remove_file(&log);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddu"));
        command.args(arguments.split_whitespace()).current_dir(self.folder.path());
        stand_in(&mut command, self.standin, options, &log);
        let output = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let calls = std::fs::read_to_string(log).unwrap_or_default();
        let outcome = Outcome {
            code: output.status.code().expect("it was not killed"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
            calls: calls.lines().map(String::from).collect(),
        };
        assert!(!outcome.stderr.contains("panicked"), "{arguments}: {}", outcome.stderr);
        outcome
    }
}

impl Bench {
    /// The bytes of a file, or of the files of a folder.
    fn bytes(&self, name: &str) -> BTreeMap<PathBuf, Vec<u8>> {
        let root = self.folder.path().join(name);
        let files = walkdir::WalkDir::new(&root).into_iter().map(|entry| entry.unwrap());
        let files = files.filter(|entry| entry.file_type().is_file());
        let name = |path: &Path| path.strip_prefix(&root).unwrap().to_owned();
        files.map(|file| (name(file.path()), std::fs::read(file.path()).unwrap())).collect()
    }
}

#[test]
fn without_kernels_every_command_says_how_to_get_them() {
    let Some(bench) = Bench::new() else { return };
    if !FATBINS.is_empty() {
        return skipped("this build has kernels");
    }
    for command in [
        "infer -m model.safetensors pictures/1.png -o out --device cuda:0",
        "compare -m model.safetensors pictures/1.png --device cuda:0",
        "profile -m model.safetensors --size 17x21 --device cuda:0",
    ] {
        let outcome = bench.ddu(command, "");
        assert_eq!((outcome.code, outcome.stderr.lines().count()), (1, 1), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("pip install nvidia-cuda-nvcc"), "{}", outcome.stderr);
    }
    let outcome = bench.ddu("devices", "");
    let usable = "cuda:0  stand-in GPU, 16.0 GiB, compute capability 9.0; not usable: ";
    assert!(outcome.stdout.contains(usable), "{}", outcome.stdout);
    let outcome = bench.ddu("infer -m model.safetensors pictures/1.png -o out", "");
    assert!(outcome.stderr.starts_with("device cpu: "), "{}", outcome.stderr);
}

#[test]
fn with_kernels_every_command_runs() {
    let Some(bench) = Bench::new() else { return };
    if FATBINS.is_empty() {
        return skipped("this build has no kernels");
    }
    let outcome = bench.ddu("devices", "");
    let line = "cuda:0  stand-in GPU, 16.0 GiB, compute capability 9.0\n";
    assert!(outcome.stdout.contains(line), "{}", outcome.stdout);

    // What it writes are simt's bytes.
    let commands = [
        ("fit -m model.safetensors --images pictures --masks masks -o density", "density"),
        ("infer -m model.safetensors --density density-simt pictures -o maps", "maps"),
    ];
    for (command, output) in commands {
        let outcome = bench.ddu(&format!("{command}-cuda --device cuda:0"), "");
        assert_eq!(outcome.code, 0, "{}", outcome.stderr);
        let device = "device cuda:0: stand-in GPU, 16.0 GiB";
        assert!(outcome.stderr.lines().any(|line| line.starts_with(device)), "{}", outcome.stderr);
        let calls = &outcome.calls;
        assert_eq!(count(calls, "cuMemAlloc"), count(calls, "cuMemFree"), "{calls:?}");
        assert_eq!(calls.last().unwrap(), "end, 0 contexts retained");
        if output == "maps" {
            assert_eq!((count(calls, "cuGraphInstantiate"), count(calls, "cuGraphLaunch")), (1, 2));
            assert_eq!(count(calls, "cuLaunchKernel"), 0, "{calls:?}");
        }
        let outcome = bench.ddu(&format!("{command}-simt --device simt"), "");
        assert_eq!((outcome.code, outcome.calls.len()), (0, 0), "{}", outcome.stderr);
        let [cuda, simt] =
            ["cuda", "simt"].map(|device| bench.bytes(&format!("{output}-{device}")));
        assert!(cuda == simt, "{:?} of cuda, {:?} of simt", cuda.keys(), simt.keys());
    }

    let outcome = bench.ddu("compare -m model.safetensors pictures/1.png --device cuda:0", "");
    assert_eq!(outcome.code, 0, "{}{}", outcome.stdout, outcome.stderr);
    assert!(outcome.stdout.ends_with("pass\n"), "{}", outcome.stdout);
    let profile = "profile -m model.safetensors --size 17x21 --device cuda:0 --repeats 1 --json -";
    let outcome = bench.ddu(profile, "");
    let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    assert_eq!(report["device"], "cuda:0");
    assert!(report["launches"].as_array().unwrap().iter().all(|l| !l["measured"].is_null()));

    // No GPU has confirmed the kernels: auto takes the CPU, and says in one line how to try the GPU.
    let outcome = bench.ddu("infer -m model.safetensors pictures/1.png -o auto", "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    let lines: Vec<&str> = outcome.stderr.lines().collect();
    assert!(lines[0].starts_with("warning: cuda:0 (stand-in GPU) is not used"), "{lines:?}");
    for word in ["capability 9.0", "--device cuda:0", "ddu compare"] {
        assert!(lines[0].contains(word), "no {word} in: {lines:?}");
    }
    assert!(lines[1].starts_with("device cpu: "), "{lines:?}");
    let outcome = bench.ddu("doctor", "");
    assert!(outcome.stdout.contains("--device cuda:0, and check it with"), "{}", outcome.stdout);

    // An explicit device is used or refused; auto takes the CPU without a word where no GPU is usable.
    let named = "infer -m model.safetensors pictures/1.png -o refused --device cuda:0";
    for (options, word) in [("devices=0", "lists no GPU"), ("capability=75", "7.5")] {
        let outcome = bench.ddu(named, options);
        assert_eq!((outcome.code, outcome.stderr.lines().count()), (1, 1), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(word), "{}", outcome.stderr);
        let outcome =
            bench.ddu(&format!("infer -m model.safetensors pictures/1.png -o {options}"), options);
        assert!(outcome.stderr.starts_with("device cpu: "), "{}", outcome.stderr);
    }
}
