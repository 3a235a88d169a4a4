//! Certain and uncertain, accurate and inaccurate: p(accurate | certain), p(uncertain | inaccurate) and PAvPU
//! (Mukhoti and Gal 2018, arXiv 1811.12709) against the threshold, and the area under the risk-coverage curve
//! (Geifman and El-Yaniv 2017, arXiv 1705.08500).
//!
//! With n_ac accurate and certain pixels (or patches), n_iu inaccurate and uncertain ones and so on:
//! p(accurate | certain) = n_ac / (n_ac + n_ic), p(uncertain | inaccurate) = n_iu / (n_ic + n_iu),
//! PAvPU = (n_ac + n_iu) / all. Certain means: uncertainty at most the threshold.

use serde::Serialize;

use super::Histogram;
use super::histogram::Step;
use super::thresholds::{Achieved, Target};
use crate::score::{Score, Worry};

/// How many are certain and uncertain at a threshold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub accurate_certain: u64,
    pub accurate_uncertain: u64,
    pub inaccurate_certain: u64,
    pub inaccurate_uncertain: u64,
}

impl Counts {
    /// Of all and of those that are certain, each [accurate, inaccurate].
    pub fn new(all: [u64; 2], certain: [u64; 2]) -> Self {
        Counts {
            accurate_certain: certain[0],
            accurate_uncertain: all[0] - certain[0],
            inaccurate_certain: certain[1],
            inaccurate_uncertain: all[1] - certain[1],
        }
    }

    pub fn certain_share(&self) -> Option<f64> {
        share(self.accurate_certain + self.inaccurate_certain, self.all())
    }

    pub fn p_accurate_certain(&self) -> Option<f64> {
        share(self.accurate_certain, self.accurate_certain + self.inaccurate_certain)
    }

    pub fn p_uncertain_inaccurate(&self) -> Option<f64> {
        share(self.inaccurate_uncertain, self.inaccurate_certain + self.inaccurate_uncertain)
    }

    pub fn pavpu(&self) -> Option<f64> {
        share(self.accurate_certain + self.inaccurate_uncertain, self.all())
    }

    fn all(&self) -> u64 {
        let certain = self.accurate_certain + self.inaccurate_certain;
        certain + self.accurate_uncertain + self.inaccurate_uncertain
    }

    /// With the number of pixels of unknown classes, and of those that are uncertain.
    pub fn achieved(&self, score: Score, unknown: u64, unknown_uncertain: u64) -> Achieved {
        let false_alarm_rate = match score {
            // Aleatoric: what is classified right needs no alarm. Epistemic: nor does a familiar class.
            Score::Entropy => {
                share(self.accurate_uncertain, self.accurate_certain + self.accurate_uncertain)
            }
            _ => share(self.accurate_uncertain + self.inaccurate_uncertain, self.all()),
        };
        Achieved {
            certain_share: self.certain_share(),
            p_accurate_certain: self.p_accurate_certain(),
            p_uncertain_inaccurate: self.p_uncertain_inaccurate(),
            pavpu: self.pavpu(),
            false_alarm_rate,
            unknown_found: share(unknown_uncertain, unknown),
        }
    }
}

fn share(part: u64, of: u64) -> Option<f64> {
    (of > 0).then(|| part as f64 / of as f64)
}

/// At the percentiles 1 to 100 of an uncertainty as thresholds. The q-th is the least value that at least q %
/// of the uncertainties do not exceed; where different values share a bin of their [`Histogram`], it is the
/// bin's upper end, and `certain_share` says how many are below. The counts are exact for that threshold.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Curve {
    pub percentile: Vec<u8>,
    /// In the score's unit.
    pub threshold: Vec<f32>,
    /// Also the coverage of the risk-coverage curve, whose risk is 1 - p_accurate_certain.
    pub certain_share: Vec<f64>,
    pub p_accurate_certain: Vec<Option<f64>>,
    pub p_uncertain_inaccurate: Vec<Option<f64>>,
    pub pavpu: Vec<Option<f64>>,
}

/// Accurate and inaccurate uncertainties from the least to the greatest.
pub struct Ascending {
    steps: Vec<Step>,
    all: [u64; 2],
}

impl Ascending {
    pub fn of<const DROPPED: u32>(
        accurate: &[&Histogram<DROPPED>],
        inaccurate: &[&Histogram<DROPPED>],
    ) -> Self {
        Ascending::of_steps(|each| Histogram::steps([accurate, inaccurate], each))
    }

    pub(super) fn of_steps(descending: impl FnOnce(&mut dyn FnMut(Step))) -> Self {
        let (mut steps, mut all) = (Vec::new(), [0, 0]);
        descending(&mut |step| {
            steps.push(step);
            (0..2).for_each(|side| all[side] += step.counts[side]);
        });
        steps.reverse();
        Ascending { steps, all }
    }

