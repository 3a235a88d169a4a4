//! Launches of `kernels/moments_sort.cu` and `kernels/moments.cu`.

use super::divisor::Divisor;
use super::{Address, Addresses, Launch, Work, param, require};
use crate::device::kernels::Source;
use crate::device::{Element, Slice, Tensor};
use crate::error::Result;

params! {
    /// `kernels/common/moments.cuh`
    MomentsParams {
        features: Address,
        labels: Address,
        logits: Address,
        roots: Address,
        keys: Address,
        ranks: Address,
        offsets: Address,
        totals: Address,
        chunks: Address,
        sorted: Address,
        sums: Address,
        slot_weights: Address,
        image_weights: Address,
        weight_before: Address,
        mean_before: Address,
        extremes: Address,
        image_mean: Address,
        shifts: Address,
        partial: Address,
        count: Address,
        weights: Address,
        mean: Address,
        scatter: Address,
        groups: Divisor,
        batch: i32,
        cells: i32,
        feature_stride: i32,
        logit_stride: i32,
        channels: i32,
        classes: i32,
        segments: i32,
        slots: i32,
        blocks: i32,
        weighted: i32,
        lanes: i32,
    }
}

pub(in crate::device) static SORT_SOURCE: Source = Source {
    file: "moments_sort",
    parameters: MomentsParams::PARAMETERS,
    kernels: &[
        MomentsParams::kernel("moments_keys", "moments_sort", 256, 2176),
        MomentsParams::kernel("moments_offsets", "moments_sort", 288, 1152),
        MomentsParams::kernel("moments_place", "moments_sort", 256, 0),
    ],
    constants: &[
        ("SEGMENT", SEGMENT),
        ("CHUNK", CHUNK),
        ("KEYS", KEYS),
        ("NON_FINITE", COUNTS - 1),
    ],
};

pub(in crate::device) static SOURCE: Source = Source {
    file: "moments",
    parameters: MomentsParams::PARAMETERS,
    kernels: &[
        MomentsParams::kernel("moments_sums", "moments", SUMS, 39936),
        MomentsParams::kernel("moments_shifts", "moments", 256, 0),
        MomentsParams::kernel("moments_syrk", "moments", 128, 21504),
        MomentsParams::kernel("moments_fold", "moments", 256, 0),
    ],
    constants: &[
        ("SEGMENT", SEGMENT),
        ("CHUNK", CHUNK),
        ("KEYS", KEYS),
        ("NON_FINITE", COUNTS - 1),
        ("SUMS", SUMS),
        ("BLOCK", BLOCK),
    ],
};

/// Pixels of a segment of the counting sort (`SEGMENT`).
const SEGMENT: usize = 256;
/// Pixels of a full chunk (`CHUNK`).
const CHUNK: usize = 512;
/// Keys of the counting sort (`KEYS`).
const KEYS: usize = 258;
/// Entries of [`Running::count`].
pub const COUNTS: usize = 257;
/// Threads of a block of moments_sums (`SUMS`).
const SUMS: usize = 256;
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

    /// Limit of the chunks of an image: each class that is present may have one that is not full.
    pub fn slots(&self) -> usize {
        self.cells / CHUNK + self.classes.min(self.cells)
    }

    /// Blocks of the lower triangle of S.
    fn blocks(&self) -> usize {
        let panels = self.channels.div_ceil(BLOCK);
        panels * (panels + 1) / 2
    }

    /// Bytes of each buffer of [`Scratch`], in its order.
    pub fn scratch_bytes(&self) -> [usize; BUFFERS] {
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
            slots * 3 * 8,
            batch * classes * 2 * 8,
            classes * 8,
            classes * channels * 8,
            slots * 2 * channels * 4,
            batch * classes * channels * 8,
            batch * classes * channels * 8,
            slots * self.blocks() * BLOCK * BLOCK * 4,
        ]
    }
}

const BUFFERS: usize = 15;

/// Keys, ranks, offsets, totals, chunks, sorted cells, sums, weights of the chunks and of the images, weights and means before
/// the batch, extremes, means of the images, shifts, partial products.
pub type Scratch<'a> = [Slice<'a>; BUFFERS];

/// The running moments: count i64 [`COUNTS`] (pixels of each label, then those of a class that are not
/// finite), weights f64 `[classes, 2]` (sums of the weights and of their squares) of weighted moments, mean f64
/// `[classes, channels]`, scatter f64 `[classes, channels, channels]`, lower triangle.
#[derive(Clone, Copy)]
pub struct Running<'a> {
    pub count: Slice<'a>,
    pub weights: Option<Slice<'a>>,
    pub mean: Slice<'a>,
    pub scatter: Slice<'a>,
}

/// Square roots of the weights of the pixels, f32 `[batch, cells]`, made from `logits` f32.
#[derive(Clone, Copy)]
pub struct Roots<'a> {
    pub logits: Tensor<'a>,
    pub roots: Slice<'a>,
}

