//! How a convolution is divided among the blocks of a GPU: the tile, the splits of the reduction, and the
//! cost model that chooses both.
//!
//! The model counts clocks of one multiprocessor, from what the kernel does and what is published of an
//! H100 or H200 (compute capability 9.0); other GPUs are taken to differ by their number of
//! multiprocessors alone. **No GPU has confirmed it.** For a launch of `B` blocks the busiest of `P`
//! multiprocessors gets ceil(B / P), of which `r` fit on it at once. A step of the main loop ([`K_BLOCK`]
//! values of the reduction) of r blocks takes the largest of
//!
//! ```text
//! r 2 pixels channels K_BLOCK / MMA_FLOP     the tensor cores
//! r warps / 4 instructions                   issue slots: four schedulers, one instruction per clock each
//! r (copied + read by ldmatrix) / 128        bytes through shared memory, 128 per clock
//! r (pixels + channels) 2 K_BLOCK / PORT     what one multiprocessor can take from L2
//! L2_LATENCY / (stages - 1)                  copies in flight
//! ```
//!
//! and each group of r blocks adds its prologue and epilogue. All blocks together cannot take more from
//! L2 than it delivers. A split reduction adds the second kernel: a launch, its latency, and the partial
//! sums written and read.

use super::{K_BLOCK, hopper, padded, reduction};
use crate::device::Device;
use crate::device::launch::{Bound, MOST_CLUSTER, Modelled};
use crate::ops::Conv2d;

/// A template instance: pixels x output channels of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ConvTile {
    pub pixels: usize,
    pub channels: usize,
    pub(super) kernel: &'static str,
    /// Of a warp.
    #[serde(skip)]
    warp: [usize; 2],
    /// Slots of the ring in shared memory.
    #[serde(skip)]
    pub(super) stages: usize,
    /// Of a thread, and of a warp in one round of the main loop: those of sm_90a (`tests/golden/gates.csv`).
    #[serde(skip)]
    registers: usize,
    #[serde(skip)]
    pub(super) instructions: usize,
}

/// Largest first.
pub const TILES: [ConvTile; 4] = [
    ConvTile {
        pixels: 128,
        channels: 128,
        kernel: "conv2d_128x128",
        warp: [64, 64],
        stages: 3,
        registers: 240,
        instructions: 348,
    },
    ConvTile {
        pixels: 128,
        channels: 64,
        kernel: "conv2d_128x64",
        warp: [64, 32],
        stages: 3,
        registers: 160,
        instructions: 264,
    },
    ConvTile {
        pixels: 64,
        channels: 64,
        kernel: "conv2d_64x64",
        warp: [32, 32],
        stages: 4,
        registers: 96,
        instructions: 175,
    },
    ConvTile {
        pixels: 64,
        channels: 32,
        kernel: "conv2d_64x32",
        warp: [32, 16],
        stages: 4,
        registers: 72,
        instructions: 148,
    },
];

impl ConvTile {
    /// Its row of the table of kernels.
    pub fn kernel(&self) -> &'static str {
        self.kernel
    }

    /// Of `conv2d_hopper.cu`: a warp of its two warpgroups has an eighth of the pixels.
    pub(super) const fn of_hopper(
        kernel: &'static str,
        pixels: usize,
        channels: usize,
        stages: usize,
        instructions: usize,
    ) -> Self {
        let warp = [pixels / 8, channels];
        ConvTile { pixels, channels, kernel, warp, stages, registers: 168, instructions }
    }

    /// Whether it is one of `conv2d_hopper.cu`.
    pub(super) fn of_warpgroups(&self) -> bool {
        hopper::SOURCE.kernels.iter().any(|kernel| kernel.name == self.kernel)
    }

    /// Values of the reduction in a block of it.
    pub(super) fn k_block(&self) -> usize {
        if self.of_warpgroups() { hopper::K_BLOCK } else { K_BLOCK }
    }

    /// Blocks of the reduction.
    pub(super) fn blocks(&self, conv: &Conv2d) -> usize {
        if self.of_warpgroups() { hopper::blocks(conv) } else { reduction(conv).div_ceil(K_BLOCK) }
    }

    fn threads(&self) -> usize {
        super::SOURCE.kernel(self.kernel).threads
    }

    /// Blocks that a multiprocessor holds at once: by 227 KiB of shared memory, of which a block reserves
    /// one KiB more than it asks for, and by 65536 registers.
    fn resident(&self) -> usize {
        let shared = super::SOURCE.kernel(self.kernel).shared_bytes + 1024;
        ((227 << 10) / shared).min(65536 / self.registers / self.threads())
    }
}

