//! Compiles kernels/*.cu: by nvcc to one fatbin a file, embedded in the library (feature `cuda`), and by
//! the C++ compiler for the simt device (feature `simt`). No GPU is looked for.
//!
//! Environment: NVCC, CUDA_HOME or CUDA_PATH say where nvcc is; CXX the C++ compiler;
//! DDU_SIMT_SANITIZE=address|thread instruments the simt device.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;

fn main() {
    let nvcc = ["NVCC", "NVCC_APPEND_FLAGS", "CUDA_HOME", "CUDA_PATH"];
    for name in nvcc.into_iter().chain(["CXX", "DDU_SIMT_SANITIZE"]) {
        println!("cargo:rerun-if-env-changed={name}");
    }
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=kernels");
    let kernels = sources();
    if env::var_os("CARGO_FEATURE_CUDA").is_some() {
        cuda(&kernels);
    }
    #[cfg(feature = "simt")]
    simt(&kernels);
}

/// kernels/*.cu, sorted.
fn sources() -> Vec<PathBuf> {
    let entries = fs::read_dir("kernels").expect("the package has a folder kernels");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("readable").path()).collect();
    files.retain(|path| path.extension().is_some_and(|e| e == "cu"));
    files.sort();
    files
}

const GET_NVCC: &str = "set NVCC or CUDA_HOME, or pip install nvidia-cuda-nvcc nvidia-cuda-crt nvidia-nvvm \
                        nvidia-cuda-runtime nvidia-cuda-cccl, and build again";

/// Real architectures; PTX for 8.0 serves what is newer.
const ARCHITECTURES: [&str; 6] = ["80", "86", "89", "90a", "100", "120"];

