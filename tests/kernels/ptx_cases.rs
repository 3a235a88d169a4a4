//! The cases of this program once more on the PTX that nvcc makes of the kernels, executed by the interpreter of
//! `tests/ptx`: in a process whose driver is the stand-in, with the interpreter in simt's place. Skipped, with a line that
//! says so, where there is no nvcc.
//!
//! `DDU_PTX_TESTS=all` also looks for races, under warps and blocks in random order, in every case, not in the quick ones
//! alone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::ptx;
use crate::standin::{again, skipped};

/// Cases of one kernel or a few, and small networks.
const CASES: [&str; 4] = [
    "ops::",
    "network::a_batch_gives_each_picture_its_own_maps",
    "network::fit::a_fit_on_a_device_is_the_fit_of_its_features",
    "network::small_networks_op_by_op_and_end_to_end",
];

/// Of them those that a look for races takes minutes for (`--skip` of libtest, parts of names).
pub const SLOW: [&str; 8] = [
    "every_tile_and_split",
    "as_many_classes",
    "early_exit",
    "without_predicted",
    "far_and_broken",
    "camvid",
    "two_plain_passes",
    "interchangeable",
];

/// At least so much of a kernel's instructions is reached, in percent: without those whose line of source was reached by others
/// (nvcc unrolls loops, and clones them for cases that never come), and without nvcc's own, of no line (64-bit division).
const COVERED: f64 = 95.0;

/// Of the stand-in, as an A100 and an H100: compute capability, bytes of shared memory a block.
pub fn options(architecture: &str) -> &'static str {
    match architecture {
        "80" => "capability=80,shared=166912",
        _ => "capability=90,shared=232448",
    }
}

/// Of a process whose kernels are the PTX of a folder; its log.
pub fn environment<'a>(folder: &'a Path, log: &'a Path) -> Vec<(&'static str, &'a str)> {
    vec![
        ("DDU_TEST_DEVICE", "cuda"),
        ("DDU_PTX_DIR", folder.to_str().unwrap()),
        ("DDU_PTX_LOG", log.to_str().unwrap()),
        // What lies there is the tests' own (`guarded`).
        ("DDU_PTX_GUARD", "256"),
    ]
}

/// The compiler of the PTX that cases are to run on; None where they are not, with a line that says why.
pub fn compiler() -> Option<PathBuf> {
    // A run for one device is for that device.
    if std::env::var_os("DDU_TEST_DEVICE").is_some() {
        return None;
    }
    if option_env!("DDU_SIMT_ARCHIVES").is_none() {
        skipped("a build for a sanitizer");
        return None;
    }
    let nvcc = ptx::nvcc();
    if nvcc.is_none() {
        skipped("no nvcc was found to make PTX with (NVCC)");
    }
    nvcc
}

/// Runs cases on the PTX of an architecture; the log's lines that count kernels.
fn on_ptx(
    architecture: &str,
    cases: &[&str],
    more: &[(&str, &str)],
) -> Option<BTreeMap<String, String>> {
    let nvcc = compiler()?;
    let folder = ptx::ptx(&nvcc, architecture);
    let log = tempfile::NamedTempFile::new().unwrap();
    let mut environment = environment(&folder, log.path());
    environment.extend(more);
    let (output, _) = again(&ptx::driver(), options(architecture), cases, &environment);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let log = std::fs::read_to_string(log.path()).unwrap();
    let found: Vec<&str> = log.lines().filter(|l| !l.starts_with("kernel ")).collect();
    assert!(output.status.success() && !said.contains(" 0 passed"), "{said}\n{found:#?}");
    assert!(found.is_empty(), "sm_{architecture}: {found:#?}");
    let kernels = log.lines().filter_map(|line| line.strip_prefix("kernel ")?.split_once(' '));
    Some(kernels.map(|(name, counts)| (name.into(), counts.into())).collect())
}

/// (reached, of how many: without those whose line of source was reached elsewhere).
fn coverage(counts: &str) -> (f64, f64) {
    let number = |after: &str| -> f64 {
        let rest = counts.split(after).nth(1).unwrap_or_else(|| panic!("{counts}"));
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    (number("reached "), number("("))
}

fn every_case(architecture: &str, kernels: usize) {
    let Some(found) = on_ptx(architecture, &CASES, &[]) else { return };
    let mut low = Vec::new();
    for (kernel, counts) in &found {
        let (reached, of) = coverage(counts);
        println!("sm_{architecture} {kernel}: {counts}");
        if reached / of * 100.0 < COVERED {
            low.push(format!("{kernel}: {counts}"));
        }
    }
    assert_eq!(found.len(), kernels, "kernels that ran: {:?}", found.keys());
    assert!(low.is_empty(), "less than {COVERED} % was reached of {low:#?}");
}

/// Hopper's own kernels are empty on sm_80 and never launched there.
#[test]
fn every_kernel_as_nvcc_compiles_it_for_sm_80() {
    let portable = ddu::device::kernels::all().filter(|kernel| !kernel.name.contains("hopper"));
    every_case("80", portable.count());
}

#[test]
fn every_kernel_as_nvcc_compiles_it_for_sm_90a() {
    every_case("90a", ddu::device::kernels::all().count());
}

#[test]
fn no_races_with_warps_and_blocks_in_random_order() {
    let all = std::env::var("DDU_PTX_TESTS").is_ok_and(|tests| tests == "all");
    let quick: Vec<&str> =
        std::iter::once("ops::").chain(SLOW.iter().flat_map(|name| ["--skip", name])).collect();
    let cases = if all { &CASES[..] } else { &quick };
    for (architecture, seed) in [("90a", "1"), ("80", "2")] {
        on_ptx(architecture, cases, &[("DDU_PTX_RACES", "1"), ("DDU_PTX_SEED", seed)]);
    }
}

/// Those that `benches/results/first_contact` runs under the sanitizers of a GPU.
#[test]
fn the_small_tests_of_first_contact_launch_every_kernel() {
    let steps = include_str!("../../benches/results/first_contact/steps.py");
    let list = steps.split("SMALL = [").nth(1).and_then(|rest| rest.split(']').next());
    let names = list.expect("a list").split('"').skip(1).step_by(2);
    let cases: Vec<&str> = std::iter::once("--exact").chain(names).collect();
    let Some(found) = on_ptx("90a", &cases, &[]) else { return };
    let left_out = ddu::device::kernels::all().filter(|kernel| !found.contains_key(kernel.name));
    assert_eq!(left_out.map(|kernel| kernel.name).collect::<Vec<_>>(), [""; 0]);
}

/// The bounds hold with sums that are cut off as those of tensor cores as well (`truncation` runs more cases on simt).
#[test]
fn sums_that_tensor_cores_cut_off() {
    let cases =
        ["density::the_low_terms_of_every_block_count", "moments::a_handful_a_crowd_and_nobody"];
    for (architecture, sums) in [("80", "a100"), ("90a", "h100")] {
        on_ptx(architecture, &cases, &[("DDU_PTX_SUMS", sums)]);
    }
}
