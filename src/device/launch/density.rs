//! Launches of `kernels/density.cu` and `density_hopper.cu`: which tile, how many splits, and the
//! parameters.

use super::{Address, Addresses, Launch, Work, param, require};
use crate::device::kernels::Source;
use crate::device::{Device, Element, Slice, Tensor};
use crate::error::{Error, Result};

params! {
    /// Of both files (`kernels/common/gaussians.cuh`).
    DensityParams {
        features: Address,
        weights: Address,
        rows: Address,
        constants: Address,
        ids: Address,
        predicted: Address,
        density: Address,
        relative: Address,
        nearest: Address,
        distance: Address,
        squares: Address,
        stats: Address,
        pixels: i32,
        feature_stride: i32,
        channels: i32,
        panels: i32,
        classes: i32,
        splits: i32,
        per_split: i32,
        tau: f32,
    }
}

pub(in crate::device) static SOURCE: Source = Source {
    file: "density",
    parameters: DensityParams::PARAMETERS,
    kernels: &[
        DensityParams::kernel("density_256", "density", 256, 166528),
        DensityParams::kernel("density_128", "density", 128, 100992),
        DensityParams::kernel("density_64", "density", 64, 100992),
        DensityParams::kernel("density_256_fast", "density", 256, 166528),
        DensityParams::kernel("density_128_fast", "density", 128, 100992),
        DensityParams::kernel("density_64_fast", "density", 64, 100992),
        DensityParams::kernel("density_merge", "density", 256, 0),
    ],
    constants: &[("BK", BLOCK), ("PANEL", PANEL)],
};

pub(in crate::device) static HOPPER_SOURCE: Source = Source {
    file: "density_hopper",
    parameters: DensityParams::PARAMETERS,
    kernels: &[
        DensityParams::kernel("density_hopper", "density_hopper", 384, 137088),
        DensityParams::kernel("density_hopper_192", "density_hopper", 512, 137216),
        DensityParams::kernel("density_hopper_fast", "density_hopper", 384, 71552),
        DensityParams::kernel("density_hopper_192_fast", "density_hopper", 512, 71680),
    ],
    constants: &[("BK", 2 * BLOCK), ("PANEL", PANEL)],
};

/// Rows of a panel of W (`PANEL`); channels are padded to its multiples.
pub const PANEL: usize = 64;
/// Columns of a block of W (`BK`) of the warps' kernel; the warpgroups' has twice as many.
pub const BLOCK: usize = 32;

/// Which kernel W is packed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Packing {
    /// `density.cu`, products of a warp.
    Warp,
    /// `density_hopper.cu`, products of a warpgroup.
    Warpgroup,
}

impl Packing {
    /// That of the fastest kernel that a device has for so many channels.
    pub fn of(device: &dyn Device, channels: usize) -> Self {
        let limit =
            TILES.iter().find(|t| t.packing == Packing::Warpgroup).map_or(0, |t| t.channels);
        if device.wgmma() && channels <= limit { Packing::Warpgroup } else { Packing::Warp }
    }
}

/// How W is held on a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub enum Precision {
    /// Two fp16 terms: |error of log q| <= 1e-3 + 1e-5 |log q|.
    #[default]
    Exact,
    /// One: half the work; `docs/performance.md` derives the error.
    Fast,
}

impl Precision {
    /// As they are written.
    pub const NAMES: [(&str, Self); 2] = [("exact", Self::Exact), ("fast", Self::Fast)];

    pub fn terms(self) -> usize {
        match self {
            Precision::Exact => 2,
            Precision::Fast => 1,
        }
    }
}

/// Pixels of a block, and the number of channels that its memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DensityTile {
    pub pixels: usize,
    pub channels: usize,
    pub packing: Packing,
    kernel: &'static str,
    fast: &'static str,
}

/// Grouped by packing, the largest first.
pub const TILES: [DensityTile; 5] = [
    DensityTile {
        pixels: 256,
        channels: 256,
        packing: Packing::Warp,
        kernel: "density_256",
        fast: "density_256_fast",
    },
    DensityTile {
        pixels: 128,
        channels: 256,
        packing: Packing::Warp,
        kernel: "density_128",
        fast: "density_128_fast",
    },
    DensityTile {
        pixels: 64,
        channels: 512,
        packing: Packing::Warp,
        kernel: "density_64",
        fast: "density_64_fast",
    },
    DensityTile {
        pixels: 256,
        channels: 256,
        packing: Packing::Warpgroup,
        kernel: "density_hopper",
        fast: "density_hopper_fast",
    },
    DensityTile {
        pixels: 192,
        channels: 256,
        packing: Packing::Warpgroup,
        kernel: "density_hopper_192",
        fast: "density_hopper_192_fast",
    },
];

