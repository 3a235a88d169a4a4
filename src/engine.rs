//! A model made ready to run: images in, features and logits and maps out.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cpu;
use crate::cpu::clip::ClippedClassifier;
use crate::data::Image;
use crate::density::{Evaluator, ModelGaussians, Options};
use crate::device::Device;
use crate::device::launch::density::Precision;
use crate::error::{Error, Result};
use crate::gpu::network::Network;
use crate::host;
use crate::model::Model;
use crate::ops::mixture::{self, Mixed};
use crate::ops::{Head, LogitScore, Passes, Size};
use crate::plan::{Folded, Plan, View, compile, compile_with_dropout};
use crate::score::{Needs, Score};

pub struct Engine {
    model: Model,
    backend: Backend,
    /// Those of MC Dropout.
    passes: Option<Passes>,
    /// All with dropout, or none.
    plans: HashMap<(usize, Size), Arc<Plan>>,
}

/// What runs the plans.
enum Backend {
    Cpu { runner: cpu::Runner, density: Option<Box<CpuDensity>> },
    Device(Box<Network>),
}

/// What a density's scores are computed with on the CPU; each part is there if one of the scores needs it.
struct CpuDensity {
    evaluator: Option<Evaluator>,
    weighted: Option<Evaluator>,
    clipped: Option<ClippedClassifier>,
    scores: Vec<Score>,
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
    plan: Arc<Plan>,
    results: Results<'a>,
}

/// Where the results lie.
enum Results<'a> {
    /// In the CPU's arena; scores are made when they are asked for.
    Cpu { runner: &'a cpu::Runner, density: Option<&'a CpuDensity>, mixed: Vec<Mixed> },
    /// On a device, read when asked for.
    Device(&'a Network),
}

impl Engine {
    /// On the CPU path.
    pub fn new(model: Model) -> Self {
        let runner = cpu::Runner::new(Folded::new(&model));
        let backend = Backend::Cpu { runner, density: None };
        Engine { model, backend, passes: None, plans: HashMap::new() }
    }

    /// On a device with memory of its own.
    ///
    /// # Errors
    /// Weights that the device has no room for or fp16 cannot hold.
    pub fn on(model: Model, device: Box<dyn Device>) -> Result<Self> {
        Engine::on_shared(model, device.into())
    }

    /// On a device that other engines use too.
    ///
    /// # Errors
    /// As [`Self::on`].
    pub fn on_shared(model: Model, device: Arc<dyn Device>) -> Result<Self> {
        let config = model.config();
        let (mean, std, classes) = (config.mean, config.std, config.classes.len());
        let network = Network::new(device, Folded::new(&model), mean, std, classes)?;
        let backend = Backend::Device(Box::new(network));
        Ok(Engine { model, backend, passes: None, plans: HashMap::new() })
    }

    pub fn model(&self) -> &Model {
        &self.model
    }

    /// The network where it lies on a device.
    pub(crate) fn network_mut(&mut self) -> Option<&mut Network> {
        match &mut self.backend {
            Backend::Cpu { .. } => None,
            Backend::Device(network) => Some(network),
        }
    }

    pub(crate) fn into_model(self) -> Model {
        self.model
    }

    /// The device that it runs on; None for the CPU path.
    pub fn device(&self) -> Option<Arc<dyn Device>> {
        match &self.backend {
            Backend::Cpu { .. } => None,
            Backend::Device(network) => Some(network.share_device()),
        }
    }

    /// From now on [`Output::score`] also gives those of `scores` that need a density, and those of the logits as
    /// after [`Self::score_logits`]. A device computes them as part of each run.
    ///
    /// # Errors
    /// A density of another model or without the weighted moments that a score needs, [`Precision::Fast`] on the CPU, and on a device as
    /// [`DeviceDensity::new`](crate::gpu::density::DeviceDensity::new).
    pub fn score_with(
        &mut self,
        density: &ModelGaussians,
        scores: &[Score],
        precision: Precision,
    ) -> Result<()> {
        density.check_model(&self.model.hash())?;
        if density.weighted.is_none() && scores.contains(&Score::WeightedDensity) {
            let name = Score::WeightedDensity.info().name;
            let expected = "a density with weighted moments";
            return Err(Error::invalid(name, expected, "one without").fix(REFIT));
        }
        let gaussians = &density.gaussians;
        let channels = self.model.config().feature_channels();
        if gaussians.channels != channels {
            let expected = format!("{channels} channels, as the model's features have");
            return Err(Error::invalid("density", expected, gaussians.channels));
        }
        match &mut self.backend {
            Backend::Cpu { runner, density: scoring } => {
                if precision == Precision::Fast {
                    return Err(Error::invalid("--precision fast", "a device with kernels", "cpu")
                        .fix("the CPU path computes in f32: leave it out"));
                }
                let asked = |wanted: &dyn Fn(Needs) -> bool| {
                    scores.iter().any(|score| wanted(score.info().needs))
                };
                let classifier = runner.weights().classifier();
                let clipped = || ClippedClassifier::new(gaussians.limits.clone(), classifier);
                *scoring = Some(Box::new(CpuDensity {
                    evaluator: asked(&|n| matches!(n, Needs::Density | Needs::Background))
                        .then(|| Evaluator::new(gaussians)),
                    weighted: density
                        .weighted
                        .as_ref()
                        .filter(|_| asked(&|n| n == Needs::Weighted))
                        .map(Evaluator::new),
                    clipped: asked(&|n| n == Needs::Limits).then(clipped),
                    scores: scores.to_vec(),
                }));
                Ok(())
            }
            Backend::Device(network) => network.score_with(density, scores, precision),
        }
    }

