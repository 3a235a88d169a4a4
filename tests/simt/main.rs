//! The execution model of `kernels/simt/`: planted faults are named, their sound twins run clean, in a
//! plain build and under AddressSanitizer and ThreadSanitizer; fragments lie as the PTX ISA says.
//! Each build is a C++ program of its own, made here.
#![cfg(feature = "simt")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::{Mutex, OnceLock, PoisonError};

const RUNTIME: [&str; 7] =
    ["runtime", "memory", "collectives", "cluster", "hopper", "tensor", "sanitizer"];
const FORWARD: &str = "0";
const SCHEDULES: [&str; 3] = [FORWARD, "1", "2"];

fn compile(arguments: &[&str], files: &[PathBuf], out: &Path) {
    let compiler = std::env::var("CXX").unwrap_or("c++".into());
    let common = [
        "-std=c++20",
        "-O1",
        "-g1",
        "-fno-strict-aliasing",
        "-fstack-clash-protection",
        "-pthread",
    ];
    let mut command = Command::new(&compiler);
    if cfg!(target_arch = "aarch64") {
        command.arg("--param=stack-clash-protection-guard-size=12"); // as in build.rs
    }
    command.args(common).args(arguments).args(files).arg("-o").arg(out);
    let run = command.output().unwrap_or_else(|error| panic!("{compiler}: {error}"));
    assert!(run.status.success(), "{compiler}: {}", String::from_utf8_lossy(&run.stderr));
}

/// The objects of the runtime with some flags, compiled once.
fn runtime(flags: &[&str]) -> Vec<PathBuf> {
    static MADE: Mutex<BTreeMap<String, Vec<PathBuf>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let label = format!("runtime{}", flags.concat());
    if let Some(objects) = made.get(&label) {
        return objects.clone();
    }
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(&label);
    std::fs::create_dir_all(&folder).unwrap();
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels/simt");
    let object = |part: &str| {
        let object = folder.join(format!("{part}.o"));
        compile(&[flags, &["-c"]].concat(), &[sources.join(format!("{part}.cpp"))], &object);
        object
    };
    let objects: Vec<PathBuf> = RUNTIME.map(object).into();
    made.insert(label, objects.clone());
    objects
}

/// Compiles `tests/simt/<program>.cu` with the runtime; `flags` for both, `kernel_flags` for the program.
fn build(program: &str, label: &str, flags: &[&str], kernel_flags: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{program}-{label}"));
    std::fs::create_dir_all(&folder).unwrap();
    let object = folder.join("program.o");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/simt/{program}.cu"));
    let language = ["-c", "-xc++", "-Wno-unknown-pragmas"];
    compile(&[flags, kernel_flags, &language].concat(), &[source], &object);
    let out = folder.join(program);
    compile(&[flags, kernel_flags].concat(), &[runtime(flags), vec![object]].concat(), &out);
    out
}

fn run(program: &Path, arguments: &[&str]) -> (Output, String) {
    let output = Command::new(program).args(arguments).output().unwrap();
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    (output, String::from_utf8_lossy(&said).into_owned())
}

fn plain_faults() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| build("faults", "plain", &[], &[]))
}

/// The faulty kernel fails with all of `words`; its sound twin does not fail.
fn check(program: &Path, kernel: &str, schedule: &str, words: &[&str]) {
    let (output, said) = run(program, &[kernel, schedule]);
    assert!(
        !output.status.success(),
        "{kernel}, schedule {schedule}: the fault went unnoticed: {said}"
    );
    for word in words {
        assert!(
            said.contains(word),
            "{kernel}, schedule {schedule}: expected \"{word}\" in: {said}"
        );
    }
    let sound = format!("{kernel}_sound");
    let (output, said) = run(program, &[&sound, schedule]);
    assert!(output.status.success(), "{sound}, schedule {schedule}: {said}");
}

