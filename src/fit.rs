//! Fitting a density to the features of an engine. On a device the features stay there: masks are uploaded and
//! sampled there; only the moments, when the density is asked for, and the few features that the sample takes
//! are read back.

use std::sync::Arc;

use half::f16;

use crate::data::{Mask, label_grid};
use crate::density::{Density, Tally};
use crate::device::launch::{self, LabelGrid};
use crate::device::{Buffer, Device, Tensor, grow};
use crate::engine::{Beside, Engine, Output};
use crate::error::{Error, Result};
use crate::gpu::moments::DeviceMoments;
use crate::gpu::network::Network;
use crate::plan::Plan;

/// A density that is being fitted, run by run.
pub struct Fit {
    density: Density,
    device: Option<OnDevice>,
}

/// The labels of an image of a run.
#[derive(Clone, Copy, Debug)]
pub struct Annotation<'a> {
    /// Of the image's content: an image is fitted once.
    pub hash: u64,
    /// In the model's classes, of the image's size before any `--resize`.
    pub mask: &'a Mask,
}

struct OnDevice {
    device: Arc<dyn Device>,
    moments: DeviceMoments,
    /// Those of a density that has them.
    weighted: Option<DeviceMoments>,
    /// Pixels of the density that the fit started from.
    before: Tally,
    /// Masks and the labels of the grid.
    labels: Vec<Buffer>,
    /// Indices of the sample's pixels, their features, their labels.
    sample: Vec<Buffer>,
}

impl Beside for Fit {
    fn prepare(&mut self, plan: &Plan) -> Result<()> {
        self.device.as_mut().map_or(Ok(()), |device| device.prepare(plan))
    }

    fn release(&mut self) {
        self.device.iter_mut().for_each(OnDevice::release);
    }
}

impl Fit {
    /// Continues `density` with the features of `engine`.
    ///
    /// # Errors
    /// On a device as [`DeviceMoments::new`].
    pub fn new(density: Density, engine: &Engine) -> Result<Self> {
        let on = |device: Arc<dyn Device>| {
            Ok(OnDevice {
                moments: DeviceMoments::new(&*device, &density.moments)?,
                weighted: density
                    .weighted
                    .as_ref()
                    .map(|weighted| DeviceMoments::new(&*device, weighted))
                    .transpose()?,
                before: density.origin.pixels.clone(),
                labels: Vec::new(),
                sample: Vec::new(),
                device,
            })
        };
        let device = engine.device().map(on).transpose()?;
        Ok(Fit { density, device })
    }

    /// Adds a run: an annotation for each of its images, in order; None skips an image. Returns for each
    /// image whether it was added: one whose content was added before changes nothing. Images are folded
    /// in one after another, so the moments do not depend on how they are spread over runs and calls.
    ///
    /// # Errors
    /// Annotations that are not as many as the images, a run of another engine than the fit was made
    /// for; the device's, after which the fit cannot go on.
    pub fn add(
        &mut self,
        output: &Output,
        annotations: &[Option<Annotation>],
    ) -> Result<Vec<bool>> {
        if annotations.len() != output.batch() {
            let expected = format!("{} annotations, one for each image", output.batch());
            return Err(Error::invalid("fit", expected, annotations.len()));
        }
        let new = self.fold(output, annotations)?;
        if new.contains(&true) {
            self.density.saw(output.size);
        }
        Ok(new)
    }

    fn fold(&mut self, output: &Output, annotations: &[Option<Annotation>]) -> Result<Vec<bool>> {
        match (&mut self.device, output.on_device()) {
            (Some(device), Some((network, plan))) => {
                let mut claim = |a: &Annotation| self.density.claim(a.hash);
                let new: Vec<Option<Annotation>> =
                    annotations.iter().map(|a| a.filter(&mut claim)).collect();
                device.add(&mut self.density, network, plan, &new)?;
                Ok(new.iter().map(Option::is_some).collect())
            }
            (None, None) => {
                let rule = self.density.origin.label_rule;
                let add = |(at, annotation): (usize, &Option<Annotation>)| {
                    let Some(Annotation { hash, mask }) = annotation else { return Ok(false) };
                    let labels = label_grid(mask, output.size, output.padded, output.grid, rule);
                    let features = output.features(at)?;
                    Ok(match self.density.weighted {
                        None => self.density.add(*hash, &features, &labels),
                        Some(_) => {
                            let logits = output.logits(at)?;
                            self.density.add_weighted(*hash, &features, &logits, &labels)
                        }
                    })
                };
                annotations.iter().enumerate().map(add).collect()
            }
            _ => {
                let found = "one of an engine on another device";
                Err(Error::invalid("fit", "a run of the engine that it was made for", found))
            }
        }
    }

