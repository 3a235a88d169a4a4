//! The options that say which scores are computed and how a density is evaluated, for `infer`, `eval`
//! and `profile`.

use std::path::PathBuf;

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use ddu::density::{Covariance, Density, ModelGaussians, Prior};
use ddu::device::launch::density;
use ddu::engine::Engine;
use ddu::model::Model;
use ddu::ops::Size;
use ddu::score::{Needs, SCORES, Score, ScoreInfo};
use ddu::{Error, Result};

use super::warn;

#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    /// Density written by `ddu fit` for this model: adds the epistemic uncertainty
    #[arg(short, long, value_name = "DENSITY")]
    pub density: Option<PathBuf>,
    /// Scores to compute, by default the density where there is one, and every one in `eval`; `infer`
    /// always has the entropy
    #[arg(long, value_name = "SCORES", value_delimiter = ',', value_parser = a_score())]
    score: Vec<Score>,
    /// full: a covariance for each class; tied: one for all; diagonal: variances alone
    #[arg(long, default_value = "full", requires = "density", value_parser = one_of(&Covariance::NAMES))]
    covariance: Covariance,
    /// empirical: prior proportional to the fitted pixels of a class; uniform: the same for all
    #[arg(long, default_value = "empirical", requires = "density", value_parser = one_of(&Prior::NAMES))]
    prior: Prior,
}

/// How precisely a network and its density are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    Exact,
    Fast,
    Bf16,
}

impl Precision {
    /// As they are written.
    pub const NAMES: [(&str, Self); 3] =
        [("exact", Self::Exact), ("fast", Self::Fast), ("bf16", Self::Bf16)];
}

/// Parses one of a list of names to its value.
pub fn one_of<T: Copy + Send + Sync + 'static>(
    names: &'static [(&'static str, T)],
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(names.iter().map(|(name, _)| *name)).map(|word| {
        let named = names.iter().find(|(name, _)| *name == word);
        named.expect("a value that the parser allows").1
    })
}

/// Parses a score's name; `--help` has their equations.
fn a_score() -> impl TypedValueParser<Value = Score> {
    let value =
        |s: &ScoreInfo| PossibleValue::new(s.name).help(format!("{} ({})", s.equation, s.unit));
    PossibleValuesParser::new(SCORES.iter().map(value)).map(|word| {
        let named = SCORES.iter().find(|info| info.name == word);
        named.expect("a value that the parser allows").score
    })
}

/// A density, and what it is evaluated with.
pub struct Loaded {
    /// The file.
    source: String,
    pub density: Density,
    pub ready: ModelGaussians,
    /// Of the covariances.
    pub precision: density::Precision,
}

/// Lets the engine compute these scores of what it runs.
pub fn attach(density: Option<&Loaded>, engine: &mut Engine, scores: &[Score]) -> Result<()> {
    match density {
        Some(loaded) => engine.score_with(&loaded.ready, scores, loaded.precision),
        None => {
            engine.score_logits(scores);
            Ok(())
        }
    }
}

impl Loaded {
    /// Warns if the density was fitted at another scale than that of a run.
    pub fn check_resize(&self, resize: Option<usize>) {
        if self.density.origin.resize != resize {
            let say = |short: Option<usize>| {
                short.map_or("without --resize".into(), |short| format!("with --resize {short}"))
            };
            let (fitted, now) = (say(self.density.origin.resize), say(resize));
            let source = &self.source;
            warn(format_args!("{source}: fitted {fitted}, this run is {now}: scores shift"));
        }
    }

    /// To look for images of another scale than those of the fit.
    pub fn scale(&self) -> ScaleCheck<'_> {
        ScaleCheck {
            source: &self.source,
            fitted: self.density.origin.short_side,
            others: 0,
            first: None,
        }
    }

    /// What colour ranges are made from.
    pub fn parts(&self) -> (&ddu::density::Sample, &ModelGaussians) {
        (&self.density.sample, &self.ready)
    }
}

