//! Squared Mahalanobis distances of a tile of pixels to one Gaussian.

use pulp::Simd;

use super::Counts;
use super::tiles::TILE;
use crate::density::Gaussian;

/// Rows of W that are held in registers at a time.
pub(super) const ROWS: usize = 8;

/// One Gaussian: W in row blocks, block b as `[k][ROWS]` for k from the block's first channel to its
/// last on the diagonal. Channels are padded to a multiple of [`ROWS`] by zeros.
pub(super) struct PackedGaussian {
    pub class: u8,
    /// ln pi - (D ln 2 pi + ln|Sigma|) / 2
    pub constant: f32,
    pub mean: Vec<f32>,
    weights: Vec<f32>,
    /// A diagonal W has nothing but the diagonal's blocks.
    diagonal: bool,
}

impl PackedGaussian {
    pub fn new(class: u8, log_prior: f64, gaussian: &Gaussian, diagonal: bool) -> Self {
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

/// ||W (z - mu)||^2 of each pixel of a tile, infinite in a vector where every pixel's partial sum exceeds its limit; None once
/// that holds for all. Vectors without a pixel are not computed. `centred` is scratch: z - mu, of the channels that were read.
#[inline(always)]
pub(super) fn distances<S: Simd, const VECTORS: usize>(
    simd: S,
    packed: &PackedGaussian,
    tile: &[S::f32s],
    centred: &mut [S::f32s],
    pixels: &[Option<usize>; TILE],
    limit: Option<&[f32; TILE]>,
    counts: &mut Counts,
) -> Option<[f32; TILE]> {
    let padded = packed.mean.len();
    let (lanes, wide) = (S::F32_LANES, VECTORS * S::F32_LANES);
    let mut partial = [0.0f32; TILE];
    // By vector of pixels, TILE at most.
    let mut active = [false; TILE];
    let active = &mut active[..TILE / lanes];
    for (active, pixels) in active.iter_mut().zip(pixels.chunks_exact(lanes)) {
        *active = pixels.iter().any(Option::is_some);
    }
    let vectors = active.iter().filter(|active| **active).count();
    let mut left = vectors;
    let mut weights = packed.weights.as_slice();
    for block in 0..padded / ROWS {
        let channels = first_channel(block, packed.diagonal)..(block + 1) * ROWS;
        counts.all += (channels.len() * vectors) as u64;
        if left == 0 {
            continue;
        }
        counts.done += (channels.len() * left) as u64;
        let (rows, rest) = weights.split_at(channels.len() * ROWS);
        weights = rest;
        let groups = partial.chunks_exact_mut(wide).zip(active.chunks_exact(VECTORS));
        for (group, (partial, active)) in groups.enumerate() {
            if !active.contains(&true) {
                continue;
            }
            // A block brings in its own channels; those before came with the blocks before.
            let new = channels.end - ROWS..channels.end;
            let at = (group * padded + new.start) * VECTORS..(group * padded + new.end) * VECTORS;
            centre::<S, VECTORS>(simd, &tile[at.clone()], &packed.mean[new], &mut centred[at]);
            let at = (group * padded + channels.start) * VECTORS;
            let x = centred[at..at + channels.len() * VECTORS].as_chunks::<VECTORS>().0;
            let (partial, _) = S::as_mut_simd_f32s(partial);
            if !active.contains(&false) {
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

/// z - mu of a few channels, `[channel][VECTORS]`.
#[inline(always)]
fn centre<S: Simd, const VECTORS: usize>(
    simd: S,
    tile: &[S::f32s],
    mean: &[f32],
    centred: &mut [S::f32s],
) {
    let (tile, centred) = (tile.as_chunks::<VECTORS>().0, centred.as_chunks_mut::<VECTORS>().0);
    for ((tile, centred), mean) in tile.iter().zip(centred).zip(mean) {
        let mean = simd.splat_f32s(*mean);
        for v in 0..VECTORS {
            centred[v] = simd.sub_f32s(tile[v], mean);
        }
    }
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
    // The block ends on the diagonal: the upper half of its rows needs its last channels no more. The triangle itself would
    // need a quarter less of these few products, but unrolled it lacks registers, and not unrolled it lives in memory.
    let weights = weights.as_chunks::<ROWS>().0;
    let (all, lower) = weights.split_at(weights.len() - ROWS / 2);
    let (x_all, x_lower) = x.split_at(all.len());
    for (w, x) in all.iter().zip(x_all) {
        for r in 0..ROWS {
            let w = simd.splat_f32s(w[r]);
            for v in 0..COUNT {
                products[r][v] = simd.mul_add_e_f32s(w, x[first + v], products[r][v]);
            }
        }
    }
    for (w, x) in lower.iter().zip(x_lower) {
        for r in ROWS / 2..ROWS {
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
