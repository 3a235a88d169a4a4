//! The density's kernels at the ends of what they take: 255 classes, one pixel, features that are far away or broken.

use super::*;

#[test]
fn as_many_classes_as_a_label_can_name() {
    let train = Scene::random(5, 12_000, 16, 255);
    let gaussians = fit(&train, 255);
    assert!(gaussians.classes.len() > 200);
    let scene = Scene::random(6, 40, 16, 255);
    let device = device();
    for (tile, tau, splits) in each(&*device, Precision::Exact)
        .into_iter()
        .flat_map(|t| [(t, f32::INFINITY, 1), (t, TAU, 7)])
    {
        let tiling = DensityTiling::new(tile, gaussians.classes.len(), splits);
        let found = evaluate(&*device, &gaussians, &scene, tiling, Options { tau, ..PLAIN });
        check_against_f64("255 classes", &gaussians, &scene, &found, Precision::Exact);
    }
}

/// Pixels that decide together do not leave a class out while one of them needs it, wherever among them it is.
#[test]
fn one_pixel_keeps_its_class() {
    let (channels, pixels) = (80, 1024);
    let gaussians = fit(&Scene::random(71, 1500, channels, 2), 2);
    let pool = Scene::random(72, 4000, channels, 2);
    let of_class =
        |class| -> Vec<usize> { (0..pool.pixels()).filter(|p| pool.labels[*p] == class).collect() };
    let (most, few) = (of_class(0), of_class(1));
    let scene = |alone: &dyn Fn(usize) -> bool| {
        let one = |p: usize, of: &[usize]| of[p % of.len()];
        let chosen = (0..pixels).map(|p| one(p, if alone(p) { &few } else { &most }));
        let feature = |p: usize| pool.features[p * channels..][..channels].to_vec();
        let features = chosen.clone().flat_map(feature).collect();
        Scene { channels, features, labels: chosen.map(|p| pool.labels[p]).collect() }
    };
    let device = device();
    for precision in [Precision::Exact, Precision::Fast] {
        for tile in each(&*device, precision) {
            // A warp's 32 pixels, each in one of them; of a warpgroup's 128 (or 64) one of each warp and half.
            let group = if tile.pixels == 192 { 64 } else { 128 };
            let alone = |p: usize| match tile.packing {
                Packing::Warp => p % 32 == p / 32,
                Packing::Warpgroup => {
                    let n = p / group;
                    p % group == (n * 16 + n % 2 * 8 + n) % group
                }
            };
            let tiling = DensityTiling::new(tile, 2, 1);
            let options = Options { precision, tau: TAU, ..PLAIN };
            let what = format!("{tiling:?}, {precision:?}");
            let (with, without) = (scene(&alone), scene(&|_| false));
            let found = evaluate(&*device, &gaussians, &with, tiling, options);
            check_against_f64(&what, &gaussians, &with, &found, precision);
            assert_eq!(found.work, 1.0, "{what}");
            let found = evaluate(&*device, &gaussians, &without, tiling, options);
            assert!(found.work < 1.0, "{what}: nothing was skipped");
        }
    }
}

#[test]
fn far_and_broken_features_give_no_nan() {
    let (channels, classes) = (64, 3);
    let gaussians = fit(&Scene::random(31, 900, channels, classes), classes);
    let mut scene = Scene::random(32, 300, channels, classes);
    let at = |pixel: usize, k: usize| pixel * channels + k;
    scene.features[at(0, 0)] = f16::NAN;
    scene.features[at(1, 63)] = f16::INFINITY;
    scene.features[at(130, 17)] = f16::NEG_INFINITY;
    // Some 1e6 deviations away.
    scene.features[at(3, 0)..at(4, 0)].fill(f16::MAX);
    scene.features[at(140, 0)..at(141, 0)].fill(f16::MIN);
    let mut broken = vec![0, 1, 130];
    // One of each in every channel, of which a thread loads eight at once; a NaN of all bits.
    for k in 0..channels {
        scene.features[at(150 + k, k)] = f16::INFINITY;
        scene.features[at(220 + k, k)] = f16::from_bits(0xffff);
        broken.extend([150 + k, 220 + k]);
    }
    let z = scene.z(3);
    let far = gaussians
        .classes
        .iter()
        .map(|c| c.gaussian.distance(&z).sqrt())
        .fold(f64::INFINITY, f64::min);
    assert!(far > 1e6, "{far:e} deviations");
    for (name, device) in devices() {
        let variants = [Precision::Exact, Precision::Fast].into_iter().flat_map(|precision| {
            each(&*device, precision).into_iter().map(move |t| (precision, t))
        });
        for (precision, tile, splits) in variants.flat_map(|(p, tile)| [(p, tile, 1), (p, tile, 3)])
        {
            for tau in [TAU, f32::INFINITY] {
                let tiling = DensityTiling::new(tile, gaussians.classes.len(), splits);
                let options = Options { precision, nearest: true, tau, ..PLAIN };
                let found = evaluate(&*device, &gaussians, &scene, tiling, options);
                let what = format!("{name}, {tiling:?}, {precision:?}, tau {tau}");
                assert_eq!(found.non_finite, broken.len(), "{what}");
                for pixel in 0..scene.pixels() {
                    let values = [found.density[pixel], found.relative[pixel]];
                    if broken.contains(&pixel) {
                        assert_eq!(values, [f32::NEG_INFINITY; 2], "{what}, pixel {pixel}");
                        assert_eq!(
                            (found.nearest[pixel], found.distance[pixel]),
                            (255, f32::INFINITY)
                        );
                        continue;
                    }
                    assert!(
                        values.iter().all(|v| v.is_finite()),
                        "{what}, pixel {pixel}: {values:?}"
                    );
                    let (expected, fast) = match precision {
                        Precision::Exact => (gaussians.log_density(&scene.z(pixel)), 0.0),
                        Precision::Fast => fast_bounds(&gaussians, &scene.z(pixel))[0],
                    };
                    let off = (f64::from(values[0]) - expected).abs();
                    assert!(
                        off <= allowed(expected) + fast,
                        "{what}, pixel {pixel}: {} for {expected}",
                        values[0]
                    );
                }
            }
        }
    }
}

/// Of a tile in which no pixel is finite no class is multiplied, with or without early exit. Each is broken in a channel of its
/// own: a kernel looks at all of them.
#[test]
fn a_tile_of_broken_features() {
    let channels = 256;
    let gaussians = fit(&Scene::random(41, 1000, channels, 3), 3);
    let mut scene = Scene::random(42, 512, channels, 3);
    for pixel in 0..256 {
        scene.features[pixel * channels + pixel] = f16::INFINITY;
    }
    let device = device();
    for precision in [Precision::Exact, Precision::Fast] {
        for (tile, tau) in each(&*device, precision)
            .into_iter()
            .flat_map(|tile| [(tile, TAU), (tile, f32::INFINITY)])
        {
            let tiling = DensityTiling::new(tile, gaussians.classes.len(), 1);
            let options = Options { precision, tau, ..PLAIN };
            let found = evaluate(&*device, &gaussians, &scene, tiling, options);
            assert_eq!(found.non_finite, 256);
            assert!(found.density[..256].iter().all(|v| *v == f32::NEG_INFINITY));
            assert!(found.density[256..].iter().all(|v| v.is_finite()));
            assert!(found.work <= 0.5);
        }
    }
}
