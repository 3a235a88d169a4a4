//! Launches of `kernels/conv2d_hopper.cu`, on devices with warpgroup products, and what they cost.
//!
//! The model is that of `tiling.rs` with a block's loop as this kernel has it: one block on each of `P` multiprocessors takes
//! ceil(tiles / P) tiles; copies of the next tile go on under the epilogue of the last, products do not. A step (64 channels of a
//! filter position) takes the largest of
//!
//! ```text
//! 2 pixels channels 64 / WGMMA_FLOP      the tensor cores
//! 2 instructions                         issue slots: four schedulers, two of the eight warps that multiply each
//! (pixels + channels) 2 64 / PORT        what one multiprocessor can take from L2
//! L2_LATENCY / (stages - 1)              copies in flight
//! ```
//!
//! Splits in clusters take ceil(tiles / clusters that fit) rounds, which do not overlap: a block's ring ends as the place of its sums.
//! Each adds the exchange: a tile's sums written to shared memory and, but for the block's own part, read from the other blocks',
//! and two barriers of the cluster.

use super::tiling::{EDGE_LATENCY, EPILOGUE_INSTRUCTIONS, L2_LATENCY, PORT, SHARED, idle, useful};
use super::{ConvCost, ConvTile, ConvTiling, Operands, padded};
use crate::device::kernels::Source;
use crate::device::launch::divisor::Divisor;
use crate::device::launch::tensor_map::{CHANNELS, TensorMap, fits};
use crate::device::launch::{Address, Addresses, Bound, Launch, Work, param, param_product};
use crate::device::{Device, Element, Tensor};
use crate::error::Result;
use crate::ops::Conv2d;

params! {
    /// `kernels/conv2d_hopper.cu`
    Conv2dHopperParams {
        input: TensorMap,
        weight: TensorMap,
        added: TensorMap,
        stored: TensorMap,
        bias: Address,
        residual: Address,
        output: Address,
        partial: Address,
        out_h: Divisor,
        out_w: Divisor,
        kernel: Divisor,
        tiles_m: Divisor,
        tiles_n: Divisor,
        c_blocks: Divisor,
        splits: Divisor,
        pixels: i32,
        out_c: i32,
        out_stride: i32,
        residual_stride: i32,
        stride: i32,
        dilation: i32,
        padding: i32,
        relu: i32,
        output_f32: i32,
        tiled: i32,
        all_blocks: i32,
        k_blocks: i32,
        in_cluster: i32,
        through_ring: i32,
        reserved: [i32; 5],
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "conv2d_hopper",
    parameters: Conv2dHopperParams::PARAMETERS,
    kernels: &[
        Conv2dHopperParams::kernel("conv2d_hopper_256x128", "conv2d_hopper", 384, 196736),
        Conv2dHopperParams::kernel("conv2d_hopper_128x128", "conv2d_hopper", 384, 196736),
        Conv2dHopperParams::kernel("conv2d_hopper_256x64", "conv2d_hopper", 384, 204928),
    ],
    constants: &[("BK", K_BLOCK), ("STORED_ROWS", STORED_ROWS)],
};

/// Largest first.
pub const HOPPER_TILES: [ConvTile; 3] = [
    ConvTile::of_hopper("conv2d_hopper_256x128", 256, 128, 4, 103),
    ConvTile::of_hopper("conv2d_hopper_128x128", 128, 128, 6, 73),
    ConvTile::of_hopper("conv2d_hopper_256x64", 256, 64, 5, 102),
];

/// Values of the reduction per step of the main loop (`BK`).
pub(super) const K_BLOCK: usize = CHANNELS;

/// Pixels of a copy to the output.
const STORED_ROWS: usize = 16;

/// Blocks of the reduction: of [`CHANNELS`] channels of a filter position.
pub(super) fn blocks(conv: &Conv2d) -> usize {
    let positions = conv.kernel.saturating_mul(conv.kernel);
    positions.saturating_mul(conv.in_channels.div_ceil(CHANNELS))
}

/// Those that a device has for a convolution, which the kernel's tensor maps must be able to hold.
pub fn tiles(conv: &Conv2d, device: &dyn Device) -> &'static [ConvTile] {
    if device.wgmma() && fits(conv) { &HOPPER_TILES } else { &[] }
}

