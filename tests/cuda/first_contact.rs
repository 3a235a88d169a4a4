//! `benches/results/first_contact` without a GPU: every step of its three calls on the stand-in, with fakes for the tools of a
//! GPU's machine; and its runner with steps that hang, fail, flood and are killed.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ddu::device::FATBINS;
use safetensors::tensor::{Dtype, TensorView};

use crate::models::Rng;
use crate::standin::{folder, skipped, stand_in};

const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/results/first_contact");

/// Of `results.tar.gz`, and of each file that comes back.
const FILE_BYTES: u64 = 16 << 20;

/// The interpreter that runs the scripts; None, with a line that says so, where there is none.
fn python() -> Option<PathBuf> {
    // Itself: what PATH finds may be a script that puts another PATH in front of the fakes.
    let mut ask = Command::new("python3");
    let answer = ask.args(["-c", "import sys; print(sys.executable)"]).output().ok();
    let answer = answer.filter(|answer| answer.status.success());
    let found = answer.map(|answer| PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim()));
    if found.is_none() {
        skipped("no python3");
    }
    found
}

fn program(folder: &Path, name: &str, text: &str) {
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// What a call left: how each step ended, and the files.
struct Outcome {
    code: Option<i32>,
    said: String,
    steps: Vec<(String, String)>,
    log: String,
    packed: Vec<String>,
}

impl Outcome {
    fn read(out: &Path, code: Option<i32>, said: String) -> Self {
        let files: Vec<_> = std::fs::read_dir(out).unwrap().map(|f| f.unwrap()).collect();
        assert!(files.len() <= 8, "{files:?}");
        assert!(files.iter().all(|file| file.metadata().unwrap().len() <= FILE_BYTES), "{files:?}");
        let text = |name| std::fs::read_to_string(out.join(name)).unwrap_or_default();
        let line = |line: &str| {
            let fields: Vec<&str> = line.rsplitn(4, ',').collect();
            (fields[3].to_owned(), fields[2].to_owned())
        };
        let archive = out.join("results.tar.gz");
        let listed = Command::new("tar").arg("-tzf").arg(archive).output().unwrap().stdout;
        let packed = String::from_utf8(listed).unwrap().lines().map(String::from).collect();
        let steps = text("summary.csv").lines().skip(1).map(line).collect();
        Outcome { code, said, steps, log: text("log.txt"), packed }
    }

    fn result(&self, step: &str) -> &str {
        let found = self.steps.iter().find(|(name, _)| name == step);
        &found.unwrap_or_else(|| panic!("no step {step}: {:?}", self.steps)).1
    }
}

/// A state dict with the names and shapes of segmentation-models-pytorch, narrow.
fn checkpoint(path: &Path) {
    let golden = "tests/golden/families/smp-resnet18.safetensors";
    let bytes = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join(golden)).unwrap();
    let (_, header) = safetensors::SafeTensors::read_metadata(&bytes).unwrap();
    let keys = &header.metadata().as_ref().unwrap()["keys"];
    let keys: BTreeMap<String, Vec<usize>> = serde_json::from_str(keys).unwrap();
    let mut rng = Rng(5);
    let mut value = |name: &str, inner: usize| match name.rsplit('.').next().unwrap() {
        "running_var" => 1.0f32,
        "weight" if inner == 1 => 1.0,
        "weight" => rng.uniform() * (6.0 / inner as f32).sqrt(),
        _ => 0.1 * rng.uniform(),
    };
    let data: Vec<(&String, &Vec<usize>, Vec<u8>)> = keys
        .iter()
        .filter(|(name, _)| !name.ends_with("num_batches_tracked"))
        .map(|(name, shape)| {
            let inner = shape.iter().skip(1).product();
            let values = (0..shape.iter().product()).flat_map(|_| value(name, inner).to_le_bytes());
            (name, shape, values.collect())
        })
        .collect();
    let views = data.iter().map(|(name, shape, bytes)| {
        (*name, TensorView::new(Dtype::F32, shape.to_vec(), bytes).unwrap())
    });
    std::fs::write(path, safetensors::serialize(views, None::<HashMap<_, _>>).unwrap()).unwrap();
}

