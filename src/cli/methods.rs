//! The options of the baselines, MC Dropout and deep ensembles, for `infer` and `eval`.

use std::path::PathBuf;

use ddu::baseline::Ensemble;
use ddu::data::Image;
use ddu::engine::{Engine, Output};
use ddu::eval::Prediction;
use ddu::model::Model;
use ddu::ops::Passes;
use ddu::score::Needs;
use ddu::{Error, Result};

use super::pipeline::Item;

#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    /// MC Dropout: passes with dropout, at least 2
    #[arg(long, value_name = "N")]
    pub passes: Option<u32>,
    /// Seed of the masks of MC Dropout
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// Deep ensemble: models that predict together with MODEL, of any depth, with the same classes
    #[arg(long, value_name = "MODEL", num_args = 1..)]
    pub members: Vec<PathBuf>,
}

impl Args {
    /// The passes of MC Dropout.
    ///
    /// # Errors
    /// Fewer than 2.
    pub fn passes(&self) -> Result<Option<Passes>> {
        let usage =
            |count| Error::Usage(format!("--passes: expected at least 2 passes, found {count}"));
        let passes = self.passes.map(|n| Passes::new(n, self.seed).map_err(|_| usage(n)));
        passes.transpose()
    }

    /// The members with the model of an engine; None where none is named.
    ///
    /// # Errors
    /// One with other classes.
    pub fn ensemble(&self, engine: &Engine) -> Result<Option<Ensemble>> {
        if self.members.is_empty() {
            return Ok(None);
        }
        let load = |path: &PathBuf| Ok((path.display().to_string(), Model::load(path)?));
        let members = self.members.iter().map(load).collect::<Result<_>>()?;
        Ensemble::new(engine, members).map(Some)
    }

    /// Which scores these options make possible.
    pub fn needs(&self) -> Vec<Needs> {
        let passes = self.passes.map(|_| Needs::Passes);
        let members = (!self.members.is_empty()).then_some(Needs::Members);
        passes.into_iter().chain(members).collect()
    }
}

/// What an ensemble says about the images of a run, each by itself where they are too much together.
pub fn together<T>(
    ensemble: &mut Ensemble,
    output: &Output,
    items: &[Item<T>],
) -> Vec<Result<Prediction>> {
    let images: Vec<&Image> = items.iter().map(|item| &item.image).collect();
    if let Ok(all) = ensemble.predict(output, 0, &images) {
        return all.into_iter().map(Ok).collect();
    }
    let mut alone = |at: usize| {
        let found = ensemble.predict(output, at, &images[at..=at])?.pop();
        Ok(found.expect("a prediction for each image"))
    };
    (0..images.len()).map(&mut alone).collect()
}