    /// Each step with the counts where its greatest value is the threshold.
    fn thresholds(&self) -> impl Iterator<Item = (f32, Counts)> {
        let mut certain = [0, 0];
        self.steps.iter().map(move |step| {
            (0..2).for_each(|side| certain[side] += step.counts[side]);
            (step.greatest, Counts::new(self.all, certain))
        })
    }

    /// None of nothing.
    pub fn curve(&self, score: Score) -> Option<Curve> {
        let all = self.all[0] + self.all[1];
        let mut curve = Curve::default();
        let mut thresholds = self.thresholds();
        let mut at = thresholds.next()?;
        for percentile in 1..=100u8 {
            let needed = (u128::from(all) * u128::from(percentile)).div_ceil(100) as u64;
            while at.1.accurate_certain + at.1.inaccurate_certain < needed {
                at = thresholds.next()?;
            }
            curve.percentile.push(percentile);
            curve.threshold.push(turned(score, at.0));
            curve.certain_share.push(at.1.certain_share()?);
            curve.p_accurate_certain.push(at.1.p_accurate_certain());
            curve.p_uncertain_inaccurate.push(at.1.p_uncertain_inaccurate());
            curve.pavpu.push(at.1.pavpu());
        }
        Some(curve)
    }

    /// The threshold for a target, in the score's unit, and its counts; None where no finite one reaches it.
    pub fn recommend(&self, score: Score, target: Target) -> Option<(f32, Counts)> {
        let mut finite = self.thresholds().filter(|(threshold, _)| threshold.is_finite());
        let found = match target {
            Target::PAccurateCertain(least) => finite
                .filter(|(_, counts)| counts.p_accurate_certain().is_some_and(|p| p >= least))
                .last(),
            Target::FalseAlarmRate(most) => finite.find(|(_, counts)| {
                let rate = counts.achieved(score, 0, 0).false_alarm_rate;
                rate.is_some_and(|rate| rate <= most)
            }),
        };
        found.map(|(threshold, counts)| (turned(score, threshold), counts))
    }

    /// How many of the second side are above a threshold; values that share a bin with it count as below.
    pub fn other_above(&self, threshold: f32) -> u64 {
        let below = self.steps.iter().take_while(|step| step.greatest <= threshold);
        self.all[1] - below.map(|step| step.counts[1]).sum::<u64>()
    }

    /// The area under the risk-coverage curve: the mean over k = 1 .. N of the share of inaccurate ones among
    /// the k most certain; values of a step count as evenly mixed. And how much the order of different values
    /// that share a step may change it. None of nothing.
    pub fn aurc(&self) -> Option<(f64, f64)> {
        let (mut before, mut wrong, mut area, mut error) = (0u64, 0u64, 0f64, 0f64);
        for step in &self.steps {
            let [a, i] = step.counts;
            let (n, here) = (before as f64, (a + i) as f64);
            let share = i as f64 / here;
            // sum over k = 1 .. a + i of (wrong + k share) / (n + k)
            let inverse = harmonic(before + a + i) - harmonic(before);
            area += share * here + (wrong as f64 - share * n) * inverse;
            if !step.tie {
                // The k first of the step hold at most a i / (a + i) more or fewer than k share.
                error += a as f64 * share * inverse;
            }
            (before, wrong) = (before + a + i, wrong + i);
        }
        (before > 0).then(|| (area / before as f64, error / before as f64))
    }
}

/// 1 + 1/2 + ... + 1/n: summed up to 64, else by the asymptotic series, whose next term is below 2^-53 there.
fn harmonic(n: u64) -> f64 {
    if n <= 64 {
        return (1..=n).map(|k| 1.0 / k as f64).sum();
    }
    const EULER: f64 = 0.577_215_664_901_532_9;
    let x = n as f64;
    let even = 1.0 / (12.0 * x * x) - 1.0 / (120.0 * x.powi(4)) + 1.0 / (252.0 * x.powi(6));
    x.ln() + EULER + 1.0 / (2.0 * x) - even
}

