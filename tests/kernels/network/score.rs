//! The density behind a network on a device, through `Engine` as the commands use it.
//!
//! Two comparisons, each with the tolerance that its parts have been held to:
//! - Against f64 on *the device's own features* (fp16, so exact): only the density's kernel errs, by
//!   1e-3 + 1e-5 |log q| per cell (`density.rs`), and the upsampling, by some 2^-24 of the position.
//! - Against the CPU path, whole chains: features differ by dz = z_device - z_cpu. With y_c = W_c (z - mu_c) and
//!   e_c = W_c dz, a class's term differs by exactly y_c . e_c + |e_c|^2 / 2, at most delta_c = |W_c^T y_c| |dz| + |W_c dz|^2 / 2
//!   (to first order |W^T y| |dz|), and LSE_c(t_c - delta_c) <= log q <= LSE_c(t_c + delta_c). dz itself is
//!   held to the bound of `ddu::compare`.

use ddu::data::Image;
use ddu::density::{
    Covariance, Gaussian, Gaussians, ModelGaussians, Moments, Prior, finite_in_half,
};
use ddu::device::launch::density::Precision;
use ddu::engine::{Engine, Output};
use ddu::model::{Backbone, Model};
use ddu::ops::Size;
use ddu::score::{Needs, Score, ScoreInfo};

use crate::models::{random_model, small, wide};
use crate::pictures::*;
use crate::scene::CamVid;

const SCORES: [Score; 2] = [Score::Density, Score::Relative];

