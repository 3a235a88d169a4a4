//! What the tests on the PTX interpreter (`tests/ptx/interpreter`) need: the interpreter behind the stand-in driver, and
//! the PTX that nvcc makes of `kernels/`. Both are kept in the target folder until their sources change.

#![allow(dead_code)]

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

pub fn project() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The compiler of kernels: that of the environment, or the one that the build found.
pub fn nvcc() -> Option<PathBuf> {
    let built = option_env!("DDU_NVCC").map(PathBuf::from);
    std::env::var_os("NVCC").map(PathBuf::from).or(built).filter(|path| path.is_file())
}

/// The files of a folder with one of these endings, sorted.
pub fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| endings.iter().any(|ending| e == *ending)));
    files.sort();
    files
}

/// A folder `name` that `make` fills, unless it has done so before for the same sources and arguments.
fn made(name: &str, sources: &[PathBuf], arguments: &str, make: impl FnOnce(&Path)) -> PathBuf {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _guard = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let mut hasher = DefaultHasher::new();
    arguments.hash(&mut hasher);
    for source in sources {
        (source, std::fs::read(source).unwrap()).hash(&mut hasher);
    }
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let folder = root.join(format!("{:016x}", hasher.finish()));
    if !folder.exists() {
        std::fs::create_dir_all(&root).unwrap();
        let new = tempfile::tempdir_in(&root).unwrap();
        make(new.path());
        // Another program may have been faster.
        if std::fs::rename(new.path(), &folder).is_err() {
            assert!(folder.exists(), "{}", folder.display());
        }
    }
    folder
}

fn run(command: &mut Command) {
    let name = command.get_program().to_string_lossy().into_owned();
    let run = command.output().unwrap_or_else(|error| panic!("{name}: {error}"));
    assert!(run.status.success(), "{name}: {}", String::from_utf8_lossy(&run.stderr));
}

/// Runs commands, as many at once as there are processors.
fn run_all(commands: Vec<Command>) {
    let commands = Mutex::new(commands);
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(mut command) = { commands.lock().unwrap().pop() } {
                    run(&mut command);
                }
            });
        }
    });
}

/// Compiles the interpreter with `main` (a file with the rest of the program) to a program or, `shared`, a library.
pub fn interpreter(main: &Path, shared: bool, out: &str) -> PathBuf {
    let folder = project().join("tests/ptx/interpreter");
    let mut sources = files(&folder, &["cpp"]);
    let headers = files(&folder, &["h"]);
    let api = files(&project().join("kernels/simt"), &["h"]);
    if !shared {
        sources.retain(|source| source.file_stem().is_some_and(|name| name != "device"));
    }
    sources.push(main.to_path_buf());
    let compiler = std::env::var("CXX").unwrap_or("c++".into());
    let mut flags = vec!["-std=c++20", "-O3", "-g1", "-ffp-contract=off", "-fno-strict-aliasing"];
    flags.extend(["-fno-trapping-math", "-fno-math-errno", "-Wall", "-Wextra", "-fPIC"]);
    flags.push("-Wno-missing-field-initializers");
    // What is compiled here runs here.
    if cfg!(target_arch = "x86_64") {
        flags.push("-march=native");
    }
    let every: Vec<PathBuf> = sources.iter().chain(&headers).chain(&api).cloned().collect();
    let arguments = format!("{compiler} {flags:?} {shared}");
    let made = made(&format!("ptx-{out}"), &every, &arguments, |folder| {
        let object =
            |source: &PathBuf| folder.join(source.file_stem().unwrap()).with_extension("o");
        let compile = |source: &PathBuf| {
            let mut command = Command::new(&compiler);
            command.args(&flags).arg("-c").arg(source).arg("-o").arg(object(source));
            command
        };
        run_all(sources.iter().map(compile).collect());
        let mut command = Command::new(&compiler);
        if shared {
            // As in tests/common/standin.rs.
            command.args(["-shared", "-Wl,-Bsymbolic", "-Wl,-z,nodelete"]);
        }
        command.args(sources.iter().map(object)).arg("-o").arg(folder.join(out)).arg("-pthread");
        run(&mut command);
    });
    made.join(out)
}

/// The folder of a libcuda.so that executes PTX.
pub fn driver() -> PathBuf {
    let library = interpreter(&project().join("tests/cuda/driver.cpp"), true, "libcuda.so");
    library.parent().unwrap().to_path_buf()
}

/// A folder with the PTX of every file of `kernels/` for an architecture ("80", "90a").
pub fn ptx(nvcc: &Path, architecture: &str) -> PathBuf {
    let kernels = project().join("kernels");
    let sources = files(&kernels, &["cu"]);
    let headers = files(&kernels.join("common"), &["cuh"]);
    let every: Vec<PathBuf> = sources.iter().chain(&headers).cloned().collect();
    let arguments = format!("{} {architecture}", nvcc.display());
    made(&format!("ptx-sm_{architecture}"), &every, &arguments, |folder| {
        let compile = |source: &PathBuf| {
            let mut command = Command::new(nvcc);
            // From the project's root, so that places in messages are relative.
            command.current_dir(project()).args(["-ptx", "-lineinfo", "-std=c++17", "-O3"]);
            command.arg(format!("-arch=sm_{architecture}"));
            command.arg(source.strip_prefix(project()).unwrap()).arg("-o");
            command.arg(folder.join(source.file_stem().unwrap()).with_extension("ptx"));
            command
        };
        run_all(sources.iter().map(compile).collect());
    })
}