/// A score's value as an uncertainty, high where it is uncertain, and back: a probability p becomes 1 - p, so
/// that bins are narrow where the network is sure, another score of which low values are uncertain is negated.
pub fn turned(score: Score, value: f32) -> f32 {
    match score.info().worry {
        Worry::High => value,
        Worry::Low if score == Score::MaxSoftmax => 1.0 - value,
        Worry::Low => -value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ascending(values: &[(f32, bool)]) -> Ascending {
        let mut sides: [Histogram; 2] = Default::default();
        values.iter().for_each(|&(value, accurate)| sides[usize::from(!accurate)].push(value));
        Ascending::of(&[&sides[0]], &[&sides[1]])
    }

    fn cases() -> impl proptest::strategy::Strategy<Value = Vec<(i8, bool)>> {
        proptest::collection::vec((-9i8..9, proptest::bool::weighted(0.7)), 1..300)
    }

    proptest::proptest! {
        #[test]
        fn the_curve_agrees_with_counting(values in cases()) {
            let values: Vec<_> = values.iter().map(|&(v, a)| (f32::from(v) / 4.0, a)).collect();
            let curve = ascending(&values).curve(Score::Entropy).unwrap();
            let mut sorted: Vec<f32> = values.iter().map(|v| v.0).collect();
            sorted.sort_by(f32::total_cmp);
            for q in 1..=100 {
                let t = sorted[(values.len() * q).div_ceil(100) - 1];
                let n = |accurate: bool, certain: bool| {
                    values.iter().filter(|v| v.1 == accurate && (v.0 <= t) == certain).count() as f64
                };
                let (ac, ic) = (n(true, true), n(false, true));
                let (au, iu) = (n(true, false), n(false, false));
                proptest::prop_assert_eq!(curve.threshold[q - 1], t);
                proptest::prop_assert_eq!(curve.p_accurate_certain[q - 1], Some(ac / (ac + ic)));
                let found = (ic + iu > 0.0).then(|| iu / (ic + iu));
                proptest::prop_assert_eq!(curve.p_uncertain_inaccurate[q - 1], found);
                proptest::prop_assert_eq!(curve.pavpu[q - 1], Some((ac + iu) / (ac + ic + au + iu)));
            }
        }

        #[test]
        fn aurc_agrees_with_its_sum(order in cases()) {
            // All different.
            let values: Vec<_> = order.iter().enumerate().map(|(i, v)| (i as f32, v.1)).collect();
            let (mut wrong, mut sum) = (0.0, 0.0);
            for (k, (_, accurate)) in values.iter().enumerate() {
                wrong += f64::from(!accurate);
                sum += wrong / (k + 1) as f64;
            }
            let (found, error) = ascending(&values).aurc().unwrap();
            proptest::prop_assert_eq!(error, 0.0);
            proptest::prop_assert!((found - sum / values.len() as f64).abs() < 1e-12);
        }
    }

    #[test]
    fn harmonic_numbers() {
        let sum: f64 = (1..=100_000).rev().map(|k| 1.0 / f64::from(k)).sum();
        assert!((harmonic(100_000) - sum).abs() < 1e-12);
        let sum: f64 = (1..=65).rev().map(|k| 1.0 / f64::from(k)).sum();
        assert!((harmonic(65) - sum).abs() < 1e-14);
    }

    #[test]
    fn constants_one_sided_and_empty_inputs() {
        let curve = ascending(&[(1.0, true), (1.0, false)]).curve(Score::Entropy).unwrap();
        assert_eq!(curve.pavpu, [Some(0.5); 100]);
        assert_eq!(ascending(&[(1.0, true), (1.0, false)]).aurc(), Some((0.5, 0.0)));
        let curve = ascending(&[(1.0, true), (2.0, true)]).curve(Score::Entropy).unwrap();
        assert_eq!(curve.p_uncertain_inaccurate, [None; 100]);
        assert_eq!((curve.pavpu[0], curve.pavpu[99]), (Some(0.5), Some(1.0)));
        assert!(ascending(&[]).curve(Score::Entropy).is_none() && ascending(&[]).aurc().is_none());
        // NaN is the most uncertain.
        let curve = ascending(&[(f32::NAN, false), (9.0, true)]).curve(Score::Entropy).unwrap();
        assert_eq!((curve.pavpu[49], curve.threshold[49]), (Some(1.0), 9.0));
    }

    #[test]
    fn recommendations_reach_their_targets() {
        // Of the entropies 0 .. 99 those above 80 are wrong, and 10.
        let values: Vec<_> = (0..100).map(|i| (i as f32, i <= 80 && i != 10)).collect();
        let all = ascending(&values);
        let target = Target::PAccurateCertain(0.95);
        let (threshold, counts) = all.recommend(Score::Entropy, target).unwrap();
        // 80 of 84 are right, 80 of 85 no longer 95 %.
        assert_eq!((threshold, counts.accurate_certain, counts.inaccurate_certain), (83.0, 80, 4));
        let target = Target::FalseAlarmRate(0.1);
        let (threshold, counts) = all.recommend(Score::Entropy, target).unwrap();
        assert_eq!((threshold, counts.accurate_uncertain), (72.0, 8));
        // Of a density the low values are uncertain, and a false alarm is any pixel of a known class.
        let (threshold, _) = all.recommend(Score::Density, target).unwrap();
        assert_eq!(threshold, -89.0);
        let never = ascending(&[(1.0, false)]);
        assert_eq!(never.recommend(Score::Entropy, Target::PAccurateCertain(0.5)), None);
    }
}
