//! A model made ready to run: images in, features and logits and maps out (`engine/output.rs`).

mod output;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::cpu;
use crate::cpu::clip::ClippedClassifier;
use crate::data::Image;
use crate::density::{Evaluator, ModelGaussians};
use crate::device::launch::density::Precision;
use crate::device::{Device, Slice};
use crate::error::{Error, Result};
use crate::gpu::network::{Network, Pictures};
use crate::host;
use crate::model::Model;
use crate::ops::mixture::Mixed;
use crate::ops::{Passes, Size};
use crate::plan::{Folding, Plan, compile, compile_with_dropout};
use crate::score::{Needs, Score};

use output::{CpuDensity, Results};
pub use output::{DeviceMap, Maps, Output, ScoreMap};

/// What runs beside an engine and takes more of its device's memory the larger the batch: other members, a fit.
pub trait Beside {
    /// Takes what a run of a plan of the engine needs here; nothing on the CPU path.
    ///
    /// # Errors
    /// [`Error::Memory`] where the device has no room.
    fn prepare(&mut self, plan: &Plan) -> Result<()>;

    /// Frees it. The next run takes it anew.
    fn release(&mut self);
}

/// Nothing beside it.
impl Beside for () {
    fn prepare(&mut self, _: &Plan) -> Result<()> {
        Ok(())
    }

    fn release(&mut self) {}
}

impl<B: Beside> Beside for Option<&mut B> {
    fn prepare(&mut self, plan: &Plan) -> Result<()> {
        self.as_mut().map_or(Ok(()), |beside| beside.prepare(plan))
    }

    fn release(&mut self) {
        self.iter_mut().for_each(|beside| beside.release());
    }
}

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

impl Engine {
    /// On the CPU path.
    pub fn new(model: Model) -> Self {
        let runner = cpu::Runner::new();
        let backend = Backend::Cpu { runner, density: None };
        Engine { model, backend, passes: None, plans: HashMap::new() }
    }

    /// On the CPU path with activations and products in bf16 ([`cpu::Runner::in_bf16`]): about half the time. Features and
    /// logits differ from those of [`Self::new`] by the rounding of each layer; a density is to be fitted with the same.
    ///
    /// # Errors
    /// A CPU without AVX512-BF16.
    pub fn in_bf16(model: Model) -> Result<Self> {
        let runner = cpu::Runner::in_bf16()?;
        let backend = Backend::Cpu { runner, density: None };
        Ok(Engine { model, backend, passes: None, plans: HashMap::new() })
    }

    /// For another model, on the same device and with the same precision.
    ///
    /// # Errors
    /// As [`Self::on`].
    pub(crate) fn beside(&self, model: Model) -> Result<Self> {
        match &self.backend {
            Backend::Cpu { runner, .. } if runner.is_bf16() => Engine::in_bf16(model),
            Backend::Cpu { .. } => Ok(Engine::new(model)),
            Backend::Device(network) => Engine::on_shared(model, network.share_device()),
        }
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
        let network = Network::new(device, &Folding::new(&model), mean, std, classes)?;
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
            Backend::Cpu { density: scoring, .. } => {
                if precision == Precision::Fast {
                    return Err(Error::invalid("--precision fast", "a device with kernels", "cpu")
                        .fix("the CPU path computes in f32: leave it out"));
                }
                let asked = |wanted: &dyn Fn(Needs) -> bool| {
                    scores.iter().any(|score| wanted(score.info().needs))
                };
                let clipped = || {
                    let classifier = Folding::new(&self.model).classifier();
                    ClippedClassifier::new(gaussians.limits.clone(), &classifier)
                };
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
        let plan = Arc::new(self.compile(batch, image)?);
        self.plans.insert((batch, image), plan.clone());
        Ok(plan)
    }

    fn compile(&self, batch: usize, image: Size) -> Result<Plan> {
        let compile = if self.passes.is_some() { compile_with_dropout } else { compile };
        let plan = compile(self.model.config(), batch, image)?;
        Ok(match &self.backend {
            Backend::Cpu { runner, .. } => runner.plan(plan),
            Backend::Device(_) => plan.in_branches(),
        })
    }

    /// Refuses a plan of this engine that takes more than `available` bytes on the CPU, its passes with dropout included,
    /// and says which size would fit.
    pub fn check_memory(&self, plan: &Plan, available: Option<u64>) -> Result<()> {
        self.require_memory(plan, available, |plan| cpu::memory_bytes(plan, self.passes()))
    }

    /// The same for a member of an ensemble of so many, whose predictions are held till the last one's.
    pub fn check_member_memory(
        &self,
        plan: &Plan,
        members: usize,
        available: Option<u64>,
    ) -> Result<()> {
        self.require_memory(plan, available, |plan| {
            let held = plan.batch as u64 * cpu::mixture::bytes(&plan.head(), members);
            cpu::memory_bytes(plan, 0) + held
        })
    }

    fn require_memory(
        &self,
        plan: &Plan,
        available: Option<u64>,
        bytes: impl Fn(&Plan) -> u64,
    ) -> Result<()> {
        let needed = bytes(plan);
        let Some(available) = available.filter(|available| needed > *available) else {
            return Ok(());
        };
        // Memory grows with the area, but less once ops run in bands: what the area says is tried.
        let (mut size, mut bytes_of_size) = (plan.image, needed);
        let short = loop {
            // A tenth is left for everything else.
            let scale = (0.9 * available as f64 / bytes_of_size as f64).sqrt();
            let scaled = |n: usize| (n as f64 * scale) as usize;
            size = Size::new(scaled(size.h), scaled(size.w));
            match self.compile(plan.batch, size).map(|plan| bytes(&plan)) {
                Ok(needed) if needed > available => bytes_of_size = needed,
                _ => break size.h.min(size.w),
            }
        };
        let fix = match plan.batch {
            1 => format!("--resize {short} would fit"),
            _ => format!("a smaller --batch or --resize {short} would fit"),
        };
        let images = if plan.batch == 1 { "image" } else { "images" };
        let what = format!("{} {images} of {}", plan.batch, plan.image);
        Err(Error::Memory { what, needed, available, fix })
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
        self.run_to(Pictures::Host(images), true)
    }

    /// Runs images of one size, `[size.h, size.w, 3]` of u8 each, that lie on the engine's device.
    ///
    /// # Errors
    /// On the CPU path, and as [`Self::run`].
    pub fn run_on_device(&mut self, size: Size, images: &[Slice]) -> Result<Output<'_>> {
        self.run_to(Pictures::Device { size, images }, true)
    }

