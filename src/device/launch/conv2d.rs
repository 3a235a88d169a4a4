//! Launches of `kernels/conv2d.cu`: the checks, the parameters and the work; `conv2d/tiling.rs` chooses tile
//! and splits.

mod hopper;
mod tiling;

pub(in crate::device) use hopper::SOURCE as HOPPER_SOURCE;
pub use hopper::{HOPPER_TILES, tiles as hopper_tiles};
pub use tiling::{CLOCK_HZ, ConvCost, ConvTile, ConvTiling, LAUNCH_SECONDS, TILES};

use super::divisor::Divisor;
use super::{
    Address, Addresses, Launch, Modelled, Work, param, param_product, require, require_tensors,
    tensor_bytes,
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
        out_h: Divisor,
        out_w: Divisor,
        in_c: Divisor,
        kernel: Divisor,
        out_c: Divisor,
        pixels: i32,
        in_h: i32,
        in_w: i32,
        in_pitch: i32,
        out_stride: i32,
        residual_stride: i32,
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
        Conv2dParams::kernel("conv2d_128x128", "conv2d", 128, 98816),
        Conv2dParams::kernel("conv2d_128x64", "conv2d", 128, 73984),
        Conv2dParams::kernel("conv2d_64x64", "conv2d", 128, 65792),
        Conv2dParams::kernel("conv2d_64x32", "conv2d", 128, 49280),
        Conv2dParams::kernel("conv2d_reduce", "conv2d", 256, 0),
    ],
    constants: &[("BK", K_BLOCK)],
};

/// Values of the reduction per step of the main loop (`BK`).
pub const K_BLOCK: usize = 64;

/// Rows (and columns) of taps that the kernel has a bit for.
const MOST_TAPS: usize = 15;

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
    /// Of the device: as many persistent blocks share the tiles of `conv2d_hopper`. No bit depends on it.
    pub multiprocessors: usize,
}

/// One launch, or two where a split reduction is joined by a second kernel.
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
    require(what, partial == 0 || o.partial.is_some(), "memory for partial sums", "none")?;
    let listed = TILES.contains(&tiling.tile) || HOPPER_TILES.contains(&tiling.tile);
    require(what, listed, "a tile of the list", format!("{tiling:?}"))?;
    let covered = tiling.splits * tiling.k_blocks >= tiling.tile.blocks(conv)
        && (tiling.splits - 1) * tiling.k_blocks < tiling.tile.blocks(conv);
    require(what, covered, "splits that cover the reduction, none empty", format!("{tiling:?}"))?;
    let clusters = !tiling.cluster || tiling.in_clusters().is_some();
    require(what, clusters, "2 to 8 splits in a cluster, of conv2d_hopper", format!("{tiling:?}"))?;

    let f32_residual = o.y.element == Element::F32 && o.residual.is_some();
    require(what, !f32_residual, "fp16 out with a residual", "f32")?;
    require(what, conv.kernel <= MOST_TAPS, "at most 15 x 15 taps", conv.kernel)?;

    let p = |value| param(what, value);
    let divisor = |value| Divisor::new(what, value);
    // What the kernel computes in 32 bits, in chunks of eight values: places in the padded image, in the weights (the last
    // block's K tail included), in y.
    let side = conv.dilation.saturating_mul(conv.kernel).saturating_add(conv.padding);
    let rows = o.x.batch.saturating_mul(o.x.size.h).saturating_add(side);
    param_product(what, &[rows, o.x.size.w.saturating_add(side), o.x.stride / 8])?;
    p(reduction(conv) + K_BLOCK * (tiling.k_blocks + 1))?;
    param_product(what, &[pixels, padded(conv) / 8])?;
    let split = tiling.splits > 1 && !tiling.cluster;
    let mut memory = Addresses::new(what);
    let params = Conv2dParams {
        input: memory.tensor(&o.x)?,
        weight: memory.slice("weight", o.weight, weights)?,
        bias: memory.slice("bias", o.bias, padded(conv) * 4)?,
        residual: o.residual.map_or(Ok(Address::NULL), |r| memory.tensor(&r))?,
        output: memory.tensor(&o.y)?,
        partial: memory.optional("partial sums", o.partial, partial)?,
        out_h: divisor(o.y.size.h)?,
        out_w: divisor(o.y.size.w)?,
        in_c: divisor(o.x.channels / 8)?,
        kernel: divisor(conv.kernel)?,
        out_c: divisor(o.y.channels / 8)?,
        pixels: p(pixels)?,
        in_h: p(o.x.size.h)?,
        in_w: p(o.x.size.w)?,
        in_pitch: p(o.x.stride / 8)?,
        out_stride: p(o.y.stride)?,
        residual_stride: p(o.residual.map_or(0, |r| r.stride))?,
        stride: p(conv.stride)?,
        dilation: p(conv.dilation)?,
        padding: p(conv.padding)?,
        relu: o.relu.into(),
        output_f32: (o.y.element == Element::F32).into(),
        splits: p(tiling.splits)?,
        k_blocks: p(tiling.k_blocks)?,
    };
    // Splits leave bias, residual and ReLU to whoever adds them up.
    let sums = Conv2dParams {
        bias: Address::NULL,
        residual: Address::NULL,
        output: params.partial,
        output_f32: 1,
        out_stride: p(padded(conv))?,
        relu: 0,
        ..params
    };
    let ConvTile { pixels: m, channels: n, kernel, .. } = tiling.tile;
    let grid = [pixels.div_ceil(m), conv.out_channels.div_ceil(n), tiling.splits];
    let shape = [o.y.batch, o.y.size.h, o.y.size.w, conv.out_channels];
    // Whoever writes the output also reads bias and residual.
    let residual = o.residual.as_ref().map_or(0, tensor_bytes);
    let end = tensor_bytes(&o.y) + padded(conv) * 4 + residual;
    let written = if split { partial } else { end };
    let cost = ConvCost::of(conv, pixels, MULTIPROCESSORS, tiling);
    let here = ConvCost::of(conv, pixels, o.multiprocessors, tiling);
    let work = Work {
        shape,
        flop: conv.flops(o.x.batch, o.y.size),
        bytes: (tensor_bytes(&o.x) + weights + written) as u64,
        splits: tiling.splits,
        block_flop: (2 * m * n * tiling.k_blocks * tiling.tile.k_block()) as f64,
        modelled: Some(Modelled { here: here.modelled().seconds, ..cost.modelled() }),
    };
    let first = if tiling.tile.of_warpgroups() {
        hopper::launch(conv, &o, tiling, work)?
    } else {
        let first = if split { &sums } else { &params };
        Launch::new(&SOURCE, kernel, grid, first, memory, work)?
    };
    let mut launches = vec![first];
    if split {
        let grid = [(pixels * padded(conv) / 8).div_ceil(256), 1, 1];
        let moved = Work::moving(shape, partial + end);
        let here = here.modelled_join().seconds;
        let work = Work { modelled: Some(Modelled { here, ..cost.modelled_join() }), ..moved };
        launches.push(Launch::new(&SOURCE, "conv2d_reduce", grid, &params, memory, work)?);
    }
    Ok(launches)
}
