//! The density's mathematics: moments, Gaussians and evaluation against plain f64 loops and against
//! the golden values of a real network.

use std::path::PathBuf;

use ddu::density::{
    CONDITION_CAP, Covariance, Evaluator, Gaussians, Moments, Options, Prior, Score, VOID, Warning,
    round_to_half,
};
use safetensors::SafeTensors;

/// A reproducible stream of numbers (xorshift64*); tests must not change from run to run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }
    fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    /// Box and Muller.
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }
}

/// Correlated features with means away from zero and variances over several decades, as behind a
/// ReLU, and labels of which some are void or unknown.
fn scene(seed: u64, pixels: usize, channels: usize, classes: usize) -> (Vec<f32>, Vec<u8>) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let labels: Vec<u8> = (0..pixels)
        .map(|_| match random.next() % 10 {
            0 => VOID,
            1 => classes as u8 + 2,
            // A lopsided share: class 0 has most.
            _ => (random.uniform().powi(2) * classes as f64) as u8,
        })
        .collect();
    let mut features = Vec::with_capacity(pixels * channels);
    for label in &labels {
        let shared = random.normal();
        for k in 0..channels {
            let k = k as f64;
            let scale = 10f64.powf(-2.0 * k / channels as f64);
            let mean = 1.5 + (0.7 * k + f64::from(*label)).sin();
            features.push((mean + scale * (random.normal() + 0.8 * shared)) as f32);
        }
    }
    (features, labels)
}

fn rounded(features: &[f32]) -> Vec<f64> {
    features.iter().map(|v| f64::from(round_to_half(*v))).collect()
}

/// Two passes over all images at once: count, mean and the full scatter of each class, f64.
fn plain_moments(
    images: &[(Vec<f32>, Vec<u8>)],
    channels: usize,
    classes: usize,
) -> (Vec<i64>, Vec<f64>, Vec<f64>) {
    let mut count = vec![0i64; classes];
    let mut mean = vec![0.0; classes * channels];
    let mut scatter = vec![0.0; classes * channels * channels];
    let samples: Vec<(Vec<f64>, usize)> = images
        .iter()
        .flat_map(|(features, labels)| features.chunks_exact(channels).zip(labels))
        .filter(|(_, label)| usize::from(**label) < classes)
        .map(|(z, label)| (rounded(z), usize::from(*label)))
        .collect();
    for (z, label) in &samples {
        count[*label] += 1;
        for (mean, z) in mean[label * channels..].iter_mut().zip(z) {
            *mean += z;
        }
    }
    for (class, mean) in mean.chunks_exact_mut(channels).enumerate() {
        mean.iter_mut().for_each(|m| *m /= count[class].max(1) as f64);
    }
    for (z, label) in &samples {
        let mean = &mean[label * channels..][..channels];
        let d: Vec<f64> = z.iter().zip(mean).map(|(z, m)| z - m).collect();
        for i in 0..channels {
            for j in 0..channels {
                scatter[(label * channels + i) * channels + j] += d[i] * d[j];
            }
        }
    }
    (count, mean, scatter)
}

/// Greatest |delta S_ij| / sqrt(S_ii S_jj) over the lower triangles of all classes.
fn scatter_error(moments: &Moments, expected: &[f64]) -> f64 {
    let channels = moments.channels();
    let mut worst = 0f64;
    for (class, expected) in expected.chunks_exact(channels * channels).enumerate() {
        let found = moments.scatter(class);
        for i in 0..channels {
            for j in 0..=i {
                let at = i * channels + j;
                let scale = (expected[i * channels + i] * expected[j * channels + j]).sqrt();
                let delta = (found[at] - expected[at]).abs();
                assert!(scale > 0.0 || delta == 0.0, "class {class}, {i}, {j}: {delta}");
                worst = worst.max(if scale > 0.0 { delta / scale } else { 0.0 });
            }
        }
    }
    worst
}

fn fit(images: &[(Vec<f32>, Vec<u8>)], channels: usize, classes: usize) -> Moments {
    let mut moments = Moments::new(classes, channels);
    for (features, labels) in images {
        moments.add(features, labels);
    }
    moments
}

