//! How well a score finds the positives among all pixels: AUROC, average precision and the false
//! positive rate at 95 % true positives.

/// Collects scores, 4 bytes a pixel. A higher score says "positive"; ties are kept as ties.
#[derive(Clone, Debug, Default)]
pub struct Detector {
    positives: Vec<f32>,
    negatives: Vec<f32>,
}

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
}

impl Detector {
    pub fn push(&mut self, score: f32, positive: bool) {
        // -0.0 ties with 0.0.
        let side = if positive { &mut self.positives } else { &mut self.negatives };
        side.push(score + 0.0);
    }

    pub fn merge(&mut self, mut other: Detector) {
        self.positives.append(&mut other.positives);
        self.negatives.append(&mut other.negatives);
    }

    /// `None` where there is no positive or no negative: nothing is defined then. A NaN score ranks
    /// above every number.
    pub fn detection(mut self) -> Option<Detection> {
        use rayon::slice::ParallelSliceMut;
        if self.positives.is_empty() || self.negatives.is_empty() {
            return None;
        }
        let descending = |a: &f32, b: &f32| b.total_cmp(a);
        self.positives.par_sort_unstable_by(descending);
        self.negatives.par_sort_unstable_by(descending);
        let (positives, negatives) = (self.positives.len() as u64, self.negatives.len() as u64);

        // Down through the distinct scores; `hits` and `alarms` are at or above the current one.
        let (mut hits, mut alarms) = (0u64, 0u64);
        // Twice the number of (positive, negative) pairs in the right order, ties counting half.
        let mut ordered = 0u128;
        let mut average_precision = 0f64;
        let mut fpr95 = None;
        while hits < positives || alarms < negatives {
            let p = self.positives.get(hits as usize);
            let n = self.negatives.get(alarms as usize);
            let score = match (p, n) {
                (Some(p), Some(n)) => *if p.total_cmp(n).is_ge() { p } else { n },
                (Some(p), None) => *p,
                (None, n) => *n.expect("one side is left"),
            };
            let run = |scores: &[f32], from: u64| {
                let rest = &scores[from as usize..];
                rest.iter().take_while(|s| s.total_cmp(&score).is_eq()).count() as u64
            };
            let (dp, dn) = (run(&self.positives, hits), run(&self.negatives, alarms));
            // Each negative of the run is below every positive above it, and ties with the run's.
            ordered += u128::from(dn) * u128::from(2 * hits + dp);
            (hits, alarms) = (hits + dp, alarms + dn);
            let precision = hits as f64 / (hits + alarms) as f64;
            average_precision += dp as f64 * precision;
            // Integers: 0.95 has no exact double.
            if fpr95.is_none() && 100 * hits >= 95 * positives {
                fpr95 = Some(alarms as f64 / negatives as f64);
            }
        }
        Some(Detection {
            positives,
            negatives,
            auroc: ordered as f64 / (2.0 * positives as f64 * negatives as f64),
            average_precision: average_precision / positives as f64,
            fpr95: fpr95.expect("all positives are reached at the end"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn detect(scores: &[(f32, bool)]) -> Option<Detection> {
        let mut detector = Detector::default();
        scores.iter().for_each(|&(score, positive)| detector.push(score, positive));
        detector.detection()
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
                    let found = [found.auroc, found.average_precision, found.fpr95];
                    for (found, wanted) in found.into_iter().zip(by_counting(&scores)) {
                        // Sums of at most 300 quotients in double.
                        proptest::prop_assert!((found - wanted).abs() < 1e-12, "{found} {wanted}");
                    }
                }
            }
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
    fn parts_merge_to_the_whole() {
        let scores: Vec<_> = (0..100).map(|i| ((i * 37 % 23) as f32, i % 3 == 0)).collect();
        let mut parts = [Detector::default(), Detector::default()];
        scores.iter().enumerate().for_each(|(i, s)| parts[i % 2].push(s.0, s.1));
        let [mut a, b] = parts;
        a.merge(b);
        assert_eq!(a.detection(), detect(&scores));
    }
}
