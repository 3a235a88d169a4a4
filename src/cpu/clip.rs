//! Logits of clipped features: l = W z' + b with z'_k = min(z_k, limit_k), W and b the network's classifier.

use rayon::prelude::*;

use super::conv::Direct;
use super::tensor::{Input, Output};
use crate::ops::Size;
use crate::plan::ConvWeights;

pub struct ClippedClassifier {
    /// `[D]`
    limits: Vec<f32>,
    /// D, padded as in memory.
    padded: usize,
    classes: usize,
    classifier: Direct,
}

impl ClippedClassifier {
    pub fn new(limits: Vec<f32>, classifier: &ConvWeights) -> Self {
        let (padded, classes) = (classifier.conv.in_channels, classifier.conv.out_channels);
        ClippedClassifier { limits, padded, classes, classifier: Direct::new(classifier) }
    }

    /// `features` are `[grid.h, grid.w, D]` of one image; the logits are `[grid.h, grid.w, C]`. A feature that
    /// is not finite stays what it is, so that its pixel's logits are not finite either.
    pub fn logits(&self, features: &[f32], grid: Size) -> Vec<f32> {
        let mut clipped = vec![0.0; grid.pixels() * self.padded];
        let cells = features.par_chunks(self.limits.len()).zip(clipped.par_chunks_mut(self.padded));
        cells.with_min_len(64).for_each(|(z, clipped)| {
            for ((out, z), limit) in clipped.iter_mut().zip(z).zip(&self.limits) {
                *out = if *z > *limit && z.is_finite() { *limit } else { *z };
            }
        });
        let mut logits = vec![0.0; grid.pixels() * self.classes];
        let x = Input::contiguous(&clipped, 1, grid, self.padded);
        self.classifier.run(x, None, false, Output::contiguous(&mut logits, 1, grid, self.classes));
        logits
    }
}
