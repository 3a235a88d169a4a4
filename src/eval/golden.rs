//! Against scikit-learn: `tests/golden/metrics.json`, which `tests/golden/make_metrics.py` wrote.

use serde::Deserialize;
use serde_json::Value;

use super::bootstrap::Weights;
use super::calibration::{Calibration, ImageCalibration};
use super::{Detection, Histogram};

#[derive(Deserialize)]
struct Golden {
    detection: Vec<Case>,
    calibration: Confidences,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    scores: Vec<Value>,
    positive: Vec<bool>,
    expected: Option<Figures>,
}

#[derive(Deserialize)]
struct Figures {
    auroc: f64,
    ap: f64,
    fpr95: f64,
}

#[derive(Deserialize)]
struct Confidences {
    confidence: Vec<f32>,
    right: Vec<bool>,
    ece: f64,
}

fn golden() -> Golden {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

#[test]
fn figures_are_those_of_scikit_learn() {
    let cases = golden().detection;
    assert_eq!(cases.len(), 11);
    for case in cases {
        let mut sides: [Histogram; 2] = Default::default();
        for (score, positive) in case.scores.iter().zip(&case.positive) {
            let score = match score {
                Value::Null => f32::NAN,
                Value::String(infinity) => infinity.parse().unwrap(),
                number => number.as_f64().unwrap() as f32,
            };
            sides[usize::from(*positive)].push(score);
        }
        let found = Detection::of(&[&sides[1]], &[&sides[0]]);
        let Some(expected) = case.expected else {
            assert_eq!(found, None, "{}", case.name);
            continue;
        };
        let found = found.unwrap();
        for (figure, found, bound, expected) in [
            ("AUROC", found.auroc, found.auroc_error, expected.auroc),
            ("AP", found.average_precision, found.average_precision_error, expected.ap),
            ("FPR95", found.fpr95, found.fpr95_error, expected.fpr95),
        ] {
            // Every bin has one distinct value: the figures are exact.
            assert_eq!(bound, 0.0, "{} {figure}", case.name);
            assert!((found - expected).abs() < 1e-6, "{} {figure}: {found} {expected}", case.name);
        }
    }
}

#[test]
fn the_calibration_error_is_that_of_its_definition() {
    let Confidences { confidence, right, ece } = golden().calibration;
    let mut image = ImageCalibration::default();
    confidence.iter().zip(&right).for_each(|(c, r)| image.push(*c, *r));
    let mut calibration = Calibration::default();
    calibration.add(&image, &Weights::of(0));
    let found = calibration.ece().unwrap();
    assert!((found.value - ece).abs() < 1e-9, "{} {ece}", found.value);
    // Draws of one image differ in rounding alone.
    let off =
        (found.high.unwrap() - found.value).abs().max((found.low.unwrap() - found.value).abs());
    assert!(off < 1e-12, "{off}");
}