/// How one convolution is divided among the blocks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ConvTiling {
    pub tile: ConvTile,
    /// Parts of the reduction, each summed by separate blocks and joined by a second kernel or in a cluster.
    pub splits: usize,
    /// Blocks of [`K_BLOCK`] in a split (the last may have fewer).
    pub k_blocks: usize,
    /// Whether the splits of a tile are a cluster of blocks, which join them; only of `conv2d_hopper`. The bits are the same.
    pub cluster: bool,
}

/// Least blocks of [`K_BLOCK`] in a split: fewer do not fill the ring of stages.
const LEAST_K_BLOCKS: usize = 2;
/// More splits move more partial sums than any convolution of a DeepLab gains by them.
const MOST_SPLITS: usize = 32;

impl ConvTiling {
    /// # Panics
    /// If `splits` is 0.
    pub fn new(conv: &Conv2d, tile: ConvTile, splits: usize) -> Self {
        let all = tile.blocks(conv);
        let k_blocks = all.div_ceil(splits.min(all));
        // Rounding up may make the last splits empty: only as many as have work.
        ConvTiling { tile, splits: all.div_ceil(k_blocks), k_blocks, cluster: false }
    }

    /// The same with the splits joined in clusters, where a cluster has room for them.
    pub fn in_clusters(self) -> Option<Self> {
        let fits = self.tile.of_warpgroups() && (2..=MOST_CLUSTER).contains(&self.splits);
        fits.then_some(ConvTiling { cluster: true, ..self })
    }

    /// The cheapest by the cost model, among tiles whose channels are not mostly padding; of equals the
    /// larger tile, then fewer splits. It depends on nothing but its arguments.
    pub fn choose(conv: &Conv2d, pixels: usize, multiprocessors: usize) -> Self {
        let most = (reduction(conv).div_ceil(K_BLOCK) / LEAST_K_BLOCKS).clamp(1, MOST_SPLITS);
        let wide = |tile: &&ConvTile| tile.channels == 32 || conv.out_channels > tile.channels / 2;
        let all = TILES
            .iter()
            .filter(wide)
            .flat_map(|tile| (1..=most).map(|splits| ConvTiling::new(conv, *tile, splits)));
        let clocks =
            |tiling: &ConvTiling| ConvCost::of(conv, pixels, multiprocessors, *tiling).clocks();
        all.min_by(|a, b| clocks(a).total_cmp(&clocks(b))).expect("the list of tiles is not empty")
    }

    /// As [`Self::choose`], with the tiles of `conv2d_hopper.cu` where a device has warpgroup products.
    pub fn on(conv: &Conv2d, pixels: usize, device: &dyn Device) -> Self {
        let multiprocessors = device.multiprocessors();
        let portable = ConvTiling::choose(conv, pixels, multiprocessors);
        let clocks =
            |tiling: &ConvTiling| ConvCost::of(conv, pixels, multiprocessors, *tiling).clocks();
        let wide = |tile: &ConvTile| conv.out_channels > tile.channels / 2;
        let all = hopper::tiles(conv, device).iter().copied().filter(wide).flat_map(|tile| {
            let most = (tile.blocks(conv) / LEAST_K_BLOCKS).clamp(1, MOST_SPLITS);
            let splits = (1..=most).map(move |splits| ConvTiling::new(conv, tile, splits));
            splits.flat_map(|tiling| std::iter::once(tiling).chain(tiling.in_clusters()))
        });
        let all = std::iter::once(portable).chain(all);
        all.min_by(|a, b| clocks(a).total_cmp(&clocks(b))).expect("one at least")
    }

