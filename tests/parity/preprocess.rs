//! Normalisation and padding. Tolerance: the division by 255, the subtraction and the division by
//! std round once each, on values of at most (1 + mean) / std.

use ddu::cpu::preprocess::preprocess;
use ddu::model::config::{IMAGENET_MEAN, IMAGENET_STD};
use ddu::ops::Size;

use crate::common::{Rng, Tensor, U};

#[test]
fn images_are_normalised_and_padded() {
    for (seed, (h, w, ph, pw)) in
        [(5, 7, 16, 16), (16, 16, 16, 16), (1, 33, 16, 48), (360, 480, 368, 480)].iter().enumerate()
    {
        let (size, padded) = (Size::new(*h, *w), Size::new(*ph, *pw));
        let mut rng = Rng(seed as u64);
        let images: Vec<Vec<u8>> =
            (0..2).map(|_| (0..h * w * 3).map(|_| rng.next() as u8).collect()).collect();
        let pixels: Vec<&[u8]> = images.iter().map(Vec::as_slice).collect();
        let mut y = Tensor::poisoned(2, padded, 3, 0);
        preprocess(&pixels, size, IMAGENET_MEAN, IMAGENET_STD, y.output());
        y.check("preprocess", |image, row, column, c| {
            if row >= *h || column >= *w {
                return (0.0, 0.0);
            }
            let v = f64::from(images[image][(row * w + column) * 3 + c]);
            let (mean, std) = (f64::from(IMAGENET_MEAN[c]), f64::from(IMAGENET_STD[c]));
            ((v / 255.0 - mean) / std, 3.0 * U * (1.0 + mean) / std)
        });
    }
}