fn cuda(kernels: &[PathBuf]) {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let nvcc = find_nvcc();
    let release = nvcc.as_deref().map(release).unwrap_or_default();
    let mut table = format!(
        "/// What to do where a build has no kernels.\n\
         pub const GET_NVCC: &str = {GET_NVCC:?};\n\
         /// The CUDA release of the nvcc that made the kernels (\"13.0\").\n\
         pub const NVCC_RELEASE: &str = {release:?};\n\
         /// Name of the kernel file and its fatbin; empty where the build found no nvcc.\n\
         pub static FATBINS: &[(&str, &[u8])] = &[\n",
    );
    match nvcc {
        None => println!("cargo:warning=no nvcc: built without CUDA kernels; {GET_NVCC}"),
        Some(nvcc) => {
            // For tests/gates, which looks for cuobjdump beside it.
            println!("cargo:rustc-env=DDU_NVCC={}", nvcc.display());
            let fatbin = |source: &Path| {
                let name = source.file_stem().expect("has a name").to_string_lossy().into_owned();
                (out.join(format!("{name}.fatbin")), name)
            };
            let jobs = env::var("NUM_JOBS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
            let left = Mutex::new(kernels.iter());
            let next = || left.lock().expect("no compiler panics with it").next();
            thread::scope(|scope| {
                for _ in 0..jobs {
                    scope.spawn(|| {
                        while let Some(source) = next() {
                            compile(&nvcc, source, &fatbin(source).0);
                        }
                    });
                }
            });
            for (fatbin, name) in kernels.iter().map(|source| fatbin(source)) {
                table += &format!("    ({name:?}, include_bytes!({fatbin:?})),\n");
            }
        }
    }
    fs::write(out.join("fatbins.rs"), table + "];\n").expect("OUT_DIR is writable");
}

/// "13.0", from `nvcc --version`; empty where it does not say.
fn release(nvcc: &Path) -> String {
    let answer = Command::new(nvcc).arg("--version").output().map(|run| run.stdout);
    let answer = String::from_utf8_lossy(&answer.unwrap_or_default()).into_owned();
    let release = answer.split("release ").nth(1).and_then(|rest| rest.split(',').next());
    release.unwrap_or_default().into()
}

/// One file for every architecture. Builds with other features or another profile take the same one, from
/// `kernels` in the target folder, unless something that it is made of has changed.
fn compile(nvcc: &Path, source: &Path, fatbin: &Path) {
    let mut arguments: Vec<String> =
        ["-fatbin", "-std=c++17", "-O3", "-lineinfo"].map(String::from).into();
    for arch in ARCHITECTURES {
        arguments.extend(["-gencode".into(), format!("arch=compute_{arch},code=sm_{arch}")]);
    }
    arguments.extend(["-gencode".into(), "arch=compute_80,code=compute_80".into()]);

    let mut hasher = DefaultHasher::new();
    (nvcc, &arguments, env::var_os("NVCC_APPEND_FLAGS")).hash(&mut hasher);
    for file in with_headers(source) {
        fs::read(&file).unwrap_or_default().hash(&mut hasher);
    }
    // OUT_DIR is TARGET/PROFILE/build/PACKAGE/out.
    let target = fatbin.ancestors().nth(5).expect("OUT_DIR lies in the target folder");
    let shared = target.join("kernels").join(source.file_stem().expect("has a name"));
    let made = shared.join(format!("{:x}", hasher.finish()));
    if made.exists() && fs::copy(&made, fatbin).is_ok() {
        return;
    }
    let run = Command::new(nvcc).args(&arguments).arg(source).arg("-o").arg(fatbin).output();
    let run = run.unwrap_or_else(|error| panic!("{}: cannot run: {error}", nvcc.display()));
    let said = String::from_utf8_lossy(&run.stderr) + String::from_utf8_lossy(&run.stdout);
    assert!(
        run.status.success(),
        "{} could not compile {} (CUDA 12.8 or newer is needed):\n{said}",
        nvcc.display(),
        source.display()
    );
    for line in said.lines().filter(|line| !line.trim().is_empty()) {
        println!("cargo:warning={}: {line}", source.display());
    }
    // Only the newest is kept. It appears whole: another build may be looking for it.
    let _ = fs::remove_dir_all(&shared);
    fs::create_dir_all(&shared).expect("the target folder is writable");
    let part = made.with_extension(std::process::id().to_string());
    let kept = fs::copy(fatbin, &part).and_then(|_| fs::rename(part, made));
    if let Err(error) = kept {
        println!("cargo:warning={}: not kept for other builds: {error}", shared.display());
    }
}

/// A source and what it includes in quotes, transitively.
fn with_headers(source: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut open = vec![source.to_path_buf()];
    while let Some(file) = open.pop() {
        let text = fs::read_to_string(&file).unwrap_or_default();
        let folder = file.parent().expect("a file lies in a folder").to_path_buf();
        let includes =
            text.lines().filter_map(|line| line.strip_prefix("#include \"")?.split('"').next());
        open.extend(includes.map(|name| folder.join(name)).filter(|path| !found.contains(path)));
        found.insert(file);
    }
    found
}

/// By NVCC, CUDA_HOME, CUDA_PATH, PATH, and the wheels of the active Python, in this order.
fn find_nvcc() -> Option<PathBuf> {
    if let Some(nvcc) = env::var_os("NVCC") {
        return Some(nvcc.into());
    }
    let homes = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(env::var_os);
    let mut places: Vec<PathBuf> = homes.map(|home| PathBuf::from(home).join("bin")).collect();
    places.extend(env::split_paths(&env::var_os("PATH").unwrap_or_default()));
    places.extend(wheels());
    places.into_iter().map(|folder| folder.join("nvcc")).find(|path| path.is_file())
}

/// site-packages/nvidia/*/bin of `python3`, newest CUDA first.
fn wheels() -> Vec<PathBuf> {
    let ask = "import sysconfig; print(sysconfig.get_paths()['purelib'])";
    let Ok(answer) = Command::new("python3").args(["-c", ask]).output() else { return Vec::new() };
    let packages = PathBuf::from(String::from_utf8_lossy(&answer.stdout).trim()).join("nvidia");
    let Ok(entries) = fs::read_dir(packages) else { return Vec::new() };
    let mut places: Vec<PathBuf> =
        entries.filter_map(|entry| Some(entry.ok()?.path().join("bin"))).collect();
    places.sort();
    places.reverse();
    places
}

/// The same files for the CPU, against kernels/simt/.
#[cfg(feature = "simt")]
fn simt(kernels: &[PathBuf]) {
    let sanitizer = env::var("DDU_SIMT_SANITIZE").unwrap_or_default();
    if !["", "address", "thread"].contains(&sanitizer.as_str()) {
        panic!("DDU_SIMT_SANITIZE: expected address or thread, found {sanitizer}");
    }
    // By name: the linker is called without default libraries, which a sanitizer's is for -fsanitize.
    // Named before the others: its malloc must come before that of every other library.
    match sanitizer.as_str() {
        "address" => println!("cargo:rustc-link-lib=dylib=asan"),
        "thread" => println!("cargo:rustc-link-lib=dylib=tsan"),
        _ => {}
    }
    let compiler = || {
        let mut build = cc::Build::new();
        // Always optimised: a kernel is executed millions of times. Shared memory is read as other
        // types than it was written as.
        build.cpp(true).std("c++20").opt_level(2).debug(false).flag("-g1");
        build.flag("-fno-strict-aliasing").flag("-Wno-unknown-pragmas").warnings(true);
        // A local array larger than the guard page below a thread's stack cannot jump over it.
        build.flag("-fstack-clash-protection");
        if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "aarch64") {
            // Else it counts on a guard of 64 KiB there; ours is a page.
            build.flag_if_supported("--param=stack-clash-protection-guard-size=12");
        }
        build.link_lib_modifier("+whole-archive");
        build
    };
    // The runtime declares to ThreadSanitizer what it does itself.
    let mut runtime = compiler();
    for part in ["runtime", "memory", "collectives", "cluster", "hopper", "tensor", "sanitizer"] {
        runtime.file(format!("kernels/simt/{part}.cpp"));
    }
    let mut code = compiler();
    // As on a GPU, where a file asks for a fused multiply-add or gets none.
    code.flag("-ffp-contract=off").flag("-xc++").files(kernels);
    match sanitizer.as_str() {
        "address" => {
            runtime.flag("-fsanitize=address");
            code.flag("-fsanitize=address");
        }
        "thread" => {
            runtime.define("DDU_SIMT_TSAN", None);
            code.flag("-fsanitize=thread");
        }
        _ => {}
    }
    runtime.compile("ddu_simt_runtime");
    code.compile("ddu_simt_kernels");
    if sanitizer.is_empty() {
        // For tests/common/standin.rs, which links both into a stand-in for the CUDA driver.
        let out = env::var("OUT_DIR").expect("cargo sets OUT_DIR");
        println!("cargo:rustc-env=DDU_SIMT_ARCHIVES={out}");
    }
}
