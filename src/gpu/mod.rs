//! A network, its density and the moments of a fit on a device with separate memory: what `cpu/` is for
//! the reference path. Only typed launches of `device/` run here.

pub mod density;
pub mod density_scores;
pub mod logit_scores;
pub mod mixture;
pub mod moments;
pub mod network;
pub mod step;
mod weights;

use crate::device::{Buffer, Device};
use crate::error::Result;
use crate::ops::Size;

/// One image's map of a batch of f32 maps, after a run.
fn read_map(device: &dyn Device, maps: &Buffer, size: Size, image: usize) -> Result<Vec<f32>> {
    let pixels = size.pixels();
    let mut map = vec![0f32; pixels];
    let from = maps.slice(image * pixels * 4, pixels * 4)?;
    device.read(from, bytemuck::cast_slice_mut(&mut map))?;
    Ok(map)
}
