//! `kernels/density.cu` and `kernels/density_hopper.cu`; the bounds of their errors are in `bounds`.

mod bounds;
mod extremes;
mod features;
mod nearest;

use std::collections::BTreeMap;

use ddu::density::{Covariance, Gaussians, Moments, Prior};
use ddu::device::launch::density::{
    DensityTile, DensityTiling, Outputs, Packing, Precision, TILES, density, squares_bytes,
};
use ddu::device::{Device, Element};
use ddu::gpu::density::{DeviceDensity, broken_pixels, multiplied_share};
use ddu::ops::Size;
use half::f16;

use bounds::{allowed, check_against_f64, fast_bounds};

use crate::scene::{CamVid, Scene};
use crate::support::*;

const TAU: f32 = 20.0;

/// The tiles that the device has.
fn each(device: &dyn Device, precision: Precision) -> Vec<DensityTile> {
    TILES.into_iter().filter(|tile| runs(device, tile) && wanted(tile, precision)).collect()
}

/// DDU_TEST_DENSITY names a kernel: the others are left out (`mutants` changes one at a time).
fn wanted(tile: &DensityTile, precision: Precision) -> bool {
    let kernel = tile.kernels()[2 - precision.terms()];
    std::env::var("DDU_TEST_DENSITY").map_or(true, |name| name == kernel)
}

fn runs(device: &dyn Device, tile: &DensityTile) -> bool {
    tile.packing == Packing::Warp || device.wgmma()
}

#[derive(Clone, Copy, Debug)]
struct Options {
    precision: Precision,
    tau: f32,
    nearest: bool,
    relative: bool,
    /// Whether the pixels' predicted classes are given.
    predicted: bool,
    /// Channels of others before and after the features.
    beside: usize,
}

const PLAIN: Options = Options {
    precision: Precision::Exact,
    tau: f32::INFINITY,
    nearest: false,
    relative: true,
    predicted: true,
    beside: 0,
};

#[derive(Clone, Debug, PartialEq)]
struct Found {
    density: Vec<f32>,
    relative: Vec<f32>,
    nearest: Vec<u8>,
    distance: Vec<f32>,
    non_finite: usize,
    work: f64,
}

impl Found {
    fn bits(&self) -> Vec<u32> {
        self.density
            .iter()
            .chain(&self.relative)
            .chain(&self.distance)
            .map(|v| v.to_bits())
            .collect()
    }
}

fn evaluate(
    device: &dyn Device,
    gaussians: &Gaussians,
    scene: &Scene,
    tiling: DensityTiling,
    options: Options,
) -> Found {
    let Options { precision, tau, nearest, relative, predicted: given, beside } = options;
    let (pixels, channels) = (scene.pixels(), scene.channels);
    let packed =
        DeviceDensity::with_packing(device, gaussians, precision, tiling.tile.packing).unwrap();
    let layout = Layout::contiguous(1, Size::new(1, pixels), channels).slice(beside, beside);
    // What lies beside the features is NaN.
    let mut padded = vec![f16::NAN; layout.elements()];
    for (to, from) in
        padded.chunks_exact_mut(layout.stride).zip(scene.features.chunks_exact(channels))
    {
        to[beside..beside + channels].copy_from_slice(from);
    }
    let features = upload(device, &padded);
    let predicted = upload(device, &scene.labels);
    let out = |bytes: usize| output(device, bytes);
    let (density_out, relative_out) = (out(pixels * 4), out(pixels * 4));
    let (nearest_out, distance_out) = (out(pixels), out(pixels * 4));
    let squares_bytes = squares_bytes(pixels, packed.classes());
    let squares = out(squares_bytes);
    let stats_bytes = tiling.stats_bytes(pixels);
    let stats = out(stats_bytes);
    let outputs = Outputs {
        density: density_out.all(),
        relative: relative.then(|| relative_out.all()),
        nearest: nearest.then(|| (nearest_out.all(), distance_out.all())),
        squares: squares.all(),
        stats: stats.all(),
    };
    let features = layout.tensor(&features, Element::F16);
    let launches =
        density(packed.gaussians(), features, given.then(|| predicted.all()), tau, outputs, tiling)
            .unwrap();
    run(device, &launches);
    let stats = download::<u8>(device, &stats, stats_bytes);
    let non_finite = broken_pixels(&stats, 0..pixels);
    let work = multiplied_share(&stats, pixels, packed.classes(), channels);
    let only = |wanted: bool, values: Vec<f32>| if wanted { values } else { Vec::new() };
    Found {
        density: download(device, &density_out, pixels),
        relative: only(relative, download(device, &relative_out, pixels)),
        nearest: if nearest { download(device, &nearest_out, pixels) } else { Vec::new() },
        distance: only(nearest, download(device, &distance_out, pixels)),
        non_finite,
        work,
    }
}

