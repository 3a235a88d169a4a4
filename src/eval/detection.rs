//! How well a score finds the positives among all pixels: AUROC, average precision and the false
//! positive rate at 95 % true positives, from histograms of the scores.

use super::Histogram;
use super::histogram::Step;

/// A higher score says "positive"; equal scores are ties. Each figure is exact, but for different scores
/// that share a bin of their [`Histogram`]: there positives and negatives count as evenly mixed, and
/// `..._error` bounds what that may change.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Detection {
    pub positives: u64,
    pub negatives: u64,
    /// P(score of a positive > score of a negative) + P(equal) / 2.
    pub auroc: f64,
    /// sum over the distinct scores, from high to low, of (recall gained) x (precision there):
    /// no interpolation.
    pub average_precision: f64,
    /// The least share of negatives at or above a score that at least 95 % of the positives reach.
    pub fpr95: f64,
    pub auroc_error: f64,
    pub average_precision_error: f64,
    pub fpr95_error: f64,
}

impl Detection {
    /// Each side is the union of several sets. `None` where there is no positive or no negative:
    /// nothing is defined then. A NaN score ranks above every number.
    pub fn of<const DROPPED: u32>(
        positives: &[&Histogram<DROPPED>],
        negatives: &[&Histogram<DROPPED>],
    ) -> Option<Detection> {
        let count = |sets: &[&Histogram<DROPPED>]| sets.iter().map(|set| set.count()).sum::<u64>();
        let all = [count(positives), count(negatives)];
        Detection::of_steps(all, |each| Histogram::steps([positives, negatives], each))
    }

