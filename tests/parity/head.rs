//! Upsampling, softmax entropy and arg max in one pass.
//!
//! Tolerance of the entropy: the upsampled logits are off by d <= (see resize) about
//! 12 u (grid + 1) s + 8 u s for logits up to s; dH/dl_c = -p_c (ln p_c + H) and sum |p_c ln p_c| +
//! H = 2 H <= 2 ln C, so they move H by up to 2 d ln C; exp (2 ulp = 4 u relative), C sums and the
//! logarithm add (C + 8) u (1 + ln C). The entropy of softmax(l / 2) moves by half of that, its own sums round as
//! these; |d max p / dl| sums to 2 p (1 - p) <= 1/2, and p rounds as a sum of C terms; the energy moves by d,
//! its sum by C u and itself by a rounding of its size.

use ddu::cpu::head::{head, scores};
use ddu::ops::{Head, LogitScore, Resize, Size};

use crate::common::{Rng, U};
use crate::logits::{ALONE, NOT_FINITE};

fn position(align_corners: bool, i: usize, input: usize, output: usize) -> f64 {
    match (align_corners, output) {
        (true, 1) => 0.0,
        (true, _) => i as f64 * (input - 1) as f64 / (output - 1) as f64,
        (false, _) => ((i as f64 + 0.5) * input as f64 / output as f64 - 0.5).max(0.0),
    }
}

#[test]
fn heads() {
    // Grid, padded, crop, classes, scale of the logits.
    let cases = [
        ((23, 30), (92, 120), (90, 113), 9, 8.0),
        ((7, 9), (97, 131), (97, 131), 21, 3.0),
        ((1, 1), (5, 67), (3, 65), 2, 1.0),
        ((5, 6), (17, 21), (17, 1), 255, 20.0),
        ((3, 4), (12, 16), (12, 16), 11, 100.0),
        ((2, 2), (8, 8), (8, 8), 1, 5.0),
    ];
    for (seed, (grid, padded, crop, classes, scale)) in cases.into_iter().enumerate() {
        for align_corners in [false, true] {
            let size = |(h, w)| Size::new(h, w);
            let resize = Resize { align_corners };
            let (grid, padded, crop) = (size(grid), size(padded), size(crop));
            let params = Head { classes, grid, padded, crop, resize };
            params.validate().unwrap();
            let mut rng = Rng(seed as u64);
            let logits: Vec<f32> =
                (0..grid.pixels() * classes).map(|_| rng.uniform() * scale).collect();
            let mut label = vec![255u8; crop.pixels()];
            let mut entropy = vec![f32::NAN; crop.pixels()];
            head(&params, &logits, &mut label, &mut entropy);
            let ([mut all, mut softmax, mut energy, mut t2], mut again) =
                ([(); 4].map(|()| vec![f32::NAN; crop.pixels()]), vec![255u8; crop.pixels()]);
            let mut wanted = [
                (LogitScore::EntropyT2, &mut t2[..]),
                (LogitScore::MaxSoftmax, &mut softmax[..]),
                (LogitScore::Entropy, &mut all[..]),
                (LogitScore::Energy, &mut energy[..]),
            ];
            scores(&params, &logits, &mut again, &mut wanted);
            assert_eq!((&all, &again), (&entropy, &label), "the same bits in company");
            let (mut alone, mut again) = (vec![f32::NAN; crop.pixels()], label.clone());
            scores(&params, &logits, &mut again, &mut [(LogitScore::EntropyT2, &mut alone[..])]);
            assert_eq!((&alone, &again), (&t2, &label));

            let slip = 12.0 * U * (grid.h.max(grid.w) + 1) as f64 * f64::from(scale)
                + 8.0 * U * f64::from(scale);
            let ln_c = (classes as f64).ln();
            let allowed = 2.0 * slip * ln_c + (classes as f64 + 8.0) * U * (1.0 + ln_c) + 1e-12;
            for i in 0..crop.pixels() {
                let y = position(align_corners, i / crop.w, grid.h, padded.h);
                let x = position(align_corners, i % crop.w, grid.w, padded.w);
                let l: Vec<f64> =
                    (0..classes).map(|c| sample(&logits, grid, classes, c, y, x)).collect();
                let top = l.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let sum: f64 = l.iter().map(|l| (l - top).exp()).sum();
                let exact: f64 = l
                    .iter()
                    .map(|l| (l - top).exp() / sum)
                    .map(|p| if p > 0.0 { -p * p.ln() } else { 0.0 })
                    .sum();
                let found = f64::from(entropy[i]);
                assert!(
                    (found - exact).abs() <= allowed,
                    "case {seed}, pixel {i}: {found} for {exact}"
                );
                assert!((0.0..=ln_c + allowed).contains(&found));
                let rounding = (classes as f64 + 8.0) * U;
                let half: f64 = l.iter().map(|l| ((l - top) / 2.0).exp()).sum();
                let p = |l: &f64| ((l - top) / 2.0).exp() / half;
                let others = [
                    (softmax[i], 1.0 / sum, slip / 2.0 + rounding),
                    (energy[i], -(top + sum.ln()), slip + rounding + U * (top + sum.ln()).abs()),
                    (
                        t2[i],
                        l.iter().map(|l| if p(l) > 0.0 { -p(l) * p(l).ln() } else { 0.0 }).sum(),
                        allowed,
                    ),
                ];
                for (found, exact, allowed) in others {
                    let off = (f64::from(found) - exact).abs();
                    assert!(off <= allowed, "case {seed}, pixel {i}: {found} for {exact}");
                }
                // The chosen class's logit is the largest up to the upsampling's own rounding.
                assert!(l[usize::from(label[i])] >= top - 2.0 * slip, "case {seed}, pixel {i}");
            }
        }
    }
}