/// A test program with two tests, and one that no GPU runs.
const KERNELS: &str = r#"
#include <cstdio>
#include <cstring>
int main(int n, char** words) {
    if (n > 1 && !std::strcmp(words[1], "--list")) {
        std::puts("ops::density::without_predicted: test\nptx_cases::elsewhere: test\nops::gather::rows: test");
        return 0;
    }
    return n > 2 && !std::strcmp(words[2], "ptx_cases::elsewhere");
}
"#;

/// PATH with fakes of a GPU machine's tools in front.
fn fakes(root: &Path, python: &Path) -> std::ffi::OsString {
    let bin = root.join("bin");
    let state = root.join("checkpoint");
    checkpoint(&state);
    program(
        &bin,
        "nvidia-smi",
        "case \"$*\" in *compute_cap*) echo 9.0;; *clocks*) echo 1980, 2619, 1980;; *) echo fake;; esac",
    );
    program(
        &bin,
        "nvcc",
        "while [ $# -gt 0 ]; do\n\
         [ \"$1\" = -o ] && { printf '#!/bin/sh\\necho fake\\n' > \"$2\"; chmod +x \"$2\"; }\n\
         shift\ndone",
    );
    for tool in ["ncu", "compute-sanitizer"] {
        program(&bin, tool, "until [ -x \"$1\" ]; do shift || exit 1; done; exec \"$@\"");
    }
    let (python, state) = (python.display(), state.display());
    let script = format!(
        "case \"$1 $2\" in\n*/pictures.py*) exec {python} \"$@\";;\n\
         */peers.py\\ make) cp {state} \"$3\";;\n*) echo fake \"$@\";;\nesac"
    );
    program(&bin, "python3", &script);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths([bin].into_iter().chain(std::env::split_paths(&path))).unwrap()
}

#[test]
fn every_step_of_the_three_calls_runs() {
    let (Some(python), Some(driver)) = (python(), folder()) else { return };
    if FATBINS.is_empty() {
        return skipped("this build has no kernels");
    }
    let root = tempfile::tempdir().unwrap();
    let source = root.path().join("kernels.cpp");
    let (kernels, package) = (root.path().join("kernels"), root.path().join("package"));
    std::fs::write(&source, KERNELS).unwrap();
    let compiler = std::env::var("CXX").unwrap_or("c++".into());
    let compiled = Command::new(compiler).arg(&source).arg("-o").arg(&kernels).status().unwrap();
    assert!(compiled.success());
    let mut pack = Command::new(&python);
    pack.arg(Path::new(SCRIPTS).join("pack.py")).arg(&package);
    pack.arg("--ddu").arg(env!("CARGO_BIN_EXE_ddu")).arg("--kernels").arg(&kernels);
    let packed = pack.output().unwrap();
    assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    assert!(String::from_utf8_lossy(&packed.stdout).contains("MiB of 64"));

    let path = fakes(root.path(), &python);
    for (call, some) in [
        (1, &["dump-wgmma", "ops::gather::rows", "compare-r101", "compare-demo"][..]),
        (2, &["ceilings", "torch-r101-1", "profile-density-1", "tilings-r101-1", "profile-demo-1"]),
        (3, &["ncu-moments_syrk", "racecheck ops::pool::max_pool_is_exact", "initcheck-infer"]),
    ] {
        let out = root.path().join(format!("out{call}"));
        let mut command = Command::new(&python);
        command.arg(package.join("run.py")).arg(call.to_string()).arg(&out);
        command.args(["--size", "33", "--batches", "1", "--repeats", "1", "--deadline", "3000"]);
        stand_in(&mut command, driver, "", &root.path().join("calls"));
        let output = command.env("PATH", &path).env("TMPDIR", root.path()).output().unwrap();
        let said =
            String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        let outcome = Outcome::read(&out, output.status.code(), said.into_owned());
        for (step, result) in &outcome.steps {
            assert_eq!(result, "passed", "call {call}, {step}:\n{}", outcome.log);
        }
        assert_eq!(outcome.code, Some(0), "{}", outcome.said);
        some.iter().for_each(|step| assert_eq!(outcome.result(step), "passed"));
        let names: Vec<&str> = outcome.steps.iter().map(|(name, _)| name.as_str()).collect();
        assert!(!names.iter().any(|name| name.contains("elsewhere")), "{names:?}");
        let has = |file: &str| outcome.packed.iter().any(|name| name == file);
        match call {
            1 => {
                // Simple kernels first, density_hopper after everything else.
                let at = |name: &str| names.iter().position(|n| *n == name).unwrap();
                assert!(at("ops::gather::rows") < at("ops::density::without_predicted"));
                assert_eq!(*names.last().unwrap(), "ops::density::without_predicted [wgmma]");
                assert!(has("ptx/sm_90.txt") && has("ptx/wgmma_sm_90.txt"), "{:?}", outcome.packed);
            }
            2 => {
                let files = ["profile-r101-1.json", "tilings-r101-1.csv", "torch-density-1.txt"];
                assert!(files.into_iter().all(has), "{:?}", outcome.packed);
                timed(&out);
            }
            _ => assert!(has("ncu-density.txt"), "{:?}", outcome.packed),
        }
    }
}