impl DensityTile {
    /// Its rows of the table of kernels: of both terms, and of one.
    pub fn kernels(&self) -> [&'static str; 2] {
        [self.kernel, self.fast]
    }

    fn source(&self) -> &'static Source {
        match self.packing {
            Packing::Warp => &SOURCE,
            Packing::Warpgroup => &HOPPER_SOURCE,
        }
    }

    fn shared_bytes(&self) -> usize {
        self.source().kernel(self.kernel).shared_bytes
    }
}

/// How the pixels and classes are divided among the blocks of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct DensityTiling {
    pub tile: DensityTile,
    /// Parts of the classes, each with separate blocks; 1: no second kernel.
    pub splits: usize,
    /// Classes of a split (the last may have fewer).
    pub per_split: usize,
}

impl DensityTiling {
    /// # Panics
    /// If `classes` or `splits` is 0.
    pub fn new(tile: DensityTile, classes: usize, splits: usize) -> Self {
        let per_split = classes.div_ceil(splits.min(classes));
        // Rounding up may make the last splits empty: only as many as have work.
        DensityTiling { tile, splits: classes.div_ceil(per_split), per_split }
    }

    /// The division that takes the fewest pixels times classes of the busiest multiprocessor; of equal ones
    /// the largest tile (a block reads all of W, whatever its pixels), then the fewest splits. A part knows its own
    /// classes' maximum alone: of 9 classes early exit leaves the busiest block of a round 0.83 where they are one part, 0.91 where
    /// they are two and all where they are three (`docs/performance.md`), which is some 0.72 and 0.75 of each class; a block's
    /// start takes as long as half a class.
    ///
    /// # Errors
    /// More channels than any tile holds.
    pub fn choose(
        pixels: usize,
        channels: usize,
        classes: usize,
        packing: Packing,
        multiprocessors: usize,
        shared_bytes: usize,
    ) -> Result<Self> {
        let holds = |t: &&DensityTile| {
            t.packing == packing && channels <= t.channels && t.shared_bytes() <= shared_bytes
        };
        // The smallest tile is for what the others cannot hold.
        let limit = TILES.iter().filter(holds).map(|t| t.channels).min().unwrap_or(0);
        let fitting = TILES.iter().filter(holds).filter(|t| t.channels == limit);
        let cost = |tiling: &DensityTiling| {
            let DensityTiling { tile, splits, per_split } = *tiling;
            let rounds = (pixels.div_ceil(tile.pixels) * splits).div_ceil(multiprocessors.max(1));
            let all = per_split as f64;
            let classes = all.min(0.75 * all + 0.72) + 0.5;
            (rounds * tile.pixels) as f64 * classes
        };
        fitting
            .flat_map(|tile| (1..=classes).map(|splits| DensityTiling::new(*tile, classes, splits)))
            .min_by(|a, b| cost(a).total_cmp(&cost(b)))
            .ok_or_else(|| Error::invalid("density", "at most 512 channels", channels))
    }

    /// Bytes of the counters.
    pub fn stats_bytes(&self, pixels: usize) -> usize {
        self.splits * pixels.div_ceil(self.tile.pixels) * self.tile.pixels / 32 * 8
    }
}

/// Bytes of the squared distances that the scores are made of: those of every class and of the background.
pub fn squares_bytes(pixels: usize, classes: usize) -> usize {
    (classes + 1) * pixels * 4
}

/// Blocks of one class's W, those above the diagonal left out.
pub fn blocks(channels: usize) -> usize {
    let panels = channels.div_ceil(PANEL);
    panels * (panels + 1)
}

/// Gaussians as the kernel reads them (`gpu::density` makes them): `classes` and, last, the
/// background.
#[derive(Clone, Copy)]
pub struct PackedGaussians<'a> {
    pub classes: usize,
    pub channels: usize,
    pub precision: Precision,
    pub packing: Packing,
    /// fp16 `[classes + 1, blocks, terms, 64, 32]`, or of blocks of 64 columns half as many
    pub weights: Slice<'a>,
    /// f32 `[classes + 1, padded channels, 2]`
    pub rows: Slice<'a>,
    /// f32 `[classes + 1]`
    pub constants: Slice<'a>,
    /// i32 `[classes]`
    pub ids: Slice<'a>,
}

/// What a density writes, a value per pixel.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    /// f32
    pub density: Slice<'a>,
    /// f32
    pub relative: Option<Slice<'a>>,
    /// u8 and f32
    pub nearest: Option<(Slice<'a>, Slice<'a>)>,
    /// [`squares_bytes`]; scratch
    pub squares: Slice<'a>,
    /// [`DensityTiling::stats_bytes`]
    pub stats: Slice<'a>,
}