/// Folds a batch into `running`, images in order. `features` fp16, `labels` u8 `[batch, cells]`; with `roots` each
/// pixel by the weight that its logits give it, where `running` has weights.
pub fn moments<'a>(
    shape: Shape,
    features: Tensor<'a>,
    labels: Slice<'a>,
    weighting: Option<Roots<'a>>,
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

    let p = |value| param(what, value);
    let mut memory = Addresses::new(what);
    let needed = shape.scratch_bytes();
    let mut at = [Address::NULL; BUFFERS];
    for i in 0..at.len() {
        at[i] = memory.slice("scratch", scratch[i], needed[i])?;
    }
    let [keys, ranks, offsets, totals, chunks, sorted, sums, .., extremes, means, shifts, partial] =
        at;
    let (segments, slots, blocks) = (shape.segments(), shape.slots(), shape.blocks());
    p(cells + SEGMENT)?;
    let square = classes * channels * channels * 8;
    let both = weighting.is_some() == running.weights.is_some();
    require(what, both, "weights in the moments and of the pixels, or in neither", "one of them")?;
    let (mut logits, mut roots, mut logit_stride) = (Address::NULL, Address::NULL, 0);
    if let Some(Roots { logits: from, roots: to }) = weighting {
        // Logits may be padded.
        let same = from.element == Element::F32
            && (from.batch, from.size.pixels()) == (batch, cells)
            && from.channels >= classes;
        let found = format!("{} x {} x {}", from.batch, from.size, from.channels);
        require(what, same, &format!("f32 logits {batch} x {cells} x {classes}"), found)?;
        logits = memory.tensor(&from)?;
        roots = memory.slice("roots", to, batch * cells * 4)?;
        logit_stride = from.stride;
    }
    let weights = match running.weights {
        Some(weights) => memory.slice("weights", weights, classes * 2 * 8)?,
        None => Address::NULL,
    };
    let params = MomentsParams {
        features: memory.tensor(&features)?,
        labels: memory.slice("labels", labels, batch * cells)?,
        logits,
        roots,
        keys,
        ranks,
        offsets,
        totals,
        chunks,
        sorted,
        sums,
        slot_weights: at[7],
        image_weights: at[8],
        weight_before: at[9],
        mean_before: at[10],
        extremes,
        image_mean: means,
        shifts,
        partial,
        count: memory.slice("counts", running.count, COUNTS * 8)?,
        weights,
        mean: memory.slice("means", running.mean, classes * channels * 8)?,
        scatter: memory.slice("scatters", running.scatter, square)?,
        groups: Divisor::new(what, channels / 8)?,
        batch: p(batch)?,
        cells: p(cells)?,
        feature_stride: p(features.stride)?,
        logit_stride: p(logit_stride)?,
        channels: p(channels)?,
        classes: p(classes)?,
        segments: p(segments)?,
        slots: p(slots)?,
        blocks: p(blocks)?,
        weighted: weighting.is_some().into(),
        lanes: p(SUMS / (channels / 8))?,
    };
    // Bytes: each operand once. syrk multiplies the lower triangle in three products of fp16 terms.
    let pixels = batch * cells;
    let values = pixels * channels * 2;
    let moments = classes * channels * 8;
    let triangle = pixels as u64 * (channels * (channels + 1)) as u64;
    let syrk = (2 * 3 * CHUNK * BLOCK * BLOCK) as f64;
    let [keys, ranks, offsets, totals, chunks, sorted, sums, .., extremes, means, shifts, partial] =
        needed;
    let of = |flop: u64, bytes: usize, block_flop: f64| Work {
        flop,
        block_flop,
        ..Work::moving([batch, features.size.h, features.size.w, channels], bytes)
    };
    let moving = |bytes| of(0, bytes, 0.0);
    // Of logits read and roots written.
    let weights = if weighting.is_some() { pixels * (4 * classes + 4) } else { 0 };
    let keys_bytes = values + pixels + keys + ranks + offsets + weights;
    let before = moments + classes * 8;
    let launches = [
        (&SORT_SOURCE, "moments_keys", [segments, batch, 1], moving(keys_bytes)),
        (&SORT_SOURCE, "moments_offsets", [batch, 1, 1], moving(2 * offsets + totals + chunks)),
        (
            &SORT_SOURCE,
            "moments_place",
            [segments, batch, 1],
            moving(keys + ranks + offsets + totals + sorted),
        ),
        (
            &SOURCE,
            "moments_sums",
            [slots, batch, 1],
            moving(values + sorted + chunks + sums + extremes),
        ),
        (
            &SOURCE,
            "moments_shifts",
            [classes, batch, 1],
            moving(totals + sums + extremes + means + shifts + 2 * before),
        ),
        (
            &SOURCE,
            "moments_syrk",
            [slots, blocks, batch],
            of(3 * triangle, values + sorted + chunks + shifts + partial, syrk),
        ),
        (
            &SOURCE,
            "moments_fold",
            [blocks * BLOCK * BLOCK / 256 + 1, classes, 1],
            moving(partial + totals + means + shifts + before + moments + square),
        ),
    ];
    launches
        .into_iter()
        .map(|(source, kernel, grid, work)| {
            Launch::new(source, kernel, grid, &params, memory, work)
        })
        .collect()
}
