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
//! often in the tile come first. The omitted terms add at most `C e^-tau` to log q:
//! 1e-7 nats for 50 classes.

use std::sync::Mutex;

use pulp::{Simd, WithSimd};

use super::gaussian::{Covariance, Gaussian, Gaussians};
use super::half::{finite_in_half, round_to_half};
use crate::cpu::elementary::{exp, ln};
use crate::cpu::simd::arch;

/// tau of the early exit, in nats, on every device.
pub const TAU: f32 = 20.0;

/// Pixels that are evaluated together.
const TILE: usize = 32;

/// Rows of W that are held in registers at a time.
const ROWS: usize = 8;

/// Pixels of a task, which share a scratch allocation, at most.
const STRIP: usize = 8 * TILE;

/// Pixels of a task: fewer of a small map, so that every thread gets some and none is waited for long.
fn strip_len(pixels: usize) -> usize {
    let share = pixels.div_ceil(4 * rayon::current_num_threads());
    share.next_multiple_of(TILE).clamp(TILE, STRIP)
}

#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Subtract the log-density of the one Gaussian over all classes: log q(z) - ln N(z; mu_0, Sigma_0),
    /// mu_0 and Sigma_0 of all fitted pixels (Ren et al. 2021, arXiv 2106.09022).
    pub relative: bool,
    pub early_exit: bool,
    /// Also find the class of the least Mahalanobis distance.
    pub nearest: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options { relative: false, early_exit: true, nearest: false }
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

/// One Gaussian: W in row blocks, block b as `[k][ROWS]` for k from the block's first channel to its
/// last on the diagonal. Channels are padded to a multiple of [`ROWS`] by zeros.
struct PackedGaussian {
    class: u8,
    /// ln pi - (D ln 2 pi + ln|Sigma|) / 2
    constant: f32,
    mean: Vec<f32>,
    weights: Vec<f32>,
    /// A diagonal W has nothing but the diagonal's blocks.
    diagonal: bool,
}

impl PackedGaussian {
    fn new(class: u8, log_prior: f64, gaussian: &Gaussian, diagonal: bool) -> Self {
        let channels = gaussian.mean.len();
        let padded = channels.next_multiple_of(ROWS);
        let entry = |i: usize, k: usize| match i < channels && k <= i {
            true => gaussian.whitening[i * channels + k] as f32,
            false => 0.0,
        };
        let mut weights = Vec::new();
        for block in 0..padded / ROWS {
            for k in first_channel(block, diagonal)..(block + 1) * ROWS {
                weights.extend((block * ROWS..(block + 1) * ROWS).map(|i| entry(i, k)));
            }
        }
        let mut mean: Vec<f32> = gaussian.mean.iter().map(|m| *m as f32).collect();
        mean.resize(padded, 0.0);
        let constant = (log_prior + gaussian.log_peak()) as f32;
        PackedGaussian { class, constant, mean, weights, diagonal }
    }
}

fn first_channel(block: usize, diagonal: bool) -> usize {
    if diagonal { block * ROWS } else { 0 }
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
        let mut evaluation = Evaluation {
            score: vec![0.0; pixels],
            nearest: vec![0; nearest],
            distance: vec![0.0; nearest],
            ..Evaluation::default()
        };
        let len = strip_len(pixels);
        let mut classes: Vec<&mut [u8]> = evaluation.nearest.chunks_mut(len).collect();
        let mut distances: Vec<&mut [f32]> = evaluation.distance.chunks_mut(len).collect();
        let strips = pixels.div_ceil(len);
        classes.resize_with(strips, Default::default);
        distances.resize_with(strips, Default::default);

        let arch = arch();
        let strips = features
            .chunks(len * self.channels.max(1))
            .zip(evaluation.score.chunks_mut(len))
            .zip(classes.into_iter().zip(distances))
            .enumerate();
        let (strips, counts) = (Mutex::new(strips), Mutex::new(Counts::default()));
        let take = || strips.lock().expect("nothing panics with it").next();
        let work = || {
            let mut ours = Counts::default();
            while let Some((strip, ((features, score), (nearest, distance)))) = take() {
                let evaluator = self;
                let from = strip * len;
                let predicted = predicted.map_or(&[][..], |p| &p[from..from + score.len()]);
                ours += arch.dispatch(Strip {
                    evaluator,
                    options,
                    features,
                    predicted,
                    score,
                    nearest,
                    distance,
                });
            }
            *counts.lock().expect("nothing panics with it") += ours;
        };
        // This thread works too: of two threads that are both to be woken, the system may put both on one core for longer
        // than a small map takes.
        rayon::in_place_scope(|scope| {
            (1..rayon::current_num_threads()).for_each(|_| scope.spawn(|_| work()));
            work();
        });
        let Counts { non_finite, done, all } = counts.into_inner().expect("nothing panics with it");
        evaluation.non_finite = non_finite;
        evaluation.work = done as f64 / all.max(1) as f64;
        evaluation
    }
}

