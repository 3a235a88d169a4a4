//! Launches of `kernels/density.cu` and `density_hopper.cu`: which tile, how many splits, and the
//! parameters.

use super::{require, require_bytes};
use crate::device::params::DensityParams;
use crate::device::{Device, Element, Launch, Slice, Tensor, kernels, param};
use crate::error::{Error, Result};

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
        let most = TILES.iter().find(|t| t.packing == Packing::Warpgroup).map_or(0, |t| t.channels);
        if device.wgmma() && channels <= most { Packing::Warpgroup } else { Packing::Warp }
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

/// Pixels of a block, and the most channels that its shared memory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Tile {
    pub pixels: usize,
    pub channels: usize,
    pub packing: Packing,
    kernel: &'static str,
    fast: &'static str,
}

/// Of each packing the largest first.
pub const TILES: [Tile; 4] = [
    Tile {
        pixels: 256,
        channels: 256,
        packing: Packing::Warp,
        kernel: "density_256",
        fast: "density_256_fast",
    },
    Tile {
        pixels: 128,
        channels: 256,
        packing: Packing::Warp,
        kernel: "density_128",
        fast: "density_128_fast",
    },
    Tile {
        pixels: 64,
        channels: 512,
        packing: Packing::Warp,
        kernel: "density_64",
        fast: "density_64_fast",
    },
    Tile {
        pixels: 256,
        channels: 256,
        packing: Packing::Warpgroup,
        kernel: "density_hopper",
        fast: "density_hopper_fast",
    },
];

impl Tile {
    fn shared_bytes(&self) -> usize {
        kernels::find(self.kernel).shared_bytes
    }
}

/// How the pixels and classes are spread over a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Spread {
    pub tile: Tile,
    /// Parts of the classes, each with blocks of its own; 1: no second kernel.
    pub splits: usize,
    /// Classes of a split (the last may have fewer).
    pub per_split: usize,
}

impl Spread {
    /// # Panics
    /// If `classes` or `splits` is 0.
    pub fn new(tile: Tile, classes: usize, splits: usize) -> Self {
        let per_split = classes.div_ceil(splits.min(classes));
        // Rounding up may leave the last splits empty: only as many as have work.
        Spread { tile, splits: classes.div_ceil(per_split), per_split }
    }

    /// The largest tile that gives every multiprocessor a block; where none does, the largest that is
    /// not mostly empty, with the classes split until all are busy. (A smaller tile would do that too,
    /// but a block reads all of W, whatever its pixels.)
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
        let holds = |t: &&Tile| {
            t.packing == packing && channels <= t.channels && t.shared_bytes() <= shared_bytes
        };
        // The smallest tile is for what the others cannot hold.
        let most = TILES.iter().filter(holds).map(|t| t.channels).min().unwrap_or(0);
        let fitting = || TILES.iter().filter(holds).filter(|t| t.channels == most);
        let blocks = |tile: &Tile| pixels.div_ceil(tile.pixels);
        if let Some(tile) = fitting().find(|t| blocks(t) >= multiprocessors) {
            return Ok(Spread::new(*tile, classes, 1));
        }
        let full = fitting().find(|t| pixels > t.pixels / 2).or(fitting().next_back());
        let Some(tile) = full else {
            return Err(Error::invalid("density", "at most 512 channels", channels));
        };
        Ok(Spread::new(*tile, classes, (multiprocessors / blocks(tile).max(1)).clamp(1, classes)))
    }

    /// Bytes of what the splits leave to the merge.
    pub fn partial_bytes(&self, pixels: usize) -> usize {
        if self.splits == 1 { 0 } else { self.splits * pixels * 16 }
    }

    /// Bytes of the counters.
    pub fn stats_bytes(&self, pixels: usize) -> usize {
        self.splits * pixels.div_ceil(self.tile.pixels) * self.tile.pixels / 32 * 8
    }
}

/// Blocks of one class's W, those above the diagonal left out.
pub fn blocks(channels: usize) -> usize {
    let panels = channels.div_ceil(PANEL);
    panels * (panels + 1)
}

