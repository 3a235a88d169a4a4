//! Launches of `kernels/conv2d.cu`: the checks, the parameters and the work; `conv2d/tiling.rs` chooses tile
//! and splits.

mod hopper;
mod tiling;

pub(in crate::device) use hopper::SOURCE as HOPPER_SOURCE;
pub use hopper::{HOPPER_TILES, tiles as hopper_tiles};
pub use tiling::{ConvCost, ConvTile, ConvTiling, LAUNCH_SECONDS, TILES};

use super::{
    Address, Addresses, Launch, Work, param, param_product, require, require_tensors, tensor_bytes,
};
use crate::device::dry_run::MULTIPROCESSORS;
use crate::device::kernels::Source;
use crate::device::{Element, Slice, Tensor};
use crate::error::Result;
use crate::ops::Conv2d;

params! {
    /// `kernels/conv2d.cu`
    Conv2dParams {
        input: Address,
        weight: Address,
        bias: Address,
        residual: Address,
        output: Address,
        partial: Address,
        batch: i32,
        in_h: i32,
        in_w: i32,
        in_c: i32,
        in_stride: i32,
        out_h: i32,
        out_w: i32,
        out_c: i32,
        out_stride: i32,
        residual_stride: i32,
        kernel: i32,
        stride: i32,
        dilation: i32,
        padding: i32,
        relu: i32,
        output_f32: i32,
        splits: i32,
        k_blocks: i32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "conv2d",
    parameters: Conv2dParams::PARAMETERS,
    kernels: &[
        Conv2dParams::kernel("conv2d_128x128", "conv2d", 256, 69632),
        Conv2dParams::kernel("conv2d_128x64", "conv2d", 128, 49152),
        Conv2dParams::kernel("conv2d_64x64", "conv2d", 128, 32768),
        Conv2dParams::kernel("conv2d_64x32", "conv2d", 128, 24576),
        Conv2dParams::kernel("conv2d_reduce", "conv2d", 256, 0),
    ],
    constants: &[("BK", K_BLOCK)],
};

/// Values of the reduction per step of the main loop (`BK`).
pub const K_BLOCK: usize = 32;

/// Length of the reduction of an output value.
fn reduction(conv: &Conv2d) -> usize {
    conv.kernel.saturating_mul(conv.kernel).saturating_mul(conv.in_channels)
}

/// Output channels in memory: filters of zeros fill them up to a multiple of 8.
fn padded(conv: &Conv2d) -> usize {
    conv.out_channels.next_multiple_of(8)
}

/// What a convolution reads and writes. Channels in eights: where the convolution has other output
/// channels, `weight`, `bias` and `y` are padded to the next multiple.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    pub x: Tensor<'a>,
    /// `[out, kernel, kernel, in]` fp16.
    pub weight: Slice<'a>,
    /// `[out]` f32.
    pub bias: Slice<'a>,
    pub residual: Option<Tensor<'a>>,
    pub relu: bool,
    /// fp16 or f32.
    pub y: Tensor<'a>,
    /// At least [`ConvTiling::partial_bytes`].
    pub partial: Option<Slice<'a>>,
}

