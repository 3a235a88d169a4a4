//! Logits on the feature grid to class and scores at image size, a row of pixels at a time: the
//! upsampled logits of a row stay in the cache, class by class, so that the pixels are the lanes.

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::elementary::{exp, ln};
use super::simd::arch;
use crate::ops::{Head, LogitScore, Tap};

/// `logits` are `[grid.h, grid.w, classes]` of one image; `label` and `entropy` (nats) have the
/// crop's pixels. See [`Head`] for the equation.
pub fn head(head: &Head, logits: &[f32], label: &mut [u8], entropy: &mut [f32]) {
    scores(head, logits, label, &mut [(LogitScore::Entropy, entropy)]);
}

/// As [`head`], with any scores of the logits: one pass makes them all.
pub fn scores(
    head: &Head,
    logits: &[f32],
    label: &mut [u8],
    scores: &mut [(LogitScore, &mut [f32])],
) {
    let up = Upsampling::new(head, logits);
    let width = head.crop.w;
    let mut maps: Vec<_> = scores.iter_mut().map(|(s, map)| (*s, map.chunks_mut(width))).collect();
    let lines = label.chunks_mut(width).map(|label| {
        let scores = maps.iter_mut().filter_map(|(score, lines)| Some((*score, lines.next()?)));
        (label, scores.collect())
    });
    let lines: Vec<(&mut [u8], Scores)> = lines.collect();
    let lines = lines.into_par_iter().enumerate();
    lines.for_each_init(Vec::new, |scratch, (row, (label, scores))| {
        arch().dispatch(Row { up: &up, row, scratch, label, scores })
    });
}

/// Scores, and where they go.
type Scores<'a> = Vec<(LogitScore, &'a mut [f32])>;

/// Pixels done together: their logits (C x 64 x 4 bytes) stay in the L1 cache.
pub(super) const BLOCK: usize = 64;

/// The upsampled logits of one image, made a block of pixels at a time.
pub(super) struct Upsampling<'a> {
    pub head: &'a Head,
    logits: &'a [f32],
    rows: Vec<Tap>,
    /// Of each block of pixels: runs of pixels between the same two cells.
    runs: Vec<Vec<Run>>,
    /// Of the right cell, for each column.
    weights: Vec<f32>,
}

/// Pixels side by side between two cells of a row.
struct Run {
    low: usize,
    high: usize,
    pixels: usize,
}

impl<'a> Upsampling<'a> {
    pub fn new(head: &'a Head, logits: &'a [f32]) -> Self {
        let rows = head.resize.taps(head.grid.h, head.padded.h);
        let mut columns = head.resize.taps(head.grid.w, head.padded.w);
        columns.truncate(head.crop.w);
        let run = |taps: &[Tap]| Run { low: taps[0].low, high: taps[0].high, pixels: taps.len() };
        let same = |a: &Tap, b: &Tap| (a.low, a.high) == (b.low, b.high);
        let runs = columns.chunks(BLOCK).map(|block| block.chunk_by(same).map(run).collect());
        let (runs, weights) = (runs.collect(), columns.iter().map(|tap| tap.weight).collect());
        Upsampling { head, logits, rows, runs, weights }
    }

    /// Gives the logits `[class, BLOCK]` of each block of a row, with its first column and its pixels.
    #[inline(always)]
    pub fn blocks(
        &self,
        row: usize,
        scratch: &mut Vec<f32>,
        mut each: impl FnMut(usize, usize, &mut [f32]),
    ) {
        let (Head { classes, grid, .. }, row) = (*self.head, self.rows[row]);
        // The blend of two grid rows, `[class, column]`, then a block of pixels `[class, pixel]`.
        scratch.resize(classes * (grid.w + BLOCK), 0.0);
        let (blend, block) = scratch.split_at_mut(classes * grid.w);
        let line = |y: usize| &self.logits[y * grid.w * classes..][..grid.w * classes];
        let pairs = line(row.low).chunks_exact(classes).zip(line(row.high).chunks_exact(classes));
        for (i, (low, high)) in pairs.enumerate() {
            for c in 0..classes {
                blend[c * grid.w + i] = low[c] + (high[c] - low[c]) * row.weight;
            }
        }
        for (at, (runs, weights)) in self.runs.iter().zip(self.weights.chunks(BLOCK)).enumerate() {
            for (blend, mut out) in blend.chunks_exact(grid.w).zip(block.chunks_exact_mut(BLOCK)) {
                let mut weights = weights;
                for run in runs {
                    let (low, step) = (blend[run.low], blend[run.high] - blend[run.low]);
                    let (now, later) = out.split_at_mut(run.pixels);
                    let (here, further) = weights.split_at(run.pixels);
                    for (out, weight) in now.iter_mut().zip(here) {
                        *out = low + step * weight;
                    }
                    (out, weights) = (later, further);
                }
            }
            each(at * BLOCK, weights.len(), block);
        }
    }
}