/// Means are sums in f64. Scatters are summed in f32 over 128 pixels: roundings of random sign come to
/// sqrt(128) 2^-24 = 6.7e-7 of sqrt(S_ii S_jj), three times that to 2e-6; 128 of one sign to 7.6e-6.
#[test]
fn moments_agree_with_two_plain_passes() {
    let shapes = [(1, 2, 40), (5, 3, 300), (16, 4, 131), (37, 3, 900), (256, 2, 700)];
    for (channels, classes, pixels) in shapes {
        let images: Vec<_> =
            (0..3).map(|i| scene(i + 7, pixels + 13 * i as usize, channels, classes)).collect();
        let moments = fit(&images, channels, classes);
        let (count, mean, scatter) = plain_moments(&images, channels, classes);
        assert_eq!(moments.count(), count);
        for class in 0..classes {
            for (found, expected) in moments.mean(class).iter().zip(&mean[class * channels..]) {
                assert!((found - expected).abs() <= 1e-12 * expected.abs(), "{found} {expected}");
            }
        }
        let error = scatter_error(&moments, &scatter);
        println!("D = {channels}: {error:.1e}");
        assert!(error <= 2e-6, "D = {channels}: {error:e}");
    }
}

#[test]
fn every_pixel_is_accounted_for() {
    let (mut features, labels) = scene(3, 500, 6, 3);
    let known: Vec<usize> = (0..500).filter(|p| labels[*p] < 3).collect();
    features[known[0] * 6] = f32::NAN;
    features[known[1] * 6 + 5] = 65520.0; // rounds to an fp16 infinity
    features[known[2] * 6 + 1] = f32::NEG_INFINITY;
    let void = labels.iter().position(|l| *l == VOID).expect("some are void");
    features[void * 6] = f32::NAN; // of no interest
    let mut moments = Moments::new(3, 6);
    let tally = moments.add(&features, &labels);
    assert_eq!(tally.non_finite, 3);
    assert_eq!(tally.void, labels.iter().filter(|l| **l == VOID).count() as u64);
    assert_eq!(tally.unknown[&5], labels.iter().filter(|l| **l == 5).count() as u64);
    assert_eq!(tally.unknown.len(), 1);
    assert_eq!(tally.fitted + tally.non_finite, known.len() as u64);
    assert_eq!(moments.count().iter().sum::<i64>() as u64, tally.fitted);
    assert!((0..3).all(|c| moments.scatter(c).iter().all(|v| v.is_finite())));
}

#[test]
fn bits_do_not_depend_on_the_number_of_threads() {
    // More than a slab of pixels in one of the images.
    let images = [scene(1, 17_000, 24, 3), scene(2, 777, 24, 3)];
    let on = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| fit(&images, 24, 3))
    };
    let one = on(1);
    assert_eq!(one, on(2));
    assert_eq!(one, on(5));
}

/// Chan's formula in another order rounds differently, each time by a few units of f64.
#[test]
fn shards_merge_to_the_whole_in_any_order() {
    let images: Vec<_> = (0..7).map(|i| scene(40 + i, 400, 20, 4)).collect();
    let whole = fit(&images, 20, 4);
    let expected: Vec<f64> = (0..4).flat_map(|c| whole.scatter(c).to_vec()).collect();
    for split in [1, 3, 6] {
        for swap in [false, true] {
            let (mut a, mut b) = (fit(&images[..split], 20, 4), fit(&images[split..], 20, 4));
            if swap {
                std::mem::swap(&mut a, &mut b);
            }
            a.merge(&b);
            assert_eq!(a.count(), whole.count());
            assert!(scatter_error(&a, &expected) <= 1e-12);
            for class in 0..4 {
                for (x, y) in a.mean(class).iter().zip(whole.mean(class)) {
                    assert!((x - y).abs() <= 1e-12 * y.abs());
                }
            }
        }
    }
    let mut empty = Moments::new(4, 20);
    empty.merge(&whole);
    assert_eq!(empty, whole, "merging into nothing is exact");
}

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
                let most = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                most + terms.iter().map(|t| (t - most).exp()).sum::<f64>().ln()
            };
            let evaluator = Evaluator::new(&gaussians);
            let on = |early_exit, nearest, score| {
                let options = Options { early_exit, nearest, score };
                evaluator.evaluate(&features, &labels, options)
            };
            let with = on(true, false, Score::Density);
            let without = on(false, true, Score::Density);
            let nearest = on(true, true, Score::Density);
            let relative = on(true, false, Score::Relative);
            assert_eq!(without.work, 1.0);
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

/// The bound of the f32 path: f32 sums at condition numbers up to the cap.
fn close(found: f32, expected: f64) -> bool {
    (f64::from(found) - expected).abs() <= 1e-3 + 1e-5 * expected.abs()
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
        let found = evaluator.evaluate(&z32, &[0], Options::default()).score[0];
        assert!(close(found, diagonal.log_density(z)));
        let relative = Options { score: Score::Relative, ..Options::default() };
        let found = evaluator.evaluate(&z32, &[0], relative).score[0];
        assert!(close(found, diagonal.relative_log_density(z)));
    }
}

