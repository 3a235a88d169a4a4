//! Checkpoints in, models out: every file format, every family against PyTorch, and what is refused.

mod baselines;
mod checkpoint;
mod convert;
mod families;
mod formats;
mod generate;
mod hostile;
mod malformed;
mod model_file;
#[path = "../common/models.rs"]
mod models;
