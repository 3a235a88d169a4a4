//! Deep Deterministic Uncertainty for semantic segmentation (Mukhoti et al. 2021,
//! [arXiv 2111.00079](https://arxiv.org/abs/2111.00079)).
//!
//! A trained DeepLab goes in; per pixel come out the class, the aleatoric uncertainty (softmax entropy) and
//! the epistemic uncertainty (log-density of the pixel's feature under one Gaussian per class), in one forward
//! pass: no ensemble, no sampling, no retraining.
//!
//! # What to call
//! | to | call |
//! |---|---|
//! | read a checkpoint | [`import::import`], once; then [`Model::save`] and [`Model::load`] |
//! | get class and entropy of an image | [`Engine::new`] (CPU) or [`Engine::on`] (a device), [`Engine::run`], then [`maps`](engine::Output::maps) |
//! | fit a density to images and masks | [`fit::Fit`], then [`Density::save`] and [`Density::load`] |
//! | get the density of an image | [`Density::gaussians`], [`Engine::score_with`], then [`score`](engine::Output::score) |
//! | use features of another network | [`density::Moments`], [`Gaussians::new`](density::Gaussians::new), [`density::Evaluator`] |
//! | measure what a score finds | [`eval::Evaluation`], or a part of it: [`eval::Detections`], [`eval::Confusion`] |
//!
//! ```
//! use ddu::data::Image;
//! use ddu::ops::Size;
//! use ddu::{Engine, Model};
//!
//! # fn main() -> ddu::Result<()> {
//! let model = Model::load(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.safetensors"))?;
//! let mut engine = Engine::new(model);
//! // ddu::data::decode reads a file.
//! let image = Image { size: Size::new(48, 64), rgb: vec![128; 48 * 64 * 3] };
//! let maps = engine.run(&[&image])?.maps(0)?;
//! assert_eq!((maps.label.len(), maps.entropy.len()), (48 * 64, 48 * 64));
//! let classes = engine.model().config().classes.len() as f32;
//! assert!(maps.entropy.iter().all(|h| (0.0..=classes.ln()).contains(h)));
//! # Ok(())
//! # }
//! ```
//! `examples/segment.rs` writes maps of a photo to files, `examples/own_features.rs` needs no network at all.
//!
//! # What is computed
//! C classes, D feature channels; z the feature of a pixel (`[D]`), the input of the network's last 1 x 1
//! convolution, rounded to fp16. All maps are row-major `[H, W]`; logarithms are natural, so entropies and
//! log-densities are in nats. Log-densities are computed on the feature grid and upsampled as the logits are.
//!
//! **Head.** With l the logits `[C]`, upsampled bilinearly to the image, and p = softmax(l): class = arg max l (the
//! lowest index of equals), entropy H = -sum_c p_c ln p_c, from 0 to ln C.
//!
//! **Moments.** Over the labelled training pixels of class c: the count n_c, the mean mu_c = sum z / n_c and the
//! scatter S_c = sum (z - mu_c)(z - mu_c)^T, in f64. Those of two sets join as d = mu' - mu,
//! S + S' + d d^T n n' / (n + n') (Chan, Golub and LeVeque 1979), so images and shards can be folded in one by one.
//!
//! **Covariance.** Sigma_c = S_c / (n_c - 1) + eps_c I. The eps rule: eps_c = r tr(Sigma_c) / D with the first r of
//! 0, 1e-8, 1e-7 .. 1e-1, 1 that brings the condition number lambda_max / lambda_min to at most
//! [`density::CONDITION_CAP`]. `Tied` takes sum S_c / sum (n_c - 1) for all classes, `Diagonal` the diagonal.
//! Classes with fewer than two pixels are left out, with a [warning](density::Warning).
//!
//! **Log-density.** log q(z) = ln sum_c pi_c N(z; mu_c, Sigma_c), where
//! ln N(z; mu, Sigma) = -(D ln 2 pi + ln|Sigma| + ||W (z - mu)||^2) / 2, Sigma = L L^T, W = L^-1; pi_c is n_c / sum n
//! or, with a uniform prior, 1. Low = a feature unlike those of the training pixels = epistemic uncertainty.
//! A feature that is not finite gets -inf.
//!
//! **Relative log-density.** log q(z) - ln N(z; mu_0, Sigma_0), with one Gaussian over the pixels of all classes
//! (Ren et al. 2021, [arXiv 2106.09022](https://arxiv.org/abs/2106.09022)).
//!
//! **Scores of the logits.** max_c p_c (Hendrycks and Gimpel 2017); the energy -ln sum_c exp l_c (Liu et al. 2020); the entropy
//! of softmax(l / 2). All on the upsampled logits of a pixel.
//!
//! **Clipped entropy.** z'_k = min(z_k, m_k + s_k), with mean m and standard deviation s of each feature channel over the fitted pixels of
//! all classes (they follow from the moments; m + s is rounded to fp16); l = W z' + b with the network's last convolution,
//! upsampled; the entropy of softmax(l / 2). After ReAct (Sun et al. 2021, [arXiv 2111.12797](https://arxiv.org/abs/2111.12797)),
//! with a limit for each channel.
//!
//! **Weighted density.** As log q(z), from moments in which a pixel weighs w = p_y^32, p_y the network's own probability of its true
//! label: W_c = sum w, V_c = sum w^2, mu_c = sum w z / W_c, Sigma_c = sum w (z - mu_c)(z - mu_c)^T / (W_c - V_c / W_c) + eps_c I,
//! pi_c = W_c / sum W. A fit stores them on request.
//!
//! # Errors
//! Everything that can fail returns [`Error`]: one line that says which file or value, what was expected, what was
//! found and what to do. Nothing panics on a file's content, and files appear whole or not at all.
//!
//! # Features
//! `cuda`: NVIDIA GPUs, whose driver is looked for only when one is asked for. `simt`: the CUDA kernels on the CPU.
//! `pictures`: maps drawn for people. `demo`: drawn scenes and the network trained on them. `cli`: the program.
//! A library needs none: `ddu = { version = "0.1", default-features = false }`.

pub mod baseline;
pub mod compare;
pub mod cpu;
pub mod data;
#[cfg(feature = "demo")]
pub mod demo;
pub mod density;
pub mod device;
pub mod engine;
pub mod error;
pub mod eval;
pub mod fit;
pub mod gpu;
pub mod host;
pub mod import;
pub mod model;
pub mod ops;
pub mod plan;
pub mod profile;
pub mod report;
pub mod score;
mod splitmix64;

pub use density::Density;
pub use device::launch::density::Precision;
pub use engine::{Engine, Maps};
pub use error::{Error, Result};
pub use model::Model;
