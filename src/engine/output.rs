//! The results of a run: logits and features `[grid.h, grid.w, C or D]`, maps `[H, W]` at the images' size, copied from a device or
//! computed from the CPU's arena when they are asked for.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use crate::cpu;
use crate::cpu::clip::ClippedClassifier;
use crate::density::{Evaluator, Options};
use crate::device::{Buffer, Device, Slice};
use crate::error::{Error, Result};
use crate::gpu::network::Network;
use crate::host;
use crate::ops::mixture::Mixed;
use crate::ops::{Head, LogitScore, Size};
use crate::plan::{Plan, View};
use crate::score::{Needs, Score};

/// What a density's scores are computed with on the CPU; each part is there if one of the scores needs it.
pub(super) struct CpuDensity {
    pub evaluator: Option<Evaluator>,
    pub weighted: Option<Evaluator>,
    pub clipped: Option<ClippedClassifier>,
    pub scores: Vec<Score>,
}

/// Class and softmax entropy (nats) of every pixel, row-major `[H, W]`.
#[derive(Clone, Debug)]
pub struct Maps {
    pub size: Size,
    pub label: Vec<u8>,
    pub entropy: Vec<f32>,
}

/// One score of every pixel.
#[derive(Clone, Debug)]
pub struct ScoreMap {
    /// `[H, W]`, in the score's unit.
    pub values: Vec<f32>,
    /// Cells of the feature grid with a feature that is not finite, whose density is -inf; 0 for a score
    /// that is no log-density: it is NaN there.
    pub non_finite: usize,
}

/// [`ScoreMap`] on a device.
pub struct DeviceMap {
    pub values: Buffer,
    pub non_finite: usize,
}

/// The results of one run, valid until the next.
pub struct Output<'a> {
    /// Size of the images.
    pub size: Size,
    /// Size of the network's input.
    pub padded: Size,
    /// The feature grid.
    pub grid: Size,
    /// C
    pub classes: usize,
    /// D
    pub channels: usize,
    pub preprocess: Duration,
    pub network: Duration,
    pub(super) plan: Arc<Plan>,
    pub(super) results: Results<'a>,
}

/// Where the results lie.
pub(super) enum Results<'a> {
    /// In the CPU's arena; scores are made when they are asked for.
    Cpu { runner: &'a cpu::Runner, density: Option<&'a CpuDensity>, mixed: Vec<Mixed> },
    /// On a device, read when asked for.
    Device(&'a Network),
}

