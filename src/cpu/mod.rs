//! The reference path: f32, NHWC, rayon over the cores, explicit SIMD through `pulp` (AVX-512, AVX2
//! or NEON, whichever the machine has). Where the machine has AVX512-BF16 a network can also run in bf16.

pub mod clip;
pub mod conv;
pub mod depthwise;
pub mod dropout;
pub mod element;
pub mod elementary;
pub mod gemm;
pub mod head;
pub mod lanes;
pub mod mixture;
// Other CPUs have no such products: there it is made by nobody.
#[cfg_attr(not(target_arch = "x86_64"), allow(dead_code, unused_imports))]
pub mod pairs;
pub mod pool;
pub mod preprocess;
pub mod receptive;
pub mod resize;
mod run;
pub mod simd;
pub mod tensor;
pub mod winograd;

pub use resize::upsample;
pub use run::{Runner, memory_bytes};

use crate::ops::Spatial;
use element::Element;

/// Runs an op without weights.
fn spatial<I: Element, O: Element>(op: &Spatial, x: tensor::Input<I>, y: tensor::Output<O>) {
    match op {
        Spatial::MaxPool(pool) => pool::max_pool(pool, x, y),
        Spatial::GlobalAvgPool => pool::global_avg_pool(x, y),
        Spatial::Resize(op) => resize::resize(op, x, y),
    }
}
