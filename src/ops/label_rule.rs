//! Which row of the network's input each row of the feature grid stands for.

use serde::{Deserialize, Serialize};

/// The rule of the model's upsampling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LabelRule {
    /// Cell i lies on row `i (H - 1) / (h - 1)`, rounded, halves up; row 0 if h = 1.
    AlignCorners,
    /// Cell i's middle lies on row `floor((2 i + 1) H / (2 h))`.
    HalfPixel,
}

impl LabelRule {
    pub fn of(align_corners: bool) -> Self {
        if align_corners { LabelRule::AlignCorners } else { LabelRule::HalfPixel }
    }

    /// The row (or column) of `padded` that each of `cells` takes.
    pub fn places(self, padded: usize, cells: usize) -> Vec<usize> {
        let place = |i: usize| match self {
            LabelRule::AlignCorners if cells == 1 => 0,
            // round(n / d), halves up, is floor((2 n + d) / (2 d)).
            LabelRule::AlignCorners => (2 * i * (padded - 1) + (cells - 1)) / (2 * (cells - 1)),
            LabelRule::HalfPixel => (2 * i + 1) * padded / (2 * cells),
        };
        (0..cells).map(place).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_take_the_rows_that_the_rules_say() {
        let align = |padded, cells| LabelRule::AlignCorners.places(padded, cells);
        assert_eq!(align(7, 3), [0, 3, 6]);
        assert_eq!(align(8, 3), [0, 4, 7], "3.5 rounds up");
        assert_eq!(align(368, 92)[..4], [0, 4, 8, 12]);
        assert_eq!(align(368, 92)[91], 367);
        assert_eq!(align(5, 1), [0]);
        assert_eq!(align(1, 1), [0]);
        assert_eq!(align(1, 3), [0, 0, 0]);
        let half = |padded, cells| LabelRule::HalfPixel.places(padded, cells);
        assert_eq!(half(8, 2), [2, 6]);
        assert_eq!(half(7, 2), [1, 5]);
        assert_eq!(half(5, 5), [0, 1, 2, 3, 4]);
        assert_eq!(half(513, 1), [256]);
        assert_eq!(half(2, 4), [0, 0, 1, 1]);
    }

    proptest::proptest! {
        /// Against the rules' formulas in f64, exact at these sizes.
        #[test]
        fn integers_agree_with_the_formulas(padded in 1usize..700, cells in 1usize..200) {
            for (i, place) in LabelRule::AlignCorners.places(padded, cells).into_iter().enumerate() {
                let exact = match cells {
                    1 => 0.0,
                    _ => (i * (padded - 1)) as f64 / (cells - 1) as f64,
                };
                proptest::prop_assert_eq!(place as f64, (exact + 0.5).floor());
            }
            for (i, place) in LabelRule::HalfPixel.places(padded, cells).into_iter().enumerate() {
                let exact = (2 * i + 1) as f64 * padded as f64 / (2 * cells) as f64;
                proptest::prop_assert_eq!(place as f64, exact.floor());
            }
        }
    }
}
