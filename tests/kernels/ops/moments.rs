//! `kernels/moments_sort.cu` and `kernels/moments.cu`
//!
//! |error of S_ij| <= 2e-6 sqrt(S_ii S_jj). Where it comes from: x = z - shift is held to 2^-22 of itself and the
//! product of the two low terms is left out, 7e-7 at most. f32 sums of 16 pixels, then of four of these, then of
//! eight: where all the pixels but one are the same, each step rounds the same way, so that the 15 + 3 + 7
//! additions may err by 25 x 2^-24 = 1.5e-6; half of it is the worst that is met.
//!
//! A tensor core's 16 pixels: an A100 adds eight products of the high terms at once, an H100 all 16, and errs in a step by at most
//! (2^-21 + 2^-23) sum |x_i x_j| (`main.rs`): by 1.2e-6 of it in an A100's two, 6e-7 in an H100's one, in place of the 15
//! additions' 9e-7. (The two products with a low term come first and are 2^-11 of it.) That takes one pixel in each 16 which is far
//! greater than the others, whose products all lose as much as they can; half is what is lost on average, and an A100 meets 40 % of
//! the bound at worst, on CamVid.

use ddu::density::{Moments, Tally, VOID, weight_roots};
use ddu::device::{Device, Element};
use ddu::gpu::moments::DeviceMoments;
use ddu::ops::Size;
use half::f16;

use crate::scene::{CamVid, Scene};
use crate::support::*;

/// Folds the images in as batches of the given sizes, starting from `start`.
fn fold(
    device: &dyn Device,
    images: &[Scene],
    batches: &[usize],
    beside: usize,
    start: &Moments,
) -> (Moments, Tally) {
    fold_with(device, images, None, batches, beside, start)
}

/// The same; `logits` `[pixels, C]` of each image weigh its pixels.
fn fold_with(
    device: &dyn Device,
    images: &[Scene],
    logits: Option<&[Vec<f32>]>,
    batches: &[usize],
    beside: usize,
    start: &Moments,
) -> (Moments, Tally) {
    let mut moments = DeviceMoments::new(device, start).unwrap();
    let (mut rest, mut first) = (images, 0);
    for batch in batches {
        let (now, later) = rest.split_at(*batch);
        rest = later;
        let (pixels, channels) = (now[0].pixels(), now[0].channels);
        let layout =
            Layout::contiguous(*batch, Size::new(1, pixels), channels).slice(beside, beside);
        // What lies beside the features is NaN.
        let mut padded = vec![f16::NAN; layout.elements()];
        let features = now.iter().flat_map(|scene| scene.features.chunks_exact(channels));
        for (to, from) in padded.chunks_exact_mut(layout.stride).zip(features) {
            to[beside..beside + channels].copy_from_slice(from);
        }
        let labels: Vec<u8> = now.iter().flat_map(|scene| scene.labels.clone()).collect();
        let (features, labels) = (upload(device, &padded), upload(device, &labels));
        let features = layout.tensor(&features, Element::F16);
        let classes = start.classes();
        let layout =
            Layout::contiguous(*batch, Size::new(1, pixels), classes).slice(0, 4 - classes % 4);
        let mut padded = vec![f32::NAN; layout.elements()];
        let rows = logits.iter().flat_map(|all| &all[first..first + batch]);
        let rows = rows.flat_map(|logits| logits.chunks_exact(classes));
        for (to, from) in padded.chunks_exact_mut(layout.stride).zip(rows) {
            to[..classes].copy_from_slice(from);
        }
        first += batch;
        let buffer = upload(device, &padded);
        let logits = logits.map(|_| layout.tensor(&buffer, Element::F32));
        moments.add(device, features, labels.all(), logits).unwrap();
    }
    assert!(rest.is_empty());
    moments.read(device).unwrap()
}

/// Holds moments against two plain passes in f64; the worst share of the allowed error of S.
fn check(what: &str, found: &Moments, images: &[Scene]) -> f64 {
    check_with(what, found, images, None)
}

