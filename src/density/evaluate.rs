//! log q(z) of every pixel on the CPU, in f32:
//!
//! `log q(z) = LSE_c [ ln pi_c - (D ln 2 pi + ln|Sigma_c| + ||W_c (z - mu_c)||^2) / 2 ]` in nats.
//!
//! A tile of [`TILE`] pixels is transposed once, so that a vector's lanes are pixels; for each class it
//! is centred and multiplied by the triangle of W_c, [`ROWS`] rows at a time: row block b reads
//! channels 0 .. 8 (b + 1), everything above the diagonal is skipped, and the products are squared and
//! summed in registers, lane by lane. The log-sum-exp over classes is online; P x C x D products
//! are never stored.
//!
//! Early exit: partial sums of squares only grow, so a vector of pixels leaves a class once
//! `const_c - partial / 2 < max so far - tau` for each of them. The classes predicted most
//! often in the tile come first, and a vector is a patch of 4 x 4 pixels where the grid is known: neighbours
//! on all sides need fewer classes than as many in a row. The omitted terms add at most `C e^-tau` to log q:
//! 1e-7 nats for 50 classes.

mod distances;
mod tiles;

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pulp::{Simd, WithSimd};

use self::distances::{PackedGaussian, ROWS, distances};
use self::tiles::{QUAD, TILE, Tiles, transpose};
use super::gaussian::{Covariance, Gaussians};
use crate::cpu::elementary::{exp, ln};
use crate::cpu::simd::arch;

/// tau of the early exit, in nats, on every device.
pub const TAU: f32 = 20.0;

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Subtract the log-density of the one Gaussian over all classes: log q(z) - ln N(z; mu_0, Sigma_0),
    /// mu_0 and Sigma_0 of all fitted pixels (Ren et al. 2021, arXiv 2106.09022).
    pub relative: bool,
    pub early_exit: bool,
    /// Also find the class of the least Mahalanobis distance.
    pub nearest: bool,
    /// Columns of the grid that the pixels are, row by row; without, they are a list. As a guess of their classes, it
    /// decides how much the early exit saves, never the result beyond its bound.
    pub columns: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Options { relative: false, early_exit: true, nearest: false, columns: None }
    }
}

/// One value per pixel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// log q(z), or the relative log-density, nats; -inf for a pixel with a feature that is not finite in fp16.
    pub score: Vec<f32>,
    /// With [`Options::nearest`], else empty: the class of the least Mahalanobis distance (255 for a
    /// pixel that is not finite) ...
    pub nearest: Vec<u8>,
    /// ... and that distance, not squared.
    pub distance: Vec<f32>,
    /// Pixels with a feature that is not finite.
    pub non_finite: usize,
    /// Row blocks of W computed for a vector of pixels, each weighted by its width, over all there are.
    pub work: f64,
}

/// Gaussians packed for the tile kernel.
pub struct Evaluator {
    channels: usize,
    classes: Vec<PackedGaussian>,
    background: PackedGaussian,
}

impl Evaluator {
    pub fn new(gaussians: &Gaussians) -> Self {
        let diagonal = gaussians.covariance == Covariance::Diagonal;
        let pack = |c: &super::ClassGaussian| {
            PackedGaussian::new(c.class as u8, c.log_prior, &c.gaussian, diagonal)
        };
        Evaluator {
            channels: gaussians.channels,
            classes: gaussians.classes.iter().map(pack).collect(),
            background: PackedGaussian::new(0, 0.0, &gaussians.background, diagonal),
        }
    }

