//! Accuracy and uncertainty of square patches, for PAvPU (Mukhoti and Gal 2018).
//!
//! Patches of w x w pixels lie side by side from the top left; at the right and bottom border, where w does not
//! divide the image, a patch has the pixels that are left. Its means are over the pixels that count (void ones
//! do not, unless they count as inaccurate); a patch without such pixels counts nowhere. It is accurate where
//! its mean correctness is above 0.5, and its uncertainty is the mean, summed in f64.

use crate::ops::Size;

/// Calls `each` with every patch's accuracy and mean uncertainty. `correct` says of each pixel of a row-major
/// image whether it is classified right, and None where it does not count.
pub fn patches(
    size: Size,
    width: usize,
    correct: impl Fn(usize) -> Option<bool>,
    uncertainty: impl Fn(usize) -> f64,
    mut each: impl FnMut(bool, f64),
) {
    for top in (0..size.h).step_by(width) {
        for left in (0..size.w).step_by(width) {
            let (mut pixels, mut right, mut sum) = (0u32, 0u32, 0f64);
            for row in top..(top + width).min(size.h) {
                for column in left..(left + width).min(size.w) {
                    let pixel = row * size.w + column;
                    if let Some(correct) = correct(pixel) {
                        pixels += 1;
                        right += u32::from(correct);
                        sum += uncertainty(pixel);
                    }
                }
            }
            if pixels > 0 {
                each(2 * right > pixels, sum / f64::from(pixels));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::curves::{Ascending, Counts};
    use super::super::{CoarseHistogram, Histogram};
    use super::*;
    use crate::score::Score;

    const LABELS: [u8; 16] = [1, 2, 5, 7, 6, 4, 3, 3, 10, 9, 5, 0, 8, 6, 4, 4];
    const PREDICTIONS: [u8; 16] = [1, 2, 4, 7, 5, 6, 3, 3, 10, 9, 4, 0, 8, 7, 3, 4];
    const UNCERTAINTIES: [f64; 16] =
        [0.1, 0.3, 0.6, 0.3, 0.7, 0.6, 0.2, 0.1, 0.2, 0.4, 0.5, 0.3, 0.1, 0.7, 0.6, 0.2];

    fn example(width: usize, each: impl FnMut(bool, f64)) {
        let correct = |i: usize| Some(LABELS[i] == PREDICTIONS[i]);
        patches(Size::new(4, 4), width, correct, |i| UNCERTAINTIES[i], each);
    }

    /// The example that the literature works through: patches of 2 x 2, threshold 0.4.
    #[test]
    fn worked_example() {
        let (mut all, mut certain) = ([0, 0], [0, 0]);
        example(2, |accurate, uncertainty| {
            let side = usize::from(!accurate);
            all[side] += 1;
            certain[side] += u64::from(uncertainty <= 0.4);
        });
        let counts = Counts::new(all, certain);
        assert_eq!(counts.pavpu(), Some(3.0 / 4.0));
        assert_eq!(counts.p_accurate_certain(), Some(2.0 / 3.0));
        assert_eq!(counts.p_uncertain_inaccurate(), Some(1.0 / 2.0));
    }

    /// The same by way of maps in f32 and histograms, as a data set is measured: 0.4 is the third of four
    /// means, so the 75th percentile.
    #[test]
    fn worked_example_by_percentile() {
        let mut sides: [CoarseHistogram; 2] = Default::default();
        let f32_map = UNCERTAINTIES.map(|u| f64::from(u as f32));
        let correct = |i: usize| Some(LABELS[i] == PREDICTIONS[i]);
        patches(
            Size::new(4, 4),
            2,
            correct,
            |i| f32_map[i],
            |accurate, uncertainty| {
                sides[usize::from(!accurate)].push(uncertainty as f32);
            },
        );
        let curve = Ascending::of(&[&sides[0]], &[&sides[1]]).curve(Score::Entropy).unwrap();
        assert_eq!(curve.threshold[74], 0.4);
        assert_eq!(curve.pavpu[74], Some(3.0 / 4.0));
        assert_eq!(curve.p_accurate_certain[74], Some(2.0 / 3.0));
        assert_eq!(curve.p_uncertain_inaccurate[74], Some(1.0 / 2.0));
    }

    #[test]
    fn a_pixel_is_a_patch_of_one() {
        let (mut by_patch, mut by_pixel): ([Histogram; 2], [Histogram; 2]) = Default::default();
        example(1, |accurate, u| by_patch[usize::from(!accurate)].push(u as f32));
        for (i, u) in UNCERTAINTIES.iter().enumerate() {
            by_pixel[usize::from(LABELS[i] != PREDICTIONS[i])].push(*u as f32);
        }
        let curve = |s: &[Histogram; 2]| Ascending::of(&[&s[0]], &[&s[1]]).curve(Score::Entropy);
        assert_eq!(curve(&by_patch), curve(&by_pixel));
    }

    #[test]
    fn borders_keep_what_is_left_and_void_does_not_count() {
        let mut found = Vec::new();
        // 3 x 3, the middle pixel void, the last wrong.
        let correct = |i: usize| (i != 4).then_some(i != 8);
        patches(Size::new(3, 3), 2, correct, |i| i as f64, |a, u| found.push((a, u)));
        assert_eq!(found, [(true, 4.0 / 3.0), (true, 3.5), (true, 6.5), (false, 8.0)]);
        let mut none = 0;
        patches(Size::new(2, 2), 4, |_| None, |_| 0.0, |_, _| none += 1);
        patches(Size::new(0, 0), 4, |_| Some(true), |_| 0.0, |_, _| none += 1);
        assert_eq!(none, 0);
    }
}
