//! The golden features and log-densities of a real network on CamVid.

use ddu::density::{Covariance, Evaluator, Gaussians, Moments, Options, Prior};
use safetensors::SafeTensors;

use crate::shared::shared;
use crate::support::{fit, plain_moments, rounded, scatter_error};

/// A test image.
const STEM: &str = "0001TP_008550";

fn golden_file() -> Option<Vec<u8>> {
    let path = shared("golden/camvid-r18/golden.safetensors")?;
    Some(std::fs::read(path).unwrap())
}

fn f64s(file: &SafeTensors, name: &str) -> Vec<f64> {
    let view = file.tensor(name).unwrap();
    let (chunks, rest) = view.data().as_chunks::<8>();
    assert!(rest.is_empty() && view.dtype() == safetensors::Dtype::F64, "{name}");
    chunks.iter().map(|b| f64::from_le_bytes(*b)).collect()
}

/// Real features: most are behind a ReLU, some zero for all pixels of a class but a few, so that the
/// same small number is added again and again.
#[test]
fn moments_of_real_features() {
    let Some(bytes) = golden_file() else { return };
    let (features, predicted) = golden_features(&SafeTensors::deserialize(&bytes).unwrap());
    let image = [(features, predicted)];
    let moments = fit(&image, 256, 9);
    let (count, _, scatter) = plain_moments(&image, 256, 9);
    assert_eq!(moments.count(), count);
    let error = scatter_error(&moments, &scatter);
    println!("scatter off by {error:.1e}");
    assert!(error <= 2e-6, "{error:e}");
}

/// Features `[92 * 120, 256]` of a test image, and the network's classes for them.
fn golden_features(file: &SafeTensors) -> (Vec<f32>, Vec<u8>) {
    let features = file.tensor(&format!("{STEM}.feature_grid")).unwrap();
    let halves = features.data().as_chunks::<2>().0.iter();
    let features = halves.map(|b| half::f16::from_le_bytes(*b).to_f32()).collect();
    let logits = file.tensor(&format!("{STEM}.logits_grid")).unwrap();
    let logits: Vec<f32> =
        logits.data().as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let arg_max = |z: &[f32]| (0..9).max_by(|a, b| z[*a].total_cmp(&z[*b])).unwrap() as u8;
    (features, logits.chunks_exact(9).map(arg_max).collect())
}

/// With the goldens' own moments and features: the f64 reference within 1e-9, the f32 path within
/// 1e-3 + 1e-5 |log q|.
#[test]
fn log_density_of_the_golden_features() {
    let Some(bytes) = golden_file() else { return };
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let count = file.tensor("fit.count").unwrap();
    let count = count.data().as_chunks::<8>().0.iter().map(|b| i64::from_le_bytes(*b)).collect();
    let (mean, scatter) = (f64s(&file, "fit.mean"), f64s(&file, "fit.scatter"));
    let moments = Moments::from_parts("golden", count, mean, scatter).unwrap();
    let (features, predicted) = golden_features(&file);

    for (name, prior, relative) in [
        ("empirical", Prior::Empirical, false),
        ("uniform", Prior::Uniform, false),
        ("relative", Prior::Empirical, true),
    ] {
        let golden = f64s(&file, &format!("{STEM}.log_density_grid.{name}"));
        let (gaussians, warnings) = Gaussians::new(&moments, Covariance::Full, prior).unwrap();
        assert!(warnings.is_empty());
        let evaluator = Evaluator::new(&gaussians);
        let on = |early_exit, columns| {
            let options = Options { relative, early_exit, nearest: false, columns };
            evaluator.evaluate(&features, Some(&predicted), options)
        };
        let (with, without) = (on(true, Some(120)), on(false, None));
        // Patches need fewer classes than runs of a row.
        assert!(with.work < on(true, None).work);
        let (mut reference_error, mut share) = (0f64, 0f64);
        for (pixel, z) in rounded(&features).chunks_exact(256).enumerate() {
            let reference = match relative {
                false => gaussians.log_density(z),
                true => gaussians.relative_log_density(z),
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
