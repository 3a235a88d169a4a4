//! The density behind a network on a device, through `Engine` as the commands use it.
//!
//! Two comparisons, each with the tolerance that its parts have been held to:
//! - Against f64 on *the device's own features* (fp16, so exact): only the density's kernel errs, by
//!   1e-3 + 1e-5 |log q| a cell (`density.rs`), and the upsampling, by some 2^-24 of the position.
//! - Against the CPU path, whole chains: features differ by dz = z_device - z_cpu. With y_c = W_c (z - mu_c) and
//!   e_c = W_c dz, a class's term differs by exactly y_c . e_c + |e_c|^2 / 2, at most delta_c = |W_c^T y_c| |dz| + |W_c dz|^2 / 2
//!   (to first order |W^T y| |dz|), and LSE_c(t_c - delta_c) <= log q <= LSE_c(t_c + delta_c). dz itself is
//!   held to the bound of `ddu::device::compare`.

use ddu::data::{Image, LabelRule, Mask, label_grid};
use ddu::demo::scenes;
use ddu::density::{
    Covariance, Density, Fit, Gaussian, Gaussians, Moments, Prior, Score, finite_in_half,
    round_to_half,
};
use ddu::device::launch::density::Precision;
use ddu::device::simt::{Schedule, Simt};
use ddu::engine::{Engine, Output};
use ddu::model::{Backbone, Model};
use ddu::ops::Size;

use crate::models::{random_model, small, wide};

const SCORES: [Score; 2] = [Score::Density, Score::Relative];

fn demo_model() -> Model {
    let bytes = include_bytes!("../../assets/demo.safetensors");
    Model::from_bytes("the demo's network", bytes).unwrap()
}

fn simt(model: Model) -> Engine {
    Engine::on(model, Box::new(Simt { schedule: Schedule::Forward, workers: 2 })).unwrap()
}

/// Rows and columns from `from` on of a drawn scene, with its labels.
fn crop(seed: u64, from: (usize, usize), size: Size) -> (Image, Mask) {
    let scene = scenes::draw(seed, true);
    let place = |y: usize| (from.0 + y) * scenes::SIZE.w + from.1;
    let rgb = |y| scene.image.rgb[place(y) * 3..][..size.w * 3].iter().copied();
    let label = |y| scene.label[place(y)..][..size.w].iter().copied();
    let image = Image { size, rgb: (0..size.h).flat_map(rgb).collect() };
    (image, Mask { size, label: (0..size.h).flat_map(label).collect() })
}

/// The demo's density, of few scenes.
fn demo_density() -> Density {
    let mut engine = Engine::new(demo_model());
    let config = engine.model().config();
    let (classes, channels) = (config.classes.clone(), config.feature_channels());
    let rule = LabelRule::AlignCorners;
    let mut density = Density::new(engine.model().hash(), classes, channels, rule, None);
    for seed in 0..12 {
        let scene = scenes::draw(seed, false);
        let output = engine.run(&[&scene.image]).unwrap();
        let mask = Mask { size: scenes::SIZE, label: scene.label };
        let labels = label_grid(&mask, output.size, output.padded, output.grid, rule);
        density.add(seed, &output.features(0).unwrap(), &labels);
    }
    density
}

/// A fit of pictures in runs of `batch`; `each`: folded image by image, as a checkpoint in the middle
/// of a run has it.
fn fit(engine: &mut Engine, pictures: &[(Image, Mask)], batch: usize, each: bool) -> Density {
    let config = engine.model().config();
    let (classes, channels) = (config.classes.clone(), config.feature_channels());
    let rule = LabelRule::of(config.align_corners);
    let empty = Density::new(engine.model().hash(), classes, channels, rule, None);
    let mut fit = Fit::new(empty, engine).unwrap();
    for (run, pictures) in pictures.chunks(batch).enumerate() {
        let images: Vec<&Image> = pictures.iter().map(|(image, _)| image).collect();
        let output = engine.run(&images).unwrap();
        for (at, (_, mask)) in pictures.iter().enumerate() {
            let labels = label_grid(mask, output.size, output.padded, output.grid, rule);
            let hash = (run * batch + at) as u64;
            assert!(fit.add(&output, at, hash, labels.clone()).unwrap());
            // A second image of this content changes nothing.
            assert!(!fit.add(&output, at, hash, labels).unwrap());
            if each {
                fit.fold(&output).unwrap();
                fit.density().unwrap();
            }
        }
        fit.fold(&output).unwrap();
    }
    fit.density().unwrap().clone()
}

