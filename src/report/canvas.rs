//! An RGB picture to draw on. Everything outside it is clipped.

use super::mix;
use crate::data::Image;
use crate::ops::Size;

pub struct Canvas(pub Image);

impl Canvas {
    pub fn new(size: Size, color: [u8; 3]) -> Self {
        Canvas(Image { size, rgb: color.repeat(size.pixels()) })
    }

    /// Mixes `color` into a pixel with the given opacity.
    pub fn blend(&mut self, row: i64, column: i64, color: [u8; 3], opacity: f32) {
        let Size { h, w } = self.0.size;
        let (Ok(row), Ok(column)) = (usize::try_from(row), usize::try_from(column)) else { return };
        if row < h && column < w {
            let at = 3 * (row * w + column);
            for (old, new) in self.0.rgb[at..at + 3].iter_mut().zip(color) {
                *old = mix(*old, new, opacity);
            }
        }
    }

    pub fn rectangle(&mut self, top: usize, left: usize, size: Size, color: [u8; 3]) {
        for row in top..top + size.h {
            for column in left..left + size.w {
                self.blend(row as i64, column as i64, color, 1.0);
            }
        }
    }

    pub fn picture(&mut self, top: usize, left: usize, picture: &Image) {
        let width = self.0.size.w;
        let lines = picture.rgb.chunks_exact(3 * picture.size.w);
        for (row, line) in (top..).zip(lines) {
            let at = 3 * (row * width + left);
            self.0.rgb[at..at + line.len()].copy_from_slice(line);
        }
    }
}