    /// Pixels so far whose features are not finite; where [`Self::counts_later`], as of the last
    /// [`Self::density`].
    pub fn non_finite(&self) -> u64 {
        self.density.origin.pixels.non_finite
    }

    /// Whether the counts lie on a device until [`Self::density`] reads them.
    pub fn counts_later(&self) -> bool {
        self.device.is_some()
    }

    /// The density so far.
    ///
    /// # Errors
    /// The device's.
    pub fn density(&mut self) -> Result<&Density> {
        if let Some(device) = &mut self.device {
            let (moments, tally) = device.moments.read(&*device.device)?;
            self.density.moments = moments;
            if let Some(weighted) = &device.weighted {
                self.density.weighted = Some(weighted.read(&*device.device)?.0);
            }
            self.density.origin.pixels = device.before.clone();
            self.density.origin.pixels += tally;
        }
        Ok(&self.density)
    }
}

impl OnDevice {
    /// Makes all buffers large enough for a run whose masks are as large as its images.
    fn prepare(&mut self, plan: &Plan) -> Result<()> {
        let (device, batch, cells) = (&*self.device, plan.batch, plan.grid().pixels());
        grow(device, &mut self.labels, &[batch * plan.image.pixels(), batch * cells])?;
        // The sample takes an image after another, all cells at most.
        grow(device, &mut self.sample, &[cells * 4, cells * plan.features.channels * 2, cells])?;
        self.moments.prepare(device, batch, cells).and_then(|()| {
            self.weighted.iter_mut().try_for_each(|w| w.prepare(device, batch, cells))
        })
    }

    fn release(&mut self) {
        self.labels.clear();
        self.sample.clear();
        self.moments.release();
        self.weighted.iter_mut().for_each(DeviceMoments::release);
    }

    /// Folds in the images that have an annotation.
    fn add(
        &mut self,
        density: &mut Density,
        network: &Network,
        plan: &Plan,
        annotations: &[Option<Annotation>],
    ) -> Result<()> {
        let (all, logits) = (network.features(plan)?, network.logits(plan)?);
        let mask_size = |a: &Option<Annotation>| a.map(|a| a.mask.size);
        let mut first = 0;
        // A launch takes consecutive images with masks of one size: `--resize` may have made pictures equal
        // whose masks are not.
        for run in annotations.chunk_by(|a, b| mask_size(a) == mask_size(b)) {
            let images = first..first + run.len();
            first = images.end;
            let run: Vec<Annotation> = run.iter().flatten().copied().collect();
            let Some(mask) = run.first().map(|a| a.mask.size) else { continue };
            let (features, logits) = (all.images(images.clone())?, logits.images(images)?);
            let op = LabelGrid {
                batch: run.len(),
                mask,
                image: plan.image,
                padded: plan.padded,
                grid: plan.grid(),
                rule: density.origin.label_rule,
            };
            let bytes = op.mask.pixels();
            grow(&*self.device, &mut self.labels, &[run.len() * bytes, features.pixels()])?;
            for (i, annotation) in run.iter().enumerate() {
                let to = self.labels[0].slice(i * bytes, bytes)?;
                self.device.write(to, &annotation.mask.label)?;
            }
            let launch = launch::label_grid(&op, self.labels[0].all(), self.labels[1].all())?;
            self.device.launch(&launch)?;
            // The sample waits for the device; the moments come after it, so that they may run while the
            // next pictures are decoded.
            for (i, annotation) in run.iter().enumerate() {
                self.sample(density, features, i, annotation.hash)?;
            }
            let labels = self.labels[1].all();
            self.moments.add(&*self.device, features, labels, None)?;
            if let Some(weighted) = &mut self.weighted {
                weighted.add(&*self.device, features, labels, Some(logits))?;
            }
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
