//! The mean of several predicted distributions of an image, for MC Dropout and ensembles. The logits of all are kept on
//! their grids; a row of pixels at a time they are upsampled and made probabilities, as the head does, and added to sums
//! that stay in the cache. What the sums say is in [`crate::ops::mixture`].

use pulp::{Simd, WithSimd};
use rayon::prelude::*;

use super::elementary::{exp, ln};
use super::head::{BLOCK, Upsampling};
use super::simd::arch;
use crate::ops::mixture::Mixed;
use crate::ops::{Head, Size};

/// The predictions of one image.
pub struct Mixture {
    classes: usize,
    size: Size,
    /// Logits `[grid.h, grid.w, classes]`.
    predictions: Vec<(Head, Vec<f32>)>,
}

/// Bytes per image of mixing predictions on the head's grid: their logits and the four maps.
pub(crate) fn bytes(head: &Head, predictions: usize) -> u64 {
    let logits = (head.classes * head.grid.pixels()) as u64;
    4 * predictions as u64 * logits + 13 * head.crop.pixels() as u64
}

impl Mixture {
    /// Of no prediction yet.
    pub fn new(classes: usize, size: Size) -> Self {
        Mixture { classes, size, predictions: Vec::new() }
    }

    /// Adds a prediction: `logits` are `[grid.h, grid.w, classes]`. The grid may differ from that of others.
    pub fn add(&mut self, head: &Head, logits: &[f32]) {
        debug_assert_eq!((head.classes, head.crop), (self.classes, self.size));
        self.predictions.push((*head, logits.to_vec()));
    }

    /// What the mean of the predictions says.
    pub fn finish(&self) -> Mixed {
        let Mixture { classes, size: Size { w, .. }, ref predictions } = *self;
        let share = 1.0 / predictions.len() as f32;
        let ups: Vec<_> =
            predictions.iter().map(|(head, logits)| Upsampling::new(head, logits)).collect();
        let mut mixed = Mixed::new(self.size);
        let lines = mixed.label.par_chunks_mut(w).zip(mixed.confidence.par_chunks_mut(w));
        let lines = lines.zip(mixed.entropy.par_chunks_mut(w));
        let lines = lines.zip(mixed.mutual_information.par_chunks_mut(w)).enumerate();
        // `sums` are `[C + 1, W]`: of p_c for each class, then of the entropies.
        let buffers = || (Vec::new(), vec![0.0; (classes + 1) * w]);
        lines.for_each_init(buffers, |(scratch, sums), (row, (((label, p), entropy), mi))| {
            sums.fill(0.0);
            for up in &ups {
                arch().dispatch(Row { up, row, scratch, sums });
            }
            arch().dispatch(|| mean(classes, share, sums, label, [p, entropy, mi]));
        });
        mixed
    }
}

/// What the mean says about a row of pixels: class, and confidence, entropy and mutual information. `sums` are `[C + 1, W]`.
#[inline(always)]
fn mean(classes: usize, share: f32, sums: &[f32], label: &mut [u8], maps: [&mut [f32]; 3]) {
    let width = label.len();
    let [confidence, entropy, information] = maps;
    for first in (0..width).step_by(BLOCK) {
        let pixels = BLOCK.min(width - first);
        let (mut best, mut class, mut h) = ([0f32; BLOCK], [0u32; BLOCK], [0f32; BLOCK]);
        let mut values = [0f32; BLOCK];
        for c in 0..classes {
            values[..pixels].copy_from_slice(&sums[c * width + first..][..pixels]);
            for i in 0..BLOCK {
                let p = values[i] * share;
                let higher = p > best[i];
                best[i] = if higher { p } else { best[i] };
                class[i] = if higher { c as u32 } else { class[i] };
                // 0 ln 0 = 0: this ln 0 is finite.
                h[i] -= p * ln(p);
            }
        }
        values[..pixels].copy_from_slice(&sums[classes * width + first..][..pixels]);
        for i in 0..BLOCK {
            let mean_entropy = values[i] * share;
            // Rounding can leave either a hair below 0. Not `max`, which makes 0 of NaN.
            let positive = |value: f32| if value < 0.0 { 0.0 } else { value };
            values[i] = positive(h[i] - mean_entropy);
            h[i] = positive(h[i]);
            if mean_entropy.is_nan() {
                (class[i], best[i], h[i], values[i]) = (0, f32::NAN, f32::NAN, f32::NAN);
            }
        }
        let label = &mut label[first..][..pixels];
        label.iter_mut().zip(class).for_each(|(label, class)| *label = class as u8);
        confidence[first..][..pixels].copy_from_slice(&best[..pixels]);
        entropy[first..][..pixels].copy_from_slice(&h[..pixels]);
        information[first..][..pixels].copy_from_slice(&values[..pixels]);
    }
}

struct Row<'a> {
    up: &'a Upsampling<'a>,
    row: usize,
    scratch: &'a mut Vec<f32>,
    /// `[C + 1, W]`
    sums: &'a mut [f32],
}

