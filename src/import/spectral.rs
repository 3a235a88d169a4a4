//! Spectral normalisation, folded into the weight it normalises.
//!
//! `torch.nn.utils.spectral_norm` stores `weight_orig`, `weight_u`, `weight_v`, its successor in
//! `parametrizations` stores `parametrizations.weight.original` and `parametrizations.weight.0._u`,
//! `._v`. In eval mode both compute `W = W_orig / sigma` with `sigma = u^T M v`, M the
//! `[out, in * k * k]` matrix of `W_orig`, u and v the last singular vectors of training (Miyato et
//! al. 2018, arXiv 1802.05957, algorithm 1).

use crate::model::Tensor;

/// The keys after a convolution's own prefix: weight, u, v.
pub const FORMS: [[&str; 3]; 2] = [
    [".weight_orig", ".weight_u", ".weight_v"],
    [
        ".parametrizations.weight.original",
        ".parametrizations.weight.0._u",
        ".parametrizations.weight.0._v",
    ],
];

/// Divides `weight [out, ...]` by its spectral norm; `u [out]` and `v [weight / out]`.
///
/// # Errors
/// What sigma is, where it is no positive finite number.
pub fn fold(weight: &mut Tensor, u: &[f32], v: &[f32]) -> Result<(), String> {
    let product = |a: &[f32], b: &[f32]| -> f64 {
        a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum()
    };
    let rows = weight.data.chunks_exact(v.len().max(1));
    let sigma: f64 = rows.zip(u).map(|(row, u)| f64::from(*u) * product(row, v)).sum();
    if !(sigma.is_finite() && sigma > 0.0) {
        return Err(format!("sigma = {sigma}"));
    }
    for w in &mut weight.data {
        *w = (f64::from(*w) / sigma) as f32;
    }
    Ok(())
}
