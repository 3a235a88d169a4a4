//! A network on a device: weights uploaded once, buffers kept from run to run, a plan turned into
//! launches.
//!
//! Memory on a device differs from the plan: the image has 4 channels (the fourth 0) and the logits,
//! f32, have theirs padded to a multiple of 8; both lie outside the arena, which holds fp16.

mod transfer;

use std::collections::HashMap;
use std::sync::Arc;

use super::density_scores::DensityScores;
use super::logit_scores::{Classifier, LogitScores};
use super::mixture::Mixture;
use super::step::Step;
use super::weights::{ConvKernel, Weights, padded};
use crate::data::Image;
use crate::density::ModelGaussians;
use crate::device::launch::conv2d::{ConvTiling, Operands};
use crate::device::launch::density::Precision;
use crate::device::{Buffer, Device, Element, Slice, Tensor, grow, launch};
use crate::error::{Error, Result};
use crate::ops::mixture::Mixed;
use crate::ops::{Conv2d, LogitScore, Pass, Passes, Size};
use crate::plan::{Folding, Node, Op, Plan, View};
use crate::score::{Needs, Score};

pub struct Network {
    device: Arc<dyn Device>,
    /// In the order in which the network runs them.
    weights: Vec<Weights>,
    /// The last of them.
    classifier: Conv2d,
    mean: [f32; 3],
    std: [f32; 3],
    classes: usize,
    /// Those of [`Buffers`], empty before the first plan.
    buffers: Vec<Buffer>,
    /// How each convolution of the plans so far is divided, by its output's pixels: chosen once.
    tilings: HashMap<(Conv2d, usize), ConvTiling>,
    density_scores: Option<DensityScores>,
    /// Those of the weighted moments' Gaussians.
    weighted_scores: Option<DensityScores>,
    logit_scores: LogitScores,
    mc_dropout: Option<(Passes, Mixture)>,
}

/// The buffers of a run, each as large as the largest plan so far.
struct Buffers<'a> {
    pictures: &'a Buffer,
    image: &'a Buffer,
    arena: &'a Buffer,
    logits: &'a Buffer,
    partial: &'a Buffer,
    label: &'a Buffer,
    entropy: &'a Buffer,
}

/// The images of a run, interleaved RGB of one size.
#[derive(Clone, Copy)]
pub enum Pictures<'a> {
    Host(&'a [&'a Image]),
    /// `[size.h, size.w, 3]` of u8 each.
    Device {
        size: Size,
        images: &'a [Slice<'a>],
    },
}

impl Network {
    /// Uploads the weights, rounded to fp16, and the biases.
    ///
    /// # Errors
    /// A weight that fp16 cannot hold.
    pub fn new(
        device: Arc<dyn Device>,
        folding: &Folding,
        mean: [f32; 3],
        std: [f32; 3],
        classes: usize,
    ) -> Result<Self> {
        let upload = |index| Weights::new(&*device, &folding.conv(index));
        let weights = (0..folding.count()).map(upload).collect::<Result<_>>()?;
        Ok(Network {
            device,
            weights,
            classifier: folding.classifier().conv,
            mean,
            std,
            classes,
            buffers: Vec::new(),
            tilings: HashMap::new(),
            density_scores: None,
            weighted_scores: None,
            logit_scores: LogitScores::default(),
            mc_dropout: None,
        })
    }

    pub fn device(&self) -> &dyn Device {
        &*self.device
    }

    /// The device, for owners that outlive a run.
    pub fn share_device(&self) -> Arc<dyn Device> {
        self.device.clone()
    }

    /// Chooses tilings and makes the buffers large enough for a plan, where an earlier one has not.
    pub fn prepare(&mut self, plan: &Plan) -> Result<()> {
        let device = &*self.device;
        for (conv, pixels) in plan.nodes.iter().filter_map(|node| dense(plan, node)) {
            let choose = || ConvTiling::on(conv, pixels, device);
            self.tilings.entry((*conv, pixels)).or_insert_with(choose);
        }
        let (batch, pixels) = (plan.batch, plan.image.pixels());
        let grid = plan.size(plan.logits).pixels();
        let partial = plan.nodes.iter().map(|node| self.partial_bytes(plan, node)).max();
        let needed = [
            batch * pixels * 3,
            batch * plan.padded.pixels() * 4 * 2,
            plan.arena_len * 2,
            batch * grid * padded(self.classes) * 4,
            partial.unwrap_or(0).max(16),
            batch * pixels,
            batch * pixels * 4,
        ];
        grow(&*self.device, &mut self.buffers, &needed)?;
        let head = plan.head();
        if let Some((_, mixture)) = &mut self.mc_dropout {
            mixture.prepare(&*self.device, batch, &head)?;
        }
        for scores in self.density_scores.iter_mut().chain(&mut self.weighted_scores) {
            scores.prepare(&*self.device, plan.batch, &head)?;
        }
        self.logit_scores.prepare(&*self.device, plan.batch, &head, padded(self.classes))
    }