#[test]
fn every_fault_is_named_with_kernel_block_and_thread() {
    let program = plain_faults();
    let unwritten = "of shared memory that nobody has written";
    for (kernel, words) in [
        ("reverse_block", [unwritten, "missing barrier"]),
        ("rotate_warp", [unwritten, "missing barrier"]),
        ("unwritten", ["thread 98: read of 4 bytes at offset 396", unwritten]),
        ("asynchronous", ["with a copy in flight", "missing wait"]),
        ("never_waited", ["a cp.async that was never waited for", "thread"]),
        (
            "store_near",
            [
                "thread 127: out-of-bounds access to global memory",
                "0 bytes past the end of a buffer of 512 bytes",
            ],
        ),
        (
            "store_far",
            [
                "thread 77: out-of-bounds access to global memory",
                "596 bytes past the end of a buffer of 512 bytes",
            ],
        ),
        (
            "load_far",
            ["out-of-bounds access to global memory", "past the end of a buffer of 2048 bytes"],
        ),
        (
            "shared_outside",
            [
                "thread 5: out-of-bounds write of 4 bytes at offset 4116",
                "of 2048 bytes of shared memory",
            ],
        ),
        ("divergent_exit", ["divergent barrier", "thread 40 has left the kernel"]),
        ("divergent_branch", ["divergent barrier", "while others wait in the one at faults.cu"]),
        (
            "divergent_shuffle",
            ["waits in shuffle at faults.cu", "thread 16 waits in __syncthreads"],
        ),
        ("never_arrives", ["a wait that never comes", "thread 96 waits in a named barrier"]),
        ("deep", ["overflow its stack", "thread"]),
    ] {
        for schedule in SCHEDULES {
            let at = format!("{kernel}, block (0, 0, 0), thread ");
            check(program, kernel, schedule, &[&at, words[0], words[1]]);
        }
    }
    // Before a buffer: its page's guard bytes, which cannot say whose store it was.
    let words = [
        "store_before: out-of-bounds store to global memory",
        "bytes before a buffer of 512 bytes",
    ];
    check(program, "store_before", FORWARD, &words);
}

/// What a plain build cannot see where the memory held something before: the order of blocks shows it.
#[test]
fn schedules_disagree_where_a_barrier_is_missing() {
    let program = plain_faults();
    for kernel in ["reverse_block_again", "rotate_warp_again"] {
        let values = |kernel: &str| SCHEDULES.map(|schedule| run(program, &[kernel, schedule]).1);
        let [forward, reverse, random] = values(&format!("{kernel}_sound"));
        assert!(forward == reverse && forward == random, "{kernel}_sound depends on the schedule");
        let [forward, reverse, _] = values(kernel);
        assert_ne!(forward, reverse, "{kernel} does not depend on the schedule");
    }
}

#[test]
fn address_sanitizer_sees_every_byte_outside() {
    let program = build("faults", "address", &["-fsanitize=address"], &[]);
    for (kernel, thread) in
        [("store_near", "127"), ("store_far", "77"), ("store_before", "0"), ("load_far", "2")]
    {
        let at = format!("in {kernel}, block (0, 0, 0), thread {thread}");
        check(&program, kernel, FORWARD, &["AddressSanitizer: heap-buffer-overflow", &at]);
    }
    // The rest of the model works as without it.
    check(&program, "unwritten", FORWARD, &["of shared memory that nobody has written"]);
    check(&program, "divergent_exit", FORWARD, &["divergent barrier"]);
}

#[test]
fn every_fault_of_mbarriers_and_warpgroups_is_named() {
    let program = build("hopper", "plain", &[], &[]);
    for (kernel, words) in [
        ("not_awaited", ["read of 2 bytes at offset", "missing"]),
        ("no_data", ["with a copy in flight", "missing wait"]),
        ("no_wait", ["an accumulator is touched while a wgmma on it is in flight", "missing wait"]),
        ("no_fence", ["touched since the last wgmma.fence", "hopper.cu"]),
        ("overwritten", ["overwritten under a wgmma in flight", "hopper.cu"]),
        ("product_never_waited", ["a wgmma that was never waited for", "thread"]),
        ("not_named", ["the wait for its wgmma does not name", "thread"]),
        ("other_layout", ["a matrix descriptor of another layout", "thread"]),
        ("other_shape", ["a wgmma of n16 on the accumulator of one of n32", "fence between"]),
        ("offset_for_address", ["out-of-bounds read of 16 bytes at offset -1024", "thread"]),
        ("between_periods", ["does not start, or go on, at a multiple of 1024", "thread"]),
        ("one_warp_short", ["waits in wgmma.fence", "waits in __syncthreads"]),
        ("too_few_bytes", ["expects 1024 bytes, 2048 come", "hopper.cu"]),
        ("too_many_bytes", ["a wait that never comes", "waits in an mbarrier"]),
        (
            "missing_arrival",
            ["a wait that never comes", "waits in an mbarrier at byte 72, parity 1, at stuck.cuh:"],
        ),
        ("no_init", ["of shared memory that nobody has written", "thread"]),
        ("too_many_arrivals", ["has 1 arrivals a phase, one more comes", "hopper.cu"]),
    ] {
        for schedule in SCHEDULES {
            let at = format!("{kernel}, block (0, 0, 0), thread ");
            check(&program, kernel, schedule, &[&at, words[0], words[1]]);
        }
    }
}

