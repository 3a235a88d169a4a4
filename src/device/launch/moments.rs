//! Launches of `kernels/moments.cu`.

use super::{require, require_bytes};
use crate::device::params::MomentsParams;
use crate::device::{Element, Launch, Slice, Tensor, param};
use crate::error::Result;

/// Pixels of a segment of the counting sort (`SEGMENT`).
const SEGMENT: usize = 256;
/// Most pixels of a chunk (`CHUNK`).
const CHUNK: usize = 512;
/// Keys of the counting sort (`KEYS`).
const KEYS: usize = 258;
/// Entries of [`Running::count`].
pub const COUNTS: usize = 257;
/// Rows and columns of a block of S (`BLOCK`).
const BLOCK: usize = 64;

/// What one launch folds in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    pub batch: usize,
    /// Pixels of an image's feature grid.
    pub cells: usize,
    pub channels: usize,
    pub classes: usize,
}

impl Shape {
    fn segments(&self) -> usize {
        self.cells.div_ceil(SEGMENT)
    }

    /// Most chunks that an image can have: each class that is there has one that is not full.
    pub fn slots(&self) -> usize {
        self.cells / CHUNK + self.classes.min(self.cells)
    }

    /// Blocks of the lower triangle of S.
    fn blocks(&self) -> usize {
        let panels = self.channels.div_ceil(BLOCK);
        panels * (panels + 1) / 2
    }

    /// Bytes of each buffer of [`Scratch`], in its order.
    pub fn scratch_bytes(&self) -> [usize; 11] {
        let Shape { batch, cells, channels, classes } = *self;
        let slots = batch * self.slots();
        [
            batch * cells * 2,
            batch * cells,
            batch * self.segments() * KEYS * 4,
            batch * 3 * KEYS * 4,
            slots * 16,
            batch * cells * 4,
            slots * channels * 8,
            slots * 2 * channels * 4,
            batch * classes * channels * 8,
            batch * classes * channels * 8,
            slots * self.blocks() * BLOCK * BLOCK * 4,
        ]
    }
}

/// Keys, ranks, offsets, totals, chunks, sorted cells, sums, extremes, means of the images, shifts,
/// partial products.
pub type Scratch<'a> = [Slice<'a>; 11];

/// The running moments: count i64 [`COUNTS`] (pixels of each label, then those of a class that are not
/// finite), mean f64 `[classes, channels]`, scatter f64 `[classes, channels, channels]`, lower triangle.
#[derive(Clone, Copy)]
pub struct Running<'a> {
    pub count: Slice<'a>,
    pub mean: Slice<'a>,
    pub scatter: Slice<'a>,
}

/// Folds a batch into `running`, images in order. `features` fp16, `labels` u8 `[batch, cells]`.
pub fn moments<'a>(
    shape: Shape,
    features: Tensor<'a>,
    labels: Slice<'a>,
    scratch: Scratch<'a>,
    running: Running<'a>,
) -> Result<Vec<Launch<'a>>> {
    let what = "moments";
    let Shape { batch, cells, channels, classes } = shape;
    require(what, (1..=255).contains(&classes), "1 to 255 classes", classes)?;
    let fits = channels.is_multiple_of(16) && (16..=512).contains(&channels);
    require(what, fits, "channels in sixteens, up to 512", channels)?;
    let same = features.element == Element::F16
        && (features.batch, features.size.pixels(), features.channels) == (batch, cells, channels);
    let found = format!("{} x {} x {}", features.batch, features.size, features.channels);
    require(what, same, &format!("fp16 features {batch} x {cells} x {channels}"), found)?;
    require_bytes("moments's labels", labels, batch * cells)?;
    for (slice, bytes) in scratch.iter().zip(shape.scratch_bytes()) {
        require_bytes("moments's scratch", *slice, bytes)?;
    }
    require_bytes("moments's counts", running.count, COUNTS * 8)?;
    require_bytes("moments's means", running.mean, classes * channels * 8)?;
    require_bytes("moments's scatters", running.scatter, classes * channels * channels * 8)?;

    let p = |value| param(what, value);
    let [keys, ranks, offsets, totals, chunks, sorted, sums, extremes, means, shifts, partial] =
        scratch.map(|slice| slice.address);
    let (segments, slots, blocks) = (shape.segments(), shape.slots(), shape.blocks());
    p(cells + SEGMENT)?;
    let params = MomentsParams {
        features: features.data.address,
        labels: labels.address,
        keys,
        ranks,
        offsets,
        totals,
        chunks,
        sorted,
        sums,
        extremes,
        image_mean: means,
        shifts,
        partial,
        count: running.count.address,
        mean: running.mean.address,
        scatter: running.scatter.address,
        batch: p(batch)?,
        cells: p(cells)?,
        feature_stride: p(features.stride)?,
        channels: p(channels)?,
        classes: p(classes)?,
        segments: p(segments)?,
        slots: p(slots)?,
        blocks: p(blocks)?,
    };
    [
        ("moments_keys", [segments, batch, 1]),
        ("moments_offsets", [batch, 1, 1]),
        ("moments_place", [segments, batch, 1]),
        ("moments_sums", [slots, batch, 1]),
        ("moments_shifts", [classes, batch, 1]),
        ("moments_syrk", [slots, blocks, batch]),
        ("moments_fold", [blocks * BLOCK * BLOCK / 256, classes, 1]),
        ("moments_means", [COUNTS, 1, 1]),
    ]
    .into_iter()
    .map(|(kernel, grid)| Launch::new(kernel, grid, &params))
    .collect()
}