    /// Frees the buffers: a plan is to be prepared anew.
    pub fn release(&mut self) {
        self.buffers.clear();
        self.mc_dropout.iter_mut().for_each(|(_, mixture)| mixture.release());
        let scores = self.density_scores.iter_mut().chain(&mut self.weighted_scores);
        scores.for_each(DensityScores::release);
        self.logit_scores.release();
    }

    /// From now on every run scores its features, and keeps a map of each of `scores`.
    ///
    /// # Errors
    /// As [`DensityScores::new`].
    pub fn score_with(
        &mut self,
        density: &ModelGaussians,
        scores: &[Score],
        precision: Precision,
    ) -> Result<()> {
        let (device, ours) = (&*self.device, &density.gaussians);
        let padded = self.classifier.in_channels;
        let made = |gaussians, weighted| {
            DensityScores::new(device, gaussians, weighted, scores, precision)
        };
        let asked =
            |needs: &[Needs]| scores.iter().any(|score| needs.contains(&score.info().needs));
        let plain = asked(&[Needs::Density, Needs::Background]).then(|| made(ours, false));
        let weighted = density.weighted.as_ref().filter(|_| asked(&[Needs::Weighted]));
        let (plain, weighted) = (plain.transpose()?, weighted.map(|w| made(w, true)).transpose()?);
        let logits = LogitScores::with_limits(device, ours, padded, scores)?;
        (self.density_scores, self.weighted_scores, self.logit_scores) = (plain, weighted, logits);
        Ok(())
    }

    /// From now on every run keeps a map of those of `scores` that come from the logits.
    pub fn score_logits(&mut self, scores: &[Score]) {
        self.logit_scores = LogitScores::new(scores);
    }

    /// From now on every run, of a plan with dropout, also makes these passes.
    pub fn sample_dropout(&mut self, passes: Passes) {
        self.mc_dropout = Some((passes, Mixture::default()));
    }

    /// The mean of the passes of a run, of one image; None without [`Self::sample_dropout`].
    pub fn mc_dropout(&self, plan: &Plan, image: usize) -> Result<Option<Mixed>> {
        let read = |(_, mixture): &(_, Mixture)| mixture.read(&*self.device, &plan.head(), image);
        self.mc_dropout.as_ref().map(read).transpose()
    }

    pub fn density_scores(&self) -> Option<&DensityScores> {
        self.density_scores.as_ref()
    }

    /// The whole run of a prepared plan, in order: preprocessing, nodes, head, density. The passes of MC Dropout
    /// come before the nodes that they repeat, so that logits and features stay those of the network itself.
    pub fn steps<'a>(&'a self, plan: &'a Plan) -> Result<Vec<Step<'a>>> {
        let mut steps = self.passes(plan)?;
        for node in &plan.nodes[plan.once..] {
            steps.push(self.step(plan, node)?);
        }
        steps.push(self.head(plan)?);
        let (logits, features) = (self.tensor(plan, plan.logits)?, self.features(plan)?);
        let op = plan.head();
        steps.extend(self.logit_scores.steps(&op, features, logits, self.classifier(plan))?);
        for scores in self.density_scores.iter().chain(&self.weighted_scores) {
            steps.extend(scores.steps(&*self.device, &op, logits, features)?);
        }
        Ok(steps)
    }

