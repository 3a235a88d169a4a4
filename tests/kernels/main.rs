//! Every kernel on every device with memory of its own (the CPU path: `tests/parity`) against plain f64
//! loops: random values, odd, tail-heavy and dilated shapes. One file per op in `ops`, which the stand-in and the PTX
//! interpreter run once more; the devices and the checks are in `support`. `DDU_TEST_DEVICE=simt|cuda` takes one of them alone.
//!
//! Tolerances. Inputs and weights are fp16 numbers, so products are exact and only the accumulation and the final rounding err.
//! Tensor cores add L products and the accumulator at once, of which each but the greatest is cut off at 2^-F of it, and round
//! the sum towards zero (`kernels/simt/sums.h`): a step errs by at most L 2^-F M + 2^-23 |s|, with M the greatest term and s the sum,
//! neither above A = sum |terms|. L 2^-F is 2^-21 on an A100 (8, 24) and on an H100 (16, 25), so that n / L steps err by at
//! most n / L 5 2^-23 A: 0.63 and 0.31 times n 2^-23 A. f32 sums, n 2^-24 A, are within that too:
//!
//!     |error| <= n 2^-23 A + 2^-11 |y| + 2^-25
//!
//! with n the number of terms, bias and residual among them. That bound holds for every element; it is loose
//! for long sums, so the normalised rms is held to twice that of a plain f32 loop as well.
#![cfg(feature = "simt")]

#[path = "../parity/common.rs"]
mod cpu;
#[cfg(feature = "cuda")]
mod guarded;
#[path = "../common/logits.rs"]
mod logits;
#[path = "../common/models.rs"]
mod models;
#[cfg(feature = "cuda")]
mod mutants;
mod network;
mod ops;
mod ownership;
mod pictures;
#[cfg(feature = "cuda")]
#[path = "../common/ptx.rs"]
mod ptx;
#[cfg(feature = "cuda")]
mod ptx_cases;
mod scene;
#[path = "../common/shared.rs"]
mod shared;
#[cfg(feature = "cuda")]
#[path = "../common/standin.rs"]
mod standin;
#[cfg(feature = "cuda")]
mod standin_cases;
mod support;
mod truncation;