/// The first kernel; the second, where the reduction is split, is conv2d.cu's.
pub(super) fn launch<'a>(
    conv: &Conv2d,
    o: &Operands<'a>,
    tiling: ConvTiling,
    work: Work,
) -> Result<Launch<'a>> {
    let what = "conv2d_hopper";
    let ConvTile { pixels: m, channels: n, kernel, .. } = tiling.tile;
    let p = |value| param(what, value);
    let divisor = |value| Divisor::new(what, value);
    let mut memory = Addresses::new(what);
    let tiled = (conv.kernel, conv.stride, conv.padding) == (1, 1, 0);
    let input = if tiled {
        TensorMap::pixels(&mut memory, &o.x, m)?
    } else {
        TensorMap::positions(&mut memory, &o.x, conv, m)?
    };
    let filters = [padded(conv), conv.kernel * conv.kernel, conv.in_channels];
    let (pixels, channels) = (o.y.pixels(), padded(conv));
    let tiles = [pixels.div_ceil(m), channels.div_ceil(n)];
    let count = param_product(what, &[tiles[0], tiles[1], tiling.splits])?;
    // What the kernel computes in 32 bits: pixels past the last tile, tiles past the last, places in the image.
    p(pixels + m)?;
    p(count.saturating_add(o.multiprocessors))?;
    p(o.y.size.h.max(o.y.size.w).saturating_mul(conv.stride))?;
    let through_ring = tiling.splits == 1 && o.y.element == Element::F16;
    // The driver makes every map of the parameter, those that the kernel will not use too.
    let map = |memory: &mut Addresses, tensor: Option<&Tensor>, rows| match tensor {
        Some(tensor) if through_ring => TensorMap::pixels(memory, tensor, rows),
        _ => Ok(input),
    };
    let params = Conv2dHopperParams {
        input,
        weight: TensorMap::filters(&mut memory, o.weight, filters, n)?,
        added: map(&mut memory, o.residual.as_ref(), m)?,
        stored: map(&mut memory, Some(&o.y), STORED_ROWS)?,
        bias: memory.slice("bias", o.bias, channels * 4)?,
        residual: o.residual.map_or(Ok(Address::NULL), |r| memory.tensor(&r))?,
        output: memory.tensor(&o.y)?,
        partial: memory.optional("partial sums", o.partial, tiling.partial_bytes(conv, pixels))?,
        pixels: p(pixels)?,
        out_h: divisor(o.y.size.h)?,
        out_w: divisor(o.y.size.w)?,
        out_c: p(channels)?,
        out_stride: p(o.y.stride)?,
        residual_stride: p(o.residual.map_or(0, |r| r.stride))?,
        kernel: divisor(conv.kernel)?,
        stride: p(conv.stride)?,
        dilation: p(conv.dilation)?,
        padding: p(conv.padding)?,
        relu: o.relu.into(),
        output_f32: (o.y.element == Element::F32).into(),
        tiled: tiled.into(),
        tiles_m: divisor(tiles[0])?,
        tiles_n: divisor(tiles[1])?,
        c_blocks: divisor(conv.in_channels.div_ceil(CHANNELS))?,
        all_blocks: p(blocks(conv))?,
        splits: divisor(tiling.splits)?,
        k_blocks: p(tiling.k_blocks)?,
        in_cluster: tiling.cluster.into(),
        through_ring: through_ring.into(),
        reserved: [0; 5],
    };
    // In clusters a block takes one tile.
    let blocks = if tiling.cluster { count } else { count.min(o.multiprocessors.max(1)) };
    let launch = Launch::new(&SOURCE, kernel, [blocks, 1, 1], &params, memory, work)?;
    Ok(if tiling.cluster { launch.in_clusters(tiling.splits) } else { launch })
}

/// FLOP per clock of a multiprocessor, of the 4096 that `wgmma` has, and bytes per clock that each takes from L2 when all take: what
/// the published kernel that is most like this one reaches on an H100 (pranjalssh/fast.cu, kernel 6: persistent, one warpgroup that
/// copies, no multicast, 192 x 192 tiles, N = 8192: 777 TFLOP/s of 919 at [`super::tiling::CLOCK_HZ`], so 8.1 TB/s).
const WGMMA_FLOP: f64 = 0.85 * 4096.0;
const L2_SHARE: f64 = 36.0;