    /// Its first part: preprocessing, what depends on no dropout, the passes of MC Dropout and their mean.
    pub fn passes<'a>(&'a self, plan: &'a Plan) -> Result<Vec<Step<'a>>> {
        let mut steps = vec![self.preprocess(plan)?];
        let (once, again) = plan.nodes.split_at(plan.once);
        // Launches so far; the last of each node, and of those that split their sums.
        let (mut count, mut last, mut splits) = (1, Vec::new(), None);
        for (node, waits) in once.iter().zip(&plan.waits) {
            let mut step = self.step(plan, node)?;
            let mut waits: Vec<usize> = waits.iter().map(|&node| last[node]).collect();
            if self.partial_bytes(plan, node) > 0 {
                // They share one buffer.
                waits.extend(splits.replace(count + step.launches.len() - 1));
            }
            for (i, launch) in step.launches.iter_mut().enumerate() {
                // Who waits for no node waits for the preprocessing.
                if i > 0 {
                    launch.wait_for([1]);
                } else if !waits.is_empty() {
                    launch.wait_for(waits.iter().map(|launch| count - launch));
                }
            }
            count += step.launches.len();
            last.push(count - 1);
            steps.push(step);
        }
        if let Some((passes, mixture)) = &self.mc_dropout {
            let op = plan.head();
            for pass in passes.iter() {
                for node in again {
                    steps.push(self.step_of(plan, node, Some(pass), None)?);
                }
                steps.push(mixture.add(&op, self.logits(plan)?, pass.index == 0)?);
            }
            steps.push(mixture.finish(&op, plan.batch, passes.count())?);
        }
        Ok(steps)
    }

    pub fn preprocess<'a>(&'a self, plan: &'a Plan) -> Result<Step<'a>> {
        let pictures = self.buffers().pictures.slice(0, plan.batch * plan.image.pixels() * 3)?;
        let y = self.tensor(plan, plan.input)?;
        let launch = launch::preprocess(pictures, plan.image, self.mean, self.std, y)?;
        Ok(Step { name: "preprocess", launches: vec![launch] })
    }

    pub fn head<'a>(&'a self, plan: &'a Plan) -> Result<Step<'a>> {
        let op = plan.head();
        let pixels = plan.batch * plan.image.pixels();
        let label = self.buffers().label.slice(0, pixels)?;
        let entropy = self.buffers().entropy.slice(0, pixels * 4)?;
        let logits = self.tensor(plan, plan.logits)?;
        let mut maps: Vec<_> = self.logit_scores.maps().collect();
        let launch = if maps.is_empty() {
            launch::head(&op, logits, label, entropy)?
        } else {
            maps.push((LogitScore::Entropy, entropy));
            launch::logit_scores(&op, logits, Some(label), &maps)?
        };
        Ok(Step { name: "head", launches: vec![launch] })
    }