    /// From now on [`Output::score`] also gives those of `scores` that come from the logits. The CPU path
    /// always does; a device computes them as part of each run.
    pub fn score_logits(&mut self, scores: &[Score]) {
        if let Backend::Device(network) = &mut self.backend {
            network.score_logits(scores);
        }
    }

    /// From now on every run also makes passes with dropout, whose mean [`Output::mc_dropout`] gives: MC Dropout
    /// (Gal and Ghahramani 2016). What depends on no dropout runs once. Everything else that [`Output`] gives
    /// stays that of the network itself.
    ///
    /// # Errors
    /// A network without dropout.
    pub fn sample_dropout(&mut self, passes: Passes) -> Result<()> {
        self.require_dropout()?;
        self.passes = Some(passes);
        self.plans.clear();
        if let Backend::Device(network) = &mut self.backend {
            network.sample_dropout(passes);
        }
        Ok(())
    }

    /// Refuses a network without dropout, whose passes would all be the same.
    ///
    /// # Errors
    /// Just that.
    pub fn require_dropout(&self) -> Result<()> {
        let config = self.model.config();
        if config.dropout.iter().any(|dropout| dropout.probability > 0.0) {
            return Ok(());
        }
        let found = format!("none (family {})", config.family);
        Err(Error::invalid("model", "a network with dropout, for MC Dropout", found))
    }

    /// Passes with dropout that each run makes.
    pub fn passes(&self) -> usize {
        self.passes.map_or(0, Passes::count)
    }

    /// The plan for `batch` images of a size; compiled once.
    pub fn plan(&mut self, batch: usize, image: Size) -> Result<Arc<Plan>> {
        if let Some(plan) = self.plans.get(&(batch, image)) {
            return Ok(plan.clone());
        }
        let weights = match &self.backend {
            Backend::Cpu { runner, .. } => runner.weights(),
            Backend::Device(network) => network.weights(),
        };
        let compile = if self.passes.is_some() { compile_with_dropout } else { compile };
        let plan = Arc::new(compile(self.model.config(), weights, batch, image)?);
        self.plans.insert((batch, image), plan.clone());
        Ok(plan)
    }

    /// Bytes that an arena may take, that of earlier runs included; None if unknown.
    pub fn available_memory(&self) -> Option<u64> {
        match &self.backend {
            Backend::Cpu { runner, .. } => available(runner),
            Backend::Device(_) => None,
        }
    }

    /// Runs images of one size through the network.
    pub fn run(&mut self, images: &[&Image]) -> Result<Output<'_>> {
        self.run_to(images, true)
    }

    /// The mean of the passes with dropout alone, an element for each image, without the network's own run.
    ///
    /// # Errors
    /// Without [`Self::sample_dropout`]; those of [`Self::run`].
    pub fn mc_dropout(&mut self, images: &[&Image]) -> Result<Vec<Mixed>> {
        let output = self.run_to(images, false)?;
        (0..images.len()).map(|image| output.mc_dropout(image)).collect()
    }

    /// `own`: after the passes with dropout also the network itself, which gives all but their mean.
    fn run_to(&mut self, images: &[&Image], own: bool) -> Result<Output<'_>> {
        let size = images.first().map_or(Size::new(0, 0), |image| image.size);
        if let Some(other) = images.iter().find(|image| image.size != size) {
            return Err(Error::invalid("batch", format!("images of {size}"), other.size));
        }
        let plan = self.plan(images.len(), size)?;
        let config = self.model.config();
        let (start, preprocess);
        let results = match &mut self.backend {
            Backend::Cpu { runner, density } => {
                if !runner.fits(&plan) {
                    check_memory(&plan, available(runner))?;
                }
                runner.prepare(&plan);
                start = Instant::now();
                let pixels: Vec<&[u8]> = images.iter().map(|image| image.rgb.as_slice()).collect();
                let input = runner.input(&plan);
                cpu::preprocess::preprocess(&pixels, size, config.mean, config.std, input);
                preprocess = start.elapsed();
                let (once, again) = plan.nodes.split_at(plan.once);
                once.iter().for_each(|node| runner.step(&plan, node));
                let mixed = match self.passes {
                    Some(passes) => sample(runner, &plan, passes),
                    None => Vec::new(),
                };
                // The network's own run is the last, so that its logits and features stay.
                if own {
                    again.iter().for_each(|node| runner.step(&plan, node));
                }
                Results::Cpu { runner, density: density.as_deref(), mixed }
            }
            Backend::Device(network) => {
                network.prepare(&plan)?;
                start = Instant::now();
                network.write_pictures(&plan, images)?;
                let steps = if own { network.steps(&plan)? } else { network.passes(&plan)? };
                preprocess = start.elapsed();
                let launches: Vec<_> = steps.into_iter().flat_map(|step| step.launches).collect();
                network.device().run(&launches)?;
                network.device().synchronize()?;
                Results::Device(network)
            }
        };
        Ok(Output {
            size,
            padded: plan.padded,
            grid: plan.grid(),
            classes: config.classes.len(),
            channels: config.feature_channels(),
            preprocess,
            network: start.elapsed() - preprocess,
            plan,
            results,
        })
    }
}

