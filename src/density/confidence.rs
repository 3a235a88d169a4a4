//! The weight of a pixel in the weighted moments: w = p_y^32, p_y the network's own probability of the
//! pixel's true label, softmax of its logits on the feature grid. Pixels that the network gets right for sure
//! shape the Gaussians; mislabelled ones and those between two classes do not.

/// Roots of weights below 2^-64 (p_y below 1/4) are 0: such a pixel would weigh 1e-19 of a sure one, and
/// without them no product of two weighted features leaves the range of f32.
const LEAST_ROOT: f64 = 1.0 / (1u64 << 32) as f64;

/// The square root of the weight of each pixel, p_y^16, from `logits` `[pixels, C]` and `labels` `[pixels]`; 0
/// for a label that is no class and where a logit is not finite.
pub fn weight_roots(logits: &[f32], classes: usize, labels: &[u8]) -> Vec<f32> {
    let root = |(logits, label): (&[f32], &u8)| {
        let Some(own) = logits.get(usize::from(*label)) else { return 0.0 };
        // 1 / p_y
        let inverse: f64 = logits.iter().map(|l| (f64::from(*l) - f64::from(*own)).exp()).sum();
        let root = inverse.powi(-16);
        let usable = logits.iter().all(|l| l.is_finite()) && root >= LEAST_ROOT;
        if usable { root as f32 } else { 0.0 }
    };
    logits.chunks_exact(classes.max(1)).zip(labels).map(root).collect()
}

#[cfg(test)]
mod tests {
    use super::weight_roots;

    #[test]
    fn a_root_is_the_probability_to_the_sixteenth() {
        let (inf, nan) = (f32::INFINITY, f32::NAN);
        let cases: [([f32; 3], u8, f64); 9] = [
            ([3.0, 3.0, -inf], 0, 0.0),
            ([nan, 3.0, 0.0], 1, 0.0),
            ([inf, 3.0, 0.0], 0, 0.0),
            ([7.0, 7.0, -900.0], 1, 0.5f64.powi(16)),
            ([900.0, -900.0, -900.0], 0, 1.0),
            ([900.0, -900.0, -900.0], 1, 0.0),
            // ln 2: p = 2 / 4 and 1 / 4, which is the least that counts.
            ([std::f32::consts::LN_2, 0.0, 0.0], 0, 0.5f64.powi(16)),
            ([1.0, 1.0, 1.0], 255, 0.0),
            ([1.0, 1.0, 1.0], 3, 0.0),
        ];
        for (logits, label, expected) in cases {
            let found = weight_roots(&logits, 3, &[label])[0];
            let off = (f64::from(found) - expected).abs();
            assert!(off <= 3e-7 * expected, "{logits:?}, {label}: {found} for {expected}");
        }
        assert_eq!(weight_roots(&[0.0; 5], 5, &[4]), [0.0], "p = 1/5");
    }
}