#[derive(Default)]
struct Counts {
    non_finite: usize,
    /// Channels read by the row blocks computed, vector by vector of pixels, and by all of them.
    done: u64,
    all: u64,
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        self.non_finite += other.non_finite;
        self.done += other.done;
        self.all += other.all;
    }
}

/// A run of up to [`STRIP`] pixels.
struct Strip<'a> {
    evaluator: &'a Evaluator,
    options: Options,
    features: &'a [f32],
    /// Empty: no guess.
    predicted: &'a [u8],
    score: &'a mut [f32],
    nearest: &'a mut [u8],
    distance: &'a mut [f32],
}

impl WithSimd for Strip<'_> {
    type Output = Counts;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> Counts {
        // 8 rows by 2 vectors of pixels: 16 accumulators of 32 registers; by 1: 8 of 16.
        if S::REGISTER_COUNT >= 32 && TILE.is_multiple_of(2 * S::F32_LANES) {
            self.run::<S, 2>(simd)
        } else {
            self.run::<S, 1>(simd)
        }
    }
}

impl Strip<'_> {
    #[inline(always)]
    fn run<S: Simd, const VECTORS: usize>(self, simd: S) -> Counts {
        let Strip { evaluator, options, features, predicted, .. } = self;
        let channels = evaluator.channels;
        let padded = channels.next_multiple_of(ROWS);
        let mut counts = Counts::default();
        // [group][k][VECTORS] vectors, where the lanes of all groups are the tile's pixels.
        let mut tile = vec![simd.splat_f32s(0.0); padded * TILE / S::F32_LANES];
        let mut centred = tile.clone();
        let mut row = vec![0.0; channels];
        let pixels = self.score.len();
        for start in (0..pixels).step_by(TILE) {
            let at = start..pixels.min(start + TILE);
            let predicted = predicted.get(at.clone()).unwrap_or(&[]);
            let features = &features[at.start * channels..at.end * channels];
            let finite = transpose::<S, VECTORS>(features, padded, &mut row, &mut tile);
            let mut state = State::new(options);
            for class in visiting_order(&evaluator.classes, predicted) {
                let packed = &evaluator.classes[class];
                let limit = state.limit(packed.constant);
                centre::<S, VECTORS>(simd, &tile, &packed.mean, &mut centred);
                let partial =
                    distances::<S, VECTORS>(simd, packed, &centred, Some(&limit), &mut counts);
                if let Some(partial) = partial {
                    state.visit(packed, &partial);
                }
            }
            let mut score = state.log_density();
            if options.relative {
                let packed = &evaluator.background;
                centre::<S, VECTORS>(simd, &tile, &packed.mean, &mut centred);
                let partial = distances::<S, VECTORS>(simd, packed, &centred, None, &mut counts);
                for (score, partial) in score.iter_mut().zip(partial.unwrap_or([0.0; TILE])) {
                    *score -= packed.constant - 0.5 * partial;
                }
            }
            for (pixel, out) in self.score[at.clone()].iter_mut().enumerate() {
                // A feature so far away that f32 overflows gets the lowest value.
                let usable = finite[pixel] && score[pixel].is_finite();
                *out = if usable { score[pixel] } else { f32::NEG_INFINITY };
                counts.non_finite += usize::from(!finite[pixel]);
            }
            if options.nearest {
                for pixel in 0..at.len() {
                    self.nearest[at.start + pixel] =
                        if finite[pixel] { state.nearest[pixel] } else { super::VOID };
                    self.distance[at.start + pixel] =
                        if finite[pixel] { state.min_square[pixel].sqrt() } else { f32::INFINITY };
                }
            }
        }
        counts
    }
}

/// Indices into `classes`: those predicted in the tile by falling frequency, then the others.
fn visiting_order(classes: &[PackedGaussian], predicted: &[u8]) -> Vec<usize> {
    let mut votes = [0u32; 256];
    predicted.iter().for_each(|class| votes[usize::from(*class)] += 1);
    let mut order: Vec<usize> = (0..classes.len()).collect();
    order.sort_by_key(|i| std::cmp::Reverse(votes[usize::from(classes[*i].class)]));
    order
}

/// Writes a tile's features, rounded to fp16, as `[group][k][lanes of the group]`, and says which
/// pixels are finite; the others, and those that the last tile lacks, are zeros. `row` is scratch for a pixel.
#[inline(always)]
fn transpose<S: Simd, const VECTORS: usize>(
    features: &[f32],
    padded: usize,
    row: &mut [f32],
    tile: &mut [S::f32s],
) -> [bool; TILE] {
    let (channels, wide) = (row.len(), VECTORS * S::F32_LANES);
    let tile: &mut [f32] = bytemuck::cast_slice_mut(tile);
    let mut finite = [true; TILE];
    for (pixel, finite) in finite.iter_mut().enumerate() {
        let lane = &mut tile[pixel / wide * padded * wide + pixel % wide..];
        let lane = lane.iter_mut().step_by(wide);
        match features.get(pixel * channels..(pixel + 1) * channels) {
            Some(z) if finite_in_half(z) => {
                // Rounded in vectors before they are spread.
                row.iter_mut().zip(z).for_each(|(row, z)| *row = round_to_half(*z));
                lane.zip(&*row).for_each(|(lane, z)| *lane = *z);
            }
            _ => {
                *finite = false;
                lane.take(channels).for_each(|lane| *lane = 0.0);
            }
        }
    }
    finite
}