/// Before anything is built.
#[test]
fn a_checkpoint_in_place_of_a_model_is_not_packed() {
    let Some(python) = python() else { return };
    let root = tempfile::tempdir().unwrap();
    let mut pack = Command::new(&python);
    pack.arg(Path::new(SCRIPTS).join("pack.py")).arg(root.path().join("package"));
    let golden = "tests/golden/families/smp-resnet18.safetensors";
    let output = pack.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join(golden)).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("that `ddu convert` wrote"), "{said}");
}

/// What call 2 brings back: run, kernels in a loop and with the caches flushed, moments, ceilings, clocks, and a table of
/// tilings with each convolution's own choice in it.
fn timed(out: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(out.join("results.tar.gz")).arg("-C").arg(folder.path());
    assert!(tar.status().unwrap().success());
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let report = read("profile-r101-density-1.json");
    let report: serde_json::Value = serde_json::from_str(&report).unwrap();
    for field in ["run_us", "moments_us"] {
        assert!(report[field]["p50"].as_f64().unwrap() > 0.0, "{field}: {}", report[field]);
    }
    assert_eq!(report["clocks"]["multiprocessors_mhz"], 1980.0);
    assert_eq!(report["gpu"]["pci_bus_id"], "00000000:17:00.0");
    assert!(report["ceilings"]["copy_bytes_per_s"].as_f64().unwrap() > 0.0);
    assert!(report["ceilings"]["gemm_flop_per_s"].as_f64().unwrap() > 0.0);
    let launches = report["launches"].as_array().unwrap();
    assert!(launches.iter().any(|launch| launch["op"] == "density"));
    for launch in launches {
        for kind in ["warm_us", "flushed_us"] {
            let time = launch["measured"][kind]["p50"].as_f64();
            assert!(time.is_some_and(|us| us > 0.0), "{kind}: {launch}");
        }
    }
    let table = read("tilings-r101-1.csv");
    let mut lines = table.lines();
    let columns: Vec<&str> = lines.next().unwrap().split(',').collect();
    let mut chosen: BTreeMap<Vec<&str>, usize> = BTreeMap::new();
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        assert_eq!(fields.len(), columns.len(), "{line}");
        let us = columns.iter().position(|name| *name == "us").unwrap();
        assert!(fields[us].parse::<f64>().unwrap() > 0.0, "{line}");
        let tile = columns.iter().position(|name| *name == "tile").unwrap();
        *chosen.entry(fields[..tile].to_vec()).or_default() +=
            usize::from(fields.last() == Some(&"1"));
    }
    assert!(chosen.len() > 5 && chosen.values().all(|n| *n == 1), "{chosen:?}");
}

const PLANTED: &str = r#"
from real_steps import Step, sanitizer

def sh(name, text, limit, **more):
    return Step(name, ["/bin/sh", "-c", text], 1, limit, **more)

