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

/// `kernels/density.cu`, all kernels
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct DensityParams {
    pub features: u64,
    pub weights: u64,
    pub rows: u64,
    pub constants: u64,
    pub ids: u64,
    pub predicted: u64,
    pub density: u64,
    pub relative: u64,
    pub nearest: u64,
    pub distance: u64,
    pub partial: u64,
    pub stats: u64,
    pub pixels: i32,
    pub feature_stride: i32,
    pub channels: i32,
    pub panels: i32,
    pub classes: i32,
    pub splits: i32,
    pub per_split: i32,
    pub tau: f32,
}
twin!(DensityParams, 128, partial: 80, pixels: 96, classes: 112, tau: 124);

/// `kernels/moments.cu`, all kernels
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct MomentsParams {
    pub features: u64,
    pub labels: u64,
    pub keys: u64,
    pub ranks: u64,
    pub offsets: u64,
    pub totals: u64,
    pub chunks: u64,
    pub sorted: u64,
    pub sums: u64,
    pub extremes: u64,
    pub image_mean: u64,
    pub shifts: u64,
    pub partial: u64,
    pub count: u64,
    pub mean: u64,
    pub scatter: u64,
    pub batch: i32,
    pub cells: i32,
    pub feature_stride: i32,
    pub channels: i32,
    pub classes: i32,
    pub segments: i32,
    pub slots: i32,
    pub blocks: i32,
}
twin!(MomentsParams, 160, partial: 96, batch: 128, classes: 144, blocks: 156);

/// `kernels/label_grid.cu`
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct LabelGridParams {
    pub mask: u64,
    pub label: u64,
    pub batch: i32,
    pub mask_h: i32,
    pub mask_w: i32,
    pub image_h: i32,
    pub image_w: i32,
    pub padded_h: i32,
    pub padded_w: i32,
    pub grid_h: i32,
    pub grid_w: i32,
    pub align_corners: i32,
}
twin!(LabelGridParams, 56, batch: 16, align_corners: 52);

/// `kernels/upsample.cu`
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct UpsampleParams {
    pub input: u64,
    pub output: u64,
    pub batch: i32,
    pub in_h: i32,
    pub in_w: i32,
    pub out_h: i32,
    pub out_w: i32,
    pub crop_h: i32,
    pub crop_w: i32,
    pub align_corners: i32,
}
twin!(UpsampleParams, 48, batch: 16, align_corners: 44);

/// `kernels/arg_max.cu`
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct ArgMaxParams {
    pub logits: u64,
    pub label: u64,
    pub pixels: i32,
    pub classes: i32,
    pub stride: i32,
    pub unused: i32,
}
twin!(ArgMaxParams, 32, pixels: 16, unused: 28);

/// `kernels/gather.cu`
#[repr(C)]
#[derive(Clone, Copy, Pod, Zeroable)]
pub struct GatherParams {
    pub features: u64,
    pub labels: u64,
    pub rows: u64,
    pub output: u64,
    pub picked: u64,
    pub pixels: i32,
    pub count: i32,
    pub stride: i32,
    pub channels: i32,
}
twin!(GatherParams, 56, pixels: 40, channels: 52);
