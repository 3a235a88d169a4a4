//! The options that say how a density is evaluated, for `infer`, `eval` and `profile`.

use std::path::PathBuf;

use ddu::density::{Covariance, Density, Gaussians, Prior, Score};
use ddu::device::launch::density::Precision;
use ddu::engine::Engine;
use ddu::model::Model;

use super::warn;

#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    /// Density written by `ddu fit` for this model: adds the epistemic uncertainty
    #[arg(short, long, value_name = "DENSITY")]
    pub density: Option<PathBuf>,
    /// density: log q(z); relative: minus the log-density of all classes taken as one Gaussian
    #[arg(long, value_enum, default_value = "density", requires = "density")]
    pub score: ScoreName,
    /// full: a covariance a class; tied: one for all; diagonal: variances alone
    #[arg(long, value_enum, default_value = "full", requires = "density")]
    covariance: CovarianceName,
    /// empirical: classes weigh as often as they were fitted; uniform: all the same
    #[arg(long, value_enum, default_value = "empirical", requires = "density")]
    prior: PriorName,
    /// How a device holds the covariances: exact in two fp16 terms; fast in one, half the work
    #[arg(long, value_enum, default_value = "exact", requires = "density")]
    precision: PrecisionName,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PrecisionName {
    Exact,
    Fast,
}

/// A density, and what it is evaluated with.
pub struct Loaded {
    pub density: Density,
    pub gaussians: Gaussians,
    pub precision: Precision,
}

impl Loaded {
    /// Lets the engine score what it runs.
    pub fn attach(&self, engine: &mut Engine, scores: &[Score]) -> ddu::Result<()> {
        engine.score_with(&self.gaussians, scores, self.precision)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum ScoreName {
    Density,
    Relative,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum CovarianceName {
    Full,
    Tied,
    Diagonal,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PriorName {
    Empirical,
    Uniform,
}

impl ScoreName {
    pub fn score(self) -> Score {
        match self {
            ScoreName::Density => Score::Density,
            ScoreName::Relative => Score::Relative,
        }
    }
}

impl Args {
    /// The density, checked against the model and made ready; None where none is named. `resize` is
    /// the run's.
    pub fn load(&self, model: &Model, resize: Option<usize>) -> anyhow::Result<Option<Loaded>> {
        let Some(path) = &self.density else { return Ok(None) };
        let source = path.display().to_string();
        let density = Density::load(path)?;
        density.check_model(&source, &model.hash())?;
        if density.origin.resize != resize {
            let say = |short: Option<usize>| {
                short.map_or("without --resize".into(), |short| format!("with --resize {short}"))
            };
            let (fitted, now) = (say(density.origin.resize), say(resize));
            warn(format_args!("{source}: fitted {fitted}, this run is {now}: scores shift"));
        }
        let covariance = match self.covariance {
            CovarianceName::Full => Covariance::Full,
            CovarianceName::Tied => Covariance::Tied,
            CovarianceName::Diagonal => Covariance::Diagonal,
        };
        let prior = match self.prior {
            PriorName::Empirical => Prior::Empirical,
            PriorName::Uniform => Prior::Uniform,
        };
        let precision = match self.precision {
            PrecisionName::Exact => Precision::Exact,
            PrecisionName::Fast => Precision::Fast,
        };
        let (gaussians, warnings) = Gaussians::new(&density.moments, covariance, prior)?;
        for warning in warnings {
            let name = &density.origin.classes[warning.class()];
            warn(format_args!("{source}: {}", warning.message(name)));
        }
        Ok(Some(Loaded { density, gaussians, precision }))
    }
}
