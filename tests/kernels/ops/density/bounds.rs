//! What the density's errors may be, and a check of every pixel against f64.
//!
//! Two terms: |error of log q| <= 1e-3 + 1e-5 |log q|. Where it comes from: a row of W is stored to 2^-22 of each
//! entry (2^-40 of the row's greatest), and a sum of 2 D products in f32 errs by some sqrt(2 D) 2^-24 of
//! the greatest partial sum, |W mu| / 100 sigma at a condition number of 1e4; see docs/performance.md.
//! Tensor cores take 2 D / 8 steps (A100) or 2 D / 16 (H100) for it, and each errs by at most 2^-21 of the greatest product
//! or partial sum and 2^-23 of the sum (`main.rs`), always towards zero, so that the errors of a long sum add up instead of
//! cancelling out: at 512 channels an A100 errs by 6 times what f32 sums do. It meets 29 % of the bound at worst.
//!
//! One term (`fast`): each entry of W errs by 2^-11 of itself, the bias not at all, so
//! |e_i| <= 2^-11 sum_k |W_ik| |z_k - mu_k|, |error of a class's term| <= delta_c = sum_i |y_i| |e_i| + e_i^2 / 2, and
//! LSE_c(t_c - delta_c) <= log q <= LSE_c(t_c + delta_c).

use ddu::density::{Gaussian, Gaussians};
use ddu::device::launch::density::Precision;

use super::Found;
use crate::scene::Scene;

pub fn allowed(value: f64) -> f64 {
    1e-3 + 1e-5 * value.abs()
}

/// (d^2 / 2, the bound of its error in one term) of a Gaussian.
fn distance_and_bound(gaussian: &Gaussian, z: &[f64]) -> (f64, f64) {
    let x: Vec<f64> = z.iter().zip(&gaussian.mean).map(|(z, m)| z - m).collect();
    let (mut half, mut bound) = (0.0, 0.0);
    for (i, row) in gaussian.whitening.chunks_exact(x.len()).enumerate() {
        let (mut y, mut e) = (0f64, 0f64);
        for (w, x) in row[..=i].iter().zip(&x) {
            y += w * x;
            e += (w * x).abs() * 2f64.powi(-11);
        }
        half += y * y / 2.0;
        bound += y.abs() * e + e * e / 2.0;
    }
    (half, bound)
}

fn log_sum_exp(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let max = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    max + terms.map(|t| (t - max).exp()).sum::<f64>().ln()
}

/// (log q, its bound in one term; log q - background, its bound).
pub fn fast_bounds(gaussians: &Gaussians, z: &[f64]) -> [(f64, f64); 2] {
    let terms: Vec<(f64, f64)> = gaussians
        .classes
        .iter()
        .map(|c| {
            let (half, bound) = distance_and_bound(&c.gaussian, z);
            (c.log_prior + c.gaussian.log_peak() - half, bound)
        })
        .collect();
    let q = log_sum_exp(terms.iter().map(|t| t.0));
    let above = log_sum_exp(terms.iter().map(|t| t.0 + t.1)) - q;
    let below = q - log_sum_exp(terms.iter().map(|t| t.0 - t.1));
    let (half, bound) = distance_and_bound(&gaussians.background, z);
    let relative = q - gaussians.background.log_peak() + half;
    let bound_q = above.max(below);
    [(q, bound_q), (relative, bound_q + bound)]
}

/// The worst share of the allowed error, over all pixels and both scores; panics beyond 1.
pub fn check_against_f64(
    what: &str,
    gaussians: &Gaussians,
    scene: &Scene,
    found: &Found,
    precision: Precision,
) -> f64 {
    let mut worst = 0f64;
    for pixel in 0..scene.pixels() {
        let z = scene.z(pixel);
        let [density, relative] = match precision {
            Precision::Exact => {
                let relative = gaussians.relative_log_density(&z);
                [(gaussians.log_density(&z), 0.0), (relative, 0.0)]
            }
            Precision::Fast => fast_bounds(gaussians, &z),
        };
        let q = density.0;
        // The relative score is a difference of two values that err alike.
        let both = allowed(q) + allowed(q - relative.0);
        for (name, (expected, fast), exact, values) in [
            ("log q", density, allowed(q), &found.density),
            ("relative", relative, both, &found.relative),
        ] {
            let Some(value) = values.get(pixel).map(|v| f64::from(*v)) else { continue };
            let allowed = exact + fast;
            let off = (value - expected).abs();
            assert!(
                off <= allowed,
                "{what}: {name} of pixel {pixel}: {value}, expected {expected} +- {allowed:e}"
            );
            worst = worst.max(off / allowed);
        }
    }
    worst
}
