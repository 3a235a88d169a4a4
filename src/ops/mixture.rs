//! The mean of N predicted distributions p^(n) of one image: the passes of MC Dropout (Gal and Ghahramani 2016,
//! arXiv 1506.02142) or the members of an ensemble (Lakshminarayanan et al. 2017, arXiv 1612.01474). Per pixel, in nats:
//!
//! ```text
//! p_c = 1/N sum_n p^(n)_c            the prediction: class arg max_c p_c, confidence max_c p_c
//! PE  = H(p)                         predictive entropy: the whole uncertainty
//! MI  = H(p) - 1/N sum_n H(p^(n))    mutual information: the part that the networks disagree on
//! ```
//!
//! with H(p) = -sum_c p_c ln p_c (the decomposition of Depeweg et al. 2018, arXiv 1710.07283; Smith and Gal 2018, arXiv
//! 1803.08533). Where a logit of any of the N is not finite, confidence, PE and MI are NaN and the class is 0.

use super::Size;

/// What a mean distribution says, row-major `[H, W]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Mixed {
    pub label: Vec<u8>,
    pub confidence: Vec<f32>,
    /// PE
    pub entropy: Vec<f32>,
    /// MI
    pub mutual_information: Vec<f32>,
}

impl Mixed {
    pub(crate) fn new(size: Size) -> Self {
        let map = || vec![0.0; size.pixels()];
        let label = vec![0; size.pixels()];
        Mixed { label, confidence: map(), entropy: map(), mutual_information: map() }
    }
}

/// Sums that an image needs on a device, in f32: of p_c for each class, and of the entropies, at the image's size.
pub(crate) fn sums_len(classes: usize, size: Size) -> usize {
    (classes + 1) * size.pixels()
}