/// The same; `roots` of each image are the square roots of its pixels' weights. A weighted x rounds once more: 2^-24 of
/// each of two factors, 1.2e-7.
fn check_with(what: &str, found: &Moments, images: &[Scene], roots: Option<&[Vec<f32>]>) -> f64 {
    let (channels, mut worst) = (found.channels(), 0f64);
    let tolerance = if roots.is_some() { 2.12e-6 } else { 2e-6 };
    for class in 0..found.classes() {
        // Of a pixel that is usable: its weight and feature.
        let of_class = |(at, pixel, scene): (usize, usize, &Scene)| {
            let z = scene.z(pixel);
            let weight = roots.map_or(1.0, |roots| f64::from(roots[at][pixel]).powi(2));
            let usable = usize::from(scene.labels[pixel]) == class && class != usize::from(VOID);
            (usable && weight > 0.0 && z.iter().all(|v| v.is_finite())).then_some((weight, z))
        };
        let all: Vec<(f64, Vec<f64>)> = images
            .iter()
            .enumerate()
            .flat_map(|(at, scene)| (0..scene.pixels()).map(move |pixel| (at, pixel, scene)))
            .filter_map(of_class)
            .collect();
        assert_eq!(found.count()[class], all.len() as i64, "{what}: class {class}");
        let n = all.len().max(1) as f64;
        let weight: f64 = all.iter().map(|(w, _)| w).sum();
        let squares: f64 = all.iter().map(|(w, _)| w * w).sum();
        assert!((found.weight(class) - weight).abs() <= 1e-13 * n.sqrt() * weight, "{what}: W");
        if let Some(sums) = found.weights() {
            let off = (sums.squares[class] - squares).abs();
            assert!(off <= 1e-13 * n.sqrt() * squares, "{what}: class {class}, V");
        }
        let total = if weight > 0.0 { weight } else { 1.0 };
        let mean: Vec<f64> =
            (0..channels).map(|k| all.iter().map(|(w, z)| w * z[k]).sum::<f64>() / total).collect();
        let mut scatter = vec![0f64; channels * channels];
        for (w, z) in &all {
            let x: Vec<f64> = z.iter().zip(&mean).map(|(z, m)| z - m).collect();
            for (i, row) in scatter.chunks_exact_mut(channels).enumerate() {
                for (s, x_j) in row[..=i].iter_mut().zip(&x) {
                    *s += w * x[i] * x_j;
                }
            }
        }
        for i in 0..channels {
            // A sum of n numbers in f64, in another order.
            let greatest = all.iter().map(|(_, z)| z[i].abs()).fold(0.0, f64::max);
            let off = (found.mean(class)[i] - mean[i]).abs();
            assert!(
                off <= 1e-13 * greatest * n.sqrt(),
                "{what}: class {class}, mean {i}: off by {off:e}"
            );
            for j in 0..=i {
                let at = i * channels + j;
                let scale = (scatter[i * channels + i] * scatter[j * channels + j]).sqrt();
                let off = (found.scatter(class)[at] - scatter[at]).abs();
                // The plain passes' own rounding, where a channel is constant.
                let rounding = 1e-25 * weight * greatest * greatest;
                assert!(
                    off <= tolerance * scale + rounding,
                    "{what}: class {class}, S[{i}, {j}]: off by {off:e} of {scale:e}"
                );
                if scale > 0.0 {
                    worst = worst.max((off - rounding) / (tolerance * scale));
                }
            }
        }
    }
    worst
}

fn bits(moments: &Moments) -> Vec<u64> {
    (0..moments.classes())
        .flat_map(|c| moments.mean(c).iter().chain(moments.scatter(c)).map(|v| v.to_bits()))
        .collect()
}

#[test]
fn against_two_plain_passes_the_same_bits_every_run() {
    for (channels, classes, pixels, beside) in [
        (16, 2, 1, 8),
        (48, 3, 700, 0),
        (64, 5, 257, 16),
        (80, 21, 1023, 0),
        (256, 4, 900, 8),
        (512, 2, 90, 0),
    ] {
        let images: Vec<Scene> =
            (0..3).map(|i| Scene::random(51 + i, pixels, channels, classes)).collect();
        let empty = Moments::new(classes, channels);
        let mut first = None;
        for (name, device) in devices() {
            if first_of_its_kind(&name) {
                first = None;
            }
            // A batch split changes no bit either: images are folded in order.
            for batches in [vec![3], vec![1, 2]] {
                let (found, tally) = fold(&*device, &images, &batches, beside, &empty);
                let what =
                    format!("D = {channels}, C = {classes}, P = {pixels}, {batches:?} on {name}");
                let (moments, tallied) = first.get_or_insert_with(|| {
                    let share = check(&what, &found, &images);
                    println!("{what}: {:.0} % of the allowed error", share * 100.0);
                    (found.clone(), tally.clone())
                });
                assert_eq!(bits(moments), bits(&found), "{what}: other bits");
                assert_eq!((moments.count(), &*tallied), (found.count(), &tally), "{what}");
            }
        }
        let (found, tally) = first.unwrap();
        let mut host = Moments::new(classes, channels);
        let mut expected = Tally::default();
        images.iter().for_each(|scene| expected += host.add(&scene.f32s(), &scene.labels));
        assert_eq!((found.count(), tally), (host.count(), expected));
    }
}

