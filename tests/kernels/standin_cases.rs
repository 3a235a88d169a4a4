//! The cases on `cuda` where there is no GPU: once more in a process whose driver is the stand-in. It shows that
//! they reach the kernels through `src/device/cuda.rs`, guards included; whole networks: `tests/cuda`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use ddu::device::Device;
use ddu::device::kernels;

use crate::guarded::Guarded;
use crate::standin::{again, folder, on_stand_in, open};
use crate::support::POISON;

#[test]
fn every_kernel_on_cuda_with_the_driver_stood_in() {
    // A run for one device is for that device.
    if std::env::var_os("DDU_TEST_DEVICE").is_some() {
        return;
    }
    let Some(folder) = folder() else { return };
    let (output, log) = again(folder, "", &["ops::"], &[("DDU_TEST_DEVICE", "cuda")]);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains(" 0 passed"), "{said}");
    let calls: Vec<String> = log.lines().map(String::from).collect();
    for kernel in kernels::all() {
        let launched = |call: &str| calls.contains(&format!("{call} {}", kernel.name));
        assert!(launched("cuLaunchKernel") || launched("node"), "{} never ran", kernel.name);
    }
}

#[test]
fn a_store_outside_a_buffer_is_seen() {
    if std::env::var_os("DDU_TEST_DEVICE").is_some() {
        return;
    }
    on_stand_in("standin_cases::a_store_outside_a_buffer_is_seen", "", || {
        let bytes = 100;
        for (at, seen) in [(255, true), (256, false), (355, false), (356, true), (611, true)] {
            let device = Guarded::new(Arc::new(open(0).unwrap()));
            let buffer = device.alloc(bytes).unwrap();
            let mut fresh = vec![0; bytes];
            device.read(buffer.all(), &mut fresh).unwrap();
            assert!(fresh.iter().all(|b| *b == POISON));
            device.check(&[]).unwrap();
            device.spoil(at);
            let found = catch_unwind(AssertUnwindSafe(|| device.check(&[]).unwrap())).is_err();
            assert_eq!(found, seen, "byte {at} of {} around {bytes}", bytes + 512);
        }
    });
}
