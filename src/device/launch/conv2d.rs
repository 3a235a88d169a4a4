//! Launches of `kernels/conv2d.cu`: which tile, how many splits, and the parameters.

use super::{require, require_bytes, require_tensors};
use crate::device::params::Conv2dParams;
use crate::device::{Element, Launch, Slice, Tensor, param};
use crate::error::Result;
use crate::ops::Conv2d;

/// Values of the reduction a block of the main loop takes (`BK`).
pub const K_BLOCK: usize = 32;

/// A template instance: pixels x output channels of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Tile {
    pub pixels: usize,
    pub channels: usize,
    kernel: &'static str,
}

/// Largest first.
pub const TILES: [Tile; 4] = [
    Tile { pixels: 128, channels: 128, kernel: "conv2d_128x128" },
    Tile { pixels: 128, channels: 64, kernel: "conv2d_128x64" },
    Tile { pixels: 64, channels: 64, kernel: "conv2d_64x64" },
    Tile { pixels: 64, channels: 32, kernel: "conv2d_64x32" },
];

/// How one convolution is spread over a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Spread {
    pub tile: Tile,
    /// Parts of the reduction, each summed by blocks of its own; 1: no second kernel.
    pub splits: usize,
    /// Blocks of [`K_BLOCK`] in a split (the last may have fewer).
    pub k_blocks: usize,
}

impl Spread {
    /// # Panics
    /// If `splits` is 0.
    pub fn new(conv: &Conv2d, tile: Tile, splits: usize) -> Self {
        let all = reduction(conv).div_ceil(K_BLOCK);
        let k_blocks = all.div_ceil(splits.min(all));
        // Rounding up may leave the last splits empty: only as many as have work.
        Spread { tile, splits: all.div_ceil(k_blocks), k_blocks }
    }

    /// The largest tile that gives every multiprocessor a block; where none does, the smallest tile
    /// whose channels are not mostly padding, with the reduction split until all are busy or a split
    /// has 8 blocks of k (below that the copies' latency is not hidden).
    pub fn choose(conv: &Conv2d, pixels: usize, multiprocessors: usize) -> Self {
        let blocks =
            |tile: &Tile| pixels.div_ceil(tile.pixels) * conv.out_channels.div_ceil(tile.channels);
        let narrow = |tile: &&Tile| tile.channels == 32 || conv.out_channels > tile.channels / 2;
        let fitting = || TILES.iter().filter(narrow);
        if let Some(tile) = fitting().find(|tile| blocks(tile) >= multiprocessors) {
            return Spread::new(conv, *tile, 1);
        }
        let tile = fitting().find(|t| t.pixels == 64).unwrap_or(&TILES[3]);
        let most = (reduction(conv).div_ceil(K_BLOCK) / 8).max(1);
        Spread::new(conv, *tile, (multiprocessors / blocks(tile).max(1)).clamp(1, most))
    }

    /// Blocks of the main kernel.
    pub fn blocks(&self, conv: &Conv2d, pixels: usize) -> usize {
        pixels.div_ceil(self.tile.pixels)
            * conv.out_channels.div_ceil(self.tile.channels)
            * self.splits
    }

    /// Bytes of the partial sums.
    pub fn partial_bytes(&self, conv: &Conv2d, pixels: usize) -> usize {
        if self.splits == 1 { 0 } else { self.splits * pixels * conv.out_channels * 4 }
    }
}

/// Length of the reduction of an output value.
fn reduction(conv: &Conv2d) -> usize {
    conv.kernel * conv.kernel * conv.in_channels
}

/// What a convolution reads and writes. Channels in eights.
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
    /// At least [`Spread::partial_bytes`].
    pub partial: Option<Slice<'a>>,
}

/// One launch, or two where the reduction is split.
pub fn conv2d<'a>(conv: &Conv2d, o: Operands<'a>, spread: Spread) -> Result<Vec<Launch<'a>>> {
    let what = "conv2d";
    conv.validate()?;
    require_tensors(what, &o.x, &o.y, conv.output_size(o.x.size)?)?;
    let shape = format!("{conv:?} from {} to {} channels", o.x.channels, o.y.channels);
    let fits = !conv.depthwise
        && conv.in_channels == o.x.channels
        && conv.out_channels == o.y.channels
        && conv.in_channels.is_multiple_of(8);
    require(what, fits, "a dense convolution of these channels, in eights", shape)?;
    let pixels = o.y.pixels();
    require_bytes("conv2d weight", o.weight, conv.out_channels * reduction(conv) * 2)?;
    require_bytes("conv2d bias", o.bias, conv.out_channels * 4)?;
    if let Some(r) = &o.residual {
        let same = (r.batch, r.size, r.channels) == (o.y.batch, o.y.size, o.y.channels);
        require(
            what,
            same && r.element == Element::F16,
            "a residual of the output's shape",
            r.size,
        )?;
    }
    if spread.splits > 1 {
        let bytes = spread.partial_bytes(conv, pixels);
        match o.partial {
            Some(partial) => require_bytes("conv2d partial sums", partial, bytes)?,
            None => require(what, false, "memory for partial sums", "none")?,
        }
    }
    let whole = spread.splits * spread.k_blocks * K_BLOCK >= reduction(conv)
        && (spread.splits - 1) * spread.k_blocks * K_BLOCK < reduction(conv);
    require(what, whole, "splits that cover the reduction, none empty", format!("{spread:?}"))?;

    let p = |value| param(what, value);
    // The kernel's own index arithmetic: positions in the padded image and in the reduction.
    let reach =
        conv.dilation.saturating_mul(conv.kernel) + o.x.size.h.max(o.x.size.w) + conv.padding;
    require(what, reach < 1 << 27, "a padded image below 2^27", reach)?;
    let params = Conv2dParams {
        input: o.x.data.address,
        weight: o.weight.address,
        bias: o.bias.address,
        residual: o.residual.map_or(0, |r| r.data.address),
        output: o.y.data.address,
        partial: o.partial.map_or(0, |partial| partial.address),
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
        splits: p(spread.splits)?,
        k_blocks: p(spread.k_blocks)?,
    };
    p(reduction(conv) + K_BLOCK * spread.k_blocks)?;
    let Tile { pixels: m, channels: n, kernel } = spread.tile;
    let grid = [pixels.div_ceil(m), conv.out_channels.div_ceil(n), spread.splits];
    let mut launches = vec![Launch::new(kernel, grid, &params)?];
    if spread.splits > 1 {
        let grid = [(pixels * conv.out_channels / 8).div_ceil(256), 1, 1];
        launches.push(Launch::new("conv2d_reduce", grid, &params)?);
    }
    Ok(launches)
}