    /// D
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// Evaluates `features` `[pixels, D]` (rounded to fp16 here). `predicted` `[pixels]`, where there is
    /// one, is a guess of each pixel's class, as the network's arg max; it decides how much the early exit
    /// saves, never the result beyond its bound.
    ///
    /// # Panics
    /// If the lengths do not agree.
    pub fn evaluate(
        &self,
        features: &[f32],
        predicted: Option<&[u8]>,
        options: Options,
    ) -> Evaluation {
        let pixels = features.len() / self.channels.max(1);
        assert_eq!(features.len(), pixels * self.channels, "features are [pixels, D]");
        assert!(predicted.is_none_or(|p| p.len() == pixels), "a guess for each pixel");
        let nearest = if options.nearest { pixels } else { 0 };
        let evaluation = Evaluation {
            score: vec![0.0; pixels],
            nearest: vec![0; nearest],
            distance: vec![0.0; nearest],
            ..Evaluation::default()
        };
        let tiles = Tiles::new(pixels, options.columns);
        let (next, found) = (AtomicUsize::new(0), Mutex::new((evaluation, Counts::default())));
        let (arch, next, lock) = (arch(), &next, &found);
        let work = || {
            arch.dispatch(Work {
                evaluator: self,
                options,
                tiles,
                features,
                predicted,
                next,
                found: lock,
            });
        };
        // This thread works too: of two threads that are both to be woken, the system may put both on one core for longer
        // than a small map takes.
        rayon::in_place_scope(|scope| {
            (1..rayon::current_num_threads()).for_each(|_| scope.spawn(|_| work()));
            work();
        });
        let (mut evaluation, counts) = found.into_inner().expect("nothing panics with it");
        evaluation.work = counts.done as f64 / counts.all.max(1) as f64;
        evaluation
    }
}

impl Evaluation {
    /// Keeps what pixels of a tile got, by their lanes.
    fn put(&mut self, runs: impl Iterator<Item = (Range<usize>, Range<usize>)>, scores: &Scores) {
        for (lanes, pixels) in runs {
            self.score[pixels.clone()].copy_from_slice(&scores.score[lanes.clone()]);
            if !self.nearest.is_empty() {
                self.nearest[pixels.clone()].copy_from_slice(&scores.nearest[lanes.clone()]);
                self.distance[pixels].copy_from_slice(&scores.distance[lanes]);
            }
        }
    }
}

/// What a tile's pixels get.
struct Scores {
    score: [f32; TILE],
    nearest: [u8; TILE],
    distance: [f32; TILE],
}

#[derive(Clone, Copy, Default)]
struct Counts {
    /// Channels read by the row blocks computed, vector by vector of pixels, and by all of them.
    done: u64,
    all: u64,
}

/// What one thread does: tiles, one after another, until none is left.
struct Work<'a> {
    evaluator: &'a Evaluator,
    options: Options,
    tiles: Tiles,
    features: &'a [f32],
    predicted: Option<&'a [u8]>,
    /// The first tile that no thread has taken.
    next: &'a AtomicUsize,
    found: &'a Mutex<(Evaluation, Counts)>,
}

impl WithSimd for Work<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        // 8 rows by 2 vectors of pixels: 16 accumulators of 32 registers; by 1: 8 of 16. Vectors of one lane by QUAD.
        if S::F32_LANES == 1 {
            self.run::<S, QUAD>(simd)
        } else if S::REGISTER_COUNT >= 32 && TILE.is_multiple_of(2 * S::F32_LANES) {
            self.run::<S, 2>(simd)
        } else {
            self.run::<S, 1>(simd)
        }
    }
}

impl Work<'_> {
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize>(self, simd: S) {
        let Work { evaluator, options, tiles, features, predicted, next, found } = self;
        let channels = evaluator.channels;
        let padded = channels.next_multiple_of(ROWS);
        let mut counts = Counts::default();
        // [group][k][VECTORS] vectors, where the lanes of all groups are the tile's pixels.
        let mut tile = vec![simd.splat_f32s(0.0); padded * TILE / S::F32_LANES];
        let mut centred = tile.clone();
        let mut pairs = vec![0; 2 * channels];
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= tiles.count() {
                break;
            }
            let pixels = tiles.pixels(at);
            let finite = transpose::<S, VECTORS>(features, &pixels, padded, &mut pairs, &mut tile);
            let mut state = State::new(options);
            for class in visiting_order(&evaluator.classes, predicted, &pixels) {
                let packed = &evaluator.classes[class];
                let limit = state.limit(packed.constant, &finite);
                let partial = distances::<S, VECTORS>(
                    simd,
                    packed,
                    &tile,
                    &mut centred,
                    &pixels,
                    Some(&limit),
                    &mut counts,
                );
                if let Some(partial) = partial {
                    state.visit(packed, &partial);
                }
            }
            let mut score = state.log_density();
            if options.relative {
                let packed = &evaluator.background;
                let partial = distances::<S, VECTORS>(
                    simd,
                    packed,
                    &tile,
                    &mut centred,
                    &pixels,
                    None,
                    &mut counts,
                );
                for (score, partial) in score.iter_mut().zip(partial.unwrap_or([0.0; TILE])) {
                    *score -= packed.constant - 0.5 * partial;
                }
            }
            let mut scores =
                Scores { score, nearest: state.nearest, distance: state.min_square.map(f32::sqrt) };
            let mut non_finite = 0;
            for lane in 0..TILE {
                // A feature so far away that f32 overflows gets the lowest value.
                if !finite[lane] || !score[lane].is_finite() {
                    scores.score[lane] = f32::NEG_INFINITY;
                }
                if !finite[lane] {
                    (scores.nearest[lane], scores.distance[lane]) = (super::VOID, f32::INFINITY);
                    non_finite += usize::from(pixels[lane].is_some());
                }
            }
            let mut found = found.lock().expect("nothing panics with it");
            found.0.put(tiles.runs(at), &scores);
            found.0.non_finite += non_finite;
        }
        let mut found = found.lock().expect("nothing panics with it");
        found.1.done += counts.done;
        found.1.all += counts.all;
    }
}

