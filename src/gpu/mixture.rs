//! The mean of several predicted distributions on a device: sums that each prediction's logits are added to,
//! and the maps that are made of them ([`crate::ops::mixture`]).

use super::step::Step;
use super::{map_of, read_map};
use crate::device::launch::MixtureMaps;
use crate::device::{Buffer, Device, Tensor, grow, launch};
use crate::error::Result;
use crate::ops::Head;
use crate::ops::mixture::{Mixed, sums_len};

#[derive(Default)]
pub struct Mixture {
    /// Sums, label, confidence, entropy, mutual information; each as large as the largest batch so far.
    buffers: Vec<Buffer>,
}

impl Mixture {
    /// Makes the buffers large enough for a batch.
    pub fn prepare(&mut self, device: &dyn Device, batch: usize, op: &Head) -> Result<()> {
        let pixels = batch * op.crop.pixels();
        let sums = batch * sums_len(op.classes, op.crop) * 4;
        grow(device, &mut self.buffers, &[sums, pixels, pixels * 4, pixels * 4, pixels * 4])
    }

    /// Frees the buffers: a batch is to be prepared anew.
    pub fn release(&mut self) {
        self.buffers.clear();
    }

    /// Adds the logits of a batch; the first prediction of it starts anew.
    pub fn add<'a>(&'a self, op: &Head, logits: Tensor<'a>, first: bool) -> Result<Step<'a>> {
        let launch = launch::mixture_add(op, logits, self.buffers[0].all(), first)?;
        Ok(Step { name: "mixture", launches: vec![launch] })
    }

    /// The maps of the mean of `count` predictions.
    pub fn finish(&self, op: &Head, batch: usize, count: usize) -> Result<Step<'_>> {
        let [sums, label, confidence, entropy, mutual_information] =
            [0, 1, 2, 3, 4].map(|i| self.buffers[i].all());
        let maps = MixtureMaps { label, confidence, entropy, mutual_information };
        let launch = launch::mixture_finish(op, batch, count, sums, maps)?;
        Ok(Step { name: "mixture maps", launches: vec![launch] })
    }

    /// Those of one image, once they have run.
    pub fn read(&self, device: &dyn Device, op: &Head, image: usize) -> Result<Mixed> {
        let pixels = op.crop.pixels();
        let mut label = vec![0; pixels];
        device.read(self.buffers[1].slice(image * pixels, pixels)?, &mut label)?;
        let map = |at: usize| read_map(device, map_of(&self.buffers[at], op.crop, image)?);
        let (confidence, entropy, mutual_information) = (map(2)?, map(3)?, map(4)?);
        Ok(Mixed { label, confidence, entropy, mutual_information })
    }
}