fn fit(scene: &Scene, classes: usize) -> Gaussians {
    let mut moments = Moments::new(classes, scene.channels);
    moments.add(&scene.f32s(), &scene.labels);
    Gaussians::new(&moments, Covariance::Full, Prior::Empirical).unwrap().0
}

/// Every tile and split, on shapes with tails: against f64 and the same bits under every schedule, of every tile that has W in
/// the same packing and of every split.
#[test]
fn every_tile_and_split_against_f64() {
    for (channels, classes, pixels, beside) in [
        (16, 2, 5, 8),
        (48, 3, 300, 0),
        (64, 5, 129, 16),
        (80, 21, 77, 0),
        (128, 4, 257, 8),
        (192, 3, 256, 0),
        (208, 2, 511, 0),
        (256, 3, 301, 8),
        (512, 2, 70, 0),
    ] {
        let train = Scene::random(1, 40 * classes + 3 * channels, channels, classes);
        let gaussians = fit(&train, classes);
        let condition =
            gaussians.classes.iter().map(|c| c.gaussian.condition_after).fold(0.0, f64::max);
        let scene = Scene::random(2, pixels, channels, classes);
        let fitted = gaussians.classes.len();
        let mut worst = [0f64; 2];
        let mut of_any_tile = BTreeMap::new();
        for tile in TILES.into_iter().filter(|t| channels <= t.channels) {
            for (splits, nearest) in [(1, false), (2, true), (fitted, false)] {
                for precision in [Precision::Exact, Precision::Fast] {
                    if precision == Precision::Fast && splits > 1 || !wanted(&tile, precision) {
                        continue;
                    }
                    let tiling = DensityTiling::new(tile, fitted, splits);
                    let options = Options { precision, nearest, beside, ..PLAIN };
                    let what = format!(
                        "D = {channels}, C = {fitted}, P = {pixels}, {tiling:?}, {precision:?}"
                    );
                    let mut bits = None;
                    for (name, device) in
                        devices().into_iter().filter(|(_, device)| runs(&**device, &tile))
                    {
                        let found = evaluate(&*device, &gaussians, &scene, tiling, options);
                        if first_of_its_kind(&name) {
                            bits = None;
                        }
                        let first = bits.get_or_insert_with(|| found.bits());
                        assert_eq!(*first, found.bits(), "{what}: other bits on {name}");
                        if first_of_its_kind(&name) {
                            let share =
                                check_against_f64(&what, &gaussians, &scene, &found, precision);
                            // Only some have distances.
                            let bits = Found { distance: Vec::new(), ..found.clone() }.bits();
                            let kind = (name, format!("{:?}, {precision:?}", tile.packing));
                            let same = of_any_tile.entry(kind).or_insert_with(|| bits.clone());
                            assert!(*same == bits, "{what}: other bits than another tile's");
                            let of = &mut worst[precision.terms() - 1];
                            *of = of.max(share);
                            assert_eq!((found.non_finite, found.work), (0, 1.0), "{what}");
                        }
                    }
                }
            }
        }
        println!(
            "D = {channels}, C = {fitted}, P = {pixels}, condition {condition:.0}: two terms {:.0} % of the \
             allowed error, one {:.0} %",
            worst[1] * 100.0,
            worst[0] * 100.0
        );
    }
}

/// What is left out is at most C e^-tau; besides, the sum over classes rounds to f32 once per class, and so does the
/// difference to the background, which has no early exit.
fn check_exit(what: &str, classes: usize, with: &Found, without: &Found) {
    let bound = |b: f32| {
        let rounding =
            (classes as f64 + 2.0) * 2f64.powi(-23) + 2f64.powi(-23) * f64::from(b.abs());
        classes as f64 * f64::from(-TAU).exp() + rounding
    };
    for (i, (a, b)) in with.density.iter().zip(&without.density).enumerate() {
        let bound = bound(*b);
        assert!((f64::from(*a) - f64::from(*b)).abs() <= bound, "{what}: {a}, without exit {b}");
        let (a, b) = (with.relative[i], without.relative[i]);
        let bound = bound + 2f64.powi(-23) * f64::from(b.abs());
        let off = (f64::from(a) - f64::from(b)).abs();
        assert!(off <= bound, "{what}: relative {a}, without exit {b}");
    }
    assert_eq!(with.nearest, without.nearest, "{what}");
    assert_eq!(with.distance, without.distance, "{what}");
}