/// Logits of a network that is sure of some pixels, unsure of others and wrong about some; of one whole class it is hardly
/// sure at all. Some are not finite.
fn logits(scene: &Scene, classes: usize, seed: u64) -> Vec<f32> {
    let mut random = Random(seed);
    let mut all = Vec::with_capacity(scene.pixels() * classes);
    for label in &scene.labels {
        let label = usize::from(*label);
        let sure = if label == classes - 1 { 1.0 } else { 9.0 * random.value().abs() };
        let found = if random.next().is_multiple_of(8) { (label + 1) % classes } else { label };
        // Now and then so far apart that f64 has no exponential of it.
        let scale = if random.next().is_multiple_of(16) { 200.0 } else { 1.0 };
        all.extend((0..classes).map(|c| {
            let own = if c == found { sure + 1.0 } else { 0.0 };
            (own + random.value()) * scale
        }));
    }
    let last = all.len() - classes;
    for (at, bad) in [(0, f32::NAN), (last / 2, f32::INFINITY), (last, f32::NEG_INFINITY)] {
        all[at] = bad;
    }
    all
}

/// Weights from logits as the CPU has them, and weighted moments against two plain passes in f64.
#[test]
fn against_two_plain_passes_with_weights() {
    for (channels, classes, pixels, beside) in
        [(16, 2, 1, 8), (48, 3, 700, 0), (80, 21, 1023, 16), (256, 4, 600, 0)]
    {
        let images: Vec<Scene> =
            (0..3).map(|i| Scene::random(81 + i, pixels, channels, classes)).collect();
        let seeds = images.iter().zip(181..);
        let logits: Vec<Vec<f32>> =
            seeds.map(|(scene, seed)| logits(scene, classes, seed)).collect();
        let roots: Vec<Vec<f32>> = images
            .iter()
            .zip(&logits)
            .map(|(scene, logits)| weight_roots(logits, classes, &scene.labels))
            .collect();
        let empty = Moments::weighted(classes, channels);
        let mut first: Option<Moments> = None;
        for (name, device) in devices() {
            if first_of_its_kind(&name) {
                first = None;
            }
            for batches in [vec![3], vec![1, 2]] {
                let (found, _) =
                    fold_with(&*device, &images, Some(&logits), &batches, beside, &empty);
                let what =
                    format!("D = {channels}, C = {classes}, P = {pixels}, {batches:?} on {name}");
                let moments = first.get_or_insert_with(|| {
                    let share = check_with(&what, &found, &images, Some(&roots));
                    println!("{what}: {:.0} % of the allowed error", share * 100.0);
                    found.clone()
                });
                assert_eq!(bits(moments), bits(&found), "{what}: other bits");
                assert_eq!((moments.count(), moments.weights()), (found.count(), found.weights()));
            }
        }
        // A device goes on where the host was.
        let device = device();
        let mut host = Moments::weighted(classes, channels);
        host.add_weighted(&images[0].f32s(), &images[0].labels, &roots[0]);
        let (found, _) = fold_with(&*device, &images[1..], Some(&logits[1..]), &[2], beside, &host);
        check_with("continued", &found, &images, Some(&roots));
        let left_out: i64 = images.iter().map(|scene| known(scene, classes) as i64).sum();
        assert!(pixels == 1 || found.count().iter().sum::<i64>() < left_out);
    }
    // Weights in the moments and of the pixels, or in neither.
    let scene = Scene::random(90, 8, 16, 2);
    let device = device();
    let (features, labels) = (upload(&*device, &scene.features), upload(&*device, &scene.labels));
    let features = Layout::contiguous(1, Size::new(1, 8), 16).tensor(&features, Element::F16);
    let mut moments = DeviceMoments::new(&*device, &Moments::weighted(2, 16)).unwrap();
    moments.add(&*device, features, labels.all(), None).unwrap_err();
}

fn known(scene: &Scene, classes: usize) -> usize {
    scene.labels.iter().filter(|l| usize::from(**l) < classes).count()
}

