//! Small images enlarged and large ones reduced by a whole factor, for pictures that people look at.

use crate::data::Image;
use crate::ops::Size;

/// A whole factor that brings the longer side near 1024 pixels: each pixel `up` x `up`, or the mean
/// of `down` x `down`.
pub struct Zoom {
    up: usize,
    down: usize,
}

impl Zoom {
    pub fn of(size: Size) -> Self {
        let (long, short) = (size.h.max(size.w), size.h.min(size.w).max(1));
        Zoom { up: (360 / short).clamp(1, (1024 / long).max(1)), down: long.div_ceil(2048) }
    }

    /// Size of the result, and for a pixel of it the first source row (or column) and how many.
    fn size(&self, size: Size) -> Size {
        let side = |n: usize| (n * self.up / self.down).max(1);
        Size::new(side(size.h), side(size.w))
    }

    /// Calls `each` with the source indices that a pixel of the result stands for, row-major.
    fn map<T>(&self, size: Size, mut each: impl FnMut(&[usize]) -> T) -> Vec<T> {
        let to = self.size(size);
        let mut all = Vec::with_capacity(to.pixels());
        let mut indices = Vec::with_capacity(self.down * self.down);
        let source = |i: usize, n: usize| {
            let first = i * self.down / self.up;
            first..(first + self.down).min(n)
        };
        for row in 0..to.h {
            for column in 0..to.w {
                indices.clear();
                for r in source(row, size.h) {
                    indices.extend(source(column, size.w).map(|c| r * size.w + c));
                }
                all.push(each(&indices));
            }
        }
        all
    }

    pub fn image(&self, image: &Image) -> Image {
        let channel = |indices: &[usize], c: usize| {
            let sum: usize = indices.iter().map(|i| usize::from(image.rgb[3 * i + c])).sum();
            ((sum + indices.len() / 2) / indices.len()) as u8
        };
        let pixels = self.map(image.size, |indices| [0, 1, 2].map(|c| channel(indices, c)));
        Image { size: self.size(image.size), rgb: pixels.into_flattened() }
    }

    pub fn mean(&self, size: Size, values: &[f32]) -> Vec<f32> {
        self.map(size, |indices| {
            indices.iter().map(|i| values[*i]).sum::<f32>() / indices.len() as f32
        })
    }

    /// A class has no mean: the middle pixel stands for the others.
    pub fn center(&self, size: Size, label: &[u8]) -> Vec<u8> {
        self.map(size, |indices| label[indices[indices.len() / 2]])
    }
}
