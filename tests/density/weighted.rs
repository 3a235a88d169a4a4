//! Weighted moments against plain loops in f64, and what weights that are all the same come to.

use ddu::density::{Covariance, Gaussians, Moments, Prior};

use crate::support::{Random, fit, rounded, scatter_error, scene};

type Scene = (Vec<f32>, Vec<u8>, Vec<f32>);

/// Roots of weights from 0 over tiny ones to 1.
fn weighted_scene(seed: u64, pixels: usize, channels: usize, classes: usize) -> Scene {
    let (features, labels) = scene(seed, pixels, channels, classes);
    let mut random = Random::new(seed + 99);
    let root = |_| match random.next() % 8 {
        0 => 0.0,
        1 => 1.0,
        2 => 2f32.powi(-32),
        _ => random.uniform().powi(4) as f32,
    };
    (features, labels, (0..pixels).map(root).collect())
}

fn weighted(images: &[Scene], channels: usize, classes: usize) -> Moments {
    let mut moments = Moments::weighted(classes, channels);
    for (features, labels, roots) in images {
        moments.add_weighted(features, labels, roots);
    }
    moments
}

/// The scatter's bound is that of `moments.rs` with one rounding more, of (z - shift) r.
#[test]
fn weighted_moments_agree_with_two_plain_passes() {
    for (channels, classes, pixels) in [(1, 2, 60), (5, 3, 300), (37, 3, 900), (128, 2, 500)] {
        let images: Vec<_> = (0..3)
            .map(|i| weighted_scene(i + 7, pixels + 13 * i as usize, channels, classes))
            .collect();
        let moments = weighted(&images, channels, classes);
        let mut scatters = Vec::new();
        for class in 0..classes {
            let samples: Vec<(f64, Vec<f64>)> = images
                .iter()
                .flat_map(|(z, labels, roots)| z.chunks_exact(channels).zip(labels).zip(roots))
                .filter(|((_, label), root)| usize::from(**label) == class && **root > 0.0)
                .map(|((z, _), root)| (f64::from(*root).powi(2), rounded(z)))
                .collect();
            let sum: f64 = samples.iter().map(|s| s.0).sum();
            let squares: f64 = samples.iter().map(|s| s.0 * s.0).sum();
            let near = |found: f64, exact: f64| {
                assert!((found - exact).abs() <= 1e-11 * exact.abs(), "{found} for {exact}");
            };
            assert_eq!(moments.count()[class], samples.len() as i64);
            near(moments.weight(class), sum);
            near(moments.effective(class), sum * sum / squares);
            near(moments.freedom(class), sum - squares / sum);
            let mean: Vec<f64> = (0..channels)
                .map(|k| samples.iter().map(|(w, z)| w * z[k]).sum::<f64>() / sum)
                .collect();
            moments.mean(class).iter().zip(&mean).for_each(|(found, exact)| near(*found, *exact));
            for i in 0..channels {
                for j in 0..channels {
                    let term = |(w, z): &(f64, Vec<f64>)| w * (z[i] - mean[i]) * (z[j] - mean[j]);
                    scatters.push(samples.iter().map(term).sum());
                }
            }
        }
        let error = scatter_error(&moments, &scatters);
        println!("D = {channels}: {error:.1e}");
        assert!(error <= 2.1e-6, "D = {channels}: {error:e}");
    }
}

/// A weight of 1 for all is no weight, to the bit; one of 1/4 for all leaves mean, covariance and
/// effective counts what they are.
#[test]
fn equal_weights_are_no_weights() {
    let images: Vec<_> = (0..3).map(|i| scene(i + 3, 400, 12, 3)).collect();
    let plain = fit(&images, 12, 3);
    for root in [1.0, 0.5] {
        let scenes: Vec<Scene> =
            images.iter().cloned().map(|(z, labels)| (z, labels, vec![root; 400])).collect();
        let found = weighted(&scenes, 12, 3);
        assert_eq!(found.count(), plain.count());
        for class in 0..3 {
            let w = f64::from(root * root);
            assert_eq!(found.mean(class), plain.mean(class), "a power of two is exact");
            let scatter: Vec<f64> = plain.scatter(class).iter().map(|s| s * w).collect();
            assert_eq!(found.scatter(class), scatter);
            assert_eq!(found.effective(class), plain.count()[class] as f64);
            let freedom = (plain.count()[class] - 1) as f64 * w;
            assert!((found.freedom(class) - freedom).abs() <= 1e-12 * freedom);
        }
        let gaussians =
            |moments| Gaussians::new(moments, Covariance::Full, Prior::Empirical).unwrap().0;
        let (ours, theirs) = (gaussians(&found), gaussians(&plain));
        assert_eq!(ours.limits, theirs.limits);
        for z in images[0].0.chunks_exact(12).take(50) {
            let (a, b) = (ours.log_density(&rounded(z)), theirs.log_density(&rounded(z)));
            assert!((a - b).abs() <= 1e-9 * b.abs(), "{a} for {b}");
        }
    }
}

#[test]
fn threads_change_no_bit_and_shards_merge_to_the_whole() {
    let images: Vec<_> = (0..6).map(|i| weighted_scene(40 + i, 3000, 20, 4)).collect();
    let all = weighted(&images, 20, 4);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(3).build().unwrap();
    assert_eq!(pool.install(|| weighted(&images, 20, 4)), all);
    let expected: Vec<f64> = (0..4).flat_map(|c| all.scatter(c).to_vec()).collect();
    for split in [1, 3, 5] {
        let (mut a, b) = (weighted(&images[..split], 20, 4), weighted(&images[split..], 20, 4));
        a.merge(&b);
        assert_eq!(a.count(), all.count());
        assert!(scatter_error(&a, &expected) <= 1e-12);
        for class in 0..4 {
            assert!((a.weight(class) - all.weight(class)).abs() <= 1e-12 * all.weight(class));
            for (x, y) in a.mean(class).iter().zip(all.mean(class)) {
                assert!((x - y).abs() <= 1e-12 * y.abs());
            }
        }
    }
    let mut empty = Moments::weighted(4, 20);
    empty.merge(&all);
    assert_eq!(empty, all, "merging into nothing is exact");
}

/// m and s of the limits over all classes at once, by hand.
#[test]
fn limits_are_mean_and_deviation_of_all_pixels() {
    let images: Vec<_> = (0..2).map(|i| scene(i + 20, 500, 7, 3)).collect();
    let gaussians =
        Gaussians::new(&fit(&images, 7, 3), Covariance::Full, Prior::Empirical).unwrap().0;
    let pixels: Vec<Vec<f64>> = images
        .iter()
        .flat_map(|(z, labels)| z.chunks_exact(7).zip(labels))
        .filter(|(_, label)| **label < 3)
        .map(|(z, _)| rounded(z))
        .collect();
    let n = pixels.len() as f64;
    for (k, limit) in gaussians.limits.iter().enumerate() {
        let mean = pixels.iter().map(|z| z[k]).sum::<f64>() / n;
        let variance = pixels.iter().map(|z| (z[k] - mean).powi(2)).sum::<f64>() / (n - 1.0);
        let exact = mean + variance.sqrt();
        // Half a unit of fp16.
        assert!(
            (f64::from(*limit) - exact).abs() <= 2f64.powi(-11) * exact.abs(),
            "{limit} {exact}"
        );
    }
}