/// The host's moments go on on a device, and a device's shards merge on the host.
#[test]
fn interchangeable_with_the_hosts() {
    let (channels, classes) = (32, 3);
    let images: Vec<Scene> =
        (0..4).map(|i| Scene::random(61 + i, 300, channels, classes)).collect();
    let device = device();
    let empty = Moments::new(classes, channels);
    let (whole, _) = fold(&*device, &images, &[4], 0, &empty);
    let mut host = Moments::new(classes, channels);
    host.add(&images[0].f32s(), &images[0].labels);
    host.add(&images[1].f32s(), &images[1].labels);
    let (continued, tally) = fold(&*device, &images[2..], &[2], 0, &host);
    check("continued", &continued, &images);
    let fitted: usize = images[2..].iter().map(|scene| known(scene, classes)).sum();
    assert_eq!(tally.fitted as usize, fitted);

    // Any split into shards, up to f64 rounding.
    for split in [1, 2, 3] {
        let shard = |images: &[Scene]| fold(&*device, images, &vec![1; images.len()], 0, &empty).0;
        let mut merged = shard(&images[..split]);
        merged.merge(&shard(&images[split..]));
        assert_eq!(merged.count(), whole.count());
        for class in 0..classes {
            let (a, b) = (merged.scatter(class), whole.scatter(class));
            for i in 0..channels {
                let off = (merged.mean(class)[i] - whole.mean(class)[i]).abs();
                assert!(off <= 1e-12 * whole.mean(class)[i].abs());
                for j in 0..=i {
                    let scale = (b[i * channels + i] * b[j * channels + j]).sqrt();
                    let off = (a[i * channels + j] - b[i * channels + j]).abs();
                    assert!(off <= 1e-12 * scale, "split {split}: {off:e} of {scale:e}");
                }
            }
        }
    }
}

/// A thread looks at eight channels, a warp at 256 a round.
#[test]
fn a_feature_broken_in_each_of_512_channels() {
    let (channels, good) = (512, 40);
    let mut scene = Scene::random(72, channels + good, channels, 1);
    scene.labels.fill(0);
    for c in 0..channels {
        scene.features[c * channels + c] = [f16::NEG_INFINITY, f16::from_bits(0x7fff)][c / 2 % 2];
    }
    for (name, device) in devices() {
        let images = std::slice::from_ref(&scene);
        let (found, tally) = fold(&*device, images, &[1], 0, &Moments::new(1, channels));
        check(&name, &found, images);
        assert_eq!((tally.non_finite, found.count()[0]), (channels as u64, good as i64), "{name}");
    }
}

#[test]
fn a_handful_a_crowd_and_nobody() {
    let (channels, classes, pixels) = (32, 6, 4000);
    let mut scene = Scene::random(71, pixels, channels, classes);
    // 0 owns 95 % (eight chunks of 512), 1 has two pixels, 2 one, 3 none, 4 twenty equal ones, 5 the rest.
    for pixel in 0..pixels {
        scene.labels[pixel] = match pixel {
            0 | 700 => 1,
            1300 => 2,
            50..70 => 4,
            // No class: neither in the moments nor in the list of chunks.
            2000..2100 => 6,
            _ if pixel % 20 == 0 => 5,
            _ => 0,
        };
    }
    let equal = scene.features[..channels].to_vec();
    for pixel in 50..70 {
        scene.features[pixel * channels..][..channels].copy_from_slice(&equal);
    }
    for z in scene.features.chunks_exact_mut(channels) {
        z[7] = f16::ZERO; // dead
        z[8] = f16::from_f32(z[8].to_f32() * 1e-6); // fp16's least numbers
        z[9] = f16::from_f32(z[9].to_f32() * 5e3); // and some of its greatest
    }
    scene.features[100 * channels + 3] = f16::MAX;
    scene.features[101 * channels + 3] = f16::MIN;
    scene.features[102 * channels] = f16::NAN;
    scene.features[103 * channels + 31] = f16::INFINITY;
    // In each of the channels that a thread loads at once.
    for c in 0..8 {
        scene.features[(104 + c) * channels + c] = [f16::NEG_INFINITY, f16::NAN][c % 2];
    }
    for (name, device) in devices() {
        let images = std::slice::from_ref(&scene);
        let (found, tally) = fold(&*device, images, &[1], 0, &Moments::new(classes, channels));
        check(&name, &found, images);
        assert_eq!(tally.non_finite, 10);
        assert_eq!(found.count()[3], 0);
        for class in [2, 3, 4] {
            assert!(found.scatter(class).iter().all(|s| *s == 0.0), "class {class} on {name}");
        }
        assert_eq!(found.mean(4)[0], equal[0].to_f64());
    }
}

#[test]
fn real_features_of_camvid() {
    let Some(CamVid { scene, .. }) = CamVid::open() else { return };
    // Eight of 92 rows: what f64 takes grows with them, the error does not.
    let part = Scene {
        channels: 256,
        features: scene.features[40 * 120 * 256..48 * 120 * 256].to_vec(),
        labels: scene.labels[40 * 120..48 * 120].to_vec(),
    };
    let device = device();
    let images = [part];
    let (found, _) = fold(&*device, &images, &[1], 0, &Moments::new(9, 256));
    println!("CamVid: {:.0} % of the allowed error", 100.0 * check("CamVid", &found, &images));
    let present: Vec<i64> = found.count().iter().copied().filter(|n| *n > 0).collect();
    println!("pixels of the classes: {present:?}");
}
