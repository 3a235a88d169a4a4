//! The one table of kernels, for every device.

use super::params::*;

/// A `__global__` function of `kernels/<file>.cu`.
#[derive(Debug)]
pub struct Kernel {
    pub name: &'static str,
    pub file: &'static str,
    /// Threads a block.
    pub threads: usize,
    /// Bytes of shared memory a block.
    pub shared_bytes: usize,
    pub params_bytes: usize,
}

const fn kernel<P>(
    name: &'static str,
    file: &'static str,
    threads: usize,
    shared_bytes: usize,
) -> Kernel {
    Kernel { name, file, threads, shared_bytes, params_bytes: size_of::<P>() }
}

pub static KERNELS: [Kernel; 33] = [
    kernel::<Conv2dParams>("conv2d_128x128", "conv2d", 256, 69632),
    kernel::<Conv2dParams>("conv2d_128x64", "conv2d", 128, 49152),
    kernel::<Conv2dParams>("conv2d_64x64", "conv2d", 128, 32768),
    kernel::<Conv2dParams>("conv2d_64x32", "conv2d", 128, 24576),
    kernel::<Conv2dParams>("conv2d_reduce", "conv2d", 256, 0),
    kernel::<StemParams>("stem", "stem", 128, 36992),
    kernel::<DepthwiseParams>("depthwise", "depthwise", 256, 0),
    kernel::<PoolParams>("max_pool", "pool", 256, 0),
    kernel::<PoolParams>("global_average_pool", "pool", 256, 8192),
    kernel::<ResizeParams>("resize", "resize", 256, 0),
    kernel::<HeadParams>("head", "head", 256, 0),
    kernel::<PreprocessParams>("preprocess", "preprocess", 256, 0),
    kernel::<DensityParams>("density_256", "density", 256, 166528),
    kernel::<DensityParams>("density_128", "density", 128, 100992),
    kernel::<DensityParams>("density_64", "density", 64, 100992),
    kernel::<DensityParams>("density_256_fast", "density", 256, 166528),
    kernel::<DensityParams>("density_128_fast", "density", 128, 100992),
    kernel::<DensityParams>("density_64_fast", "density", 64, 100992),
    kernel::<DensityParams>("density_hopper", "density_hopper", 384, 136832),
    kernel::<DensityParams>("density_hopper_fast", "density_hopper", 384, 71296),
    kernel::<DensityParams>("density_merge", "density", 256, 0),
    kernel::<MomentsParams>("moments_keys", "moments", 256, 512),
    kernel::<MomentsParams>("moments_offsets", "moments", 256, 1152),
    kernel::<MomentsParams>("moments_place", "moments", 256, 0),
    kernel::<MomentsParams>("moments_sums", "moments", 256, 0),
    kernel::<MomentsParams>("moments_shifts", "moments", 256, 0),
    kernel::<MomentsParams>("moments_syrk", "moments", 128, 19456),
    kernel::<MomentsParams>("moments_fold", "moments", 256, 0),
    kernel::<MomentsParams>("moments_means", "moments", 256, 0),
    kernel::<LabelGridParams>("label_grid", "label_grid", 256, 0),
    kernel::<UpsampleParams>("upsample", "upsample", 256, 0),
    kernel::<ArgMaxParams>("arg_max", "arg_max", 256, 0),
    kernel::<GatherParams>("gather", "gather", 256, 0),
];

/// # Panics
/// If there is no such kernel: names are literals of this crate.
pub(super) fn find(name: &str) -> &'static Kernel {
    let found = KERNELS.iter().find(|k| k.name == name);
    found.unwrap_or_else(|| panic!("no kernel is called {name}"))
}
