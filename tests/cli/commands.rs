//! The commands about the program itself, and the exit codes of a wrong command line.

use std::process::{Command, Stdio};

use crate::Bench;
use crate::fit::{TRAIN, fit, ok, scenes};

#[test]
fn devices_lists_the_cpu() {
    let outcome = Bench::new().ddu(&["devices"], "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stdout.starts_with("cpu "), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("1 threads, SIMD "), "{}", outcome.stdout);
    let json = ok(Bench::new().ddu(&["devices", "--json"], ""));
    let report: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    let devices = report["devices"].as_array().unwrap();
    assert_eq!((&devices[0]["name"], &devices[0]["problem"]), (&"cpu".into(), &().into()));
    assert_eq!(report["host"]["threads"], 1);
    // Both name the same devices, in the same order.
    let names = devices.iter().map(|device| device["name"].as_str().unwrap());
    for (name, line) in names.zip(outcome.stdout.lines()) {
        assert!(line.starts_with(name), "{line}");
    }
}

#[test]
fn doctor_speaks_text_and_json() {
    let bench = Bench::new();
    let text = bench.ddu(&["doctor"], "");
    assert_eq!(text.code, 0);
    assert!(text.stdout.contains(env!("CARGO_PKG_VERSION")), "{}", text.stdout);
    let json = bench.ddu(&["doctor", "--json"], "");
    let report: serde_json::Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(report["schema_version"], 1);
    assert_eq!(report["host"]["threads"], 1);
    assert_eq!(report["working_folder_writable"], true);
    if cfg!(target_os = "linux") {
        let (free, total) =
            (&report["memory_available_bytes"], &report["host"]["memory_total_bytes"]);
        assert!(free.as_u64().unwrap() <= total.as_u64().unwrap());
    }
    assert!(report["cuda"]["gpus"].is_array() && report["advice"].is_array());
}

/// Each report says by which version of its schema it is to be read. (`tests/demo.rs` has the demo's.)
#[test]
fn every_json_has_a_schema_version() {
    let bench = Bench::new();
    scenes(&bench, 3);
    ok(fit(&bench, &format!("{TRAIN} -o d.safetensors")));
    let model = "-m model.safetensors";
    let image = "voc/JPEGImages/s000.png";
    let mut commands = vec![
        ("devices --json".to_owned(), 1),
        ("doctor --json".into(), 1),
        (format!("infer {model} -d d.safetensors {image} -o out --json -"), 1),
        (format!("infer {model} {image} -o dry --dry-run --json -"), 1),
        (format!("profile {model} --size 32x32 --dry-run --json -"), 2),
        (format!("eval {model} -d d.safetensors {TRAIN} -o eval"), 1),
    ];
    if cfg!(feature = "simt") {
        commands.push((format!("compare {model} {image} --device simt --json -"), 1));
    }
    let formats = include_str!("../../docs/formats.md");
    for (command, version) in commands {
        let arguments: Vec<&str> = command.split_whitespace().collect();
        let mut text = ok(bench.ddu(&arguments, "")).stdout;
        let mut by = arguments[0].to_owned();
        if by == "eval" {
            text = std::fs::read_to_string(bench.path("eval/results.json")).unwrap();
        } else if command.contains("--dry-run") && by == "infer" {
            by += " --dry-run";
        }
        let report: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(report["schema_version"], version, "{command}");
        let row = formats.lines().find(|line| line.starts_with(&format!("| `{by}")));
        let row = row.unwrap_or_else(|| panic!("docs/formats.md has no {by}"));
        assert!(row.contains(&format!("| {version} |")), "{row}");
    }
}

#[test]
fn completions_name_the_commands() {
    for shell in ["bash", "zsh", "fish", "powershell", "elvish"] {
        let outcome = Bench::new().ddu(&["completions", shell], "");
        assert_eq!(outcome.code, 0);
        assert!(outcome.stdout.contains("infer") && outcome.stdout.contains("doctor"), "{shell}");
    }
}

#[test]
fn a_wrong_command_line_exits_2() {
    let bench = Bench::new();
    for wrong in
        ["", "fly", "infer", "infer x -o y", "completions tcsh", "infer -m m x -o y --batch 0"]
    {
        let arguments: Vec<&str> = wrong.split_whitespace().collect();
        assert_eq!(bench.ddu(&arguments, "").code, 2, "{wrong}");
    }
    let outcome = bench.infer("x.png -o out --device gpu");
    assert_eq!(outcome.code, 2);
    assert!(
        outcome.stderr.contains("expected auto, cpu, simt or cuda:N; the first GPU is cuda:0"),
        "{}",
        outcome.stderr
    );
}

#[test]
fn a_model_that_is_none_is_one_line() {
    let bench = Bench::new();
    bench.write("text.safetensors", b"hello");
    for model in ["missing.safetensors", "text.safetensors", "."] {
        let outcome = bench.ddu(&["infer", "-m", model, "x.png", "-o", "out"], "");
        assert_eq!(outcome.code, 1, "{model}");
        assert!(outcome.stderr.starts_with("error: "), "{}", outcome.stderr);
        assert!(outcome.stderr.contains(model), "{}", outcome.stderr);
        assert_eq!(outcome.stderr.lines().count(), 1, "{}", outcome.stderr);
        assert!(!bench.path("out").exists());
    }
}

/// Nobody reads stdout (`ddu ... | head`): no panic, no word, the exit code of the work.
#[test]
fn a_closed_stdout_is_no_error() {
    let bench = Bench::new();
    scenes(&bench, 3);
    ok(fit(&bench, &format!("{TRAIN} -o d.safetensors")));
    bench.write("bad.png", b"no picture");
    let image = "voc/JPEGImages/s000.png";
    let model = "-m model.safetensors";
    let mut commands = vec![
        (format!("infer {model} {image} -o a --json -"), 0),
        (format!("infer {model} {image} bad.png -o b --json -"), 3),
        (format!("infer {model} {image} -o c --dry-run"), 0),
        (format!("infer {model} {image} bad.png -o c --dry-run"), 3),
        (format!("fit {model} {TRAIN} -o e"), 0),
        ("fit --merge d.safetensors -o f".into(), 0),
        (format!("eval {model} {TRAIN} -d d.safetensors -o g"), 0),
        (format!("profile {model} --dry-run"), 0),
        (format!("profile {model} --dry-run --json -"), 0),
        ("devices".into(), 0),
        ("doctor".into(), 0),
        ("doctor --json".into(), 0),
        ("completions bash".into(), 0),
        ("demo -o h".into(), 0),
        ("--help".into(), 0),
        ("infer --help".into(), 0),
        ("--version".into(), 0),
    ];
    if cfg!(feature = "simt") {
        commands.push((format!("compare {model} {image} --device simt"), 0));
        commands.push((format!("compare {model} {image} --device simt --json -"), 0));
    }
    if let Some(checkpoint) = crate::shared::shared("models/camvid-r18-s0.pth") {
        commands.push((format!("convert {} -o i", checkpoint.display()), 0));
    }
    for (arguments, code) in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let child = Command::new(env!("CARGO_BIN_EXE_ddu"))
            .args(arguments.split(' '))
            .current_dir(bench.path(""))
            .env("CUDA_VISIBLE_DEVICES", "")
            .stdin(Stdio::null())
            .stdout(writer)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments}: {stderr}");
        let complaint = stderr.lines().find(|line| {
            ["panicked", "error", "pipe"].iter().any(|word| line.to_lowercase().contains(word))
        });
        assert_eq!(complaint, None, "{arguments}");
    }
}