#[test]
fn early_exit_changes_nothing_that_matters() {
    let (channels, classes) = (256, 6);
    let gaussians = fit(&Scene::random(11, 1500, channels, classes), classes);
    // Runs of one class, as in a picture.
    let random = Scene::random(12, 200, channels, classes);
    let mut order: Vec<usize> = (0..random.pixels()).collect();
    order.sort_by_key(|p| random.labels[*p]);
    let mut scene = Scene { channels, features: Vec::new(), labels: Vec::new() };
    for pixel in order {
        scene.features.extend(&random.features[pixel * channels..][..channels]);
        scene.labels.push(random.labels[pixel]);
    }
    for (name, device) in devices() {
        let variants = [(false, 1), (true, 1), (true, 2), (false, 3)].into_iter().flat_map(|v| {
            [Precision::Exact, Precision::Fast].map(|precision| (v.0, v.1, precision))
        });
        for (nearest, splits, precision, tile) in
            variants.flat_map(|(n, s, p)| each(&*device, p).into_iter().map(move |t| (n, s, p, t)))
        {
            let tiling = DensityTiling::new(tile, gaussians.classes.len(), splits);
            let on = |tau| {
                let options = Options { nearest, tau, precision, ..PLAIN };
                evaluate(&*device, &gaussians, &scene, tiling, options)
            };
            let (with, without) = (on(TAU), on(f32::INFINITY));
            let what = format!("{tiling:?}, {precision:?}, nearest {nearest}, {name}");
            check_exit(&what, gaussians.classes.len(), &with, &without);
            // A warpgroup's 128 pixels decide together: none of theirs is left in a split of two classes.
            let skips = tile.packing == Packing::Warp || splits < 3;
            assert!(with.work < 1.0 || !skips, "{what}: nothing was skipped");
            println!("{what}: {:.0} % of the blocks multiplied", with.work * 100.0);
        }
    }
}

/// What a pixel gets does not depend on the pixels beside it, though they decide in which order its classes are visited and
/// which of them are left. Five classes are alike, and log q is about 0, so that the order of a sum shows in its last bits.
#[test]
fn neighbours_change_no_bit() {
    let (channels, pixels) = (80, 500);
    let alike = |scene: &mut Scene| {
        scene.features.iter_mut().for_each(|z| *z = f16::from_f32(z.to_f32() * 2.12));
        for (i, label) in scene.labels.iter_mut().enumerate().filter(|(_, label)| **label == 0) {
            *label = [0, 5, 6, 7, 8][i % 5];
        }
    };
    let mut train = Scene::random(81, 3000, channels, 4);
    alike(&mut train);
    let gaussians = fit(&train, 9);
    let mut scene = Scene::random(82, pixels, channels, 4);
    alike(&mut scene);
    // By class, as in a picture; and shuffled behind some others.
    let mut runs: Vec<usize> = (0..pixels).collect();
    runs.sort_by_key(|p| scene.labels[*p]);
    let shuffled: Vec<usize> = (0..pixels + 37).map(|i| i * 221 % pixels).collect();
    let pick = |order: &[usize]| Scene {
        channels,
        features: order
            .iter()
            .flat_map(|p| scene.features[p * channels..][..channels].to_vec())
            .collect(),
        labels: order.iter().map(|p| scene.labels[*p]).collect(),
    };
    let scenes = [pick(&runs), pick(&shuffled)];
    for (name, device) in devices() {
        if !first_of_its_kind(&name) {
            continue;
        }
        for precision in [Precision::Exact, Precision::Fast] {
            for tile in each(&*device, precision) {
                let mut known: Vec<Option<[u32; 4]>> = vec![None; pixels];
                let mut works = Vec::new();
                for splits in [1, 2] {
                    let tiling = DensityTiling::new(tile, gaussians.classes.len(), splits);
                    let options = Options { precision, nearest: true, tau: TAU, ..PLAIN };
                    for (scene, order) in scenes.iter().zip([&runs, &shuffled]) {
                        let found = evaluate(&*device, &gaussians, scene, tiling, options);
                        works.push(found.work);
                        for (i, pixel) in order.iter().enumerate() {
                            let values = [
                                found.density[i].to_bits(),
                                found.relative[i].to_bits(),
                                found.distance[i].to_bits(),
                                u32::from(found.nearest[i]),
                            ];
                            let first = *known[*pixel].get_or_insert(values);
                            assert_eq!(first, values, "{tiling:?} on {name}, pixel {pixel}");
                        }
                    }
                }
                assert!(works[0] < 1.0 && works[0] < works[1], "{tile:?}: {works:?}");
            }
        }
    }
}

