//! A density being fitted with what an engine puts out. Where the engine runs on a device, features stay
//! there: masks go up and are sampled there; moments come down when the density is asked for, and of the
//! features those few that the sample takes.

use std::sync::Arc;

use half::f16;

use crate::data::{LabelRule, Mask, label_grid};
use crate::density::{Density, Tally};
use crate::device::launch::{self, LabelGrid};
use crate::device::{Buffer, Device, Tensor, grow};
use crate::engine::{Engine, Output};
use crate::error::Result;
use crate::gpu::moments::DeviceMoments;
use crate::gpu::network::Network;
use crate::plan::Plan;

/// A density that grows, run by run.
pub struct Fit {
    density: Density,
    device: Option<OnDevice>,
}

struct OnDevice {
    device: Arc<dyn Device>,
    moments: DeviceMoments,
    /// Pixels of the density that the fit started from.
    before: Tally,
    /// Images of the last run that are still to be folded in.
    taken: Vec<Taken>,
    /// Masks and the labels of the grid.
    labels: Vec<Buffer>,
    /// Indices of the sample's pixels, their features, their labels.
    sample: Vec<Buffer>,
}

struct Taken {
    /// Its place in the run.
    at: usize,
    image: u64,
    mask: Mask,
}

impl Fit {
    /// Goes on from `density` with what `engine` puts out.
    ///
    /// # Errors
    /// On a device as [`DeviceMoments::new`].
    pub fn new(density: Density, engine: &Engine) -> Result<Self> {
        let on = |device: Arc<dyn Device>| {
            Ok(OnDevice {
                moments: DeviceMoments::new(&*device, &density.moments)?,
                before: density.origin.pixels.clone(),
                taken: Vec::new(),
                labels: Vec::new(),
                sample: Vec::new(),
                device,
            })
        };
        let device = engine.device().map(on).transpose()?;
        Ok(Fit { density, device })
    }

    /// Takes image `at` of a run in: its content's hash and its mask in the model's classes. False, and
    /// nothing done, if an image of this content is already in. [`Self::fold`] is to follow before the
    /// engine's next run.
    ///
    /// # Panics
    /// If it did not.
    pub fn add(&mut self, output: &Output, at: usize, image: u64, mask: Mask) -> Result<bool> {
        let Some(device) = &mut self.device else {
            let rule = self.density.origin.label_rule;
            let labels = label_grid(&mask, output.size, output.padded, output.grid, rule);
            return Ok(self.density.add(image, &output.features(at)?, &labels));
        };
        let new = self.density.claim(image);
        if new {
            let last = device.taken.last();
            assert!(last.is_none_or(|last| last.at < at), "the last run was not folded");
            device.taken.push(Taken { at, image, mask });
        }
        Ok(new)
    }

    /// Folds in what [`Self::add`] took of this run: whatever the batch, the moments are the same.
    ///
    /// # Errors
    /// The device's; the fit cannot go on then.
    pub fn fold(&mut self, output: &Output) -> Result<()> {
        match (&mut self.device, output.on_device()) {
            (Some(device), Some((network, plan))) => device.fold(&mut self.density, network, plan),
            _ => Ok(()),
        }
    }

    /// The density so far.
    ///
    /// # Panics
    /// If something was added and not folded.
    pub fn density(&mut self) -> Result<&Density> {
        if let Some(device) = &mut self.device {
            assert!(device.taken.is_empty(), "the last run was not folded");
            let (moments, tally) = device.moments.read(&*device.device)?;
            self.density.moments = moments;
            self.density.origin.pixels = device.before.clone();
            self.density.origin.pixels += tally;
        }
        Ok(&self.density)
    }
}

impl OnDevice {
    fn fold(&mut self, density: &mut Density, network: &Network, plan: &Plan) -> Result<()> {
        let taken = std::mem::take(&mut self.taken);
        let all = network.features(plan)?;
        let align_corners = density.origin.label_rule == LabelRule::AlignCorners;
        // `--resize` may have made pictures equal whose masks are not.
        for run in taken.chunk_by(|a, b| a.at + 1 == b.at && a.mask.size == b.mask.size) {
            let features = all.images(run[0].at..run[0].at + run.len())?;
            let op = LabelGrid {
                batch: run.len(),
                mask: run[0].mask.size,
                image: plan.image,
                padded: plan.padded,
                grid: plan.grid(),
                align_corners,
            };
            let bytes = op.mask.pixels();
            grow(&*self.device, &mut self.labels, &[run.len() * bytes, features.pixels()])?;
            for (i, taken) in run.iter().enumerate() {
                self.device.write(self.labels[0].slice(i * bytes, bytes)?, &taken.mask.label)?;
            }
            let launch = launch::label_grid(&op, self.labels[0].all(), self.labels[1].all())?;
            self.device.launch(&launch)?;
            // First what is waited for: the moments may then run beside the next pictures' decoding.
            for (i, taken) in run.iter().enumerate() {
                self.sample(density, features, i, taken.image)?;
            }
            self.moments.add(&*self.device, features, self.labels[1].all())?;
        }
        Ok(())
    }

    /// Offers the features of image `i` of `features` to the sample.
    fn sample(
        &mut self,
        density: &mut Density,
        features: Tensor,
        i: usize,
        image: u64,
    ) -> Result<()> {
        let cells = features.size.pixels();
        let candidates = density.sample.candidates(image, cells).into_iter();
        let (hashes, rows): (Vec<u64>, Vec<i32>) =
            candidates.map(|(hash, cell)| (hash, (i * cells + cell) as i32)).unzip();
        let (count, channels) = (rows.len(), features.channels);
        if count == 0 {
            return Ok(());
        }
        let device = &*self.device;
        grow(device, &mut self.sample, &[count * 4, count * channels * 2, count])?;
        let indices = self.sample[0].slice(0, count * 4)?;
        let values = self.sample[1].slice(0, count * channels * 2)?;
        let picked = self.sample[2].slice(0, count)?;
        device.write(indices, bytemuck::cast_slice(&rows))?;
        let labels = self.labels[1].all();
        device.launch(&launch::gather(features, labels, indices, count, values, picked)?)?;
        let (mut rows, mut labels) = (vec![f16::ZERO; count * channels], vec![0u8; count]);
        device.read(values, bytemuck::cast_slice_mut(&mut rows))?;
        device.read(picked, &mut labels)?;
        let classes = density.moments.classes();
        density.sample.take(&hashes, &rows, |i| usize::from(labels[i]) < classes);
        Ok(())
    }
}
