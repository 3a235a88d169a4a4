//! The paper's baselines: predictions that are the mean of several. MC Dropout is made by the engine of one network
//! ([`Engine::sample_dropout`]), a deep ensemble by this [`Ensemble`] of several. Equations: [`crate::ops::mixture`].

use crate::cpu;
use crate::data::Image;
use crate::device::{Device, Launch};
use crate::engine::{Beside, Engine, Output};
use crate::error::{Error, Result};
use crate::eval::{Method, Prediction};
use crate::gpu;
use crate::model::{Config, Model};
use crate::ops::mixture::Mixed;
use crate::plan::Plan;
use crate::score::Score;

/// What MC Dropout says about an image of a run.
///
/// # Errors
/// Without [`Engine::sample_dropout`].
pub fn mc_dropout(output: &Output, image: usize) -> Result<Prediction> {
    let scores = [Score::McDropoutPe, Score::McDropoutMi];
    Ok(prediction(Method::McDropout, scores, output.mc_dropout(image)?))
}

fn prediction(method: Method, [pe, mi]: [Score; 2], mixed: Mixed) -> Prediction {
    let Mixed { label, confidence, entropy, mutual_information } = mixed;
    Prediction { method, label, confidence, scores: vec![(pe, entropy), (mi, mutual_information)] }
}

/// Networks that predict together with another, whose engine runs the images first. They may have any family,
/// depth and normalisation, and have its classes. Each keeps an arena of its own.
pub struct Ensemble {
    members: Vec<Engine>,
    /// Where the sums lie on a device.
    mixture: gpu::mixture::Mixture,
}

impl Beside for Ensemble {
    fn prepare(&mut self, plan: &Plan) -> Result<()> {
        for member in &mut self.members {
            let own = member.plan(plan.batch, plan.image)?;
            let Some(network) = member.network_mut() else { return Ok(()) };
            network.prepare(&own)?;
            self.mixture.prepare(network.device(), plan.batch, &plan.head())?;
        }
        Ok(())
    }

    fn release(&mut self) {
        self.members.iter_mut().filter_map(Engine::network_mut).for_each(|n| n.release());
        self.mixture.release();
    }
}

impl Ensemble {
    /// Of `first` and at least one more, each with the name of its file, on `first`'s device.
    ///
    /// # Errors
    /// No other member, one with other classes, and those of [`Engine::on`].
    pub fn new(first: &Engine, others: Vec<(String, Model)>) -> Result<Self> {
        if others.is_empty() {
            return Err(Error::invalid("ensemble", "at least 2 members", "the model alone")
                .fix("name others with --members"));
        }
        let classes = first.model().config();
        let mut members = Vec::with_capacity(others.len());
        for (source, model) in others {
            require_classes(&source, classes, model.config())?;
            members.push(first.beside(model)?);
        }
        Ok(Ensemble { members, mixture: gpu::mixture::Mixture::default() })
    }

    /// The members in addition to the first.
    pub fn members(&mut self) -> &mut [Engine] {
        &mut self.members
    }

    /// What all say about images of a run of the first member, those from its `at`-th on: an element for each.
    ///
    /// # Errors
    /// Those of [`Engine::run`] of each member, and the device's.
    pub fn predict(
        &mut self,
        first: &Output,
        at: usize,
        images: &[&Image],
    ) -> Result<Vec<Prediction>> {
        let mixed = match first.device() {
            None => self.on_the_cpu(first, at, images),
            Some(device) => self.on_a_device(&*device, first, at, images),
        }?;
        let scores = [Score::EnsemblePe, Score::EnsembleMi];
        Ok(mixed.into_iter().map(|mixed| prediction(Method::Ensemble, scores, mixed)).collect())
    }

    fn on_the_cpu(&mut self, first: &Output, at: usize, images: &[&Image]) -> Result<Vec<Mixed>> {
        let count = self.members.len() + 1;
        for member in &mut self.members {
            let plan = member.plan(images.len(), first.size)?;
            member.check_member_memory(&plan, count, member.available_memory())?;
        }
        let mixture = |_: &_| cpu::mixture::Mixture::new(first.classes, first.size);
        let mut mixtures: Vec<_> = images.iter().map(mixture).collect();
        let mut add = |output: &Output, at: usize| -> Result<()> {
            for (i, mixture) in mixtures.iter_mut().enumerate() {
                mixture.add(&output.head(), &output.logits(at + i)?);
            }
            Ok(())
        };
        add(first, at)?;
        for member in &mut self.members {
            add(&member.run(images)?, 0)?;
        }
        Ok(mixtures.iter().map(cpu::mixture::Mixture::finish).collect())
    }

    fn on_a_device(
        &mut self,
        device: &dyn Device,
        first: &Output,
        at: usize,
        images: &[&Image],
    ) -> Result<Vec<Mixed>> {
        let Ensemble { members, mixture } = self;
        let (head, count) = (first.head(), members.len() + 1);
        mixture.prepare(device, images.len(), &head)?;
        let add = |output: &Output, at: usize, is_first: bool| -> Result<()> {
            let Some((network, plan)) = output.on_device() else {
                return Err(Error::invalid("ensemble", "members on one device", "cpu"));
            };
            let logits = network.logits(plan)?.images(at..at + images.len())?;
            let step = mixture.add(&output.head(), logits, is_first)?;
            run(device, &step.launches)
        };
        add(first, at, true)?;
        for member in members {
            add(&member.run(images)?, 0, false)?;
        }
        run(device, &mixture.finish(&head, images.len(), count)?.launches)?;
        (0..images.len()).map(|image| mixture.read(device, &head, image)).collect()
    }
}

fn run(device: &dyn Device, launches: &[Launch]) -> Result<()> {
    launches.iter().try_for_each(|launch| device.launch(launch))
}

/// Refuses a member that speaks of other classes; `source` names its file.
fn require_classes(source: &str, first: &Config, member: &Config) -> Result<()> {
    let what = format!("{source}: classes");
    let (expected, found) = (&first.classes, &member.classes);
    if expected.len() != found.len() {
        let expected = format!("{}, as the model has", expected.len());
        return Err(Error::invalid(what, expected, found.len()));
    }
    match expected.iter().zip(found).position(|(a, b)| a != b) {
        None => Ok(()),
        Some(i) => {
            let expected = format!("{} as class {i}, as the model has", expected[i]);
            Err(Error::invalid(what, expected, &found[i])
                .fix("give a member of the same classes (ddu convert --classes names them)"))
        }
    }
}