/// Without predicted classes the order is the classes' own: the same values, and no more of them skipped than that
/// order allows.
#[test]
fn without_predicted_classes() {
    let (channels, classes) = (80, 5);
    let gaussians = fit(&Scene::random(51, 900, channels, classes), classes);
    let scene = Scene::random(52, 300, channels, classes);
    let device = device();
    for (tile, tau, splits) in each(&*device, Precision::Exact)
        .into_iter()
        .flat_map(|t| [(t, f32::INFINITY, 1), (t, TAU, 2)])
    {
        let tiling = DensityTiling::new(tile, gaussians.classes.len(), splits);
        let options = Options { tau, predicted: false, ..PLAIN };
        let found = evaluate(&*device, &gaussians, &scene, tiling, options);
        let what = format!("{tiling:?}, tau {tau}, no predicted classes");
        check_against_f64(&what, &gaussians, &scene, &found, Precision::Exact);
    }
}

/// A scene in which the low terms of every block of W (64 x 64) change some pixel by more than a result may err: without
/// any of them the comparison with f64 fails.
#[test]
fn the_low_terms_of_every_block_count() {
    let channels = 256;
    let gaussians = fit(&Scene::in_step(61, 1200, channels), 1);
    let scene = Scene::in_step(62, 70, channels);
    let whitening = &gaussians.classes[0].gaussian.whitening;
    let z: Vec<Vec<f64>> = (0..scene.pixels()).map(|pixel| scene.z(pixel)).collect();
    for (panel, block) in (0..channels / 64).flat_map(|p| (0..=p).map(move |b| (p, b))) {
        let without = |z: &[f64]| -> f64 {
            let change = |i: usize| {
                let row = &whitening[i * channels..][..=i];
                let mean = &gaussians.classes[0].gaussian.mean;
                let y: f64 = row.iter().zip(z).zip(mean).map(|((w, z), m)| w * (z - m)).sum();
                let columns = block * 64..(i + 1).min(block * 64 + 64);
                let lost: f64 = columns.map(|k| (row[k] - eleven_bits(row[k])) * z[k]).sum();
                ((y - lost).powi(2) - y * y) / 2.0
            };
            (panel * 64..panel * 64 + 64).map(change).sum()
        };
        let worst = z.iter().map(|z| without(z).abs() / allowed(gaussians.log_density(z)));
        let worst = worst.fold(0.0, f64::max);
        assert!(worst > 2.0, "panel {panel}, block {block}: {worst:.2} of what is allowed");
    }
    for (name, device) in devices() {
        for tile in each(&*device, Precision::Exact) {
            let tiling = DensityTiling::new(tile, 1, 1);
            let found = evaluate(&*device, &gaussians, &scene, tiling, PLAIN);
            let what = format!("{tiling:?} on {name}");
            check_against_f64(&what, &gaussians, &scene, &found, Precision::Exact);
        }
    }
}

/// The nearest number with the significant bits of an fp16.
fn eleven_bits(value: f64) -> f64 {
    if value == 0.0 {
        return 0.0;
    }
    let unit = 2f64.powi(value.abs().log2().floor() as i32 - 10);
    (value / unit).round() * unit
}