/// Bytes of both operands of a step.
fn operand_bytes(tile: ConvTile) -> usize {
    (tile.pixels + tile.channels) * CHANNELS * 2
}

/// Bytes per clock that a multiprocessor reads from the shared memory of others, and clocks until the first come. An assumption: Luo et
/// al. (2024, "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture") are cited with 3.3 TB/s in clusters of 2 and 2.7 in
/// clusters of 4, which for their GPU are 16 and 13; nothing is known of larger ones.
const CLUSTER_PORT: f64 = 13.0;
const CLUSTER_LATENCY: f64 = 200.0;
/// Clocks of a barrier of a cluster: that latency there and back, behind a fence (MEMBAR.ALL.GPU in sm_90a's code) that goes to L2.
const CLUSTER_BARRIER: f64 = 2.0 * CLUSTER_LATENCY + L2_LATENCY;
/// Instructions that add eight values of one split.
const JOIN_INSTRUCTIONS: f64 = 14.0;
/// Instructions for eight values of a tile that ends in the ring, of sm_90a: 57 with a residual, 38 without.
const RING_INSTRUCTIONS: f64 = 48.0;
/// Groups of multiprocessors that a cluster does not reach beyond.
const GPCS: usize = 8;

/// Clusters of so many blocks, one on a multiprocessor, that a device holds at once. Multiprocessors come in pairs; 66 of them on 8
/// GPCs are 6 of 16 multiprocessors and 2 of 18.
fn resident_clusters(multiprocessors: usize, blocks: usize) -> usize {
    let pairs = multiprocessors / 2;
    let of_gpc = |i: usize| 2 * (pairs / GPCS + usize::from(i < pairs % GPCS)) / blocks;
    (0..GPCS).map(of_gpc).sum::<usize>().max(1)
}

/// By the head of this file; `join` is that of `tiling.rs`.
pub(super) fn cost(
    conv: &Conv2d,
    pixels: usize,
    multiprocessors: usize,
    tiling: ConvTiling,
    join: f64,
) -> ConvCost {
    let ConvTiling { tile, splits, k_blocks, cluster } = tiling;
    let multiprocessors = multiprocessors.max(1);
    let tiles = pixels.div_ceil(tile.pixels) * conv.out_channels.div_ceil(tile.channels);
    let bytes = operand_bytes(tile) as f64;
    let (step, bound) = [
        ((2 * tile.pixels * tile.channels * CHANNELS) as f64 / WGMMA_FLOP, Bound::Tensor),
        (2.0 * tile.instructions as f64, Bound::Issue),
        (bytes / PORT, Bound::L2),
        (L2_LATENCY / (tile.stages as f64 - 1.0), Bound::Latency),
    ]
    .into_iter()
    .max_by(|a, b| a.0.total_cmp(&b.0))
    .expect("four bounds");
    // Eights of values a thread; two of the eight warps on each scheduler.
    let eights = 2.0 * (tile.pixels * tile.channels / 8 / 256) as f64;
    let epilogue = eights * if splits == 1 { RING_INSTRUCTIONS } else { EPILOGUE_INSTRUCTIONS };
    let l2 = (tiles * splits * k_blocks) as f64 * bytes / (L2_SHARE * multiprocessors as f64);
    let (rounds, edges, exchange) = if cluster {
        let rounds = tiles.div_ceil(resident_clusters(multiprocessors, splits)) as f64;
        let (sums, parts) = ((tile.pixels * tile.channels * 4) as f64, splits as f64);
        let added = eights / parts * (EPILOGUE_INSTRUCTIONS + parts * JOIN_INSTRUCTIONS);
        let read = sums * (parts - 1.0) / parts / CLUSTER_PORT;
        let exchange = sums / SHARED + 2.0 * CLUSTER_BARRIER + CLUSTER_LATENCY + read.max(added);
        (rounds, rounds * (EDGE_LATENCY + epilogue), rounds * exchange)
    } else {
        let busiest = (tiles * splits).div_ceil(multiprocessors) as f64;
        (busiest, EDGE_LATENCY + busiest * (epilogue + L2_LATENCY), 0.0)
    };
    let steps = rounds * k_blocks as f64 * step;
    let useful = useful(conv, pixels, multiprocessors);
    let idle = idle(steps, tiles * splits, rounds as usize * multiprocessors);
    ConvCost { steps, bound, useful, idle, edges, exchange, l2, join }
}