/// `features` fp16; `predicted` u8 per pixel in the model's classes: those most often predicted in a tile
/// come first. `tau` in nats, infinity: no early exit.
pub fn density<'a>(
    gaussians: PackedGaussians<'a>,
    features: Tensor<'a>,
    predicted: Option<Slice<'a>>,
    tau: f32,
    out: Outputs<'a>,
    tiling: DensityTiling,
) -> Result<Vec<Launch<'a>>> {
    let what = "density";
    let PackedGaussians { classes, channels, precision, packing, weights, rows, constants, ids } =
        gaussians;
    let DensityTiling { tile, splits, per_split } = tiling;
    require(what, TILES.contains(&tile), "a tile of the list", format!("{tiling:?}"))?;
    require(what, tile.packing == packing, "a tile of W's packing", format!("{packing:?}"))?;
    require(what, (1..=256).contains(&classes), "1 to 256 classes", classes)?;
    let fits = channels.is_multiple_of(16) && (16..=tile.channels).contains(&channels);
    require(what, fits, &format!("channels in sixteens, up to {}", tile.channels), channels)?;
    let same = features.element == Element::F16 && features.channels == channels;
    require(what, same, &format!("fp16 features of {channels} channels"), features.channels)?;
    let covered =
        per_split > 0 && splits * per_split >= classes && (splits - 1) * per_split < classes;
    require(what, covered, "splits that cover the classes, none empty", format!("{tiling:?}"))?;
    require(what, tau > 0.0, "a positive tau", tau)?;

    let pixels = features.pixels();
    let items = classes + 1;
    let padded = channels.next_multiple_of(PANEL);
    let block = precision.terms() * PANEL * BLOCK * 2;

    let p = |value| param(what, value);
    p(pixels + tile.pixels)?;
    let mut memory = Addresses::new(what);
    let (nearest, distance) = out.nearest.unzip();
    let params = DensityParams {
        features: memory.tensor(&features)?,
        weights: memory.slice("weights", weights, items * blocks(channels) * block)?,
        rows: memory.slice("rows", rows, items * padded * 8)?,
        constants: memory.slice("constants", constants, items * 4)?,
        ids: memory.slice("ids", ids, classes * 4)?,
        predicted: memory.optional("predicted classes", predicted, pixels)?,
        density: memory.slice("output", out.density, pixels * 4)?,
        relative: memory.optional("relative output", out.relative, pixels * 4)?,
        nearest: memory.optional("nearest classes", nearest, pixels)?,
        distance: memory.optional("distances", distance, pixels * 4)?,
        squares: memory.slice("squared distances", out.squares, squares_bytes(pixels, classes))?,
        stats: memory.slice("counters", out.stats, tiling.stats_bytes(pixels))?,
        pixels: p(pixels)?,
        feature_stride: p(features.stride)?,
        channels: p(channels)?,
        panels: p(padded / PANEL)?,
        classes: p(classes)?,
        splits: p(splits)?,
        per_split: p(per_split)?,
        tau,
    };
    let kernel = match precision {
        Precision::Exact => tile.kernel,
        Precision::Fast => tile.fast,
    };
    let shape = [features.batch, features.size.h, features.size.w, 1];
    let background = usize::from(out.relative.is_some());
    let outputs = pixels * (4 * (1 + background) + 5 * usize::from(out.nearest.is_some()));
    let evaluated = classes + background;
    let read = pixels * channels * 2
        + predicted.map_or(0, |_| pixels)
        + evaluated * (blocks(channels) * block + padded * 8);
    let issued = precision.terms() * issued(channels) * tile.pixels * (per_split + background);
    // Nothing skipped by early exit: a triangle per pixel, class and term.
    let triangle = (pixels * evaluated * precision.terms()) as u64;
    let squares = pixels * 4 * evaluated;
    let written = squares + if splits == 1 { outputs } else { 0 };
    let work = Work {
        shape,
        flop: triangle * (channels * (channels + 1)) as u64,
        bytes: (read + written) as u64,
        splits,
        block_flop: (2 * issued) as f64,
        modelled: None,
    };
    let grid = [pixels.div_ceil(tile.pixels), splits, 1];
    let mut launches = vec![Launch::new(tile.source(), kernel, grid, &params, memory, work)?];
    if splits > 1 {
        let grid = [pixels.div_ceil(256), 1, 1];
        let work = Work::moving(shape, squares + outputs);
        launches.push(Launch::new(&SOURCE, "density_merge", grid, &params, memory, work)?);
    }
    Ok(launches)
}

/// Multiply-adds that a kernel issues per pixel, class and term: of a panel of 64 rows whole blocks of 32
/// columns, then four steps of 16 columns at the diagonal, of which tiles of 8 rows above it are left out.
fn issued(channels: usize) -> usize {
    let panel = |p: usize| 2 * p * PANEL * BLOCK + (64 + 48 + 32 + 16) * 16;
    (0..channels.div_ceil(PANEL)).map(panel).sum()
}