    /// Bytes of the partial sums.
    pub fn partial_bytes(&self, conv: &Conv2d, pixels: usize) -> usize {
        if self.splits == 1 || self.cluster { 0 } else { self.splits * pixels * padded(conv) * 4 }
    }
}

/// Clock of an H100 or H200 (SXM) under load.
pub const CLOCK_HZ: f64 = 1.7e9;
/// FLOP per clock of a multiprocessor by `mma.sync`: 62 % of the 4096 that `wgmma` reaches (Luo et al. 2024,
/// "Benchmarking and Dissecting the Nvidia Hopper GPU Architecture").
const MMA_FLOP: f64 = 0.62 * 4096.0;
/// Bytes per clock of a multiprocessor's shared memory.
pub(super) const SHARED: f64 = 128.0;
/// Bytes per clock that one multiprocessor takes from L2, alone and when all take (5.5 TB/s of 132).
pub(super) const PORT: f64 = 64.0;
const L2_SHARE: f64 = 24.5;
/// Clocks from a copy's issue to its data, when L2 is busy, with the barrier behind it.
pub(super) const L2_LATENCY: f64 = 800.0;
/// Instructions of a warp before its main loop, its first copies included, and clocks that nothing overlaps: the
/// first copies, the last stores.
const PROLOGUE_INSTRUCTIONS: f64 = 370.0;
pub(super) const EDGE_LATENCY: f64 = 1200.0;
/// Instructions of the epilogue per 8 output values.
pub(super) const EPILOGUE_INSTRUCTIONS: f64 = 40.0;
/// A launch inside a graph, and the latency of the second kernel's one round of blocks.
pub const LAUNCH_SECONDS: f64 = 1.3e-6;
const REDUCE_CLOCKS: f64 = 1700.0;

/// What a convolution costs by the model, in clocks of a multiprocessor.
#[derive(Clone, Copy, Debug)]
pub struct ConvCost {
    /// Of the busiest multiprocessor: its steps, by what bounds them.
    pub steps: f64,
    pub bound: Bound,
    /// The part of these steps that its share of the FLOP takes at the tensor cores' peak, without padding.
    pub useful: f64,
    /// The part in which multiprocessors without a block, or without as many as the busiest, wait for it.
    pub idle: f64,
    /// Prologues and epilogues of its blocks.
    pub edges: f64,
    /// Sums exchanged in clusters.
    pub exchange: f64,
    /// L2 delivers all blocks' operands in this time.
    pub l2: f64,
    /// Partial sums written and read and the second kernel; 0 where there is none.
    pub join: f64,
}

impl ConvCost {
    pub fn of(conv: &Conv2d, pixels: usize, multiprocessors: usize, tiling: ConvTiling) -> Self {
        let ConvTiling { tile, splits, k_blocks, .. } = tiling;
        if tile.of_warpgroups() {
            let join = join(conv, pixels, multiprocessors, tiling);
            return hopper::cost(conv, pixels, multiprocessors, tiling, join);
        }
        let blocks =
            pixels.div_ceil(tile.pixels) * conv.out_channels.div_ceil(tile.channels) * splits;
        let (resident, steps) = (tile.resident(), k_blocks as f64);
        let busiest = blocks.div_ceil(multiprocessors.max(1));
        let mut cost = ConvCost {
            steps: 0.0,
            bound: Bound::Latency,
            useful: useful(conv, pixels, multiprocessors),
            idle: 0.0,
            edges: 0.0,
            exchange: 0.0,
            l2: 0.0,
            join: 0.0,
        };
        let (full, rest) = (busiest / resident, busiest % resident);
        for (groups, together) in [(full, resident), (1, rest)] {
            if groups > 0 && together > 0 {
                let (step, bound) = step(tile, together as f64);
                cost.bound = if cost.steps == 0.0 { bound } else { cost.bound };
                cost.steps += groups as f64 * steps * step;
                cost.edges += groups as f64 * edges(tile, together as f64);
            }
        }
        cost.idle = idle(cost.steps, blocks, busiest * multiprocessors.max(1));
        let bytes = blocks as f64 * steps * operand_bytes(tile);
        cost.l2 = bytes / (L2_SHARE * multiprocessors.max(1) as f64);
        cost.join = join(conv, pixels, multiprocessors, tiling);
        cost
    }

