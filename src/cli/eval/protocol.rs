//! How the literature prepares the images of a data set for its tables.

use ddu::data::{Image, Mask};
use ddu::ops::Size;

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
pub enum Protocol {
    /// Pascal VOC as the paper and its base code validate: shorter side 513, centre crop of 513 x 513
    Voc513,
}

const SIDE: usize = 513;

impl Protocol {
    pub fn name(self) -> &'static str {
        "voc513"
    }

    /// The shorter side that images are scaled to before the crop.
    pub fn short_side(self) -> usize {
        SIDE
    }

    /// Of a scaled image after the crop.
    pub fn size(self, scaled: Size) -> Size {
        Size::new(scaled.h.min(SIDE), scaled.w.min(SIDE))
    }

    /// The middle of a scaled image and of its mask. Of an odd rest the half goes to the even side, as Python's
    /// `round` has it.
    pub fn crop(self, image: &Image, mask: &Mask) -> (Image, Mask) {
        let (from, size) = (image.size, self.size(image.size));
        let start =
            |all: usize, part: usize| ((all - part) as f64 / 2.0).round_ties_even() as usize;
        let (top, left) = (start(from.h, size.h), start(from.w, size.w));
        let rows = |values: &[u8], depth: usize| -> Vec<u8> {
            let row = |row| &values[((top + row) * from.w + left) * depth..][..size.w * depth];
            (0..size.h).flat_map(row).copied().collect()
        };
        let image = Image { size, rgb: rows(&image.rgb, 3) };
        (image, Mask { size, label: rows(&mask.label, 1) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_is_kept_of_image_and_mask() {
        for (w, left) in [(513, 0), (514, 0), (515, 1), (516, 2), (684, 86)] {
            let size = Size::new(513, w);
            let label: Vec<u8> = (0..size.pixels()).map(|i| (i % w % 251) as u8).collect();
            let rgb = label.iter().flat_map(|v| [*v, 0, *v]).collect();
            let (image, mask) = Protocol::Voc513.crop(&Image { size, rgb }, &Mask { size, label });
            assert_eq!((image.size, mask.size), (Size::new(513, 513), Size::new(513, 513)));
            let expected: Vec<u8> = (left..left + 513).map(|x| (x % 251) as u8).collect();
            assert_eq!(mask.label[513 * 512..], expected);
            assert_eq!(mask.label[..513], expected);
            assert!(image.rgb.chunks(3).zip(&mask.label).all(|(rgb, l)| rgb == [*l, 0, *l]));
        }
    }
}