fn gaussians(moments: &Moments) -> Gaussians {
    Gaussians::new(moments, Covariance::Full, Prior::Empirical).unwrap().0
}

fn f64s(z: &[f32]) -> Vec<f64> {
    z.iter().map(|v| f64::from(round_to_half(*v))).collect()
}

fn allowed(value: f64) -> f64 {
    1e-3 + 1e-5 * value.abs()
}

/// What each score is in f64, and what the kernel may be off, for a cell.
fn exact(gaussians: &Gaussians, z: &[f64]) -> [(f64, f64); 2] {
    let (q, relative) = (gaussians.log_density(z), gaussians.relative_log_density(z));
    [(q, allowed(q)), (relative, allowed(q) + allowed(q - relative))]
}

/// Holds a map to the upsampled `cells` of (value, bound): the bounds are upsampled as the values are.
fn check_map(what: &str, output: &Output, map: &[f32], cells: &[(f64, f64)]) -> f64 {
    let upsample = |pick: fn(&(f64, f64)) -> f64| {
        output.upsample(&cells.iter().map(|cell| pick(cell) as f32).collect::<Vec<_>>())
    };
    let (values, bounds) = (upsample(|cell| cell.0), upsample(|cell| cell.1));
    let finite = || cells.iter().map(|cell| cell.0);
    let spread = finite().fold(f64::MIN, f64::max) - finite().fold(f64::MAX, f64::min);
    // Positions are off by 2^-24 of their size on either path and axis, the blends round as often.
    let side = output.grid.h.max(output.grid.w) as f64;
    let slip = 4.0 * 2f64.powi(-24) * side * spread;
    assert_eq!(map.len(), values.len());
    let mut worst = 0f64;
    for (pixel, ((map, value), bound)) in map.iter().zip(&values).zip(bounds).enumerate() {
        let (off, bound) = (f64::from((map - value).abs()), f64::from(bound) + slip);
        assert!(off <= bound, "{what}, pixel {pixel}: {map}, expected {value} +- {bound:e}");
        worst = worst.max(off / bound);
    }
    worst
}

fn rows(values: &[f32], channels: usize) -> Vec<Vec<f64>> {
    values.chunks_exact(channels).map(f64s).collect()
}

#[test]
fn maps_are_the_densities_of_the_devices_own_features() {
    let density = demo_density();
    let gaussians = gaussians(&density.moments);
    let mut engine = simt(demo_model());
    engine.score_with(&gaussians, &SCORES, Precision::Exact).unwrap();
    // Padded to 64 x 80; 2 x 320 cells.
    let size = Size::new(50, 71);
    let pictures = [crop(900, (80, 40), size).0, crop(901, (100, 150), size).0];
    let output = engine.run(&[&pictures[0], &pictures[1]]).unwrap();
    for image in 0..2 {
        let features = rows(&output.features(image).unwrap(), output.channels);
        let cells: Vec<_> = features.iter().map(|z| exact(&gaussians, z)).collect();
        for (i, score) in SCORES.into_iter().enumerate() {
            let map = output.density(image, score).unwrap();
            assert_eq!(map.non_finite, 0);
            let what = format!("{score:?} of image {image}");
            let cells: Vec<_> = cells.iter().map(|cell| cell[i]).collect();
            let share = check_map(&what, &output, &map.values, &cells);
            println!("{what}: {:.0} % of the allowed error", 100.0 * share);
        }
    }
    // A map that nobody asked for, on either path.
    let plain = [simt(demo_model()), Engine::new(demo_model())];
    for mut engine in plain {
        let output = engine.run(&[&pictures[0]]).unwrap();
        assert!(output.density(0, Score::Density).unwrap_err().to_string().contains("score"));
    }
}

/// (t_c, delta_c) of a Gaussian between the features `z` and `z + dz`.
fn term_and_bound(gaussian: &Gaussian, z: &[f64], dz: &[f64]) -> (f64, f64) {
    let channels = z.len();
    let (mut half, mut square) = (0f64, 0f64);
    let mut gradient = vec![0f64; channels];
    for (i, row) in gaussian.whitening.chunks_exact(channels).enumerate() {
        let row = &row[..=i];
        let y: f64 = (0..=i).map(|k| row[k] * (z[k] - gaussian.mean[k])).sum();
        let e: f64 = (0..=i).map(|k| row[k] * dz[k]).sum();
        row.iter().zip(&mut gradient).for_each(|(w, g)| *g += w * y);
        half += y * y / 2.0;
        square += e * e / 2.0;
    }
    let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
    (gaussian.log_peak() - half, norm(&gradient) * norm(dz) + square)
}