#[test]
fn every_fault_of_clusters_is_named() {
    let program = build("cluster", "plain", &[], &[]);
    let unwritten = "of the cluster of 16 bytes";
    for (kernel, schedules, words) in [
        ("not_written", &SCHEDULES[..], [unwritten, "nobody has written"]),
        ("no_barrier", &SCHEDULES[..2], [unwritten, "missing barrier before the read"]),
        ("other_barrier", &SCHEDULES[..2], [unwritten, "missing barrier before the read"]),
        ("ends_too_early", &SCHEDULES[..2], ["which has ended", "missing barrier of the cluster"]),
        ("no_such_block", &SCHEDULES[..], ["block 2 of a cluster of 2", "cluster.cu"]),
        ("one_warp_elsewhere", &SCHEDULES[..], ["waits in the cluster's barrier", "divergent"]),
        ("in_flight", &SCHEDULES[..], [unwritten, "with a copy in flight"]),
    ] {
        for schedule in schedules {
            check(&program, kernel, schedule, &[&format!("{kernel}, block ("), words[0], words[1]]);
        }
    }
    let program = build("cluster", "thread", &["-DDDU_SIMT_TSAN"], &["-fsanitize=thread"]);
    for schedule in SCHEDULES {
        check(
            &program,
            "overwritten",
            schedule,
            &["ThreadSanitizer: data race", "'overwritten, block"],
        );
    }
}

/// Tiled and im2col copies of odd tensors, and products of two shared operands, against loops; and faults in them.
#[test]
fn tensor_copies_bring_what_their_maps_say() {
    let program = build("tensor", "plain", &[], &[]);
    let (_, said) = run(&program, &[]);
    assert_eq!(said.trim(), "ok");
    for (kernel, words) in [
        ("missing_bytes", ["expects 4096 bytes, 8192 come", "tensor.cu"]),
        ("misaligned", ["shared memory that is no multiple of 128", "tensor.cu"]),
        ("not_awaited", ["read of 2 bytes at offset", "missing"]),
        ("outside_corners", ["a first pixel outside the map's corners", "tensor.cu"]),
        ("between_strides", ["a first pixel outside the map's corners", "tensor.cu"]),
        ("far_offset", ["an offset above 255", "tensor.cu"]),
        ("no_map", ["by what is no tensor map", "tensor.cu"]),
        ("other_mode", ["a tensor map of the other mode", "tensor.cu"]),
        ("left_overwritten", ["overwritten under a wgmma in flight", "tensor.cu"]),
        ("stored_too_early", ["of shared memory that nobody has written", "missing barrier"]),
        ("stored_unaligned", ["shared memory that is no multiple of 128", "tensor.cu"]),
        ("stored_overwritten", ["overwritten under a tensor store in flight", "tensor.cu"]),
        ("stored_not_awaited", ["a tensor store that was never waited for", "thread"]),
        ("stored_elsewhere", ["out-of-bounds access to global memory", "past the end of a buffer"]),
        ("stored_by_im2col", ["a tensor store by a tensor map of the other mode", "tensor.cu"]),
    ] {
        for schedule in SCHEDULES {
            let at = format!("{kernel}, block (0, 0, 0), thread ");
            check(&program, kernel, schedule, &[&at, words[0], words[1]]);
        }
    }
}