impl WithSimd for Row<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let Row { up, row, scratch, sums } = self;
        let width = up.head.crop.w;
        up.blocks(row, scratch, |first, pixels, block| {
            let mut best = [f32::NEG_INFINITY; BLOCK];
            for logits in block.chunks_exact(BLOCK) {
                for i in 0..BLOCK {
                    best[i] = if logits[i] > best[i] { logits[i] } else { best[i] };
                }
            }
            let (mut sum, mut weighted) = ([0f32; BLOCK], [0f32; BLOCK]);
            for logits in block.chunks_exact_mut(BLOCK) {
                for i in 0..BLOCK {
                    let d = logits[i] - best[i];
                    let e = exp(d);
                    sum[i] += e;
                    weighted[i] += d * e;
                    logits[i] = e;
                }
            }
            let planes = sums.chunks_exact_mut(width).zip(block.chunks_exact(BLOCK));
            let mut share = [0f32; BLOCK];
            for i in 0..BLOCK {
                share[i] = 1.0 / sum[i];
            }
            for (plane, exponentials) in planes {
                for (i, total) in plane[first..][..pixels].iter_mut().enumerate() {
                    *total += exponentials[i] * share[i];
                }
            }
            let entropies = &mut sums[up.head.classes * width..][first..][..pixels];
            for (i, total) in entropies.iter_mut().enumerate() {
                let h = ln(sum[i]) - weighted[i] / sum[i];
                *total += if h < 0.0 { 0.0 } else { h };
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Resize;

    /// Three predictions on two grids against f64: the mean distribution's class, probability and entropy,
    /// and its mutual information.
    #[test]
    fn the_mean_of_predictions_is_that_of_f64() {
        let (classes, crop) = (7, Size::new(9, 70));
        let resize = Resize { align_corners: false };
        let mut state = 3u64;
        let mut mixture = Mixture::new(classes, crop);
        let mut exact = vec![vec![0f64; classes + 1]; crop.pixels()];
        for grid in [Size::new(3, 18), Size::new(5, 9), Size::new(3, 18)] {
            let head = Head { classes, grid, padded: Size::new(10, 72), crop, resize };
            let next = |_| (crate::splitmix64::splitmix64(&mut state) >> 40) as f32 / 2e6 - 4.0;
            let logits: Vec<f32> = (0..grid.pixels() * classes).map(next).collect();
            mixture.add(&head, &logits);
            let (rows, columns) = (resize.taps(grid.h, 10), resize.taps(grid.w, 72));
            for (i, sums) in exact.iter_mut().enumerate() {
                let (v, u) = (rows[i / crop.w], columns[i % crop.w]);
                let l: Vec<f64> = (0..classes)
                    .map(|c| {
                        let at =
                            |y: usize, x: usize| f64::from(logits[(y * grid.w + x) * classes + c]);
                        let line =
                            |y| at(y, u.low) + (at(y, u.high) - at(y, u.low)) * f64::from(u.weight);
                        line(v.low) + (line(v.high) - line(v.low)) * f64::from(v.weight)
                    })
                    .collect();
                let total: f64 = l.iter().map(|l| l.exp()).sum();
                for (c, l) in l.iter().enumerate() {
                    let p = l.exp() / total;
                    sums[c] += p / 3.0;
                    sums[classes] -= p * p.ln() / 3.0;
                }
            }
        }
        let mixed = mixture.finish();
        for (i, sums) in exact.iter().enumerate() {
            let (p, mean_entropy) = (&sums[..classes], sums[classes]);
            let h: f64 = p.iter().map(|p| -p * p.ln()).sum();
            let best = (0..classes).max_by(|&a, &b| p[a].total_cmp(&p[b])).unwrap();
            // A logit of at most 4.4 rounds 8 times: 2.1e-6 (a probability moves by half of that, an entropy
            // by at most 2 ln 7 of it); exponentials and sums add (C + 9) u (1 + ln C), 2.8e-6.
            for (found, expected) in [
                (mixed.confidence[i], p[best]),
                (mixed.entropy[i], h),
                (mixed.mutual_information[i], h - mean_entropy),
            ] {
                assert!(
                    (f64::from(found) - expected).abs() < 1.1e-5,
                    "pixel {i}: {found} {expected}"
                );
            }
            assert!(p[usize::from(mixed.label[i])] > p[best] - 2e-6, "pixel {i}");
        }
    }

    /// What is not finite in one prediction is not hidden by the others.
    #[test]
    fn logits_that_are_not_finite_are_nan() {
        let size = Size::new(1, 1);
        let resize = Resize { align_corners: true };
        let head = Head { classes: 3, grid: size, padded: size, crop: size, resize };
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut mixture = Mixture::new(3, size);
            mixture.add(&head, &[0.0, 5.0, 1.0]);
            mixture.add(&head, &[0.0, 5.0, bad]);
            let mixed = mixture.finish();
            assert_eq!(mixed.label, [0]);
            for map in [mixed.confidence, mixed.entropy, mixed.mutual_information] {
                assert!(map[0].is_nan(), "{bad}: {map:?}");
            }
        }
    }
}
