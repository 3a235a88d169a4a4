//! log q(z), relative density and nearest class against forward substitution in f64.

use ddu::density::{Covariance, Evaluator, Gaussians, Options, Prior};

use crate::support::{close, fit, rounded, scene};

/// L, row-major, of a covariance of which the lower triangle is read.
fn plain_cholesky(sigma: impl Fn(usize, usize) -> f64, n: usize) -> Vec<f64> {
    let mut l = vec![0.0; n * n];
    for i in 0..n {
        for j in 0..=i {
            let dot: f64 = (0..j).map(|k| l[i * n + k] * l[j * n + k]).sum();
            let rest = sigma(i, j) - dot;
            l[i * n + j] = if i == j { rest.sqrt() } else { rest / l[j * n + j] };
        }
    }
    l
}

/// (||L^-1 x||^2, ln|L L^T|) by forward substitution.
fn plain_solve(l: &[f64], x: &[f64]) -> (f64, f64) {
    let n = x.len();
    let mut y = vec![0.0; n];
    for i in 0..n {
        let dot: f64 = (0..i).map(|k| l[i * n + k] * y[k]).sum();
        y[i] = (x[i] - dot) / l[i * n + i];
    }
    let determinant = (0..n).map(|i| 2.0 * l[i * n + i].ln()).sum();
    (y.iter().map(|y| y * y).sum(), determinant)
}

#[test]
fn evaluation_agrees_with_plain_f64_on_odd_shapes() {
    let shapes = [(1, 2, 5), (7, 3, 33), (16, 5, 95), (50, 4, 257), (256, 3, 70)];
    for (channels, classes, pixels) in shapes {
        let train = scene(90, 60 * classes.max(channels), channels, classes);
        let moments = fit(std::slice::from_ref(&train), channels, classes);
        let total = moments.count().iter().sum::<i64>() as f64;
        let (features, labels) = scene(91, pixels, channels, classes);
        for prior in [Prior::Empirical, Prior::Uniform] {
            let (gaussians, _) = Gaussians::new(&moments, Covariance::Full, prior).unwrap();
            let factors: Vec<Vec<f64>> = gaussians
                .classes
                .iter()
                .map(|c| {
                    let (s, n) = (moments.scatter(c.class), moments.count()[c.class] as f64);
                    let eps = |i, j| if i == j { c.gaussian.eps } else { 0.0 };
                    let sigma = |i, j| s[i * channels + j] / (n - 1.0) + eps(i, j);
                    plain_cholesky(sigma, channels)
                })
                .collect();
            let plain = |z: &[f64]| {
                let term = |(class, l): (usize, &Vec<f64>)| {
                    let x: Vec<f64> =
                        z.iter().zip(moments.mean(class)).map(|(z, m)| z - m).collect();
                    let (norm, determinant) = plain_solve(l, &x);
                    let weight = match prior {
                        Prior::Empirical => (moments.count()[class] as f64 / total).ln(),
                        Prior::Uniform => 0.0,
                    };
                    let two_pi = channels as f64 * std::f64::consts::TAU.ln();
                    weight - 0.5 * (two_pi + determinant + norm)
                };
                let terms: Vec<f64> = factors.iter().enumerate().map(term).collect();
                let max = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                max + terms.iter().map(|t| (t - max).exp()).sum::<f64>().ln()
            };
            let evaluator = Evaluator::new(&gaussians);
            let on = |early_exit, nearest, relative| {
                let options = Options { early_exit, nearest, relative, columns: None };
                evaluator.evaluate(&features, Some(&labels), options)
            };
            let with = on(true, false, false);
            let without = on(false, true, false);
            let nearest = on(true, true, false);
            let relative = on(true, false, true);
            assert_eq!(without.work, 1.0);
            // On grids, the last row of which may be cut, other pixels share a vector.
            for columns in [1, 3, 8, 13, labels.len()] {
                let on = |early_exit| {
                    let options = Options {
                        early_exit,
                        nearest: true,
                        columns: Some(columns),
                        relative: false,
                    };
                    evaluator.evaluate(&features, Some(&labels), options)
                };
                assert_eq!(on(false), without, "{columns} columns");
                for (pixel, (found, list)) in on(true).score.iter().zip(&with.score).enumerate() {
                    // The bound of the omitted terms, and the rounding of the sum without them.
                    let bound = 1e-6 + 1e-6 * list.abs();
                    assert!((found - list).abs() <= bound, "{columns} columns, pixel {pixel}");
                }
            }
            // No guess is the classes in their order, as a guess of the first one is.
            let options = Options::default();
            let first = vec![gaussians.classes[0].class as u8; labels.len()];
            let [blind, first] =
                [None, Some(&*first)].map(|guess| evaluator.evaluate(&features, guess, options));
            assert_eq!(blind, first);
            for (pixel, z) in rounded(&features).chunks_exact(channels).enumerate() {
                let expected = plain(z);
                let reference = gaussians.log_density(z);
                // f64 against f64 at condition numbers to 1e4.
                assert!((reference - expected).abs() <= 1e-9 * (1.0 + expected.abs()));
                let what = format!("D = {channels}, pixel {pixel}, {expected}");
                assert!(close(with.score[pixel], expected), "{what}: {}", with.score[pixel]);
                assert!(close(without.score[pixel], expected), "{what}");
                assert!(close(relative.score[pixel], gaussians.relative_log_density(z)), "{what}");
                // Ties within f32 rounding may fall to either class: compare distances.
                let distances: Vec<f64> =
                    gaussians.classes.iter().map(|c| c.gaussian.distance(z).sqrt()).collect();
                let least = distances.iter().copied().fold(f64::INFINITY, f64::min);
                for e in [&without, &nearest] {
                    let found = distances[usize::from(e.nearest[pixel])];
                    assert!((found - least).abs() <= 1e-4 * (1.0 + least), "{what}");
                    assert!((f64::from(e.distance[pixel]) - least).abs() <= 1e-4 * (1.0 + least));
                }
            }
        }
    }
}

