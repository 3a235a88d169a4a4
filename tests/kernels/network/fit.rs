//! `ddu::fit::Fit` on a device, through `Engine` as `ddu fit` uses it: held to the CPU's moments of the
//! device's own features, and whole chains to what the features' fp16 errors allow.

use ddu::data::{Image, LabelRule, Mask, label_grid};
use ddu::density::{Density, Moments, Sample};
use ddu::engine::Engine;
use ddu::fit::{Annotation, Fit};
use ddu::model::Model;
use ddu::ops::Size;

use crate::pictures::*;

/// A fit of pictures in runs of `batch`; `each`: image by image, and the density asked for after each, as
/// a checkpoint in the middle of a run has it.
fn fit(engine: &mut Engine, pictures: &[(Image, Mask)], batch: usize, each: bool) -> Density {
    let config = engine.model().config();
    let (classes, channels) = (config.classes.clone(), config.feature_channels());
    let rule = LabelRule::of(config.align_corners);
    let empty = Density::new(engine.model().hash(), classes, channels, rule, None).with_weights();
    let mut fit = Fit::new(empty, engine).unwrap();
    for (run, pictures) in pictures.chunks(batch).enumerate() {
        let images: Vec<&Image> = pictures.iter().map(|(image, _)| image).collect();
        let output = engine.run(&images).unwrap();
        // All at once, or one after another.
        let calls: Vec<Vec<usize>> = match each {
            true => (0..pictures.len()).map(|at| vec![at]).collect(),
            false => vec![(0..pictures.len()).collect()],
        };
        for call in calls {
            let mut annotations = vec![None; pictures.len()];
            for at in call {
                let (hash, mask) = ((run * batch + at) as u64, &pictures[at].1);
                annotations[at] = Some(Annotation { hash, mask });
            }
            let new: Vec<bool> = annotations.iter().map(Option::is_some).collect();
            assert_eq!(fit.add(&output, &annotations).unwrap(), new);
            // The same images again change nothing.
            assert_eq!(fit.add(&output, &annotations).unwrap(), vec![false; pictures.len()]);
            if each {
                fit.density().unwrap();
            }
        }
        assert!(fit.add(&output, &[]).unwrap_err().to_string().contains("annotations"));
    }
    fit.density().unwrap().clone()
}

fn known_pictures(count: usize) -> Vec<(Image, Mask)> {
    (0..count as u64).map(|i| crop(910 + i, (90, 20 * i as usize), Size::new(50, 71))).collect()
}

/// Features and labels of pictures run one by one.
fn features(engine: &mut Engine, pictures: &[(Image, Mask)]) -> Vec<(Vec<Vec<f64>>, Vec<u8>)> {
    let of = |(image, mask): &(Image, Mask)| {
        let output = engine.run(&[image]).unwrap();
        let rule = LabelRule::AlignCorners;
        let labels = label_grid(mask, output.size, output.padded, output.grid, rule);
        (rows(&output.features(0).unwrap(), output.channels), labels)
    };
    pictures.iter().map(of).collect()
}

/// Against the CPU's moments of the device's own features: either is held to 2e-6 sqrt(S_ii S_jj) by tests of
/// its own. Counts, tally and sample are equal, to the bit.
#[test]
fn a_fit_on_a_device_is_the_fit_of_its_features() {
    let pictures = known_pictures(5);
    let mut engine = on_device(demo_model());
    let device_fit = fit(&mut engine, &pictures, 3, false);
    let mut host_fit = Density { moments: Moments::new(9, 64), ..device_fit.clone() };
    host_fit.weighted = Some(Moments::weighted(9, 64));
    host_fit.sample = Sample::new(64);
    host_fit.origin.pixels = Default::default();
    host_fit.origin.images.clear();
    let mut hash = 0;
    for run in pictures.chunks(3) {
        let images: Vec<&Image> = run.iter().map(|(image, _)| image).collect();
        let output = engine.run(&images).unwrap();
        for (at, (_, mask)) in run.iter().enumerate() {
            let rule = LabelRule::AlignCorners;
            let labels = label_grid(mask, output.size, output.padded, output.grid, rule);
            let (features, logits) = (output.features(at).unwrap(), output.logits(at).unwrap());
            host_fit.add_weighted(hash, &features, &logits, &labels);
            hash += 1;
        }
    }
    assert_eq!((&device_fit.origin, &device_fit.sample), (&host_fit.origin, &host_fit.sample));
    assert!(device_fit.origin.pixels.unknown.len() > 1 && device_fit.origin.pixels.void > 0);
    let weighted = (device_fit.weighted.as_ref().unwrap(), host_fit.weighted.as_ref().unwrap());
    assert!(weighted.0.count().iter().sum::<i64>() < device_fit.moments.count().iter().sum());
    for (found, expected) in [(&device_fit.moments, &host_fit.moments), weighted] {
        same_moments(found, expected);
    }
    // Two runs, and any place where a checkpoint cuts a run: the same bits.
    assert_eq!(fit(&mut engine, &pictures, 3, false), device_fit);
    assert_eq!(fit(&mut engine, &pictures, 3, true), device_fit);
}