def planted(here, work, args):
    results = work / "results"
    yield sh("passes", f"echo 1 > {results}/first", 60)
    yield sh("hangs", "sleep 300 & sleep 300", 1)
    yield sh("fails", 'echo "blocking:$CUDA_LAUNCH_BLOCKING"; exit 3', 60, retry=True)
    yield sh("floods", "head -c 3000000 /dev/zero | tr '\\0' x; echo the end", 60)
    for i in range(3):
        yield sh(f"writes-{i}", f"head -c 7000000 /dev/urandom > {results}/{i}", 60)
    yield Step("late", ["/bin/sh"], 10000, 10)
    yield Step("absent", ["no-such-tool"], 1, 10)

def killed(here, work, args):
    yield sh("passes", f"echo 1 > {work}/results/first", 60)
    yield sh("waits", "sleep 20", 60)

CALLS = {1: planted, 2: killed}
"#;

/// The runner with those steps, its folder and its PATH.
fn planted(root: &Path, python: &Path) -> (PathBuf, std::ffi::OsString) {
    let package = root.join("package");
    std::fs::create_dir(&package).unwrap();
    std::fs::copy(Path::new(SCRIPTS).join("run.py"), package.join("run.py")).unwrap();
    std::fs::copy(Path::new(SCRIPTS).join("steps.py"), package.join("real_steps.py")).unwrap();
    std::fs::write(package.join("steps.py"), PLANTED).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(package.join("programs.tar.xz")).args(["-T", "/dev/null"]);
    assert!(tar.status().unwrap().success());
    (package.join("run.py"), fakes(root, python))
}

#[test]
fn a_hang_a_failure_and_a_flood_leave_the_rest() {
    let Some(python) = python() else { return };
    let root = tempfile::tempdir().unwrap();
    let (runner, path) = planted(root.path(), &python);
    let out = root.path().join("out");
    let mut command = Command::new(&python);
    command.arg(runner).arg("1").arg(&out).env("PATH", path).env("TMPDIR", root.path());
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let outcome = Outcome::read(&out, output.status.code(), said);
    assert_eq!(outcome.code, Some(1), "{}", outcome.said);
    for (step, result) in [
        ("passes", "passed"),
        ("hangs", "hung"),
        ("fails", "failed (3)"),
        ("fails [memcheck]", "failed (3)"),
        ("fails [blocking]", "failed (3)"),
        ("floods", "passed"),
        ("writes-2", "passed"),
        ("late", "not run: deadline"),
        ("absent", "not run: no no-such-tool here"),
    ] {
        assert_eq!(outcome.result(step), result, "{step}");
    }
    let log = &outcome.log;
    for words in [
        "hangs: killed at its limit of 1 s",
        "compute-sanitizer --tool memcheck",
        "blocking:1\n",
        "bytes left out]",
        "the end\n",
        "is left out: results.tar.gz is full",
    ] {
        assert!(log.contains(words), "no \"{words}\" in the log of {} bytes", log.len());
    }
    assert!(log.len() < 400_000, "{}", log.len());
    assert!(outcome.packed.iter().any(|name| name == "first"), "{:?}", outcome.packed);
    assert_eq!(outcome.packed.len(), 3, "two of three large files fit: {:?}", outcome.packed);
}

#[test]
fn a_runner_that_is_killed_leaves_what_was_finished() {
    let Some(python) = python() else { return };
    let root = tempfile::tempdir().unwrap();
    let (runner, path) = planted(root.path(), &python);
    let out = root.path().join("out");
    let mut command = Command::new(&python);
    command.arg(runner).arg("2").arg(&out).env("PATH", path).env("TMPDIR", root.path());
    let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let start = Instant::now();
    // It packs after the summary's line; then the next step waits.
    while !out.join("results.tar.gz").exists() {
        assert!(start.elapsed() < Duration::from_secs(60), "the first step never ended");
        std::thread::sleep(Duration::from_millis(20));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let outcome = Outcome::read(&out, None, String::new());
    assert_eq!(outcome.result("passes"), "passed");
    assert_eq!(outcome.packed, ["first"]);
    assert!(outcome.log.contains("== passes: exit 0"), "{}", outcome.log);
}
