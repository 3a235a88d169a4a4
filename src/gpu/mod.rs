//! A network, its density and the moments of a fit on a device with separate memory: what `cpu/` is for
//! the reference path. Only typed launches of `device/` run here.

pub mod density;
pub mod density_scores;
pub mod logit_scores;
pub mod mixture;
pub mod moments;
pub mod network;
pub mod step;