/// Nothing is unwritten or out of place in these: only an order is missing, which need not
/// show in the values of any schedule.
#[test]
fn thread_sanitizer_sees_missing_barriers() {
    let program = build("faults", "thread", &["-DDDU_SIMT_TSAN"], &["-fsanitize=thread"]);
    for kernel in ["reverse_block_again", "rotate_warp_again", "ring"] {
        for schedule in SCHEDULES {
            let at = format!("'{kernel}, block (0, 0, 0), thread");
            check(&program, kernel, schedule, &["ThreadSanitizer: data race", &at]);
        }
    }
    check(&program, "asynchronous", FORWARD, &["with a copy in flight"]);
    let program = build("hopper", "thread", &["-DDDU_SIMT_TSAN"], &["-fsanitize=thread"]);
    for schedule in SCHEDULES {
        check(&program, "refilled", schedule, &["ThreadSanitizer: data race", "'refilled, block"]);
    }
    check(&program, "overwritten", FORWARD, &["overwritten under a wgmma in flight"]);
}

/// Without any one of its barriers or waits, `kernels/<kernel>.cu` is caught by `tests/simt/<kernel>.cu` (and
/// with all of them it is not). `words` are those barriers and waits, `places` how many there are.
fn needs_each(kernel: &str, words: &[&str], places: usize) {
    let kernels = Path::new(env!("CARGO_MANIFEST_DIR")).join("kernels");
    let read = |name: &str| std::fs::read_to_string(kernels.join(name)).unwrap();
    // The header that the density kernels share counts as part of each.
    let shared = "#include \"common/gaussians.cuh\"";
    let inlined =
        |text: &str| text.replace("#pragma once", "").replace("arch.cuh", "common/arch.cuh");
    let text = read(&format!("{kernel}.cu"));
    let text = text.replace(shared, &inlined(&read("common/gaussians.cuh")));
    let text =
        text.replace("#include \"common/", &format!("#include \"{}/common/", kernels.display()));
    let found = words.iter().flat_map(|word| text.match_indices(word)).map(|(place, _)| place);
    let mut found: Vec<usize> = found.collect();
    found.sort_unstable();
    assert_eq!(found.len(), places, "barriers and waits of {kernel}.cu");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let result = |name: &str, text: &str| {
        let name = format!("{kernel}-{name}");
        let file = folder.join(format!("{name}.cu"));
        std::fs::write(&file, text).unwrap();
        let define = format!("-DKERNEL_FILE=\"{}\"", file.display());
        run(&build(kernel, &name, &[], &[&define]), &[])
    };
    let (output, said) = result("whole", &text);
    assert!(output.status.success(), "{said}");
    for place in found {
        // Up to the semicolon alone, so that the numbers of the other lines stay.
        let end = place + text[place..].find(';').unwrap();
        let (output, said) = result("mutant", &format!("{}{}", &text[..place], &text[end..]));
        let line = text[..place].lines().count();
        assert!(!output.status.success(), "line {line} of {kernel}.cu is not needed: {said}");
        let named = [
            "in flight",
            "nobody has written",
            "never",
            "are wrong",
            "fence",
            "one more comes",
            "has ended",
        ];
        assert!(named.iter().any(|word| said.contains(word)), "line {line}: {said}");
    }
}

#[test]
fn the_convolution_needs_each_of_its_barriers_and_waits() {
    let words = ["sync_threads();", "cp_async_wait<T::STAGES - 2>();", "cp_async_wait<0>();"];
    needs_each("conv2d", &words, 6);
}

#[test]
fn the_density_needs_each_of_its_barriers_and_waits() {
    let waits =
        ["cp_async_wait<STAGES - 1>();", "cp_async_wait<STAGES - 2>();", "cp_async_wait<0>();"];
    needs_each("density", &[&["sync_threads();", "sync_warp();"], &waits[..]].concat(), 7);
}

