//! What goes to a network on a device, and what comes back: pictures, activations, maps.

use half::f16;

use super::{Network, Pictures};
use crate::device::{Element, Slice, Tensor};
use crate::error::Result;
use crate::gpu::{map_of, read_map};
use crate::plan::{Plan, View};
use crate::score::{Needs, Score};

impl Network {
    /// Uploads pictures of the plan's size, interleaved RGB, or copies those that lie on the device.
    pub fn write_pictures(&self, plan: &Plan, pictures: Pictures) -> Result<()> {
        let bytes = plan.image.pixels() * 3;
        let place = |i: usize| self.buffers().pictures.slice(i * bytes, bytes);
        let mut each = 0..plan.batch;
        match pictures {
            Pictures::Host(images) => {
                each.try_for_each(|i| self.device.write(place(i)?, &images[i].rgb))
            }
            Pictures::Device { images, .. } => {
                each.try_for_each(|i| self.device.copy(place(i)?, images[i]))
            }
        }
    }

    /// The whole buffer of a view, as the plan has it (`[batch, h, w, channels]` without the
    /// channels that pad it on a device), in f32.
    pub fn read(&self, plan: &Plan, view: View) -> Result<Vec<f32>> {
        let (slice, element, stride) = self.place(plan, view)?;
        self.values(slice, element, stride, plan.buffer(view).channels)
    }

    /// As [`Self::read`], of one image.
    pub fn read_image(&self, plan: &Plan, view: View, image: usize) -> Result<Vec<f32>> {
        let (slice, element, stride) = self.place(plan, view)?;
        let bytes = slice.bytes() / plan.batch;
        self.values(slice.part(image * bytes, bytes)?, element, stride, plan.buffer(view).channels)
    }

    fn values(
        &self,
        slice: Slice,
        element: Element,
        stride: usize,
        channels: usize,
    ) -> Result<Vec<f32>> {
        let mut bytes = vec![0u8; slice.bytes()];
        self.device.read(slice, &mut bytes)?;
        let values: Vec<f32> = match element {
            Element::F32 => bytemuck::pod_collect_to_vec(&bytes),
            Element::F16 => {
                let halves: Vec<f16> = bytemuck::pod_collect_to_vec(&bytes);
                halves.into_iter().map(f16::to_f32).collect()
            }
        };
        if channels == stride {
            return Ok(values);
        }
        Ok(values.chunks_exact(stride).flat_map(|pixel| &pixel[..channels]).copied().collect())
    }

    /// Replaces the whole buffer of a view by what [`Self::read`] would give, rounded to the device's
    /// element.
    pub fn write(&self, plan: &Plan, view: View, values: &[f32]) -> Result<()> {
        let (slice, element, stride) = self.place(plan, view)?;
        let channels = plan.buffer(view).channels;
        let mut padded = vec![0f32; slice.bytes() / element.bytes()];
        for (to, from) in padded.chunks_exact_mut(stride).zip(values.chunks_exact(channels)) {
            to[..channels].copy_from_slice(from);
        }
        match element {
            Element::F32 => self.device.write(slice, bytemuck::cast_slice(&padded)),
            Element::F16 => {
                let halves: Vec<f16> = padded.into_iter().map(f16::from_f32).collect();
                self.device.write(slice, bytemuck::cast_slice(&halves))
            }
        }
    }

    /// Where the class of every pixel of one image lies after the head has run.
    pub fn label(&self, plan: &Plan, image: usize) -> Result<Slice<'_>> {
        let pixels = plan.image.pixels();
        self.buffers().label.slice(image * pixels, pixels)
    }

    /// Its values.
    pub fn labels(&self, plan: &Plan, image: usize) -> Result<Vec<u8>> {
        let mut label = vec![0u8; plan.image.pixels()];
        self.device.read(self.label(plan, image)?, &mut label)?;
        Ok(label)
    }

    /// Class and entropy (nats) of every pixel of one image after the head has run.
    pub fn maps(&self, plan: &Plan, image: usize) -> Result<(Vec<u8>, Vec<f32>)> {
        let entropy = map_of(self.buffers().entropy, plan.image, image)?;
        Ok((self.labels(plan, image)?, read_map(&*self.device, entropy)?))
    }

    /// The logits of a prepared plan, after a run.
    pub fn logits(&self, plan: &Plan) -> Result<Tensor<'_>> {
        self.tensor(plan, plan.logits)
    }

    /// The features of a prepared plan, after a run.
    pub fn features(&self, plan: &Plan) -> Result<Tensor<'_>> {
        self.tensor(plan, plan.features)
    }

    /// The values of [`Self::map`].
    pub fn score(
        &self,
        plan: &Plan,
        image: usize,
        score: Score,
    ) -> Result<Option<(Vec<f32>, usize)>> {
        let Some((map, non_finite)) = self.map(plan, image, score)? else { return Ok(None) };
        Ok(Some((read_map(&*self.device, map)?, non_finite)))
    }

    /// Where one image's map lies after a run, and, of a log-density, its cells that are not finite; None where this
    /// score was not asked for.
    pub fn map(
        &self,
        plan: &Plan,
        image: usize,
        score: Score,
    ) -> Result<Option<(Slice<'_>, usize)>> {
        let (op, device) = (plan.head(), &*self.device);
        let scores = match score.info().needs {
            _ if score == Score::Entropy => {
                return Ok(Some((map_of(self.buffers().entropy, plan.image, image)?, 0)));
            }
            Needs::Logits | Needs::Limits => {
                let map = self.logit_scores.map(&op, image, score)?;
                return Ok(map.map(|map| (map, 0)));
            }
            Needs::Density | Needs::Background => &self.density_scores,
            Needs::Weighted => &self.weighted_scores,
            Needs::Passes | Needs::Members => return Ok(None),
        };
        match scores {
            Some(scores) => scores.map(device, &op, image, score),
            None => Ok(None),
        }
    }
}