fn of_model(model: &Model, gaussians: &Gaussians) -> ModelGaussians {
    ModelGaussians { model: model.hash(), gaussians: gaussians.clone(), weighted: None }
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

#[test]
fn maps_are_the_densities_of_the_devices_own_features() {
    let density = demo_density();
    let gaussians = gaussians(&density.moments);
    let mut engine = on_device(demo_model());
    engine.score_with(&of_model(engine.model(), &gaussians), &SCORES, Precision::Exact).unwrap();
    // Padded to 64 x 80; 2 x 320 cells.
    let size = Size::new(50, 71);
    let pictures = [crop(900, (80, 40), size).0, crop(901, (100, 150), size).0];
    let output = engine.run(&[&pictures[0], &pictures[1]]).unwrap();
    for image in 0..2 {
        let features = rows(&output.features(image).unwrap(), output.channels);
        let cells: Vec<_> = features.iter().map(|z| exact(&gaussians, z)).collect();
        for (i, score) in SCORES.into_iter().enumerate() {
            let map = output.score(image, score).unwrap();
            assert_eq!(map.non_finite, 0);
            let what = format!("{score:?} of image {image}");
            let cells: Vec<_> = cells.iter().map(|cell| cell[i]).collect();
            let share = check_map(&what, &output, &map.values, &cells);
            println!("{what}: {:.0} % of the allowed error", 100.0 * share);
        }
    }
    // A map that nobody asked for, on either path.
    let plain = [on_device(demo_model()), Engine::new(demo_model())];
    for mut engine in plain {
        let output = engine.run(&[&pictures[0]]).unwrap();
        assert!(output.score(0, Score::Density).unwrap_err().to_string().contains("score"));
    }
}

/// The other scores, on either path, against f64 on the path's own features and logits: those of the logits; the
/// entropy of the logits that clipped features give; the density of the weighted moments' Gaussians.
///
/// A device rounds the classifier's weights to fp16 and sums in f32, as the CPU does: D terms of 2^-24 of
/// sum |W z'|. An entropy moves by at most 2 ln C times what its logits are off (`tests/parity/head.rs`), which
/// upsampling adds to; the rest is that file's bound for the upsampled logits of either path.
#[test]
fn scores_of_logits_clipped_features_and_weighted_moments_are_those_of_the_paths_own_features() {
    let density = demo_density();
    let (ready, _) = density.gaussians(Covariance::Full, Prior::Empirical).unwrap();
    let weighted = ready.weighted.clone().expect("the demo's network is sure of some pixels");
    let size = Size::new(50, 71);
    let pictures = [crop(910, (80, 40), size).0, crop(911, (100, 150), size).0];
    // Those of one network's own pass.
    let own = |info: &&ScoreInfo| !matches!(info.needs, Needs::Passes | Needs::Members);
    let scores: Vec<Score> = ddu::score::SCORES.iter().filter(own).map(|info| info.score).collect();
    for (path, mut engine) in
        [("device", on_device(demo_model())), ("CPU", Engine::new(demo_model()))]
    {
        engine.score_with(&ready, &scores, Precision::Exact).unwrap();
        let units = ddu::model::units(engine.model().config());
        let last = units.last().unwrap().name.clone();
        let tensor = |part: &str| engine.model().tensor(&format!("{last}.{part}")).data.clone();
        let (weight, bias) = (tensor("weight"), tensor("bias"));
        let weight: Vec<f64> = match path {
            "device" => weight.iter().map(|w| half::f16::from_f32(*w).to_f64()).collect(),
            _ => weight.iter().map(|w| f64::from(*w)).collect(),
        };
        let plan = engine.plan(2, size).unwrap();
        let output = engine.run(&[&pictures[0], &pictures[1]]).unwrap();
        let (classes, channels) = (output.classes, output.channels);
        let side = output.grid.h.max(output.grid.w) as f64 + 1.0;
        let u = 2f64.powi(-24);
        // Largest |logit| to what an entropy of upsampled logits may be off on either path together.
        let head_bound = |most: f64| {
            let ln_c = (classes as f64).ln();
            2.0 * (2.0 * (12.0 * side + 8.0) * u * most * (ln_c + 1.0)
                + (classes as f64 + 8.0) * 4.0 * u * (2.0 + ln_c + most))
        };
        let from_logits = |logits: &[f32], score| {
            let (mut label, mut map) = (vec![0; size.pixels()], vec![0.0; size.pixels()]);
            ddu::cpu::head::scores(&plan.head(), logits, &mut label, &mut [(score, &mut map[..])]);
            map
        };
        for image in 0..2 {
            let (label, maps) = output.scored(image, &scores).unwrap();
            assert_eq!(label, output.maps(image).unwrap().label);
            let logits = output.logits(image).unwrap();
            let most = logits.iter().fold(0f64, |most, l| most.max(f64::from(l.abs())));
            let features = output.features(image).unwrap();
            for (score, map) in scores.iter().zip(&maps) {
                let what = format!("{score:?} of image {image} on the {path}");
                assert_eq!(output.score(image, *score).unwrap().values, map.values, "{what}");
                let (expected, bound) = match score {
                    Score::Density | Score::Relative => continue,
                    Score::WeightedDensity => {
                        let exact = |z: &Vec<f64>| {
                            let q = weighted.log_density(z);
                            (q, allowed(q))
                        };
                        let cells: Vec<_> = rows(&features, channels).iter().map(exact).collect();
                        check_map(&what, &output, &map.values, &cells);
                        continue;
                    }
                    Score::ClippedEntropy => {
                        let (mut clipped, mut sums) = (Vec::new(), 0f64);
                        for z in features.chunks_exact(channels) {
                            for k in 0..classes {
                                let (mut l, mut sum) =
                                    (f64::from(bias[k]), f64::from(bias[k].abs()));
                                for (c, (z, limit)) in
                                    z.iter().zip(&ready.gaussians.limits).enumerate()
                                {
                                    let term = weight[k * channels + c] * f64::from(z.min(*limit));
                                    (l, sum) = (l + term, sum + term.abs());
                                }
                                clipped.push(l as f32);
                                sums = sums.max(sum);
                            }
                        }
                        let entropy = from_logits(&clipped, ddu::ops::LogitScore::EntropyT2);
                        let most =
                            clipped.iter().fold(0f64, |most, l| most.max(f64::from(l.abs())));
                        let logit = (channels as f64 + 2.0) * 2.0 * u * sums;
                        (entropy, head_bound(most) + 2.0 * (classes as f64).ln() * logit)
                    }
                    _ => (from_logits(&logits, score.from_logits().unwrap()), head_bound(most)),
                };
                let off = map.values.iter().zip(&expected).map(|(a, b)| f64::from((a - b).abs()));
                let worst = off.fold(0f64, f64::max);
                println!("{what}: {worst:.1e} of {bound:.1e}");
                assert!(worst <= bound, "{what}: {worst:e}, allowed {bound:e}");
                let spread = map.values.iter().fold(f32::MIN, |a, b| a.max(*b))
                    - map.values.iter().fold(f32::MAX, |a, b| a.min(*b));
                assert!(f64::from(spread) > 100.0 * bound, "{what}: {spread} says nothing");
            }
        }
    }
}

/// Scores of the logits need no density; on a device they are asked for before the run. What a density lacks is
/// one line.
#[test]
fn scores_of_logits_without_a_density_and_a_density_without_weights() {
    let size = Size::new(33, 41);
    let picture = crop(912, (60, 100), size).0;
    let asked = [Score::Energy, Score::MaxSoftmax];
    let plain = gaussians(&demo_density().moments);
    for mut engine in [on_device(demo_model()), Engine::new(demo_model())] {
        engine.score_logits(&asked);
        let output = engine.run(&[&picture]).unwrap();
        let (_, maps) = output.scored(0, &asked).unwrap();
        assert!(maps[0].values.iter().all(|v| *v < 0.0), "the demo's logits are above 0");
        assert!(maps[1].values.iter().all(|v| (0.0..=1.0).contains(v)));
        let error = output.score(0, Score::ClippedEntropy).unwrap_err().to_string();
        assert!(error.contains("clipped-entropy"), "{error}");
        let plain = of_model(engine.model(), &plain);
        let error = engine.score_with(&plain, &[Score::WeightedDensity], Precision::Exact);
        let error = error.unwrap_err().to_string();
        assert!(error.contains("weighted") && error.contains("--weight confidence"), "{error}");
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
    let max = terms.clone().fold(f64::NEG_INFINITY, f64::max);
    max + terms.map(|t| (t - max).exp()).sum::<f64>().ln()
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
    let [mut cpu, mut device] = [Engine::new(model()), on_device(model())];
    for engine in [&mut cpu, &mut device] {
        engine.score_with(&of_model(engine.model(), gaussians), &SCORES, Precision::Exact).unwrap();
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
        // As in ddu::compare: twice sqrt(2 L) of a rounding's relative rms.
        let (nrms, limit) = (
            (error / total).sqrt(),
            2.0 * (2.0 * convs as f64).sqrt() * 2f64.powi(-11) / 3f64.sqrt(),
        );
        assert!(nrms <= limit, "{what}, image {image}: features' nrms {nrms:e}, limit {limit:e}");
        for (i, score) in SCORES.into_iter().enumerate() {
            let map = found.score(image, score).unwrap().values;
            let cpu = host.score(image, score).unwrap().values;
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

#[test]
fn whole_chains_agree_with_the_cpu_on_camvid() {
    let (Some((model, pictures)), Some(CamVid { moments, .. })) =
        (camvid(Size::new(64, 96)), CamVid::open())
    else {
        return;
    };
    let images: Vec<&Image> = pictures.iter().map(|(image, _)| image).collect();
    check_chains("CamVid", || model.clone(), &gaussians(&moments), &images);
}

/// Features that fp16 cannot hold: -inf, counted image by image although a warp has cells of both.
#[test]
fn cells_that_overflow_are_counted_for_their_own_image() {
    let size = Size::new(33, 41);
    let pictures = [crop(904, (60, 100), size).0, crop(905, (100, 30), size).0];
    let pictures = [&pictures[0], &pictures[1]];
    let max = {
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
                tensor.data.iter_mut().for_each(|v| *v *= 65504.0 / (0.7 * max));
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
    for mut engine in [on_device(model()), Engine::new(model())] {
        engine
            .score_with(&of_model(engine.model(), &gaussians), &[Score::Density], Precision::Exact)
            .unwrap();
        let output = engine.run(&pictures).unwrap();
        assert!(!output.grid.pixels().is_multiple_of(32), "{}", output.grid);
        let mut counts = Vec::new();
        for image in 0..2 {
            let map = output.score(image, Score::Density).unwrap();
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
        let error = engine
            .score_with(&of_model(engine.model(), gaussians), &SCORES, precision)
            .unwrap_err()
            .to_string();
        assert!(words.iter().all(|word| error.contains(word)) && !error.contains('\n'), "{error}");
    };
    let model = || random_model(small(Backbone::Resnet18), 3);
    let narrow = fitted(five);
    let [mut cpu, mut device] = [Engine::new(model()), on_device(model())];
    refused(&mut device, &narrow, Precision::Exact, ["20", "--device cpu"]);
    refused(&mut cpu, &narrow, Precision::Fast, ["--precision fast", "cpu"]);
    refused(&mut cpu, &fitted(three), Precision::Exact, ["20 channels", "32"]);
    let foreign = of_model(&random_model(small(Backbone::Resnet18), 4), &narrow);
    for engine in [&mut cpu, &mut device] {
        let error = engine.score_with(&foreign, &SCORES, Precision::Exact).unwrap_err().to_string();
        assert!(error.contains("a density of this model") && !error.contains('\n'), "{error}");
    }
    cpu.score_with(&of_model(cpu.model(), &narrow), &SCORES, Precision::Exact).unwrap();
}