    /// Both kernels, without the first one's launch.
    pub fn clocks(&self) -> f64 {
        self.main() + self.join
    }

    /// The first kernel.
    fn main(&self) -> f64 {
        (self.steps + self.edges + self.exchange).max(self.l2)
    }

    /// The first kernel, for `ddu profile`.
    pub(super) fn modelled(&self) -> Modelled {
        let parts = [
            ((self.steps - self.useful - self.idle).max(0.0), self.bound),
            (self.idle, Bound::Idle),
            (self.edges, Bound::Edges),
            (self.exchange, Bound::Exchange),
        ];
        let most = parts.into_iter().max_by(|a, b| a.0.total_cmp(&b.0)).expect("four parts");
        let by_l2 = self.l2 >= self.main();
        let loss = if by_l2 { (self.l2 - self.useful, Bound::L2) } else { most };
        let bound = if self.useful > loss.0 { Bound::Tensor } else { loss.1 };
        let seconds = |clocks: f64| clocks / CLOCK_HZ;
        Modelled {
            seconds: seconds(self.main()),
            here: seconds(self.main()),
            bound,
            loss: (seconds(loss.0), loss.1),
        }
    }

    /// The second kernel, where the reduction is split.
    pub(super) fn modelled_join(&self) -> Modelled {
        let seconds = (self.join / CLOCK_HZ - LAUNCH_SECONDS).max(0.0);
        Modelled { seconds, here: seconds, bound: Bound::L2, loss: (seconds, Bound::L2) }
    }
}

/// [`ConvCost::useful`], by `wgmma`'s peak, which is the roof of both kernels.
pub(super) fn useful(conv: &Conv2d, pixels: usize, multiprocessors: usize) -> f64 {
    let products = pixels as f64 * conv.out_channels as f64 * reduction(conv) as f64;
    2.0 * products / (4096.0 * multiprocessors.max(1) as f64)
}

/// [`ConvCost::idle`], where `blocks` fill so many of `places`.
pub(super) fn idle(steps: f64, blocks: usize, places: usize) -> f64 {
    steps * (1.0 - blocks as f64 / places as f64).max(0.0)
}

/// Clocks of the second kernel and its launch; 0 where there is none.
fn join(conv: &Conv2d, pixels: usize, multiprocessors: usize, tiling: ConvTiling) -> f64 {
    if tiling.splits == 1 || tiling.cluster {
        return 0.0;
    }
    let partial = 2.0 * tiling.partial_bytes(conv, pixels) as f64;
    let launch = LAUNCH_SECONDS * CLOCK_HZ + REDUCE_CLOCKS;
    launch + partial / (L2_SHARE * multiprocessors.max(1) as f64)
}

/// Bytes of both operands of a step.
fn operand_bytes(tile: ConvTile) -> f64 {
    ((tile.pixels + tile.channels) * 2 * K_BLOCK) as f64
}

/// Clocks of a step of `together` blocks on a multiprocessor, and what bounds it.
fn step(tile: ConvTile, together: f64) -> (f64, Bound) {
    let flop = (2 * tile.pixels * tile.channels * K_BLOCK) as f64;
    let warps = tile.threads() as f64 / 32.0;
    let read = warps * ((tile.warp[0] + tile.warp[1]) * 2 * K_BLOCK) as f64;
    [
        (together * flop / MMA_FLOP, Bound::Tensor),
        (together * warps / 4.0 * tile.instructions as f64, Bound::Issue),
        (together * (operand_bytes(tile) + read) / SHARED, Bound::Shared),
        (together * operand_bytes(tile) / PORT, Bound::L2),
        (L2_LATENCY / (tile.stages as f64 - 1.0), Bound::Latency),
    ]
    .into_iter()
    .max_by(|a, b| a.0.total_cmp(&b.0))
    .expect("five bounds")
}