    /// The mean of the passes with dropout alone, an element for each image, without the network's own run.
    ///
    /// # Errors
    /// Without [`Self::sample_dropout`]; those of [`Self::run`].
    pub fn mc_dropout(&mut self, images: &[&Image]) -> Result<Vec<Mixed>> {
        let output = self.run_to(Pictures::Host(images), false)?;
        (0..images.len()).map(|image| output.mc_dropout(image)).collect()
    }

    /// `own`: after the passes with dropout also the network itself, which gives all but their mean.
    fn run_to(&mut self, pictures: Pictures, own: bool) -> Result<Output<'_>> {
        let (batch, size) = match pictures {
            Pictures::Device { size, images } => (images.len(), size),
            Pictures::Host(images) => {
                let size = images.first().map_or(Size::new(0, 0), |image| image.size);
                if let Some(other) = images.iter().find(|image| image.size != size) {
                    return Err(Error::invalid("batch", format!("images of {size}"), other.size));
                }
                (images.len(), size)
            }
        };
        let plan = self.plan(batch, size)?;
        if let Backend::Cpu { runner, .. } = &self.backend
            && !runner.fits(&plan)
        {
            self.check_memory(&plan, available(runner))?;
        }
        let config = self.model.config();
        let (start, preprocess);
        let results = match &mut self.backend {
            Backend::Cpu { runner, density } => {
                let Pictures::Host(images) = pictures else {
                    let found = "others, and an engine on the CPU";
                    return Err(Error::invalid("images", "some in the host's memory", found));
                };
                runner.prepare(&plan, &self.model);
                start = Instant::now();
                let pixels: Vec<&[u8]> = images.iter().map(|image| image.rgb.as_slice()).collect();
                let passes = self.passes;
                let mixed;
                (preprocess, mixed) = host::in_pool(|| {
                    runner.preprocess(&plan, &pixels, size, config.mean, config.std);
                    let preprocess = start.elapsed();
                    runner.run(&plan, 0..plan.once, None);
                    let mixed = match passes {
                        Some(passes) => sample(runner, &plan, passes),
                        None => Vec::new(),
                    };
                    // The network's own run is the last, so that its logits and features stay.
                    if own {
                        runner.run(&plan, plan.once..plan.nodes.len(), None);
                    }
                    (preprocess, mixed)
                });
                Results::Cpu { runner, density: density.as_deref(), mixed }
            }
            Backend::Device(network) => {
                network.prepare(&plan)?;
                start = Instant::now();
                network.write_pictures(&plan, pictures)?;
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
        runner.run(plan, plan.once..plan.nodes.len(), Some(pass));
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

/// How a density gets weighted moments.
const REFIT: &str = "fit it with ddu fit --weight confidence";