/// Finds images of another scale than those that a density was fitted to: features, and with them the
/// scores, depend on how large things are in the image.
pub struct ScaleCheck<'a> {
    /// The density's file.
    source: &'a str,
    /// Range of shorter sides.
    fitted: Option<[usize; 2]>,
    others: usize,
    /// The first of them and its shorter side.
    first: Option<(String, usize)>,
}

impl ScaleCheck<'_> {
    /// Takes in an image, of the size at which the network saw it.
    pub fn see(&mut self, name: &str, size: Size) {
        let short = size.h.min(size.w);
        if self.fitted.is_some_and(|[least, most]| 2 * short < least || short > 2 * most) {
            self.others += 1;
            self.first.get_or_insert_with(|| (name.to_owned(), short));
        }
    }

    /// Warns once, if there were some.
    pub fn warn(self) {
        let (Some([least, most]), Some((first, short))) = (self.fitted, self.first) else { return };
        let (source, others) = (self.source, self.others);
        let images = if others == 1 { "image is" } else { "images are" };
        warn(format_args!(
            "{source}: {others} {images} of less than half or more than twice the fit's scale (shorter sides \
             of {least} to {most} pixels; {first} has {short}): scores shift; --resize brings them closer"
        ));
    }
}

impl Args {
    /// The scores to compute, in the order of [`SCORES`]: those that were named, else those of `default`
    /// that can be computed. `methods` says whether passes with dropout and other members are there.
    ///
    /// # Errors
    /// One that was named and cannot be computed: it needs a density, weighted moments that `density` lacks, or a
    /// method.
    pub fn scores(
        &self,
        density: Option<&Loaded>,
        methods: &[Needs],
        default: impl Fn(Score) -> bool,
    ) -> Result<Vec<Score>> {
        let possible = |info: &ScoreInfo| match info.needs {
            Needs::Logits => true,
            Needs::Limits | Needs::Density | Needs::Background => density.is_some(),
            Needs::Weighted => density.is_some_and(|loaded| loaded.ready.weighted.is_some()),
            Needs::Passes | Needs::Members => methods.contains(&info.needs),
        };
        let mut scores = Vec::new();
        for info in &SCORES {
            let named = self.score.contains(&info.score);
            if named && !possible(info) {
                let name = info.name;
                return Err(Error::Usage(match (info.needs, density) {
                    (Needs::Passes, _) => format!("--score {name} needs --passes N"),
                    (Needs::Members, _) => format!("--score {name} needs --members MODEL ..."),
                    (_, None) => format!("--score {name} needs --density DENSITY"),
                    (_, Some(Loaded { source, .. })) => format!(
                        "--score {name}: {source} has no weighted moments of pixels that the network is sure of; \
                         `ddu fit --weight confidence` stores them"
                    ),
                }));
            }
            if named || (self.score.is_empty() && default(info.score) && possible(info)) {
                scores.push(info.score);
            }
        }
        Ok(scores)
    }

    /// The density, checked against the model and made ready; None if there is none.
    pub fn load(&self, model: &Model, precision: Precision) -> Result<Option<Loaded>> {
        let Some(path) = &self.density else {
            return match precision {
                Precision::Fast => Err(Error::Usage(
                    "--precision fast is of a density: it needs --density DENSITY".into(),
                )),
                _ => Ok(None),
            };
        };
        let source = path.display().to_string();
        let density = Density::load(path)?;
        // The engine checks it too; this names the file, and comes before the weights go to a device.
        density.check_model(&source, &model.hash())?;
        let (ready, warnings) = density.gaussians(self.covariance, self.prior)?;
        for warning in warnings {
            let name = &density.origin.classes[warning.class()];
            warn(format_args!("{source}: {}", warning.message(name)));
        }
        let precision = match precision {
            Precision::Fast => density::Precision::Fast,
            _ => density::Precision::Exact,
        };
        Ok(Some(Loaded { source, density, ready, precision }))
    }
}
