//! Counts, means and scatters against two plain passes; threads, shards.

use ddu::density::{Moments, VOID};

use crate::support::{fit, plain_moments, scatter_error, scene};

/// Means are sums in f64. Scatters are summed in f32 over 16 pixels, then 8 such sums: 22 roundings come
/// to 1.3e-6 of sqrt(S_ii S_jj) at most; the shift's and the centred values' own are three more 2^-24.
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
    let all_images = fit(&images, 20, 4);
    let expected: Vec<f64> = (0..4).flat_map(|c| all_images.scatter(c).to_vec()).collect();
    for split in [1, 3, 6] {
        for swap in [false, true] {
            let (mut a, mut b) = (fit(&images[..split], 20, 4), fit(&images[split..], 20, 4));
            if swap {
                std::mem::swap(&mut a, &mut b);
            }
            a.merge(&b);
            assert_eq!(a.count(), all_images.count());
            assert!(scatter_error(&a, &expected) <= 1e-12);
            for class in 0..4 {
                for (x, y) in a.mean(class).iter().zip(all_images.mean(class)) {
                    assert!((x - y).abs() <= 1e-12 * y.abs());
                }
            }
        }
    }
    let mut empty = Moments::new(4, 20);
    empty.merge(&all_images);
    assert_eq!(empty, all_images, "merging into nothing is exact");
}
