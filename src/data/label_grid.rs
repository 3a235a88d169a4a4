//! Which pixel of a mask each cell of the feature grid stands for.
//!
//! The grid lies over the network's input, the image padded at the bottom and right, in the way that
//! the model's upsampling puts it there. Integer arithmetic: every device samples the same pixels.

use serde::{Deserialize, Serialize};

use super::Mask;
use crate::ops::Size;

/// The label of padding, and of "no class" in masks.
const VOID: u8 = 255;

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

/// The labels `[grid.h, grid.w]` of the cells: of a `mask` at its own size, for an image that
/// `--resize` scaled to `image` (else the mask's size) and that was padded to `padded`. Padding is
/// void; a scaled image's pixel takes the mask's pixel under its middle.
pub fn label_grid(mask: &Mask, image: Size, padded: Size, grid: Size, rule: LabelRule) -> Vec<u8> {
    let axis = |padded: usize, cells: usize, image: usize, mask: usize| -> Vec<Option<usize>> {
        let source = |place| (place < image).then(|| (2 * place + 1) * mask / (2 * image));
        rule.places(padded, cells).into_iter().map(source).collect()
    };
    let rows = axis(padded.h, grid.h, image.h, mask.size.h);
    let columns = axis(padded.w, grid.w, image.w, mask.size.w);
    let mut labels = Vec::with_capacity(grid.pixels());
    for row in rows {
        labels.extend(columns.iter().map(|column| match (row, column) {
            (Some(row), Some(column)) => mask.label[row * mask.size.w + column],
            _ => VOID,
        }));
    }
    labels
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

    #[test]
    fn padding_is_void_and_scaled_images_look_up_their_masks() {
        let mask = Mask { size: Size::new(3, 4), label: (0..12).collect() };
        let own =
            label_grid(&mask, mask.size, Size::new(5, 7), Size::new(3, 4), LabelRule::AlignCorners);
        assert_eq!(own, [0, 2, 255, 255, 8, 10, 255, 255, 255, 255, 255, 255]);
        // Twice the size: each pixel of the mask is two rows and columns.
        let double = Size::new(6, 8);
        let all = label_grid(&mask, double, double, double, LabelRule::HalfPixel);
        let expected: Vec<u8> = (0..48).map(|i| ((i / 8 / 2) * 4 + (i % 8) / 2) as u8).collect();
        assert_eq!(all, expected);
    }
}