#[test]
fn real_features_of_camvid() {
    let Some(CamVid { moments, scene }) = CamVid::open() else { return };
    let gaussians = Gaussians::new(&moments, Covariance::Full, Prior::Empirical).unwrap().0;
    let device = device();
    // A run of rows for the early exit, which lives on neighbours; one run for all of it.
    let (first, pixels) = (40 * 120, 1536);
    let part = Scene {
        channels: 256,
        features: scene.features[first * 256..(first + pixels) * 256].to_vec(),
        labels: scene.labels[first..first + pixels].to_vec(),
    };
    let tiles = each(&*device, Precision::Exact).into_iter();
    for tile in tiles.filter(|tile| [TILES[0], TILES[3], TILES[4]].contains(tile)) {
        let tiling = DensityTiling::new(tile, gaussians.classes.len(), 1);
        let on = |precision, tau| {
            evaluate(&*device, &gaussians, &part, tiling, Options { precision, tau, ..PLAIN })
        };
        let what = format!("CamVid, {}", tile.kernels()[0]);
        let exact = on(Precision::Exact, f32::INFINITY);
        let two = check_against_f64(&what, &gaussians, &part, &exact, Precision::Exact);
        let fast = on(Precision::Fast, f32::INFINITY);
        let one = check_against_f64(&what, &gaussians, &part, &fast, Precision::Fast);
        println!(
            "{what}: two terms {:.0} % of the allowed error, one {:.0} %",
            two * 100.0,
            one * 100.0
        );
        let difference = exact.density.iter().zip(&fast.density).map(|(a, b)| (a - b).abs());
        println!(
            "{what}, one term: off by {:.1e} on average, {:.1e} at worst",
            difference.clone().sum::<f32>() / pixels as f32,
            difference.fold(0.0, f32::max)
        );
        let exit = on(Precision::Exact, TAU);
        check_exit(&what, gaussians.classes.len(), &exit, &exact);
        assert!(exit.work < 1.0, "{what}: nothing was skipped");
        println!("{what}: early exit multiplies {:.1} % of the blocks", exit.work * 100.0);
    }
}

#[test]
fn tilings_fill_the_device() {
    let choose = |pixels, channels, classes, shared| {
        let packing = Packing::Warp;
        let tiling =
            DensityTiling::choose(pixels, channels, classes, packing, 132, shared).unwrap();
        (tiling.tile.pixels, tiling.splits)
    };
    let (h200, small) = (227 << 10, 99 << 10);
    assert_eq!(choose(129 * 129, 256, 21, h200), (128, 1), "131 blocks");
    assert_eq!(choose(64 * 256, 256, 21, h200), (128, 1));
    assert_eq!(choose(20 * 256, 256, 21, h200), (128, 3), "a third of an H200 without splits");
    assert_eq!(choose(16 * 129 * 129, 256, 21, h200), (256, 1));
    assert_eq!(choose(129 * 129, 256, 21, small), (128, 1));
    assert_eq!(choose(129 * 129, 512, 21, small), (64, 1));
    assert_eq!(choose(10, 64, 5, h200), (128, 5));
    for packing in [Packing::Warp, Packing::Warpgroup] {
        assert!(DensityTiling::choose(100, 1024, 5, packing, 132, h200).is_err());
    }
    let of_classes = |classes, pixels| {
        let packing = Packing::Warpgroup;
        let tiling = DensityTiling::choose(pixels, 256, classes, packing, 132, h200).unwrap();
        (tiling.tile.pixels, tiling.splits)
    };
    let hopper = |pixels| of_classes(21, pixels);
    assert_eq!(hopper(129 * 129), (256, 2), "66 blocks of 256");
    assert_eq!(of_classes(9, 129 * 129), (256, 2), "a tile's classes in one block take longer");
    assert_eq!(of_classes(9, 92 * 120), (256, 3), "44 blocks of 256");
    assert_eq!(
        hopper(132 * 132),
        (192, 1),
        "69 blocks of 256 are a few too many to be split in two"
    );
    assert_eq!(hopper(16 * 129 * 129), (256, 1));
    let simt = ddu::device::simt::Simt::default();
    assert_eq!(Packing::of(&simt, 256), Packing::Warpgroup, "simt stands for an H200");
    assert_eq!(Packing::of(&simt, 272), Packing::Warp, "registers hold 256 channels");
    for (classes, splits) in [(21, 2), (21, 4), (5, 5), (2, 9), (9, 4)] {
        let DensityTiling { splits, per_split, .. } = DensityTiling::new(TILES[0], classes, splits);
        assert!(splits * per_split >= classes && (splits - 1) * per_split < classes);
    }
}
