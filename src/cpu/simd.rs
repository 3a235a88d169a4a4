//! Which vector instructions the CPU path uses: the best that the machine has.
//!
//! `DDU_SIMD=avx2` or `DDU_SIMD=none` runs as on a machine without the better ones, so that tests cover those
//! paths; a level that the machine lacks changes nothing.

use std::sync::OnceLock;

pub fn arch() -> pulp::Arch {
    static ARCH: OnceLock<pulp::Arch> = OnceLock::new();
    *ARCH.get_or_init(|| match std::env::var("DDU_SIMD").as_deref() {
        Ok("none") => pulp::Arch::Scalar,
        #[cfg(target_arch = "x86_64")]
        Ok("avx2") => match pulp::x86::V3::try_new() {
            Some(avx2) => pulp::Arch::V3(avx2),
            None => pulp::Arch::new(),
        },
        _ => pulp::Arch::new(),
    })
}
/// The vector instructions that the CPU path uses here.
pub fn name() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    return match arch() {
        pulp::Arch::V4(_) => "AVX-512",
        pulp::Arch::V3(_) => "AVX2 + FMA",
        _ => "none",
    };
    #[cfg(target_arch = "aarch64")]
    return match arch() {
        pulp::Arch::Neon(_) => "NEON",
        _ => "none",
    };
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    "none"
}