fn sample(logits: &[f32], grid: Size, classes: usize, c: usize, y: f64, x: f64) -> f64 {
    let at = |row: usize, column: usize| {
        let (row, column) = (row.min(grid.h - 1), column.min(grid.w - 1));
        f64::from(logits[(row * grid.w + column) * classes + c])
    };
    let (row, column) = (y.floor() as usize, x.floor() as usize);
    let (v, u) = (y - row as f64, x - column as f64);
    let line = |row| at(row, column) * (1.0 - u) + at(row, column + 1) * u;
    line(row) * (1.0 - v) + line(row + 1) * v
}

#[test]
fn equal_logits_give_the_first_class_and_full_entropy() {
    let size = Size::new(3, 70);
    let params = Head {
        classes: 7,
        grid: size,
        padded: size,
        crop: size,
        resize: Resize { align_corners: true },
    };
    let (mut label, mut entropy) = (vec![9; 210], vec![0.0; 210]);
    head(&params, &vec![2.5; 210 * 7], &mut label, &mut entropy);
    assert!(label.iter().all(|l| *l == 0));
    assert!(entropy.iter().all(|h| (f64::from(*h) - 7f64.ln()).abs() < 1e-6));
}

/// Overflow must not read as certainty: NaN entropy where a logit is not finite, and the class that
/// `ddu::ops::Head` says.
#[test]
fn logits_that_are_not_finite_give_nan_entropy_and_a_defined_class() {
    // The lower right cell holds the case, the others zeros: in the centre its infinities stay what they
    // are; elsewhere the upsampling makes NaN of them (inf times a weight of 0, inf - inf).
    let params = Head {
        classes: 4,
        grid: Size::new(2, 2),
        padded: Size::new(3, 3),
        crop: Size::new(3, 3),
        resize: Resize { align_corners: true },
    };
    for (cell, class) in NOT_FINITE {
        let logits = [[0.0; 4], [0.0; 4], [0.0; 4], cell].concat();
        let (mut label, mut entropy) = ([9; 9], [0.0; 9]);
        head(&params, &logits, &mut label, &mut entropy);
        assert_eq!(label[4], class, "{cell:?}");
        assert!(label.iter().all(|label| *label < 4), "{cell:?}: {label:?}");
        assert!(entropy.iter().all(|h| h.is_nan()), "{cell:?}: {entropy:?}");
        for score in [LogitScore::MaxSoftmax, LogitScore::Energy, LogitScore::EntropyT2] {
            let (mut label, mut map) = ([9; 9], [0.0; 9]);
            scores(&params, &logits, &mut label, &mut [(score, &mut map[..])]);
            assert!(map.iter().all(|v| v.is_nan()) && label[4] == class, "{score:?}: {map:?}");
        }
    }
    // One class: its entropy is 0, or unknown.
    let size = Size::new(1, 1);
    let resize = Resize { align_corners: true };
    let params = Head { classes: 1, grid: size, padded: size, crop: size, resize };
    for (logit, certain) in ALONE {
        let (mut label, mut entropy) = ([9], [9.0]);
        head(&params, &[logit], &mut label, &mut entropy);
        assert_eq!((label[0], entropy[0] == 0.0, entropy[0].is_nan()), (0, certain, !certain));
    }
}
