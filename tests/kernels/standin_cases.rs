//! The cases on `cuda` where there is no GPU: once more in a process whose driver is the stand-in. It shows that
//! they reach the kernels through `src/device/cuda.rs`, guards included; whole networks: `tests/cuda`.

use ddu::device::kernels::KERNELS;

use crate::standin::{again, folder};

#[test]
fn every_kernel_on_cuda_with_the_driver_stood_in() {
    let Some(folder) = folder() else { return };
    let files = [
        "conv2d::",
        "density::",
        "depthwise::",
        "gather::",
        "grid::",
        "head::",
        "moments::",
        "pool::",
        "preprocess::",
        "resize::",
        "stem::",
    ];
    let (output, log) = again(folder, "", &files, &[("DDU_TEST_DEVICE", "cuda")]);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains(" 0 passed"), "{said}");
    let calls: Vec<String> = log.lines().map(String::from).collect();
    for kernel in &KERNELS {
        let launched = |call: &str| calls.contains(&format!("{call} {}", kernel.name));
        assert!(launched("cuLaunchKernel") || launched("capture"), "{} never ran", kernel.name);
    }
}
