//! Scores of the logits behind a network, and the entropy of the logits that clipped features give: cut the
//! features, the classifier's 1x1 convolution once more, and the head's pass over its result.

use half::f16;

use super::map_of;
use super::step::Step;
use crate::density::Gaussians;
use crate::device::launch::conv2d::{ConvTiling, Operands};
use crate::device::{Buffer, Device, Element, Slice, Tensor, grow, launch};
use crate::error::Result;
use crate::ops::{Conv2d, Head, LogitScore};
use crate::score::{Needs, Score};

/// The scores that were asked for in addition to the entropy, which every run has.
#[derive(Default)]
pub struct LogitScores {
    /// Those of the logits.
    plain: Vec<(Score, LogitScore)>,
    /// The limits of the channels, fp16 `[D]`, where the clipped entropy was asked for.
    limits: Option<Buffer>,
    /// A map for each of `plain`, then clipped features, their logits and their map; each as large as the
    /// largest run so far.
    buffers: Vec<Buffer>,
}

/// The network's last convolution on a device.
#[derive(Clone, Copy)]
pub struct Classifier<'a> {
    pub conv: &'a Conv2d,
    pub weight: Slice<'a>,
    pub bias: Slice<'a>,
    /// For its split sums.
    pub partial: Slice<'a>,
    pub tiling: ConvTiling,
    /// Of the device.
    pub multiprocessors: usize,
}

impl LogitScores {
    /// Those of `scores` that are of the logits alone.
    pub fn new(scores: &[Score]) -> Self {
        let of = |score: &Score| Some((*score, score.from_logits()?));
        let plain = scores.iter().filter_map(of).filter(|(score, _)| *score != Score::Entropy);
        LogitScores { plain: plain.collect(), ..LogitScores::default() }
    }

    /// Those of `scores` that are of logits, clipped or not; `padded`: channels of the features in memory.
    ///
    /// # Errors
    /// The device's.
    pub fn with_limits(
        device: &dyn Device,
        gaussians: &Gaussians,
        padded: usize,
        scores: &[Score],
    ) -> Result<Self> {
        let mut new = Self::new(scores);
        if scores.iter().any(|score| score.info().needs == Needs::Limits) {
            let mut limits: Vec<f16> =
                gaussians.limits.iter().map(|limit| f16::from_f32(*limit)).collect();
            limits.resize(padded, f16::INFINITY);
            let buffer = device.alloc(padded * 2)?;
            device.write(buffer.all(), bytemuck::cast_slice(&limits))?;
            new.limits = Some(buffer);
        }
        Ok(new)
    }

    /// Makes the buffers large enough for a batch; `stride`: channels of the logits in memory.
    pub fn prepare(
        &mut self,
        device: &dyn Device,
        batch: usize,
        op: &Head,
        stride: usize,
    ) -> Result<()> {
        let map = batch * op.crop.pixels() * 4;
        let mut needed = vec![map; self.plain.len()];
        if let Some(limits) = &self.limits {
            let cells = batch * op.grid.pixels();
            needed.extend([cells * limits.all().bytes(), cells * stride * 4, map]);
        }
        grow(device, &mut self.buffers, &needed)
    }

    /// Frees the buffers: a batch is to be prepared anew.
    pub fn release(&mut self) {
        self.buffers.clear();
    }

    /// The maps that the head's pass over the network's logits writes in addition to label and entropy.
    pub fn maps(&self) -> impl Iterator<Item = (LogitScore, Slice<'_>)> {
        self.plain.iter().zip(&self.buffers).map(|((_, score), buffer)| (*score, buffer.all()))
    }

    /// The launches of the clipped entropy for a prepared batch, after the network's; none where it was not
    /// asked for.
    pub fn steps<'a>(
        &'a self,
        op: &Head,
        features: Tensor<'a>,
        logits: Tensor<'a>,
        classifier: Classifier<'a>,
    ) -> Result<Vec<Step<'a>>> {
        let Some(limits) = &self.limits else { return Ok(Vec::new()) };
        let [clipped, clipped_logits, map] =
            [0, 1, 2].map(|i| self.buffers[self.plain.len() + i].all());
        let (batch, size, channels) = (features.batch, features.size, features.channels);
        let pixels = features.pixels();
        let to = |slice: Slice<'a>, element: Element, stride: usize| {
            let slice = slice.part(0, pixels * stride * element.bytes())?;
            Tensor::new(slice, element, batch, size, stride, 0, stride)
        };
        let x = to(clipped, Element::F16, channels)?;
        let y = to(clipped_logits, Element::F32, logits.stride)?;
        let Classifier { conv, weight, bias, partial, tiling, multiprocessors } = classifier;
        let (residual, relu, partial) = (None, false, Some(partial));
        let operands = Operands { x, weight, bias, residual, relu, y, partial, multiprocessors };
        let entropy = [(LogitScore::EntropyT2, map)];
        Ok(vec![
            Step { name: "clip", launches: vec![launch::clip(features, limits.all(), x)?] },
            Step { name: "clipped logits", launches: launch::conv2d(conv, operands, tiling)? },
            Step {
                name: "clipped entropy",
                launches: vec![launch::logit_scores(op, y, None, &entropy)?],
            },
        ])
    }

    /// After a run: where one image's map of a score lies, None where it was not asked for.
    pub fn map(&self, op: &Head, image: usize, score: Score) -> Result<Option<Slice<'_>>> {
        let at = match score.info().needs {
            Needs::Limits => self.limits.as_ref().map(|_| self.plain.len() + 2),
            _ => self.plain.iter().position(|(s, _)| *s == score),
        };
        let Some(at) = at else { return Ok(None) };
        map_of(&self.buffers[at], op.crop, image).map(Some)
    }
}