struct Row<'a> {
    up: &'a Upsampling<'a>,
    row: usize,
    scratch: &'a mut Vec<f32>,
    label: &'a mut [u8],
    scores: Scores<'a>,
}

impl WithSimd for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Row { up, row, scratch, label, mut scores } = self;
        up.blocks(row, scratch, |first, pixels, block| {
            finish(block, &mut label[first..][..pixels], first, &mut scores);
        });
    }
}

/// Arg max and scores of each pixel of a block, whose first has the place `first` in the row.
///
/// With m = max l, d_c = (l_c - m) / T, e_c = exp(d_c) and s = sum e_c: the entropy at temperature T is
/// ln s - sum d_c e_c / s, the maximum of the softmax 1 / s, the energy -(m + ln s). NaN is never the
/// maximum; sum d_c e_c is NaN where a logit is not finite, and so is every score.
#[inline(always)]
fn finish(block: &[f32], label: &mut [u8], first: usize, scores: &mut Scores) {
    let mut best = [f32::NEG_INFINITY; BLOCK];
    // As wide as the logits, for the vectors.
    let mut class = [0u32; BLOCK];
    for (c, logits) in block.chunks_exact(BLOCK).enumerate() {
        for i in 0..BLOCK {
            let higher = logits[i] > best[i];
            best[i] = if higher { logits[i] } else { best[i] };
            class[i] = if higher { c as u32 } else { class[i] };
        }
    }
    label.iter_mut().zip(class).for_each(|(label, class)| *label = class as u8);
    if scores.iter().any(|(score, _)| *score != LogitScore::EntropyT2) {
        let Sums { sum, weighted } = sums(block, &best, 1.0);
        for (score, map) in scores.iter_mut() {
            let out = &mut map[first..][..label.len()];
            match score {
                LogitScore::Entropy => entropy(&sum, &weighted, out),
                LogitScore::MaxSoftmax => {
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = (1.0 + 0.0 * weighted[i]) / sum[i];
                    }
                }
                LogitScore::Energy => {
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = 0.0 * weighted[i] - (best[i] + ln(sum[i]));
                    }
                }
                LogitScore::EntropyT2 => {}
            }
        }
    }
    for (_, map) in scores.iter_mut().filter(|(score, _)| *score == LogitScore::EntropyT2) {
        let Sums { sum, weighted } = sums(block, &best, 0.5);
        entropy(&sum, &weighted, &mut map[first..][..label.len()]);
    }
}

/// sum e_c and sum d_c e_c of each pixel.
struct Sums {
    sum: [f32; BLOCK],
    weighted: [f32; BLOCK],
}

/// d_c = (l_c - m) `scale`
#[inline(always)]
fn sums(block: &[f32], best: &[f32; BLOCK], scale: f32) -> Sums {
    let (mut sum, mut weighted) = ([0f32; BLOCK], [0f32; BLOCK]);
    for logits in block.chunks_exact(BLOCK) {
        for i in 0..BLOCK {
            let d = (logits[i] - best[i]) * scale;
            let e = exp(d);
            sum[i] += e;
            weighted[i] += d * e;
        }
    }
    Sums { sum, weighted }
}

#[inline(always)]
fn entropy(sum: &[f32; BLOCK], weighted: &[f32; BLOCK], out: &mut [f32]) {
    for (i, out) in out.iter_mut().enumerate() {
        let h = ln(sum[i]) - weighted[i] / sum[i];
        // Rounding can leave a sure pixel a hair below 0. Not `max`, which makes 0 of NaN.
        *out = if h < 0.0 { 0.0 } else { h };
    }
}
