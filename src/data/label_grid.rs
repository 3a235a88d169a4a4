//! Which pixel of a mask each cell of the feature grid stands for.
//!
//! The grid lies over the network's input, the image padded at the bottom and right, in the way that
//! the model's upsampling puts it there. Integer arithmetic: every device samples the same pixels.

use super::{Mask, VOID};
use crate::ops::{LabelRule, Size};

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
    fn padding_is_void_and_scaled_images_look_up_their_masks() {
        let mask = Mask { size: Size::new(3, 4), label: (0..12).collect() };
        let labels =
            label_grid(&mask, mask.size, Size::new(5, 7), Size::new(3, 4), LabelRule::AlignCorners);
        assert_eq!(labels, [0, 2, 255, 255, 8, 10, 255, 255, 255, 255, 255, 255]);
        // Twice the size: each pixel of the mask is two rows and columns.
        let double = Size::new(6, 8);
        let all = label_grid(&mask, double, double, double, LabelRule::HalfPixel);
        let expected: Vec<u8> = (0..48).map(|i| ((i / 8 / 2) * 4 + (i % 8) / 2) as u8).collect();
        assert_eq!(all, expected);
    }
}