/// z - mu
#[inline(always)]
fn centre<S: Simd, const VECTORS: usize>(
    simd: S,
    tile: &[S::f32s],
    mean: &[f32],
    centred: &mut [S::f32s],
) {
    let group = mean.len() * VECTORS;
    for (tile, centred) in tile.chunks_exact(group).zip(centred.chunks_exact_mut(group)) {
        let (tile, centred) = (tile.as_chunks::<VECTORS>().0, centred.as_chunks_mut::<VECTORS>().0);
        for ((tile, centred), mean) in tile.iter().zip(centred).zip(mean) {
            let mean = simd.splat_f32s(*mean);
            for v in 0..VECTORS {
                centred[v] = simd.sub_f32s(tile[v], mean);
            }
        }
    }
}

/// ||W x||^2 of each pixel of a tile, infinite in a vector where every pixel's partial sum exceeds its limit; None once that
/// holds for all.
#[inline(always)]
fn distances<S: Simd, const VECTORS: usize>(
    simd: S,
    packed: &PackedGaussian,
    centred: &[S::f32s],
    limit: Option<&[f32; TILE]>,
    counts: &mut Counts,
) -> Option<[f32; TILE]> {
    let padded = packed.mean.len();
    let (lanes, wide) = (S::F32_LANES, VECTORS * S::F32_LANES);
    let mut partial = [0.0f32; TILE];
    // By vector of pixels, TILE at most.
    let mut active = [true; TILE];
    let active = &mut active[..TILE / lanes];
    let mut left = active.len();
    let mut weights = packed.weights.as_slice();
    for block in 0..padded / ROWS {
        let channels = first_channel(block, packed.diagonal)..(block + 1) * ROWS;
        counts.all += (channels.len() * active.len()) as u64;
        if left == 0 {
            continue;
        }
        counts.done += (channels.len() * left) as u64;
        let (rows, rest) = weights.split_at(channels.len() * ROWS);
        weights = rest;
        let groups = partial.chunks_exact_mut(wide).zip(active.chunks_exact(VECTORS));
        for (group, (partial, active)) in groups.enumerate() {
            let at = (group * padded + channels.start) * VECTORS;
            let x = centred[at..at + channels.len() * VECTORS].as_chunks::<VECTORS>().0;
            let (partial, _) = S::as_mut_simd_f32s(partial);
            if active.iter().all(|active| *active) {
                squares::<S, VECTORS, VECTORS>(simd, rows, x, 0, partial);
                continue;
            }
            for v in (0..VECTORS).filter(|v| active[*v]) {
                squares::<S, VECTORS, 1>(simd, rows, x, v, &mut partial[v..=v]);
            }
        }
        if let Some(limit) = limit {
            let (partial, limit) = (S::as_simd_f32s(&partial).0, S::as_simd_f32s(limit).0);
            for (active, (partial, limit)) in active.iter_mut().zip(partial.iter().zip(limit)) {
                let within = simd.not_m32s(simd.greater_than_f32s(*partial, *limit));
                let exceeded = simd.first_true_m32s(within) == lanes;
                left -= usize::from(*active && exceeded);
                *active &= !exceeded;
            }
        }
    }
    for (partial, active) in partial.chunks_exact_mut(lanes).zip(&*active) {
        if !active {
            partial.fill(f32::INFINITY);
        }
    }
    (left > 0).then_some(partial)
}

/// `partial` += the squares of [`ROWS`] rows of W times x, held in registers, for COUNT of x's vectors from `first` on.
#[inline(always)]
fn squares<S: Simd, const VECTORS: usize, const COUNT: usize>(
    simd: S,
    weights: &[f32],
    x: &[[S::f32s; VECTORS]],
    first: usize,
    partial: &mut [S::f32s],
) {
    let mut products = [[simd.splat_f32s(0.0); COUNT]; ROWS];
    for (w, x) in weights.as_chunks::<ROWS>().0.iter().zip(x) {
        for r in 0..ROWS {
            let w = simd.splat_f32s(w[r]);
            for v in 0..COUNT {
                products[r][v] = simd.mul_add_e_f32s(w, x[first + v], products[r][v]);
            }
        }
    }
    for v in 0..COUNT {
        for row in &products {
            partial[v] = simd.mul_add_e_f32s(row[v], row[v], partial[v]);
        }
    }
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

    /// The squared distance beyond which a class cannot matter to a pixel.
    #[inline(always)]
    fn limit(&self, constant: f32) -> [f32; TILE] {
        let mut limit = [f32::INFINITY; TILE];
        if self.options.early_exit {
            for pixel in 0..TILE {
                limit[pixel] = 2.0 * (constant - self.max[pixel] + TAU);
                if self.options.nearest {
                    limit[pixel] = limit[pixel].max(self.min_square[pixel]);
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
            let sum = if rises { old * factor + 1.0 } else { old + factor };
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