/// Clocks of prologue and epilogue of `together` blocks on a multiprocessor.
fn edges(tile: ConvTile, together: f64) -> f64 {
    let (warps, threads) = (tile.threads() as f64 / 32.0, tile.threads() as f64);
    let groups_of_8 = (tile.pixels * tile.channels / 8) as f64 / threads;
    let instructions = PROLOGUE_INSTRUCTIONS + groups_of_8 * EPILOGUE_INSTRUCTIONS;
    together * warps / 4.0 * instructions + EDGE_LATENCY
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::dry_run::Paper;

    const H200: usize = 132;

    fn chosen(conv: Conv2d, pixels: usize) -> ConvTiling {
        ConvTiling::choose(&conv, pixels, H200)
    }

    /// Of the ResNet-101 DeepLab-v3+ at 513 x 513, output stride 16: 33 x 33 cells in the deep stages.
    #[test]
    fn a_long_reduction_over_few_pixels_is_split_among_large_tiles() {
        let deep = 33 * 33;
        for conv in [
            Conv2d::dense(2048, 256, 3).dilation(6),
            Conv2d::dense(512, 512, 3).dilation(2),
            Conv2d::dense(256, 256, 3),
        ] {
            let tiling = chosen(conv, deep);
            assert!(tiling.splits > 1 && tiling.tile.pixels == 128, "{conv:?}: {tiling:?}");
            let unsplit = ConvTiling::new(&conv, TILES[3], 1);
            let clocks = |tiling| ConvCost::of(&conv, deep, H200, tiling).clocks();
            assert!(clocks(tiling) < 0.75 * clocks(unsplit), "{conv:?}: {tiling:?}");
        }
    }

    #[test]
    fn deep_layers_join_their_splits_in_clusters_on_an_h200() {
        let (deep, paper) = (33 * 33, Paper::new());
        for conv in [
            Conv2d::dense(2048, 256, 3).dilation(6),
            Conv2d::dense(512, 512, 3).dilation(2),
            Conv2d::dense(256, 256, 3),
        ] {
            let tiling = ConvTiling::on(&conv, deep, &paper);
            assert!(tiling.cluster, "{conv:?}: {tiling:?}");
            assert_eq!(tiling.partial_bytes(&conv, deep), 0);
            let clocks = |tiling| ConvCost::of(&conv, deep, H200, tiling).clocks();
            assert!(clocks(tiling) < clocks(ConvTiling { cluster: false, ..tiling }));
        }
        let many = ConvTiling::on(&Conv2d::dense(304, 256, 3), 16 * 129 * 129, &paper);
        assert!(!many.cluster && many.splits == 1, "{many:?}");
    }

    #[test]
    fn many_pixels_take_the_largest_tile_whole() {
        let tiling = chosen(Conv2d::dense(304, 256, 3), 16 * 129 * 129);
        assert_eq!((tiling.tile, tiling.splits), (TILES[0], 1));
    }

    #[test]
    fn few_channels_do_not_take_a_tile_of_padding() {
        let tiling = chosen(Conv2d::dense(256, 21, 1), 129 * 129);
        assert_eq!(tiling.tile.channels, 32);
    }

    /// Nothing beats the choice, and every choice covers its reduction without an empty split.
    #[test]
    fn the_choice_is_the_least_of_all() {
        for (input, output, kernel, pixels) in [
            (8, 8, 1, 1),
            (64, 64, 1, 16641),
            (2048, 256, 1, 1),
            (304, 256, 3, 7000),
            (72, 136, 3, 99),
        ] {
            let conv = Conv2d::dense(input, output, kernel);
            let best = chosen(conv, pixels);
            let all = (kernel * kernel * input).div_ceil(K_BLOCK);
            assert!(best.splits * best.k_blocks >= all && (best.splits - 1) * best.k_blocks < all);
            let clocks = |tiling| ConvCost::of(&conv, pixels, H200, tiling).clocks();
            for tile in TILES.iter().filter(|t| t.channels == 32 || output > t.channels / 2) {
                for splits in 1..=(all / LEAST_K_BLOCKS).clamp(1, MOST_SPLITS) {
                    assert!(clocks(best) <= clocks(ConvTiling::new(&conv, *tile, splits)));
                }
            }
        }
    }
}
