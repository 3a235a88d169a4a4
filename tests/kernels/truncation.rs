//! Numeric cases of the kernels with tensor cores once more on simt, in a process of its own where sums of products are cut off as
//! those of an A100 or an H100 (`kernels/simt/sums.h`), in one schedule: the same bounds hold. How they are derived stands with
//! each case; what is met of them is printed, and told in docs/performance.md.

use std::process::Command;

/// Whose bound an A100 comes nearest to.
const A100: [&str; 9] = [
    "ops::conv2d::",
    "ops::density::every_tile_and_split_against_f64",
    "ops::density::extremes::far_and_broken_features_give_no_nan",
    "ops::density::nearest::nearest_class_and_its_distance",
    "ops::density::real_features_of_camvid",
    "ops::density::the_low_terms_of_every_block_count",
    "ops::moments::a",
    "ops::moments::real_features_of_camvid",
    "ops::stem::",
];

const H100: [&str; 3] = [
    "ops::density::the_low_terms_of_every_block_count",
    "ops::moments::a",
    "ops::moments::real_features_of_camvid",
];

fn with(sums: &str, cases: &[&str]) {
    // Not in a run for one device (this starts one), nor, for the time, in a build for a sanitizer.
    if std::env::var_os("DDU_TEST_DEVICE").is_some() || option_env!("DDU_SIMT_ARCHIVES").is_none() {
        return;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(cases).arg("--nocapture");
    command.env("DDU_TEST_DEVICE", "simt").env("DDU_SIMT_SUMS", sums);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains(" 0 passed"), "{sums}: {said}");
    for case in cases {
        assert!(said.contains(&format!("test {case}")), "{sums}: no test is called {case}");
    }
    said.lines().filter(|line| line.contains('%')).for_each(|line| println!("{sums}: {line}"));
}

#[test]
fn the_bounds_hold_with_sums_cut_off_as_on_an_a100() {
    with("a100", &A100);
}

#[test]
fn the_bounds_hold_with_sums_cut_off_as_on_an_h100() {
    with("h100", &H100);
}