#[test]
fn the_density_of_hopper_needs_each_of_its_barriers_and_waits() {
    let waits = [
        "sync_threads();",
        "sync_warp();",
        "barrier_sync(",
        "mbarrier_wait(",
        "wgmma_fence();",
        "wgmma_wait<1>();",
        "wgmma_wait<0>(",
    ];
    needs_each("density_hopper", &waits, 14);
}

#[test]
fn the_convolution_of_hopper_needs_each_of_its_barriers_and_waits() {
    let waits = [
        "sync_threads();",
        "mbarrier_wait(",
        "wgmma_fence();",
        "wgmma_wait<1>();",
        "wgmma_wait<0>(",
        "barrier_sync(",
        "cluster_sync();",
        "sync_warp();",
        "store_wait_read<0>();",
    ];
    needs_each("conv2d_hopper", &waits, 14);
}

#[test]
fn the_moments_need_each_of_their_barriers() {
    needs_each("moments", &["sync_threads();"], 5);
    needs_each("moments_sort", &["sync_threads();"], 3);
}

#[test]
fn fragments_lie_as_the_ptx_isa_says() {
    let program = build("fragments", "plain", &[], &[]);
    let (_, said) = run(&program, &[]);
    assert_eq!(said.trim(), "ok");
}

#[test]
fn sums_are_cut_off_as_tensor_cores_do() {
    let (_, said) = run(&build("sums", "plain", &[], &[]), &[]);
    assert_eq!(said.trim(), "ok");
    // Of another name: an error of each launch.
    let mut command = Command::new(plain_faults());
    let output =
        command.args(["unwritten_sound", FORWARD]).env("DDU_SIMT_SUMS", "v100").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{said}");
    assert_eq!(said.trim(), "DDU_SIMT_SUMS: expected a100 or h100, found v100");
}

/// The dump of a product of matrices that are computed here once more, element by element.
#[test]
fn the_dump_of_warpgroup_products_is_the_product() {
    let (output, said) = run(&build("dump_wgmma", "plain", &[], &[]), &[]);
    assert!(output.status.success() && said.lines().count() == 4 * 128, "{said}");
    let a = |row: usize, k: usize| ((row * 29 + k * 71) % 127) as i64 - 63;
    let b = |column: usize, k: usize| ((column * 37 + k * 53 + 11) % 127) as i64 - 63;
    let mut expected = String::new();
    for n in [16, 32, 48, 64] {
        for thread in 0..128 {
            let value = |i: usize| {
                let row = thread / 32 * 16 + thread % 32 / 4 + i / 2 % 2 * 8;
                let column = i / 4 * 8 + thread % 4 * 2 + i % 2;
                let sum: i64 = (0..32).map(|k| a(row, k) * b(column, k)).sum();
                format!(" {sum}")
            };
            let values: String = (0..n / 2).map(value).collect();
            expected += &format!("wgmma.n{n} thread {thread}:{values}\n");
        }
    }
    assert_eq!(said, expected);
}

/// Each of `tests/golden/ptx` was written on a GPU by the same program; in the lines "rounding" devices
/// may differ.
#[test]
fn fragments_lie_as_on_gpus() {
    let (output, said) = run(&build("dump", "plain", &[], &[]), &[]);
    assert!(output.status.success() && said.lines().count() == 4 * 32, "{said}");
    let (_, said_wgmma) = run(&build("dump_wgmma", "again", &[], &[]), &[]);
    let layouts = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !line.starts_with("rounding")).map(String::from).collect()
    };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/ptx");
    let dumps: Vec<PathBuf> = std::fs::read_dir(&folder)
        .map(|entries| entries.map(|entry| entry.unwrap().path()).collect())
        .unwrap_or_default();
    if dumps.is_empty() {
        use std::io::Write;
        let why = "no dump of a GPU in tests/golden/ptx";
        let _ = writeln!(std::io::stderr(), "fragments_lie_as_on_gpus SKIPPED: {why}");
    }
    for dump in dumps {
        let theirs = std::fs::read_to_string(&dump).unwrap();
        let of_wgmma = dump.file_name().is_some_and(|n| n.to_string_lossy().starts_with("wgmma"));
        let ours = if of_wgmma { &said_wgmma } else { &said };
        assert_eq!(layouts(ours), layouts(&theirs), "{}", dump.display());
    }
}
