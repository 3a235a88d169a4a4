//! Every op against a plain f64 loop, on random, non-square, odd and tail-heavy shapes.
//!
//! Outputs are poisoned before a run: an element that is not written, or one outside the channel
//! slice that is, shows. One file per op; its cases and the reason for its tolerance stand in it. Ops without weights:
//! `tests/kernels/ops`, beside their kernels' cases.

mod bands;
mod bf16;
mod common;
mod conv2d;
mod dropout;
mod head;
#[path = "../common/logits.rs"]
mod logits;
#[path = "../common/models.rs"]
mod models;
mod plan;
mod preprocess;
