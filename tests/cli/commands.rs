//! The commands about the program itself, and the exit codes of a wrong command line.

use crate::Bench;

#[test]
fn devices_lists_the_cpu() {
    let outcome = Bench::new().ddu(&["devices"], "");
    assert_eq!(outcome.code, 0, "{}", outcome.stderr);
    assert!(outcome.stdout.starts_with("cpu "), "{}", outcome.stdout);
    assert!(outcome.stdout.contains("1 threads, SIMD "), "{}", outcome.stdout);
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
    assert!(outcome.stderr.contains("expected auto, cpu, simt or cuda:N"), "{}", outcome.stderr);
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
