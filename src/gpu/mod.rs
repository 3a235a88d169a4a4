//! A network, its density and the moments of a fit on a device with separate memory: what `cpu/` is for
//! the reference path. Only typed launches of `device/` run here.

pub mod density;
pub mod density_scores;
pub mod evaluator;
pub mod logit_scores;
pub mod mixture;
pub mod moments;
pub mod network;
pub mod step;
mod weights;

use crate::device::{Buffer, Device, Slice};
use crate::error::Result;
use crate::ops::Size;

/// One image's map of a batch of f32 maps.
fn map_of(maps: &Buffer, size: Size, image: usize) -> Result<Slice<'_>> {
    let bytes = size.pixels() * 4;
    maps.slice(image * bytes, bytes)
}

/// Its values, after a run.
fn read_map(device: &dyn Device, map: Slice) -> Result<Vec<f32>> {
    let mut values = vec![0f32; map.bytes() / 4];
    device.read(map, bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}
