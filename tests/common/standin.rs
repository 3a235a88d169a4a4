//! The stand-in for the CUDA driver (`tests/cuda/driver.cpp`), and tests that run on it: in a process of
//! their own, which finds it as libcuda.

#![allow(dead_code)]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use ddu::device::cuda::Cuda;
use ddu::device::kernels;

/// The file that the stand-in writes one line per call to.
const LOG: &str = "DDU_STANDIN_LOG";

/// The folder of the stand-in, compiled once; None, with a line that says so, in a build for a sanitizer.
pub fn folder() -> Option<&'static Path> {
    static FOLDER: OnceLock<Option<PathBuf>> = OnceLock::new();
    let folder = FOLDER.get_or_init(|| option_env!("DDU_SIMT_ARCHIVES").map(build));
    if folder.is_none() {
        skipped("no stand-in driver in a build for a sanitizer");
    }
    folder.as_deref()
}

fn build(archives: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("standin");
    std::fs::create_dir_all(&folder).unwrap();
    // Renamed when whole: another test may be running on the one that is there.
    let new = tempfile::Builder::new().tempdir_in(&folder).unwrap();
    let library = new.path().join("libcuda.so");
    let compiler = std::env::var("CXX").unwrap_or("c++".into());
    let mut command = Command::new(&compiler);
    command.args(["-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-fPIC", "-shared"]);
    // Its kernels are its own, though the test has some of the same name. The driver's library is looked for
    // and closed again before it is used.
    command.args(["-Wl,-Bsymbolic", "-Wl,-z,nodelete", "-o"]).arg(&library);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cuda/driver.cpp"));
    command.arg("-Wl,--whole-archive");
    command.args(["runtime", "kernels"].map(|n| format!("{archives}/libddu_simt_{n}.a")));
    command.args(["-Wl,--no-whole-archive", "-pthread"]);
    let run = command.output().unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(run.status.success(), "{compiler}: {}", String::from_utf8_lossy(&run.stderr));
    std::fs::rename(library, folder.join("libcuda.so")).unwrap();
    folder
}

/// Says on the terminal why the running test does nothing.
pub fn skipped(why: &str) {
    let test = std::thread::current().name().unwrap_or("test").to_owned();
    let _ = writeln!(std::io::stderr(), "{test} SKIPPED: {why}");
}

/// Makes `command` find the stand-in as its driver, with `options` (`DDU_STANDIN`), and a log.
pub fn stand_in(command: &mut Command, folder: &Path, options: &str, log: &Path) {
    command.env("LD_LIBRARY_PATH", folder).env("DDU_STANDIN", options).env(LOG, log);
    command.env_remove("CUDA_VISIBLE_DEVICES");
}

/// Whether this process has it for a driver.
pub fn is_here() -> bool {
    std::env::var_os(LOG).is_some()
}

/// cuda:ordinal, with modules that only the stand-in takes: a build without nvcc has no others.
#[allow(unsafe_code)]
pub fn open(ordinal: usize) -> ddu::Result<Cuda> {
    let mut files = BTreeMap::new();
    for kernel in kernels::all() {
        let text = files.entry(kernel.file).or_insert(String::from("stand-in kernels\n"));
        *text += kernel.name;
        *text += "\n";
    }
    let files: Vec<(&str, &[u8])> = files.iter().map(|(k, v)| (*k, v.as_bytes())).collect();
    // SAFETY: the stand-in runs the kernels of kernels/*.cu, and a real driver takes no such image.
    unsafe { Cuda::with_kernels(ordinal, &files) }
}

/// What the stand-in was called for so far in this process.
pub fn calls() -> Vec<String> {
    let log = std::env::var_os(LOG).expect("a test on the stand-in");
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().map(String::from).collect()
}

pub fn count(calls: &[String], call: &str) -> usize {
    calls.iter().filter(|line| line.split(' ').next() == Some(call)).count()
}

/// Runs `body`, that of the test `name`, in a process of its own whose driver is the stand-in; fails where it
/// does, where the stand-in objects, or where a context outlives `body`.
pub fn on_stand_in(name: &str, options: &str, body: impl FnOnce()) {
    if is_here() {
        return body();
    }
    let Some(folder) = folder() else { return };
    let (output, log) = again(folder, options, &["--exact", name], &[]);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
    assert!(log.ends_with("end, 0 contexts retained\n"), "{log}\n{said}");
}

/// This test program once more, on the stand-in; what it said, and the log.
pub fn again(
    folder: &Path,
    options: &str,
    arguments: &[&str],
    environment: &[(&str, &str)],
) -> (Output, String) {
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(arguments).args(["--nocapture", "--test-threads", "1"]);
    command.envs(environment.iter().copied());
    stand_in(&mut command, folder, options, log.path());
    let output = command.output().unwrap();
    (output, std::fs::read_to_string(log.path()).unwrap())
}