/// A class absent, with 1 sample, with 10, constant, and dead and duplicated channels: finite
/// densities, the policy as designed, and a warning each.
#[test]
fn degenerate_fits_stay_finite() {
    let channels = 40;
    let (mut features, _) = scene(12, 3000, channels, 2);
    // Classes: 0 and 1 ordinary, 2 absent, 3 with one sample, 4 with ten, 5 constant.
    let labels: Vec<u8> = (0..3000u32)
        .map(|p| match p {
            0 => 3,
            1..11 => 4,
            11..31 => 5,
            _ => (p % 2) as u8,
        })
        .collect();
    for z in features.chunks_exact_mut(channels) {
        z[3] = 0.0; // dead
        z[9] = z[8]; // duplicated
    }
    let constant = features[..channels].to_vec();
    for pixel in 11..31 {
        features[pixel * channels..][..channels].copy_from_slice(&constant);
    }
    let mut moments = Moments::new(6, channels);
    moments.add(&features, &labels);
    for covariance in [Covariance::Full, Covariance::Tied, Covariance::Diagonal] {
        let (gaussians, warnings) = Gaussians::new(&moments, covariance, Prior::Empirical).unwrap();
        let fitted: Vec<usize> = gaussians.classes.iter().map(|c| c.class).collect();
        assert_eq!(fitted, [0, 1, 4, 5]);
        assert!(warnings.contains(&Warning::LeftOut { class: 2, count: 0 }));
        assert!(warnings.contains(&Warning::LeftOut { class: 3, count: 1 }));
        if covariance == Covariance::Full {
            assert!(warnings.contains(&Warning::FewSamples { class: 4, count: 10, channels }));
            assert!(warnings.contains(&Warning::Constant { class: 5 }));
            let all: Vec<_> = gaussians.classes.iter().map(|c| &c.gaussian).collect();
            assert!(all[0].condition_before > 1e12, "dead and duplicated channels");
            assert!(all[0].eps > 0.0);
            assert!(gaussians.background.eps > 0.0);
            assert_eq!(all[3].eps, gaussians.background.eps, "trace 0: the pooled covariance's");
        }
        for class in &gaussians.classes {
            assert!(class.gaussian.condition_after <= CONDITION_CAP);
            assert!(class.gaussian.log_determinant.is_finite());
        }
        let evaluator = Evaluator::new(&gaussians);
        let of = |score| Options { score, ..Options::default() };
        let density = evaluator.evaluate(&features, &labels, of(Score::Density));
        let relative = evaluator.evaluate(&features, &labels, of(Score::Relative));
        for (pixel, z) in rounded(&features).chunks_exact(channels).enumerate() {
            assert!(close(density.score[pixel], gaussians.log_density(z)));
            assert!(close(relative.score[pixel], gaussians.relative_log_density(z)));
        }
    }
}

#[test]
fn a_fit_of_identical_pixels_and_an_empty_one() {
    let mut moments = Moments::new(2, 9);
    assert!(Gaussians::new(&moments, Covariance::Full, Prior::Empirical).is_err());
    moments.add(&[0.1; 9 * 50], &[1; 50]);
    let (gaussians, _) = Gaussians::new(&moments, Covariance::Full, Prior::Empirical).unwrap();
    let found = Evaluator::new(&gaussians).evaluate(&[0.1; 9], &[0], Options::default());
    assert!(found.score[0].is_finite());
}

#[test]
fn far_and_broken_features_give_no_nan() {
    let (channels, classes) = (20, 3);
    let train = scene(33, 900, channels, classes);
    let moments = fit(std::slice::from_ref(&train), channels, classes);
    let (gaussians, _) = Gaussians::new(&moments, Covariance::Full, Prior::Empirical).unwrap();
    let evaluator = Evaluator::new(&gaussians);
    let mut features = scene(34, 70, channels, classes).0;
    features[0] = f32::NAN;
    features[channels + 3] = f32::INFINITY;
    features[2 * channels + 19] = -1e6; // an fp16 infinity
    features[3 * channels..4 * channels].fill(65504.0); // finite, some 1e6 standard deviations away
    for score in [Score::Density, Score::Relative] {
        for early_exit in [true, false] {
            let options = Options { score, early_exit, nearest: true };
            let found = evaluator.evaluate(&features, &[0; 70], options);
            assert_eq!(found.non_finite, 3);
            assert!(found.score[..3].iter().all(|v| *v == f32::NEG_INFINITY));
            assert_eq!(found.nearest[..3], [VOID; 3]);
            assert!(found.score[3..].iter().all(|v| v.is_finite()), "{:?}", &found.score[3..6]);
        }
    }
    let z = rounded(&features[3 * channels..4 * channels]);
    let found = evaluator.evaluate(&features, &[0; 70], Options::default());
    assert!(close(found.score[3], gaussians.log_density(&z)));
}