fn log_sum_exp(terms: impl Iterator<Item = f64> + Clone) -> f64 {
    let most = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    most + terms.map(|t| (t - most).exp()).sum::<f64>().ln()
}

/// How far both scores may move by dz.
fn moved(gaussians: &Gaussians, z: &[f64], dz: &[f64]) -> [f64; 2] {
    let of = |c: &ddu::density::ClassGaussian| {
        let (term, bound) = term_and_bound(&c.gaussian, z, dz);
        (c.log_prior + term, bound)
    };
    let terms: Vec<(f64, f64)> = gaussians.classes.iter().map(of).collect();
    let q = log_sum_exp(terms.iter().map(|t| t.0));
    let above = log_sum_exp(terms.iter().map(|t| t.0 + t.1)) - q;
    let below = q - log_sum_exp(terms.iter().map(|t| t.0 - t.1));
    let bound = above.max(below);
    [bound, bound + term_and_bound(&gaussians.background, z, dz).1]
}

/// Both chains from one picture: the features are as near as their rounding allows, the maps as near as
/// the features do. Prints what is met.
fn check_chains(what: &str, model: impl Fn() -> Model, gaussians: &Gaussians, pictures: &[&Image]) {
    let [mut cpu, mut device] = [Engine::new(model()), simt(model())];
    for engine in [&mut cpu, &mut device] {
        engine.score_with(gaussians, &SCORES, Precision::Exact).unwrap();
    }
    let plan = device.plan(pictures.len(), pictures[0].size).unwrap();
    let convs = plan.nodes.iter().filter(|n| matches!(n.op, ddu::plan::Op::Conv { .. })).count();
    let (host, found) = (cpu.run(pictures).unwrap(), device.run(pictures).unwrap());
    for image in 0..pictures.len() {
        let features = |output: &Output| rows(&output.features(image).unwrap(), output.channels);
        let (own, theirs) = (features(&host), features(&found));
        let (mut error, mut total) = (0f64, 0f64);
        let mut cells = vec![Vec::new(); 2];
        for (z, other) in own.iter().zip(&theirs) {
            let dz: Vec<f64> = other.iter().zip(z).map(|(a, b)| a - b).collect();
            error += dz.iter().map(|d| d * d).sum::<f64>();
            total += z.iter().map(|v| v * v).sum::<f64>();
            let (values, moved) = (exact(gaussians, z), moved(gaussians, z, &dz));
            for i in 0..2 {
                // Each path's evaluation errs by what is allowed at its own value.
                let bound = 2.0 * values[i].1 + moved[i] * (1.0 + 1e-5);
                cells[i].push((values[i].0, bound));
            }
        }
        // As in ddu::device::compare: twice sqrt(2 L) of a rounding's relative rms.
        let (nrms, limit) = (
            (error / total).sqrt(),
            2.0 * (2.0 * convs as f64).sqrt() * 2f64.powi(-11) / 3f64.sqrt(),
        );
        assert!(nrms <= limit, "{what}, image {image}: features' nrms {nrms:e}, limit {limit:e}");
        for (i, score) in SCORES.into_iter().enumerate() {
            let map = found.density(image, score).unwrap().values;
            let cpu = host.density(image, score).unwrap().values;
            let name = format!("{what}, {score:?} of image {image}");
            // The CPU's own map too: it must lie inside its part of the bound.
            check_map(&format!("{name} on the CPU"), &host, &cpu, &cells[i]);
            let share = check_map(&name, &found, &map, &cells[i]);
            let mut off: Vec<f32> = map.iter().zip(&cpu).map(|(a, b)| (a - b).abs()).collect();
            off.sort_unstable_by(f32::total_cmp);
            println!(
                "{name}: median {:.3} nats apart, at most {:.2}: {:.0} % of the bound; features' nrms {nrms:.1e}",
                off[off.len() / 2],
                off[off.len() - 1],
                100.0 * share
            );
        }
    }
}

