//! A density being fitted with what an engine puts out. Where the engine runs on a device, features stay
//! there: labels go up; moments come down when the density is asked for, and of the features those few
//! that the sample takes.
//!
//! Labels are sampled on the host, from masks that it has read anyway: the sample chooses by label and
//! hash there, and a grid of labels is a sixteenth of a mask.

use std::sync::Arc;

use half::f16;

use super::{Density, Tally};
use crate::device::moments::DeviceMoments;
use crate::device::network::Network;
use crate::device::{Buffer, Device, Tensor, grow, launch};
use crate::engine::{Engine, Output};
use crate::error::Result;
use crate::plan::Plan;

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
    /// Labels, indices of the sample's rows, those rows.
    memory: Vec<Buffer>,
}

struct Taken {
    /// Its place in the run.
    at: usize,
    image: u64,
    labels: Vec<u8>,
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
                memory: Vec::new(),
                device,
            })
        };
        let device = engine.device().map(on).transpose()?;
        Ok(Fit { density, device })
    }

    /// Takes image `at` of a run in: its content's hash and the labels `[cells]` of its grid. False, and
    /// nothing done, if an image of this content is already in. [`Self::fold`] is to follow before the
    /// engine's next run.
    ///
    /// # Panics
    /// If it did not, or if the number of labels is another.
    pub fn add(&mut self, output: &Output, at: usize, image: u64, labels: Vec<u8>) -> Result<bool> {
        assert_eq!(labels.len(), output.grid.pixels(), "a label a cell");
        let Some(device) = &mut self.device else {
            return Ok(self.density.add(image, &output.features(at)?, &labels));
        };
        let new = self.density.claim(image);
        if new {
            let last = device.taken.last();
            assert!(last.is_none_or(|last| last.at < at), "the last run was not folded");
            device.taken.push(Taken { at, image, labels });
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
        for run in taken.chunk_by(|a, b| a.at + 1 == b.at) {
            let features = all.images(run[0].at..run[0].at + run.len())?;
            // First what is waited for: the moments may then run beside the next images.
            for (i, taken) in run.iter().enumerate() {
                self.sample(density, features.images(i..i + 1)?, taken)?;
            }
            let labels: Vec<u8> = run.iter().flat_map(|taken| &taken.labels).copied().collect();
            grow(&*self.device, &mut self.memory, &[labels.len(), 0, 0])?;
            let up = self.memory[0].slice(0, labels.len())?;
            self.device.write(up, &labels)?;
            self.moments.add(&*self.device, features, up)?;
        }
        Ok(())
    }

    /// Offers an image's features to the sample.
    fn sample(&mut self, density: &mut Density, features: Tensor, taken: &Taken) -> Result<()> {
        let classes = density.moments.classes();
        let candidates = density.sample.candidates(taken.image, &taken.labels, classes);
        if candidates.is_empty() {
            return Ok(());
        }
        let (hashes, cells): (Vec<u64>, Vec<i32>) =
            candidates.into_iter().map(|(hash, cell)| (hash, cell as i32)).unzip();
        let values = cells.len() * features.channels;
        grow(&*self.device, &mut self.memory, &[0, cells.len() * 4, values * 2])?;
        let indices = self.memory[1].slice(0, cells.len() * 4)?;
        let rows = self.memory[2].slice(0, values * 2)?;
        self.device.write(indices, bytemuck::cast_slice(&cells))?;
        self.device.launch(&launch::gather(features, indices, cells.len(), rows)?)?;
        let mut values = vec![f16::ZERO; values];
        self.device.read(rows, bytemuck::cast_slice_mut(&mut values))?;
        density.sample.take(&hashes, &values);
        Ok(())
    }
}
