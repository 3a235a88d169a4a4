//! Moments that stay on a device: features and labels are folded in batch by batch, and are read
//! back as [`Moments`] when they are asked for. A fit that continues uploads the moments so far.

use super::density::require_channels;
use crate::density::{Moments, Tally, VOID, WeightSums};
use crate::device::launch::moments::{COUNTS, Roots, Running, Scratch, Shape, moments};
use crate::device::{Buffer, Device, Launch, Slice, Tensor, grow};
use crate::error::Result;

pub struct DeviceMoments {
    classes: usize,
    channels: usize,
    /// Pixels in the moments it started from.
    before: i64,
    count: Buffer,
    /// Of weighted moments.
    weights: Option<Weights>,
    mean: Buffer,
    scatter: Buffer,
    /// For the largest batch so far.
    scratch: Vec<Buffer>,
}

struct Weights {
    /// f64 `[C, 2]`: sums of the weights and of their squares.
    sums: Buffer,
    /// The square root of each pixel's weight, for the largest batch so far.
    roots: Vec<Buffer>,
}

impl Weights {
    fn new(device: &dyn Device, of: &WeightSums) -> Result<Self> {
        let sums: Vec<f64> = of.sum.iter().zip(&of.squares).flat_map(|(w, v)| [*w, *v]).collect();
        let weights = Weights { sums: device.alloc(sums.len() * 8)?, roots: Vec::new() };
        device.write(weights.sums.all(), bytemuck::cast_slice(&sums))?;
        Ok(weights)
    }
}

impl DeviceMoments {
    /// Starts from `moments`; weighted ones stay weighted.
    ///
    /// # Errors
    /// Channels that are no multiple of 16 or more than 512.
    pub fn new(device: &dyn Device, moments: &Moments) -> Result<Self> {
        let (classes, channels) = (moments.classes(), moments.channels());
        require_channels("moments", channels)?;
        let mut count = moments.count().to_vec();
        count.resize(COUNTS, 0);
        let mean: Vec<f64> = (0..classes).flat_map(|c| moments.mean(c)).copied().collect();
        let new = DeviceMoments {
            classes,
            channels,
            before: moments.count().iter().sum(),
            count: device.alloc(count.len() * 8)?,
            weights: moments.weights().map(|sums| Weights::new(device, sums)).transpose()?,
            mean: device.alloc(mean.len() * 8)?,
            scatter: device.alloc(classes * channels * channels * 8)?,
            scratch: Vec::new(),
        };
        device.write(new.count.all(), bytemuck::cast_slice(&count))?;
        device.write(new.mean.all(), bytemuck::cast_slice(&mean))?;
        let square = channels * channels * 8;
        for class in 0..classes {
            let to = new.scatter.slice(class * square, square)?;
            device.write(to, bytemuck::cast_slice(moments.scatter(class)))?;
        }
        Ok(new)
    }

    /// Folds in the images of `features` (fp16), in order; `labels` u8 per pixel. `logits` (f32) weigh the pixels of
    /// weighted moments ([`crate::density::weight_roots`]); others have none.
    pub fn add(
        &mut self,
        device: &dyn Device,
        features: Tensor,
        labels: Slice,
        logits: Option<Tensor>,
    ) -> Result<()> {
        device.run(&self.launches(device, features, labels, logits)?)
    }

    fn shape(&self, batch: usize, cells: usize) -> Shape {
        Shape { batch, cells, channels: self.channels, classes: self.classes }
    }

    /// Makes the scratch large enough for images of so many cells.
    pub(crate) fn prepare(
        &mut self,
        device: &dyn Device,
        batch: usize,
        cells: usize,
    ) -> Result<()> {
        let needed = self.shape(batch, cells).scratch_bytes();
        grow(device, &mut self.scratch, &needed)?;
        match &mut self.weights {
            Some(weights) => grow(device, &mut weights.roots, &[batch * cells * 4]),
            None => Ok(()),
        }
    }

    /// Frees the scratch.
    pub(crate) fn release(&mut self) {
        self.scratch.clear();
        self.weights.iter_mut().for_each(|weights| weights.roots.clear());
    }

    /// What [`Self::add`] launches.
    pub(crate) fn launches<'a>(
        &'a mut self,
        device: &dyn Device,
        features: Tensor<'a>,
        labels: Slice<'a>,
        logits: Option<Tensor<'a>>,
    ) -> Result<Vec<Launch<'a>>> {
        let (batch, cells) = (features.batch, features.size.pixels());
        self.prepare(device, batch, cells)?;
        let shape = self.shape(batch, cells);
        let scratch: Scratch = std::array::from_fn(|i| self.scratch[i].all());
        let (count, mean, scatter) = (self.count.all(), self.mean.all(), self.scatter.all());
        let weights = self.weights.as_ref().map(|weights| weights.sums.all());
        let running = Running { count, weights, mean, scatter };
        let roots = self.weights.as_ref().map(|weights| weights.roots[0].all());
        let weighting = logits.zip(roots).map(|(logits, roots)| Roots { logits, roots });
        moments(shape, features, labels, weighting, scratch, running)
    }

    /// The moments so far, and what became of the pixels folded in here; of weighted ones the tally knows nothing of
    /// those that weigh nothing.
    pub fn read(&self, device: &dyn Device) -> Result<(Moments, Tally)> {
        let count: Vec<i64> = read(device, &self.count)?;
        let of_label = |label: usize| (label as u8, count[label] as u64);
        let tally = Tally {
            fitted: (count[..self.classes].iter().sum::<i64>() - self.before) as u64,
            void: count[usize::from(VOID)] as u64,
            unknown: (self.classes..usize::from(VOID))
                .map(of_label)
                .filter(|(_, pixels)| *pixels > 0)
                .collect(),
            non_finite: count[COUNTS - 1] as u64,
        };
        let count = count[..self.classes].to_vec();
        let (mean, scatter) = (read(device, &self.mean)?, read(device, &self.scatter)?);
        let moments = match &self.weights {
            None => Moments::from_parts("device", count, mean, scatter)?,
            Some(weights) => {
                let sums: Vec<f64> = read(device, &weights.sums)?;
                let every = |first| sums.iter().skip(first).step_by(2).copied().collect();
                let sums = WeightSums { sum: every(0), squares: every(1) };
                Moments::from_weighted_parts("device", count, sums, mean, scatter)?
            }
        };
        Ok((moments, tally))
    }
}

fn read<T: bytemuck::Pod>(device: &dyn Device, buffer: &Buffer) -> Result<Vec<T>> {
    let mut values = vec![T::zeroed(); buffer.all().bytes() / size_of::<T>()];
    device.read(buffer.all(), bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}
