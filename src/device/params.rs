//! The parameter struct of each kernel file, field for field what its `.cu` declares: addresses
//! first, then 32-bit fields, no padding. Both sides assert size and offsets; the simt table's sizes
//! are compared with these at run time.

use bytemuck::{Pod, Zeroable};

/// Asserts the size of a struct and the offset of its fields, the numbers of the twin in C++.
macro_rules! twin {
    ($name:ident, $size:literal, $($field:ident: $offset:literal),+) => {
        const _: () = {
            assert!(size_of::<$name>() == $size);
            $(assert!(std::mem::offset_of!($name, $field) == $offset);)+
        };
    };
}

/// `kernels/conv2d.cu`
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct Conv2dParams {
    pub input: u64,
    pub weight: u64,
    pub bias: u64,
    pub residual: u64,
    pub output: u64,
    pub partial: u64,
    pub batch: i32,
    pub in_h: i32,
    pub in_w: i32,
    pub in_c: i32,
    pub in_stride: i32,
    pub out_h: i32,
    pub out_w: i32,
    pub out_c: i32,
    pub out_stride: i32,
    pub residual_stride: i32,
    pub kernel: i32,
    pub stride: i32,
    pub dilation: i32,
    pub padding: i32,
    pub relu: i32,
    pub output_f32: i32,
    pub splits: i32,
    pub k_blocks: i32,
}
twin!(Conv2dParams, 120, partial: 40, batch: 48, out_h: 68, kernel: 88, k_blocks: 116);

/// `kernels/stem.cu`
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct StemParams {
    pub input: u64,
    pub weight: u64,
    pub bias: u64,
    pub output: u64,
    pub batch: i32,
    pub in_h: i32,
    pub in_w: i32,
    pub out_h: i32,
    pub out_w: i32,
    pub out_c: i32,
    pub out_stride: i32,
    pub relu: i32,
}
twin!(StemParams, 64, batch: 32, relu: 60);

/// `kernels/depthwise.cu`
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct DepthwiseParams {
    pub input: u64,
    pub weight: u64,
    pub bias: u64,
    pub output: u64,
    pub batch: i32,
    pub channels: i32,
    pub in_h: i32,
    pub in_w: i32,
    pub in_stride: i32,
    pub out_h: i32,
    pub out_w: i32,
    pub out_stride: i32,
    pub kernel: i32,
    pub stride: i32,
    pub dilation: i32,
    pub padding: i32,
    pub relu: i32,
    pub unused: i32,
}
twin!(DepthwiseParams, 88, batch: 32, kernel: 64, relu: 80);

/// `kernels/pool.cu`, both kernels
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct PoolParams {
    pub input: u64,
    pub output: u64,
    pub batch: i32,
    pub channels: i32,
    pub in_h: i32,
    pub in_w: i32,
    pub in_stride: i32,
    pub out_h: i32,
    pub out_w: i32,
    pub out_stride: i32,
    pub kernel: i32,
    pub stride: i32,
    pub padding: i32,
    pub unused: i32,
}
twin!(PoolParams, 64, batch: 16, kernel: 48);

/// `kernels/resize.cu`
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct ResizeParams {
    pub input: u64,
    pub output: u64,
    pub batch: i32,
    pub channels: i32,
    pub in_h: i32,
    pub in_w: i32,
    pub in_stride: i32,
    pub out_h: i32,
    pub out_w: i32,
    pub out_stride: i32,
    pub align_corners: i32,
    pub unused: i32,
}
twin!(ResizeParams, 56, batch: 16, align_corners: 48);

/// `kernels/head.cu`
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct HeadParams {
    pub logits: u64,
    pub label: u64,
    pub entropy: u64,
    pub batch: i32,
    pub classes: i32,
    pub in_h: i32,
    pub in_w: i32,
    pub in_stride: i32,
    pub out_h: i32,
    pub out_w: i32,
    pub crop_h: i32,
    pub crop_w: i32,
    pub align_corners: i32,
}
twin!(HeadParams, 64, batch: 24, align_corners: 60);

/// `kernels/preprocess.cu`
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct PreprocessParams {
    pub input: u64,
    pub output: u64,
    pub batch: i32,
    pub in_h: i32,
    pub in_w: i32,
    pub out_h: i32,
    pub out_w: i32,
    pub mean: [f32; 3],
    pub std: [f32; 3],
    pub unused: i32,
}
twin!(PreprocessParams, 64, batch: 16, mean: 36, std: 48);
