//! Fits that lack samples or variance, and features that no fit has seen: finite or -inf, never NaN.

use ddu::density::{
    CONDITION_CAP, Covariance, Evaluator, Gaussians, Moments, Options, Prior, VOID, Warning,
};

use crate::support::{Random, close, fit, rounded, scene};

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
        let of = |relative| Options { relative, ..Options::default() };
        let density = evaluator.evaluate(&features, Some(&labels), of(false));
        let relative = evaluator.evaluate(&features, Some(&labels), of(true));
        for (pixel, z) in rounded(&features).chunks_exact(channels).enumerate() {
            assert!(close(density.score[pixel], gaussians.log_density(z)));
            assert!(close(relative.score[pixel], gaussians.relative_log_density(z)));
        }
    }
}

/// The cap asked for holds; one that the covariances keep to as they are adds nothing; less than 2 is none.
#[test]
fn the_limit_of_the_condition_number_is_a_choice() {
    let channels = 4;
    let mut random = Random::new(14);
    let scale = |i: usize| [1.0, 0.5, 0.1, 0.004][i % channels];
    let features: Vec<f32> = (0..4000).map(|i| (random.normal() * scale(i)) as f32).collect();
    let mut moments = Moments::new(1, channels);
    moments.add(&features, &[0; 1000]);
    let with = |cap| {
        let made = Gaussians::with_condition(&moments, Covariance::Full, Prior::Empirical, cap);
        made.map(|(gaussians, _)| gaussians.classes[0].gaussian.clone())
    };
    let free = with(1e9).unwrap();
    assert!(free.eps == 0.0 && free.condition_after > CONDITION_CAP, "{}", free.condition_after);
    for cap in [2.0, 4.9, 40.0, CONDITION_CAP] {
        let capped = with(cap).unwrap();
        assert!(capped.eps > 0.0 && capped.condition_after <= cap, "{}", capped.condition_after);
    }
    for cap in [1.99, -1.0, f64::NAN] {
        assert!(with(cap).unwrap_err().to_string().starts_with("condition: "));
    }
}

#[test]
fn a_fit_of_identical_pixels_and_an_empty_one() {
    let mut moments = Moments::new(2, 9);
    assert!(Gaussians::new(&moments, Covariance::Full, Prior::Empirical).is_err());
    moments.add(&[0.1; 9 * 50], &[1; 50]);
    let (gaussians, _) = Gaussians::new(&moments, Covariance::Full, Prior::Empirical).unwrap();
    let found = Evaluator::new(&gaussians).evaluate(&[0.1; 9], None, Options::default());
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
    for relative in [false, true] {
        for early_exit in [true, false] {
            let options = Options { relative, early_exit, nearest: true, columns: None };
            let found = evaluator.evaluate(&features, Some(&[0; 70]), options);
            assert_eq!(found.non_finite, 3);
            assert!(found.score[..3].iter().all(|v| *v == f32::NEG_INFINITY));
            assert_eq!(found.nearest[..3], [VOID; 3]);
            assert!(found.score[3..].iter().all(|v| v.is_finite()), "{:?}", &found.score[3..6]);
        }
    }
    let z = rounded(&features[3 * channels..4 * channels]);
    let found = evaluator.evaluate(&features, Some(&[0; 70]), Options::default());
    assert!(close(found.score[3], gaussians.log_density(&z)));
}