/// One launch, or two where the reduction is split.
pub fn conv2d<'a>(conv: &Conv2d, o: Operands<'a>, tiling: ConvTiling) -> Result<Vec<Launch<'a>>> {
    let what = "conv2d";
    conv.validate()?;
    require_tensors(what, &o.x, &o.y, conv.output_size(o.x.size)?)?;
    let shape = format!("{conv:?} from {} to {} channels", o.x.channels, o.y.channels);
    let fits = !conv.depthwise
        && conv.in_channels == o.x.channels
        && padded(conv) == o.y.channels
        && conv.in_channels.is_multiple_of(8);
    require(what, fits, "a dense convolution of these channels, in eights", shape)?;
    let pixels = o.y.pixels();
    let weights = param_product(what, &[padded(conv), reduction(conv)])? * 2;
    if let Some(r) = &o.residual {
        let same = (r.batch, r.size, r.channels) == (o.y.batch, o.y.size, o.y.channels);
        require(
            what,
            same && r.element == Element::F16,
            "a residual of the output's shape",
            r.size,
        )?;
    }
    let partial = tiling.partial_bytes(conv, pixels);
    require(what, tiling.splits == 1 || o.partial.is_some(), "memory for partial sums", "none")?;
    let listed = TILES.contains(&tiling.tile) || HOPPER_TILES.contains(&tiling.tile);
    require(what, listed, "a tile of the list", format!("{tiling:?}"))?;
    let covered = tiling.splits * tiling.k_blocks >= tiling.tile.blocks(conv)
        && (tiling.splits - 1) * tiling.k_blocks < tiling.tile.blocks(conv);
    require(what, covered, "splits that cover the reduction, none empty", format!("{tiling:?}"))?;

    let p = |value| param(what, value);
    // What the kernel computes in 32 bits: positions in the padded image and in the reduction.
    let side =
        conv.dilation.saturating_mul(conv.kernel) + o.x.size.h.max(o.x.size.w) + conv.padding;
    require(what, side < 1 << 27, "a padded image below 2^27", side)?;
    let mut memory = Addresses::new(what);
    let params = Conv2dParams {
        input: memory.tensor(&o.x)?,
        weight: memory.slice("weight", o.weight, weights)?,
        bias: memory.slice("bias", o.bias, padded(conv) * 4)?,
        residual: o.residual.map_or(Ok(Address::NULL), |r| memory.tensor(&r))?,
        output: memory.tensor(&o.y)?,
        partial: memory.optional("partial sums", o.partial, partial)?,
        batch: p(o.x.batch)?,
        in_h: p(o.x.size.h)?,
        in_w: p(o.x.size.w)?,
        in_c: p(o.x.channels)?,
        in_stride: p(o.x.stride)?,
        out_h: p(o.y.size.h)?,
        out_w: p(o.y.size.w)?,
        out_c: p(o.y.channels)?,
        out_stride: p(o.y.stride)?,
        residual_stride: p(o.residual.map_or(0, |r| r.stride))?,
        kernel: p(conv.kernel)?,
        stride: p(conv.stride)?,
        dilation: p(conv.dilation)?,
        padding: p(conv.padding)?,
        relu: o.relu.into(),
        output_f32: (o.y.element == Element::F32).into(),
        splits: p(tiling.splits)?,
        k_blocks: p(tiling.k_blocks)?,
    };
    p(reduction(conv) + K_BLOCK * tiling.k_blocks)?;
    let ConvTile { pixels: m, channels: n, kernel } = tiling.tile;
    let grid = [pixels.div_ceil(m), conv.out_channels.div_ceil(n), tiling.splits];
    let shape = [o.y.batch, o.y.size.h, o.y.size.w, conv.out_channels];
    // Whoever writes the output also reads bias and residual.
    let residual = o.residual.as_ref().map_or(0, tensor_bytes);
    let end = tensor_bytes(&o.y) + padded(conv) * 4 + residual;
    let written = if tiling.splits == 1 { end } else { partial };
    let cost = ConvCost::of(conv, pixels, MULTIPROCESSORS, tiling);
    let work = Work {
        shape,
        flop: conv.flops(o.x.batch, o.y.size),
        bytes: (tensor_bytes(&o.x) + weights + written) as u64,
        splits: tiling.splits,
        block_flop: (2 * m * n * tiling.k_blocks * tiling.tile.k_block()) as f64,
        modelled: Some(cost.modelled()),
    };
    let first = if tiling.tile.of_warpgroups() {
        hopper::launch(conv, &o, tiling, work)?
    } else {
        Launch::new(&SOURCE, kernel, grid, &params, memory, work)?
    };
    let mut launches = vec![first];
    if tiling.splits > 1 {
        let grid = [(pixels * padded(conv) / 8).div_ceil(256), 1, 1];
        let moved = Work::moving(shape, partial + end);
        let work = Work { modelled: Some(cost.modelled_join()), ..moved };
        launches.push(Launch::new(&SOURCE, "conv2d_reduce", grid, &params, memory, work)?);
    }
    Ok(launches)
}