/// The passes of MC Dropout after the nodes that run once, and each image's mean of them.
fn sample(runner: &mut cpu::Runner, plan: &Plan, passes: Passes) -> Vec<Mixed> {
    let (head, len) = (plan.head(), plan.buffer(plan.logits).len / plan.batch);
    let mixture = |_| cpu::mixture::Mixture::new(head.classes, head.crop);
    let mut mixtures: Vec<_> = (0..plan.batch).map(mixture).collect();
    for pass in passes.iter() {
        for node in &plan.nodes[plan.once..] {
            runner.step_of(plan, node, Some(pass));
        }
        let logits = runner.read(plan, plan.logits).chunks_exact(len);
        mixtures.iter_mut().zip(logits).for_each(|(mixture, logits)| mixture.add(&head, logits));
    }
    mixtures.iter().map(cpu::mixture::Mixture::finish).collect()
}

fn available(runner: &cpu::Runner) -> Option<u64> {
    // Part of what the system calls available lies in caches, and other programs take from it: a
    // sixteenth is left alone.
    host::memory().map(|memory| memory.available / 16 * 15 + runner.arena_bytes())
}

/// Refuses a plan that takes more than `available` bytes on the CPU, and says which size would fit.
pub fn check_memory(plan: &Plan, available: Option<u64>) -> Result<()> {
    require_memory(plan, cpu::memory_bytes(plan), available)
}

/// The same for a member of an ensemble, which runs while the sums over the members are held.
pub fn check_member_memory(plan: &Plan, available: Option<u64>) -> Result<()> {
    let sums = plan.batch as u64 * mixture::bytes(plan.logits.channels, plan.image);
    require_memory(plan, cpu::memory_bytes(plan) + sums, available)
}

fn require_memory(plan: &Plan, needed: u64, available: Option<u64>) -> Result<()> {
    let Some(available) = available.filter(|available| needed > *available) else {
        return Ok(());
    };
    // Memory grows with the area; a tenth is left for everything else.
    let scale = (0.9 * available as f64 / needed as f64).sqrt();
    let short = (plan.image.h.min(plan.image.w) as f64 * scale) as usize;
    let fix = match plan.batch {
        1 => format!("--resize {short} would fit"),
        _ => format!("a smaller --batch or --resize {short} would fit"),
    };
    let images = if plan.batch == 1 { "image" } else { "images" };
    let what = format!("{} {images} of {}", plan.batch, plan.image);
    Err(Error::Memory { what, needed, available, fix })
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
    /// Without [`Engine::sample_dropout`].
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
    /// A score that needs a density and that [`Engine::score_with`] was not asked for; on a device one of the
    /// logits other than the entropy that neither that nor [`Engine::score_logits`] was asked for.
    pub fn scored(&self, image: usize, scores: &[Score]) -> Result<(Vec<u8>, Vec<ScoreMap>)> {
        if let Results::Device(network) = &self.results {
            let maps =
                scores.iter().map(|score| self.kept(image, *score)).collect::<Result<_>>()?;
            return Ok((network.labels(&self.plan, image)?, maps));
        }
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
            None => {
                let expected = "one that Engine::score_with was asked for";
                Err(Error::invalid("score", expected, score.info().name))
            }
        }
    }

    /// Upsamples a map from the feature grid to the images' size by the model's rule.
    pub fn upsample(&self, grid: &[f32]) -> Vec<f32> {
        cpu::upsample(grid, self.grid, self.padded, self.size, self.plan.align_corners)
    }
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
        let options = Options { relative, ..Options::default() };
        let found = evaluator.evaluate(&features, Some(&predicted), options);
        Ok(Some((output.upsample(&found.score), found.non_finite)))
    }
}

/// How a density gets weighted moments.
const REFIT: &str = "fit it with ddu fit --weight confidence";