/// Gaussians as the kernel reads them (`device::density` makes them): `classes` and, last, the
/// background.
#[derive(Clone, Copy)]
pub struct Gaussians<'a> {
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

/// What a density writes, a value a pixel.
#[derive(Clone, Copy)]
pub struct Outputs<'a> {
    /// f32
    pub density: Slice<'a>,
    /// f32
    pub relative: Option<Slice<'a>>,
    /// u8 and f32
    pub nearest: Option<(Slice<'a>, Slice<'a>)>,
    /// [`Spread::partial_bytes`]
    pub partial: Option<Slice<'a>>,
    /// [`Spread::stats_bytes`]
    pub stats: Slice<'a>,
}

/// `features` fp16; `predicted` u8 a pixel in the model's classes: those most often predicted in a tile
/// come first. `tau` in nats, infinity: no early exit.
pub fn density<'a>(
    gaussians: Gaussians<'a>,
    features: Tensor<'a>,
    predicted: Option<Slice<'a>>,
    tau: f32,
    out: Outputs<'a>,
    spread: Spread,
) -> Result<Vec<Launch<'a>>> {
    let what = "density";
    let Gaussians { classes, channels, precision, packing, weights, rows, constants, ids } =
        gaussians;
    let Spread { tile, splits, per_split } = spread;
    require(what, tile.packing == packing, "a tile of W's packing", format!("{packing:?}"))?;
    require(what, (1..=256).contains(&classes), "1 to 256 classes", classes)?;
    let fits = channels.is_multiple_of(16) && (16..=tile.channels).contains(&channels);
    require(what, fits, &format!("channels in sixteens, up to {}", tile.channels), channels)?;
    let same = features.element == Element::F16 && features.channels == channels;
    require(what, same, &format!("fp16 features of {channels} channels"), features.channels)?;
    let whole =
        per_split > 0 && splits * per_split >= classes && (splits - 1) * per_split < classes;
    require(what, whole, "splits that cover the classes, none empty", format!("{spread:?}"))?;
    require(what, tau > 0.0, "a positive tau", tau)?;

    let pixels = features.pixels();
    let items = classes + 1;
    let padded = channels.next_multiple_of(PANEL);
    let block = precision.terms() * PANEL * BLOCK * 2;
    require_bytes("density's weights", weights, items * blocks(channels) * block)?;
    require_bytes("density's rows", rows, items * padded * 8)?;
    require_bytes("density's constants", constants, items * 4)?;
    require_bytes("density's ids", ids, classes * 4)?;
    require_bytes("density's output", out.density, pixels * 4)?;
    if let Some(predicted) = predicted {
        require_bytes("density's predicted classes", predicted, pixels)?;
    }
    if let Some(relative) = out.relative {
        require_bytes("density's relative output", relative, pixels * 4)?;
    }
    if let Some((nearest, distance)) = out.nearest {
        require_bytes("density's nearest classes", nearest, pixels)?;
        require_bytes("density's distances", distance, pixels * 4)?;
    }
    if splits > 1 {
        match out.partial {
            Some(partial) => {
                require_bytes("density's splits", partial, spread.partial_bytes(pixels))?;
            }
            None => require(what, false, "memory for the splits", "none")?,
        }
    }
    require_bytes("density's counters", out.stats, spread.stats_bytes(pixels))?;

    let p = |value| param(what, value);
    p(pixels + tile.pixels)?;
    let address = |slice: Option<Slice>| slice.map_or(0, |s| s.address);
    let params = DensityParams {
        features: features.data.address,
        weights: weights.address,
        rows: rows.address,
        constants: constants.address,
        ids: ids.address,
        predicted: address(predicted),
        density: out.density.address,
        relative: address(out.relative),
        nearest: address(out.nearest.map(|n| n.0)),
        distance: address(out.nearest.map(|n| n.1)),
        partial: address(out.partial),
        stats: out.stats.address,
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
    let mut launches =
        vec![Launch::new(kernel, [pixels.div_ceil(tile.pixels), splits, 1], &params)?];
    if splits > 1 {
        launches.push(Launch::new("density_merge", [pixels.div_ceil(256), 1, 1], &params)?);
    }
    Ok(launches)
}