    /// A node; a dropout copies.
    pub fn step<'a>(&'a self, plan: &'a Plan, node: &'a Node) -> Result<Step<'a>> {
        self.step_of(plan, node, None, None)
    }

    /// A dense convolution, and how this device divides it; None for every other node.
    pub fn division<'a>(&self, plan: &Plan, node: &'a Node) -> Option<(&'a Conv2d, ConvTiling)> {
        dense(plan, node).map(|(conv, pixels)| (conv, self.tiling(conv, pixels)))
    }

    /// As [`Self::step`], with a dense convolution divided otherwise, its partial sums in the memory given.
    pub fn step_divided<'a>(
        &'a self,
        plan: &'a Plan,
        node: &'a Node,
        division: (ConvTiling, Slice<'a>),
    ) -> Result<Step<'a>> {
        self.step_of(plan, node, None, Some(division))
    }

    /// In a pass of MC Dropout, where a dropout masks, and divided otherwise.
    fn step_of<'a>(
        &'a self,
        plan: &'a Plan,
        node: &'a Node,
        pass: Option<Pass>,
        division: Option<(ConvTiling, Slice<'a>)>,
    ) -> Result<Step<'a>> {
        let (x, y) = (self.tensor(plan, node.input)?, self.tensor(plan, node.output)?);
        let launches = match &node.op {
            Op::Conv { conv, weights, residual, relu } => {
                let Weights { weight, bias } = &self.weights[*weights];
                let (weight, bias) = (weight.all(), bias.all());
                match ConvKernel::of(conv) {
                    ConvKernel::Stem if residual.is_none() => {
                        vec![launch::stem(conv, x, weight, bias, *relu, y)?]
                    }
                    ConvKernel::Depthwise if residual.is_none() => {
                        vec![launch::depthwise(conv, x, weight, bias, *relu, y)?]
                    }
                    ConvKernel::Dense => {
                        let residual = residual.map(|view| self.tensor(plan, view)).transpose()?;
                        let pixels = y.pixels();
                        let chosen = || (self.tiling(conv, pixels), self.buffers().partial.all());
                        let (tiling, partial) = division.unwrap_or_else(chosen);
                        let partial = Some(partial);
                        let (relu, multiprocessors) = (*relu, self.device.multiprocessors());
                        let operands = Operands {
                            x,
                            weight,
                            bias,
                            residual,
                            relu,
                            y,
                            partial,
                            multiprocessors,
                        };
                        launch::conv2d(conv, operands, tiling)?
                    }
                    _ => {
                        let what = format!("node {}", node.name);
                        return Err(Error::invalid(
                            what,
                            "a residual of a dense convolution only",
                            "another",
                        ));
                    }
                }
            }
            Op::Spatial(op) => vec![launch::spatial(op, x, y)?],
            Op::Dropout(op) => vec![launch::dropout(op, pass, x, y)?],
        };
        Ok(Step { name: &node.name, launches })
    }

    /// The network's last convolution, to run it once more.
    fn classifier(&self, plan: &Plan) -> Classifier<'_> {
        let conv = &self.classifier;
        let Weights { weight, bias } = &self.weights[self.weights.len() - 1];
        let pixels = plan.batch * plan.grid().pixels();
        Classifier {
            conv,
            weight: weight.all(),
            bias: bias.all(),
            partial: self.buffers().partial.all(),
            tiling: self.tiling(conv, pixels),
            multiprocessors: self.device.multiprocessors(),
        }
    }

    /// How a dense convolution of a prepared plan is divided on this device.
    ///
    /// # Panics
    /// Where no plan with it was prepared.
    fn tiling(&self, conv: &Conv2d, pixels: usize) -> ConvTiling {
        *self.tilings.get(&(*conv, pixels)).expect("a plan is prepared before it runs")
    }

    fn partial_bytes(&self, plan: &Plan, node: &Node) -> usize {
        dense(plan, node)
            .map_or(0, |(conv, pixels)| self.tiling(conv, pixels).partial_bytes(conv, pixels))
    }

    /// # Panics
    /// As [`Self::tiling`].
    fn buffers(&self) -> Buffers<'_> {
        let [pictures, image, arena, logits, partial, label, entropy] = &self.buffers[..] else {
            panic!("a plan is prepared before it runs");
        };
        Buffers { pictures, image, arena, logits, partial, label, entropy }
    }

    /// The buffer of a view, its element and the channels per pixel in memory.
    fn place(&self, plan: &Plan, view: View) -> Result<(Slice<'_>, Element, usize)> {
        let buffer = plan.buffer(view);
        let pixels = plan.batch * buffer.size.pixels();
        let buffers = self.buffers();
        if view.buffer == plan.input.buffer {
            Ok((buffers.image.slice(0, pixels * 4 * 2)?, Element::F16, 4))
        } else if view.buffer == plan.logits.buffer {
            let stride = padded(buffer.channels);
            Ok((buffers.logits.slice(0, pixels * stride * 4)?, Element::F32, stride))
        } else {
            let slice = buffers.arena.slice(buffer.offset * 2, buffer.len * 2)?;
            Ok((slice, Element::F16, buffer.channels))
        }
    }

    fn tensor(&self, plan: &Plan, view: View) -> Result<Tensor<'_>> {
        let (slice, element, stride) = self.place(plan, view)?;
        // The image and the logits are never sliced: their views have all channels in memory.
        let unsliced = stride != plan.buffer(view).channels;
        let channels = if unsliced { stride } else { view.channels };
        Tensor::new(slice, element, plan.batch, plan.size(view), stride, view.first, channels)
    }
}

/// A dense convolution of a plan, and its output's pixels; None for every other node.
fn dense<'a>(plan: &Plan, node: &'a Node) -> Option<(&'a Conv2d, usize)> {
    match &node.op {
        Op::Conv { conv, .. } if ConvKernel::of(conv) == ConvKernel::Dense => {
            Some((conv, plan.batch * plan.size(node.output).pixels()))
        }
        _ => None,
    }
}