/// Indices into `classes`: those predicted in the tile by falling frequency, then the others.
fn visiting_order(
    classes: &[PackedGaussian],
    predicted: Option<&[u8]>,
    pixels: &[Option<usize>; TILE],
) -> Vec<usize> {
    let mut votes = [0u32; 256];
    if let Some(predicted) = predicted {
        pixels.iter().flatten().for_each(|pixel| votes[usize::from(predicted[*pixel])] += 1);
    }
    let mut order: Vec<usize> = (0..classes.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(votes[usize::from(classes[*i].class)]));
    order
}

/// The online log-sum-exp of a tile.
struct State {
    options: Options,
    /// The greatest term so far, and the sum of exp(term - max).
    max: [f32; TILE],
    sum: [f32; TILE],
    nearest: [u8; TILE],
    /// The least squared distance so far.
    min_square: [f32; TILE],
}

impl State {
    fn new(options: Options) -> Self {
        State {
            options,
            max: [f32::NEG_INFINITY; TILE],
            sum: [0.0; TILE],
            nearest: [super::VOID; TILE],
            min_square: [f32::INFINITY; TILE],
        }
    }

    /// The squared distance beyond which a class cannot matter to a pixel; none matters to one that is not finite.
    #[inline(always)]
    fn limit(&self, constant: f32, finite: &[bool; TILE]) -> [f32; TILE] {
        let mut limit = [f32::INFINITY; TILE];
        if self.options.early_exit {
            for pixel in 0..TILE {
                limit[pixel] = 2.0 * (constant - self.max[pixel] + TAU);
                if self.options.nearest {
                    limit[pixel] = limit[pixel].max(self.min_square[pixel]);
                }
                if !finite[pixel] {
                    limit[pixel] = f32::NEG_INFINITY;
                }
            }
        }
        limit
    }

    #[inline(always)]
    fn visit(&mut self, packed: &PackedGaussian, partial: &[f32; TILE]) {
        for pixel in 0..TILE {
            let term = packed.constant - 0.5 * partial[pixel];
            // Of the two factors exp(old max - max) and exp(term - max) one is 1.
            let rises = term > self.max[pixel];
            let (max, min) = if rises { (term, self.max[pixel]) } else { (self.max[pixel], term) };
            let (factor, old) = (exp(min - max), self.sum[pixel]);
            let sums = [old + factor, old * factor + 1.0];
            let sum = if rises { sums[1] } else { sums[0] };
            // Of no term yet that is finite it would be NaN; of an overflow it is, which `exp` hides.
            let some = max > f32::NEG_INFINITY;
            let sum = if some { sum } else { self.sum[pixel] };
            self.sum[pixel] = if term.is_nan() { f32::NAN } else { sum };
            self.max[pixel] = max;
            let nearer = partial[pixel] < self.min_square[pixel];
            self.min_square[pixel] = if nearer { partial[pixel] } else { self.min_square[pixel] };
            self.nearest[pixel] = if nearer { packed.class } else { self.nearest[pixel] };
        }
    }

    #[inline(always)]
    fn log_density(&self) -> [f32; TILE] {
        std::array::from_fn(|pixel| {
            let sum = self.sum[pixel];
            if sum.is_nan() { sum } else { self.max[pixel] + ln(sum) }
        })
    }
}