#[test]
fn whole_chains_agree_with_the_cpu_on_the_demos_scenes() {
    let density = demo_density();
    let size = Size::new(64, 80);
    let pictures = [crop(902, (60, 100), size).0, crop(903, (100, 30), size).0];
    check_chains("demo", demo_model, &gaussians(&density.moments), &[&pictures[0], &pictures[1]]);
}

/// Features that fp16 cannot hold: -inf, counted image by image although a warp has cells of both.
#[test]
fn cells_that_overflow_are_counted_for_their_own_image() {
    let size = Size::new(33, 41);
    let pictures = [crop(904, (60, 100), size).0, crop(905, (100, 30), size).0];
    let pictures = [&pictures[0], &pictures[1]];
    let most = {
        let mut engine = Engine::new(random_model(wide(32), 5));
        let output = engine.run(&pictures).unwrap();
        output.features(0).unwrap().iter().copied().fold(0f32, f32::max)
    };
    // The last norm's scale and shift, so that the upper third of the greatest channel overflows.
    let mut tensors = std::collections::BTreeMap::new();
    let model = random_model(wide(32), 5);
    let last: Vec<String> = ddu::model::units(model.config())
        .iter()
        .filter(|unit| unit.conv.out_channels == 32 && unit.conv.in_channels == 28)
        .flat_map(|unit| unit.tensors())
        .map(|(name, _)| name)
        .collect();
    assert!(!last.is_empty());
    for unit in ddu::model::units(model.config()) {
        for (name, _) in unit.tensors() {
            let mut tensor = model.tensor(&name).clone();
            let scaled =
                name.contains(".norm.") && (name.ends_with("weight") || name.ends_with("bias"));
            if scaled && last.contains(&name) {
                tensor.data.iter_mut().for_each(|v| *v *= 65504.0 / (0.7 * most));
            }
            tensors.insert(name, tensor);
        }
    }
    let config = wide(32);
    let model = || Model::new("test", config.clone(), tensors.clone()).unwrap();

    let mut moments = Moments::new(5, 32);
    let scene = crate::scene::Scene::random(8, 600, 32, 5);
    moments.add(&scene.f32s(), &scene.labels);
    let gaussians = gaussians(&moments);
    for mut engine in [simt(model()), Engine::new(model())] {
        engine.score_with(&gaussians, &[Score::Density], Precision::Exact).unwrap();
        let output = engine.run(&pictures).unwrap();
        assert!(!output.grid.pixels().is_multiple_of(32), "{}", output.grid);
        let mut counts = Vec::new();
        for image in 0..2 {
            let map = output.density(image, Score::Density).unwrap();
            let features = output.features(image).unwrap();
            let broken = features.chunks_exact(32).filter(|z| !finite_in_half(z)).count();
            assert_eq!(map.non_finite, broken, "image {image}");
            assert!(map.values.iter().all(|v| !v.is_nan()));
            assert!(map.values.contains(&f32::NEG_INFINITY));
            counts.push(broken);
        }
        assert!(counts[0] != counts[1] && counts.iter().all(|n| *n > 0), "{counts:?}");
    }
}

#[test]
fn what_a_device_cannot_score_is_one_line() {
    let (five, three) = (Moments::new(5, 20), Moments::new(5, 32));
    let fitted = |mut moments: Moments| {
        let scene = crate::scene::Scene::random(9, 300, moments.channels(), 5);
        moments.add(&scene.f32s(), &scene.labels);
        gaussians(&moments)
    };
    let refused = |engine: &mut Engine, gaussians: &Gaussians, precision, words: [&str; 2]| {
        let error = engine.score_with(gaussians, &SCORES, precision).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)) && !error.contains('\n'), "{error}");
    };
    let model = || random_model(small(Backbone::Resnet18), 3);
    let narrow = fitted(five);
    let [mut cpu, mut device] = [Engine::new(model()), simt(model())];
    refused(&mut device, &narrow, Precision::Exact, ["20", "--device cpu"]);
    refused(&mut cpu, &narrow, Precision::Fast, ["--precision fast", "cpu"]);
    refused(&mut cpu, &fitted(three), Precision::Exact, ["20 channels", "32"]);
    cpu.score_with(&narrow, &SCORES, Precision::Exact).unwrap();
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
    let mut engine = simt(demo_model());
    let whole = fit(&mut engine, &pictures, 3, false);
    let mut own = Density { moments: Moments::new(9, 64), ..whole.clone() };
    own.sample = ddu::density::Sample::new(64);
    own.origin.pixels = Default::default();
    own.origin.images.clear();
    let mut hash = 0;
    for run in pictures.chunks(3) {
        let images: Vec<&Image> = run.iter().map(|(image, _)| image).collect();
        let output = engine.run(&images).unwrap();
        for (at, (_, mask)) in run.iter().enumerate() {
            let rule = LabelRule::AlignCorners;
            let labels = label_grid(mask, output.size, output.padded, output.grid, rule);
            own.add(hash, &output.features(at).unwrap(), &labels);
            hash += 1;
        }
    }
    assert_eq!((&whole.origin, &whole.sample), (&own.origin, &own.sample));
    assert!(whole.origin.pixels.unknown.len() > 1 && whole.origin.pixels.void > 0);
    let (found, expected) = (&whole.moments, &own.moments);
    assert_eq!(found.count(), expected.count());
    for class in 0..9 {
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
    // Two runs, and any place where a checkpoint cuts a run: the same bits.
    assert_eq!(fit(&mut engine, &pictures, 3, false), whole);
    assert_eq!(fit(&mut engine, &pictures, 3, true), whole);
}