fn shared() -> Option<PathBuf> {
    let root = std::env::var_os("DDU_SHARED")
        .map(PathBuf::from)
        .unwrap_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared"));
    let found = root.join("golden").is_dir().then_some(root);
    if found.is_none() {
        eprintln!("SKIPPED: no shared data (set DDU_SHARED)");
    }
    found
}

fn f64s(file: &SafeTensors, name: &str) -> Vec<f64> {
    let view = file.tensor(name).unwrap();
    let (chunks, rest) = view.data().as_chunks::<8>();
    assert!(rest.is_empty() && view.dtype() == safetensors::Dtype::F64, "{name}");
    chunks.iter().map(|b| f64::from_le_bytes(*b)).collect()
}

/// With the goldens' own moments and features: the f64 reference within 1e-9, the f32 path within
/// 1e-3 + 1e-5 |log q|.
#[test]
fn log_density_of_the_golden_features() {
    let Some(shared) = shared() else { return };
    let bytes = std::fs::read(shared.join("golden/camvid-r18/golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let count = file.tensor("fit.count").unwrap();
    let count = count.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    let (mean, scatter) = (f64s(&file, "fit.mean"), f64s(&file, "fit.scatter"));
    let moments = Moments::from_parts("golden", count, mean, scatter).unwrap();
    let stem = "0001TP_008550";
    let features = file.tensor(&format!("{stem}.feature_grid")).unwrap();
    let halves = features.data().as_chunks::<2>().0.iter();
    let features: Vec<f32> = halves.map(|b| half::f16::from_le_bytes(*b).to_f32()).collect();
    let logits = file.tensor(&format!("{stem}.logits_grid")).unwrap();
    let logits: Vec<f32> =
        logits.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let arg_max = |z: &[f32]| (0..9).max_by(|a, b| z[*a].total_cmp(&z[*b])).unwrap() as u8;
    let predicted: Vec<u8> = logits.chunks_exact(9).map(arg_max).collect();

    for (name, prior, score) in [
        ("empirical", Prior::Empirical, Score::Density),
        ("uniform", Prior::Uniform, Score::Density),
        ("relative", Prior::Empirical, Score::Relative),
    ] {
        let golden = f64s(&file, &format!("{stem}.log_density_grid.{name}"));
        let (gaussians, warnings) = Gaussians::new(&moments, Covariance::Full, prior).unwrap();
        assert!(warnings.is_empty());
        let evaluator = Evaluator::new(&gaussians);
        let on = |early_exit| {
            let options = Options { score, early_exit, nearest: false };
            evaluator.evaluate(&features, &predicted, options)
        };
        let (with, without) = (on(true), on(false));
        let (mut reference_error, mut share) = (0f64, 0f64);
        for (pixel, z) in rounded(&features).chunks_exact(256).enumerate() {
            let reference = match score {
                Score::Density => gaussians.log_density(z),
                Score::Relative => gaussians.relative_log_density(z),
            };
            let golden = golden[pixel];
            reference_error = reference_error.max((reference - golden).abs());
            for found in [with.score[pixel], without.score[pixel]] {
                let error = (f64::from(found) - golden).abs();
                share = share.max(error / (1e-3 + 1e-5 * golden.abs()));
            }
            // Two ways to the same f32 value: the exit's bound of 2e-8 drowns in a few units of rounding.
            let (a, b) = (with.score[pixel], without.score[pixel]);
            assert!((a - b).abs() <= 8.0 * f32::EPSILON * (a.abs() + 300.0), "{a} {b}");
        }
        println!(
            "{name}: f64 off by {reference_error:.1e}, f32 by {:.0} % of its bound; early exit does \
             {:.1} % of the work",
            100.0 * share,
            100.0 * with.work
        );
        assert!(reference_error <= 1e-9, "{name}: {reference_error:e}");
        assert!(share <= 1.0, "{name}: {share}");
    }
}