/// Results on a device are copied at each call; errors are the device's.
impl Output<'_> {
    /// Images that ran together.
    pub fn batch(&self) -> usize {
        self.plan.batch
    }

    /// How the logits lie under the images' pixels.
    pub fn head(&self) -> Head {
        self.plan.head()
    }

    /// The mean of the passes with dropout.
    ///
    /// # Errors
    /// Without [`super::Engine::sample_dropout`].
    pub fn mc_dropout(&self, image: usize) -> Result<Mixed> {
        let found = match &self.results {
            Results::Cpu { mixed, .. } => mixed.get(image).cloned(),
            Results::Device(network) => network.mc_dropout(&self.plan, image)?,
        };
        let expected = "an engine that samples its dropout";
        found.ok_or_else(|| Error::invalid("MC Dropout", expected, "one that does not"))
    }

    /// `[grid.h, grid.w, C]`
    pub fn logits(&self, image: usize) -> Result<Cow<'_, [f32]>> {
        self.values(image, self.plan.logits, self.classes)
    }

    /// `[grid.h, grid.w, D]` in f32, as the network computed them: a density rounds them to fp16.
    pub fn features(&self, image: usize) -> Result<Cow<'_, [f32]>> {
        self.values(image, self.plan.features, self.channels)
    }

    /// The device that it ran on; None for the CPU path.
    pub fn device(&self) -> Option<Arc<dyn Device>> {
        self.on_device().map(|(network, _)| network.share_device())
    }

    /// The network and plan of a run on a device.
    pub(crate) fn on_device(&self) -> Option<(&Network, &Plan)> {
        match &self.results {
            Results::Cpu { .. } => None,
            Results::Device(network) => Some((*network, &self.plan)),
        }
    }

    /// The first `channels` of a view on the feature grid.
    fn values(&self, image: usize, view: View, channels: usize) -> Result<Cow<'_, [f32]>> {
        let stride = self.plan.buffer(view).channels;
        let all = match &self.results {
            Results::Cpu { runner, .. } => {
                let len = self.grid.pixels() * stride;
                Cow::Borrowed(&runner.read(&self.plan, view)[image * len..][..len])
            }
            Results::Device(network) => Cow::Owned(network.read_image(&self.plan, view, image)?),
        };
        if stride == channels {
            return Ok(all);
        }
        Ok(Cow::Owned(all.chunks_exact(stride).flat_map(|p| &p[..channels]).copied().collect()))
    }

    /// The class and entropy maps at the images' size.
    pub fn maps(&self, image: usize) -> Result<Maps> {
        let (label, mut scores) = self.scored(image, &[Score::Entropy])?;
        let entropy = scores.pop().map_or(Vec::new(), |map| map.values);
        Ok(Maps { size: self.size, label, entropy })
    }

    /// A score of every pixel, at the images' size.
    ///
    /// # Errors
    /// As [`Self::scored`].
    pub fn score(&self, image: usize, score: Score) -> Result<ScoreMap> {
        if score.from_logits().is_some() {
            let (_, mut maps) = self.scored(image, &[score])?;
            return Ok(maps.pop().expect("a map for each score"));
        }
        self.kept(image, score)
    }

    /// The class of every pixel and a map of each of `scores`, at the images' size. On the CPU those of the logits
    /// come from one pass.
    ///
    /// # Errors
    /// A score that needs a density and that [`super::Engine::score_with`] was not asked for; on a device one of the
    /// logits other than the entropy that neither that nor [`super::Engine::score_logits`] was asked for.
    pub fn scored(&self, image: usize, scores: &[Score]) -> Result<(Vec<u8>, Vec<ScoreMap>)> {
        if let Results::Device(network) = &self.results {
            let maps =
                scores.iter().map(|score| self.kept(image, *score)).collect::<Result<_>>()?;
            return Ok((network.labels(&self.plan, image)?, maps));
        }
        host::in_pool(|| self.computed(image, scores))
    }

    /// [`Self::scored`] on the CPU.
    fn computed(&self, image: usize, scores: &[Score]) -> Result<(Vec<u8>, Vec<ScoreMap>)> {
        let pixels = self.size.pixels();
        let (mut label, mut maps) = (vec![0; pixels], Vec::new());
        for score in scores {
            maps.push(match score.from_logits() {
                // Filled in below.
                Some(_) => ScoreMap { values: vec![0.0; pixels], non_finite: 0 },
                None => self.kept(image, *score)?,
            });
        }
        let from_logits = scores.iter().zip(&mut maps);
        let mut from_logits: Vec<_> = from_logits
            .filter_map(|(score, map)| Some((score.from_logits()?, &mut map.values[..])))
            .collect();
        cpu::head::scores(&self.plan.head(), &self.logits(image)?, &mut label, &mut from_logits);
        Ok((label, maps))
    }

    /// As [`Self::scored`] of a run on a device, in buffers of that device which outlive the run; the copies may still be under way
    /// ([`Device::synchronize`]).
    ///
    /// # Errors
    /// On the CPU path, and as [`Self::scored`].
    pub fn scored_on_device(
        &self,
        image: usize,
        scores: &[Score],
    ) -> Result<(Buffer, Vec<DeviceMap>)> {
        let Results::Device(network) = &self.results else {
            return Err(Error::invalid("maps on a device", "an engine on one", "one on the CPU"));
        };
        let device = network.device();
        let kept = |from: Slice| {
            let buffer = device.alloc(from.bytes())?;
            device.copy(buffer.all(), from)?;
            Ok::<_, Error>(buffer)
        };
        let map = |score: &Score| match network.map(&self.plan, image, *score)? {
            Some((map, non_finite)) => Ok(DeviceMap { values: kept(map)?, non_finite }),
            None => Err(not_asked_for(*score)),
        };
        let maps = scores.iter().map(map).collect::<Result<_>>()?;
        Ok((kept(network.label(&self.plan, image)?)?, maps))
    }

    /// A score that a device keeps a map of, or that the CPU path computes with a density.
    fn kept(&self, image: usize, score: Score) -> Result<ScoreMap> {
        let computed = match &self.results {
            Results::Device(network) => network.score(&self.plan, image, score)?,
            Results::Cpu { density, .. } => {
                match density.filter(|density| density.scores.contains(&score)) {
                    Some(density) => density.score(self, image, score)?,
                    None => None,
                }
            }
        };
        match computed {
            Some((values, non_finite)) => Ok(ScoreMap { values, non_finite }),
            None => Err(not_asked_for(score)),
        }
    }

    /// Upsamples a map from the feature grid to the images' size by the model's rule.
    pub fn upsample(&self, grid: &[f32]) -> Vec<f32> {
        cpu::upsample(grid, self.grid, self.padded, self.size, self.plan.align_corners)
    }
}

fn not_asked_for(score: Score) -> Error {
    let expected = "one that Engine::score_with was asked for";
    Error::invalid("score", expected, score.info().name)
}

impl CpuDensity {
    /// The map of a score of an image of a run, and its cells that are not finite; None where it lacks what
    /// the score needs.
    fn score(
        &self,
        output: &Output,
        image: usize,
        score: Score,
    ) -> Result<Option<(Vec<f32>, usize)>> {
        let features = output.features(image)?;
        if score.info().needs == Needs::Limits {
            let Some(clipped) = &self.clipped else { return Ok(None) };
            let logits = clipped.logits(&features, output.grid);
            let pixels = output.size.pixels();
            let (mut label, mut map) = (vec![0; pixels], vec![0.0; pixels]);
            let wanted = &mut [(LogitScore::EntropyT2, &mut map[..])];
            cpu::head::scores(&output.plan.head(), &logits, &mut label, wanted);
            return Ok(Some((map, 0)));
        }
        let evaluator = match score.info().needs {
            Needs::Weighted => &self.weighted,
            _ => &self.evaluator,
        };
        let Some(evaluator) = evaluator else { return Ok(None) };
        // A guess: of equal logits, and of those that are NaN, any.
        let arg_max = |l: &[f32]| {
            let higher = |best: usize, (i, value): (usize, &f32)| {
                if *value > l[best] { i } else { best }
            };
            l.iter().enumerate().fold(0, higher) as u8
        };
        let logits = output.logits(image)?;
        let predicted: Vec<u8> = logits.chunks_exact(output.classes).map(arg_max).collect();
        let relative = score.info().needs == Needs::Background;
        let options = Options { relative, columns: Some(output.grid.w), ..Options::default() };
        let found = evaluator.evaluate(&features, Some(&predicted), options);
        Ok(Some((output.upsample(&found.score), found.non_finite)))
    }
}