#[test]
fn tied_and_diagonal_covariances_are_what_they_say() {
    let (channels, classes) = (12, 3);
    let train = scene(5, 2000, channels, classes);
    let moments = fit(std::slice::from_ref(&train), channels, classes);
    let z = rounded(&scene(6, 40, channels, classes).0);

    let (tied, _) = Gaussians::new(&moments, Covariance::Tied, Prior::Uniform).unwrap();
    let freedom = (moments.count().iter().sum::<i64>() - classes as i64) as f64;
    let l = plain_cholesky(
        |i, j| {
            let s: f64 = (0..classes).map(|c| moments.scatter(c)[i * channels + j]).sum();
            s / freedom + if i == j { tied.classes[0].gaussian.eps } else { 0.0 }
        },
        channels,
    );
    for (z, class) in z.chunks_exact(channels).zip(tied.classes.iter().cycle()) {
        let x: Vec<f64> = z.iter().zip(moments.mean(class.class)).map(|(z, m)| z - m).collect();
        let (norm, determinant) = plain_solve(&l, &x);
        assert!((class.gaussian.distance(z) - norm).abs() <= 1e-9 * norm);
        assert!((class.gaussian.log_determinant - determinant).abs() <= 1e-9 * determinant.abs());
    }

    let (diagonal, _) = Gaussians::new(&moments, Covariance::Diagonal, Prior::Empirical).unwrap();
    let evaluator = Evaluator::new(&diagonal);
    for z in z.chunks_exact(channels) {
        let class = &diagonal.classes[1];
        let plain: f64 = (0..channels)
            .map(|k| {
                let n = moments.count()[1] as f64;
                let variance = moments.scatter(1)[k * channels + k] / (n - 1.0);
                (z[k] - moments.mean(1)[k]).powi(2) / (variance + class.gaussian.eps)
            })
            .sum();
        assert!((class.gaussian.distance(z) - plain).abs() <= 1e-9 * plain);
        let z32: Vec<f32> = z.iter().map(|v| *v as f32).collect();
        let found = evaluator.evaluate(&z32, None, Options::default()).score[0];
        assert!(close(found, diagonal.log_density(z)));
        let relative = Options { relative: true, ..Options::default() };
        let found = evaluator.evaluate(&z32, None, relative).score[0];
        assert!(close(found, diagonal.relative_log_density(z)));
    }
}