fn same_moments(found: &Moments, expected: &Moments) {
    assert_eq!(found.count(), expected.count());
    for class in 0..9 {
        let (w, off) = (expected.weight(class), found.weight(class) - expected.weight(class));
        assert!(off.abs() <= 1e-12 * w, "class {class}: W off by {off:e} of {w:e}");
        for i in 0..64 {
            let greatest = expected.mean(class)[i].abs().max(1.0);
            assert!((found.mean(class)[i] - expected.mean(class)[i]).abs() <= 1e-12 * greatest);
            for j in 0..=i {
                let s = |m: &Moments, i: usize, j: usize| m.scatter(class)[i * 64 + j];
                let scale = (s(expected, i, i) * s(expected, j, j)).sqrt();
                let off = (s(found, i, j) - s(expected, i, j)).abs();
                assert!(
                    off <= 4e-6 * scale + 1e-12,
                    "class {class}, S[{i}, {j}]: {off:e} of {scale:e}"
                );
            }
        }
    }
}

/// Whole chains: with dz = z_device - z_cpu of each pixel, e = dz less its class mean and E its scatter,
/// mean' - mean = mean of dz, and by Cauchy and Schwarz
/// |S'_ij - S_ij| = |sum x_i e_j + e_i x_j + e_i e_j| <= sqrt(S_ii E_jj) + sqrt(E_ii S_jj) + sqrt(E_ii E_jj).
fn check_fits(what: &str, model: impl Fn() -> Model, pictures: &[(Image, Mask)]) {
    let [mut cpu, mut device] = [Engine::new(model()), on_device(model())];
    let channels = cpu.model().config().feature_channels();
    let (host, found) =
        (fit(&mut cpu, pictures, 1, false).moments, fit(&mut device, pictures, 1, false).moments);
    assert_eq!(host.count(), found.count());
    let (host_features, theirs) = (features(&mut cpu, pictures), features(&mut device, pictures));
    let mut worst = 0f64;
    for class in 0..9u8 {
        let mut dz: Vec<Vec<f64>> = Vec::new();
        for ((ours, labels), (theirs, _)) in host_features.iter().zip(&theirs) {
            let of_class = |(i, _): &(usize, &Vec<f64>)| labels[*i] == class;
            let pairs = ours.iter().enumerate().filter(of_class);
            dz.extend(pairs.map(|(i, z)| theirs[i].iter().zip(z).map(|(a, b)| a - b).collect()));
        }
        let n = dz.len().max(1) as f64;
        assert_eq!(dz.len() as i64, host.count()[usize::from(class)]);
        let mean: Vec<f64> =
            (0..channels).map(|i| dz.iter().map(|e| e[i]).sum::<f64>() / n).collect();
        let scatter: Vec<f64> =
            (0..channels).map(|i| dz.iter().map(|e| (e[i] - mean[i]).powi(2)).sum()).collect();
        let class = usize::from(class);
        for i in 0..channels {
            let moved = found.mean(class)[i] - host.mean(class)[i];
            assert!((moved - mean[i]).abs() <= 1e-12 * host.mean(class)[i].abs().max(1.0));
            for j in 0..=i {
                let s = |m: &Moments, i: usize, j: usize| m.scatter(class)[i * channels + j];
                let root = |i: usize| (s(&host, i, i).max(0.0).sqrt(), scatter[i].sqrt());
                let ((s_i, e_i), (s_j, e_j)) = (root(i), root(j));
                let moved = s_i * e_j + e_i * s_j + e_i * e_j;
                let bound = moved + 4e-6 * (s_i + e_i) * (s_j + e_j) + 1e-12;
                let off = (s(&found, i, j) - s(&host, i, j)).abs();
                assert!(off <= bound, "class {class}, S[{i}, {j}]: {off:e}, bound {bound:e}");
                worst = worst.max(off / bound);
            }
        }
    }
    println!("{what}: scatters of the whole chains: {:.0} % of the bound", 100.0 * worst);
}

#[test]
fn a_fit_on_a_device_is_as_near_to_the_cpus_as_its_features() {
    check_fits("demo", demo_model, &known_pictures(4));
}

#[test]
fn a_fit_on_a_device_is_as_near_to_the_cpus_on_camvid() {
    let Some((model, pictures)) = camvid(Size::new(64, 96)) else { return };
    check_fits("CamVid", || model.clone(), &pictures);
}

/// What the batch may change is the network's features (its convolutions split their sums by the number
/// of pixels), never the fold.
#[test]
fn the_batch_moves_a_fit_by_its_features_alone() {
    let pictures = known_pictures(4);
    let mut engine = on_device(demo_model());
    let single = features(&mut engine, &pictures);
    let images: Vec<&Image> = pictures.iter().map(|(image, _)| image).collect();
    let output = engine.run(&images).unwrap();
    let together: Vec<_> =
        (0..4).map(|i| rows(&output.features(i).unwrap(), output.channels)).collect();
    let equal = single.iter().zip(&together).all(|((a, _), b)| a == b);
    let [one, four] = [1, 4].map(|batch| fit(&mut engine, &pictures, batch, false));
    println!("features of batch 1 and 4 are {}", if equal { "equal" } else { "not equal" });
    assert_eq!(one.moments.count(), four.moments.count());
    assert_eq!(one == four, equal);
}
