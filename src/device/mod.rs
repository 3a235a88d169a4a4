//! Where plans run, and what this machine offers. All `unsafe` of the crate lives beneath this
//! module.

pub mod gpus;
pub mod host;