    /// From the numbers of positives and negatives, and a function that gives their scores from the greatest
    /// to the least.
    pub(super) fn of_steps(
        [all_positives, all_negatives]: [u64; 2],
        steps: impl FnOnce(&mut dyn FnMut(Step)),
    ) -> Option<Detection> {
        if all_positives == 0 || all_negatives == 0 {
            return None;
        }
        // Down through the scores; `hits` and `alarms` are above the current ones.
        let (mut hits, mut alarms) = (0u64, 0u64);
        // Twice the number of (positive, negative) pairs in the right order, ties counting half; and
        // of those whose order is unknown.
        let (mut ordered, mut unordered) = (0u128, 0u128);
        let (mut precision_sum, mut precision_error) = (0f64, 0f64);
        let (mut fpr95, mut fpr95_error) = (None, 0f64);
        steps(&mut |step| {
            let [p, n] = step.counts;
            // Each negative is below every positive above it, and ties with those of its step.
            ordered += u128::from(n) * u128::from(2 * hits + p);
            let (above, before) = (hits as f64, alarms as f64);
            let [positive, negative] = [p as f64, n as f64];
            // All positives of the step at one precision.
            let gain = |hits: f64, alarms: f64| positive * hits / (hits + alarms);
            if p > 0 && step.tie {
                precision_sum += gain(above + positive, before + negative);
            } else if p > 0 {
                unordered += u128::from(n) * u128::from(p);
                let gained = gain(above + (positive + 1.0) / 2.0, before + negative / 2.0);
                precision_sum += gained;
                // All positives first: the precision at each is at most that at the last; all negatives
                // first: at least that at the first.
                let best = gain(above + positive, before);
                let worst = gain(above + 1.0, before + negative);
                precision_error += (best - gained).max(gained - worst);
            }
            (hits, alarms) = (hits + p, alarms + n);
            // Integers: 0.95 has no exact double.
            if fpr95.is_none() && 100 * hits >= 95 * all_positives {
                let of_all = |alarms: f64| alarms / all_negatives as f64;
                if step.tie {
                    fpr95 = Some(of_all(before + negative));
                } else {
                    let needed = (95 * all_positives).div_ceil(100) as f64 - above;
                    let share = needed / positive;
                    fpr95 = Some(of_all(before + share * negative));
                    fpr95_error = of_all(negative * share.max(1.0 - share));
                }
            }
        });
        let pairs = 2.0 * all_positives as f64 * all_negatives as f64;
        Some(Detection {
            positives: all_positives,
            negatives: all_negatives,
            auroc: ordered as f64 / pairs,
            average_precision: precision_sum / all_positives as f64,
            fpr95: fpr95.expect("all positives are reached at the end"),
            auroc_error: unordered as f64 / pairs,
            average_precision_error: precision_error / all_positives as f64,
            fpr95_error,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(scores: &[(f32, bool)]) -> Option<Detection> {
        let mut sides: [Histogram; 2] = Default::default();
        scores.iter().for_each(|&(score, positive)| sides[usize::from(positive)].push(score));
        Detection::of(&[&sides[1]], &[&sides[0]])
    }

    /// The definitions, each by counting over all pairs or all thresholds.
    fn by_counting(scores: &[(f32, bool)]) -> [f64; 3] {
        let of = |positive| scores.iter().filter(move |s| s.1 == positive).map(|s| s.0);
        let (p, n) = (of(true).count() as f64, of(false).count() as f64);
        let pairs = of(true).flat_map(|a| of(false).map(move |b| (a, b)));
        let won: f64 = pairs.map(|(a, b)| if a > b { 1.0 } else { f64::from(a == b) / 2.0 }).sum();
        let mut thresholds: Vec<f32> = scores.iter().map(|s| s.0).collect();
        thresholds.sort_by(|a, b| b.total_cmp(a));
        thresholds.dedup();
        let (mut ap, mut recall_before, mut fpr95) = (0.0, 0.0, f64::MAX);
        for t in thresholds {
            let hits = of(true).filter(|&s| s >= t).count() as f64;
            let alarms = of(false).filter(|&s| s >= t).count() as f64;
            ap += (hits / p - recall_before) * hits / (hits + alarms);
            recall_before = hits / p;
            if hits / p >= 0.95 {
                fpr95 = f64::min(fpr95, alarms / n);
            }
        }
        [won / (p * n), ap, fpr95]
    }

    proptest::proptest! {
        /// Few distinct scores: most of them tie.
        #[test]
        fn agrees_with_counting(
            scores in proptest::collection::vec((-6i8..6, proptest::bool::weighted(0.3)), 2..300),
        ) {
            let scores: Vec<_> = scores.iter().map(|&(s, p)| (f32::from(s) / 4.0, p)).collect();
            let both = scores.iter().any(|s| s.1) && scores.iter().any(|s| !s.1);
            match detect(&scores) {
                None => proptest::prop_assert!(!both),
                Some(found) => {
                    proptest::prop_assert_eq!(errors(&found), [0.0; 3]);
                    let found = [found.auroc, found.average_precision, found.fpr95];
                    for (found, wanted) in found.into_iter().zip(by_counting(&scores)) {
                        // Sums of at most 300 quotients in double.
                        proptest::prop_assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
                    }
                }
            }
        }
    }

    fn errors(found: &Detection) -> [f64; 3] {
        [found.auroc_error, found.average_precision_error, found.fpr95_error]
    }

    proptest::proptest! {
        /// Scores that share bins: about 300 of them in 13, so that the bounds are needed.
        #[test]
        fn scores_that_share_bins_keep_the_stated_bounds(
            scores in proptest::collection::vec((0u32..3000, proptest::bool::weighted(0.3)), 2..300),
            base in proptest::sample::select(vec![0.7f32, 150.0, -150.0, 1e-20]),
        ) {
            let near = |i: u32| f32::from_bits(base.to_bits() + i);
            let scores: Vec<_> = scores.iter().map(|&(i, p)| (near(i), p)).collect();
            if let Some(found) = detect(&scores) {
                let figures = [found.auroc, found.average_precision, found.fpr95];
                let bounds = errors(&found);
                for (i, wanted) in by_counting(&scores).into_iter().enumerate() {
                    let off = (figures[i] - wanted).abs();
                    proptest::prop_assert!(off <= bounds[i] + 1e-12, "{i}: {off} {}", bounds[i]);
                }
            }
        }
    }

    /// On scores distributed as in a data set the bins cost almost no accuracy.
    #[test]
    fn the_bounds_are_small_for_continuous_scores() {
        let scores: Vec<_> = (0..200_000u32)
            .map(|i| {
                let uniform =
                    |seed: u32| f64::from(i.wrapping_mul(2654435761) ^ seed) / 2f64.powi(32);
                (180.0 - 90.0 * uniform(0) as f32, uniform(0x5bd1_e995) < 0.2)
            })
            .collect();
        let found = detect(&scores).unwrap();
        assert!(found.auroc_error < 1e-4, "{found:?}");
        assert!(found.average_precision_error < 1e-3, "{found:?}");
        assert!(found.fpr95_error < 1e-3, "{found:?}");
    }

    #[test]
    fn nan_ranks_above_every_number_whatever_its_sign() {
        for nan in [f32::NAN, -f32::NAN] {
            let found = detect(&[(nan, true), (f32::INFINITY, false), (0.0, false)]).unwrap();
            assert_eq!((found.auroc, found.fpr95), (1.0, 0.0));
            let found = detect(&[(nan, false), (f32::INFINITY, true)]).unwrap();
            assert_eq!((found.auroc, found.fpr95), (0.0, 1.0));
        }
    }

    #[test]
    fn perfect_reversed_and_constant_scores() {
        let ranked: Vec<_> = (0..40).map(|i| (i as f32, i >= 30)).collect();
        let perfect = detect(&ranked).unwrap();
        assert_eq!((perfect.auroc, perfect.average_precision, perfect.fpr95), (1.0, 1.0, 0.0));
        let reversed: Vec<_> = ranked.iter().map(|&(s, p)| (-s, p)).collect();
        let reversed = detect(&reversed).unwrap();
        assert_eq!((reversed.auroc, reversed.fpr95), (0.0, 1.0));
        let constant: Vec<_> = ranked.iter().map(|&(_, p)| (0.0, p)).collect();
        let constant = detect(&constant).unwrap();
        assert_eq!((constant.auroc, constant.average_precision, constant.fpr95), (0.5, 0.25, 1.0));
    }

    #[test]
    fn nineteen_of_twenty_positives_are_95_percent() {
        let mut scores = vec![(0.0, true), (0.5, false)];
        scores.extend((0..19).map(|i| (1.0 + i as f32, true)));
        assert_eq!(detect(&scores).unwrap().fpr95, 0.0);
    }

    #[test]
    fn without_positives_or_negatives_nothing_is_defined() {
        assert_eq!(detect(&[]), None);
        assert_eq!(detect(&[(1.0, true), (2.0, true)]), None);
        assert_eq!(detect(&[(1.0, false)]), None);
    }

    #[test]
    fn infinities_rank_and_zeros_tie() {
        let found = detect(&[(f32::INFINITY, true), (f32::NEG_INFINITY, false)]).unwrap();
        assert_eq!(found.auroc, 1.0);
        assert_eq!(detect(&[(0.0, true), (-0.0, false)]).unwrap().auroc, 0.5);
    }

    #[test]
    fn parts_are_the_whole() {
        let scores: Vec<_> = (0..100).map(|i| ((i * 37 % 23) as f32, i % 3 == 0)).collect();
        let mut parts: [[Histogram; 2]; 2] = Default::default();
        scores.iter().enumerate().for_each(|(i, s)| parts[i % 2][usize::from(s.1)].push(s.0));
        let side = |positive: usize| [&parts[0][positive], &parts[1][positive]];
        assert_eq!(Detection::of(&side(1), &side(0)), detect(&scores));
    }
}