/// Whole chains: with dz = z_device - z_cpu of each pixel, e = dz less its class mean and E its scatter,
/// mean' - mean = mean of dz, and by Cauchy and Schwarz
/// |S'_ij - S_ij| = |sum x_i e_j + e_i x_j + e_i e_j| <= sqrt(S_ii E_jj) + sqrt(E_ii S_jj) + sqrt(E_ii E_jj).
#[test]
fn a_fit_on_a_device_is_as_near_to_the_cpus_as_its_features() {
    let pictures = known_pictures(4);
    let [mut cpu, mut device] = [Engine::new(demo_model()), simt(demo_model())];
    let (host, found) =
        (fit(&mut cpu, &pictures, 1, false).moments, fit(&mut device, &pictures, 1, false).moments);
    assert_eq!(host.count(), found.count());
    let (own, theirs) = (features(&mut cpu, &pictures), features(&mut device, &pictures));
    let mut worst = 0f64;
    for class in 0..9u8 {
        let mut dz: Vec<Vec<f64>> = Vec::new();
        for ((own, labels), (theirs, _)) in own.iter().zip(&theirs) {
            let of_class = |(i, _): &(usize, &Vec<f64>)| labels[*i] == class;
            let pairs = own.iter().enumerate().filter(of_class);
            dz.extend(pairs.map(|(i, z)| theirs[i].iter().zip(z).map(|(a, b)| a - b).collect()));
        }
        let n = dz.len().max(1) as f64;
        assert_eq!(dz.len() as i64, host.count()[usize::from(class)]);
        let mean: Vec<f64> = (0..64).map(|i| dz.iter().map(|e| e[i]).sum::<f64>() / n).collect();
        let scatter: Vec<f64> =
            (0..64).map(|i| dz.iter().map(|e| (e[i] - mean[i]).powi(2)).sum()).collect();
        let class = usize::from(class);
        for i in 0..64 {
            let moved = found.mean(class)[i] - host.mean(class)[i];
            assert!((moved - mean[i]).abs() <= 1e-12 * host.mean(class)[i].abs().max(1.0));
            for j in 0..=i {
                let s = |m: &Moments, i: usize, j: usize| m.scatter(class)[i * 64 + j];
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
    println!("scatters of the whole chains: {:.0} % of the bound", 100.0 * worst);
}

/// What the batch may change is the network's features (its convolutions split their sums by the number
/// of pixels), never the fold.
#[test]
fn the_batch_moves_a_fit_by_its_features_alone() {
    let pictures = known_pictures(4);
    let mut engine = simt(demo_model());
    let single = features(&mut engine, &pictures);
    let images: Vec<&Image> = pictures.iter().map(|(image, _)| image).collect();
    let output = engine.run(&images).unwrap();
    let together: Vec<_> = (0..4).map(|i| rows(&output.features(i).unwrap(), 64)).collect();
    let equal = single.iter().zip(&together).all(|((a, _), b)| a == b);
    let [one, four] = [1, 4].map(|batch| fit(&mut engine, &pictures, batch, false));
    println!("features of batch 1 and 4 are {}", if equal { "equal" } else { "not equal" });
    assert_eq!(one.moments.count(), four.moments.count());
    assert_eq!(one == four, equal);
}
