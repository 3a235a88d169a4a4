//! Interleaved 8-bit RGB to the network's normalised f32 input: `(v / 255 - mean) / std`, with
//! zeros (the mean colour) at the bottom and right where the network needs a larger size.

use rayon::prelude::*;

use super::element::Element;
use super::tensor::Output;
use crate::ops::Size;

/// `images` are RGB8, row-major, of one size.
pub fn preprocess<O: Element>(
    images: &[&[u8]],
    size: Size,
    mean: [f32; 3],
    std: [f32; 3],
    y: Output<O>,
) {
    let table: [[O; 256]; 3] = std::array::from_fn(|c| {
        std::array::from_fn(|v| O::from_f32((v as f32 / 255.0 - mean[c]) / std[c]))
    });
    let padded = y.shape.size;
    y.buffer.par_chunks_mut(padded.w * 3).enumerate().for_each(|(row, out)| {
        let (image, row) = (row / padded.h, row % padded.h);
        let filled = if row < size.h { size.w } else { 0 };
        let (pixels, padding) = out.split_at_mut(filled * 3);
        if filled > 0 {
            let source = images[image][row * size.w * 3..][..size.w * 3].chunks_exact(3);
            for (out, rgb) in pixels.chunks_exact_mut(3).zip(source) {
                for c in 0..3 {
                    out[c] = table[c][usize::from(rgb[c])];
                }
            }
        }
        padding.fill(O::zeroed());
    });
}
