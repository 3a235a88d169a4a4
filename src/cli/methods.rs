//! The options of the baselines, MC Dropout and deep ensembles, for `infer` and `eval`.

use std::path::PathBuf;

use ddu::baseline::Ensemble;
use ddu::engine::Engine;
use ddu::model::Model;
use ddu::ops::Passes;
use ddu::score::Needs;
use ddu::{Error, Result};

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
    /// Lets the engine make the passes, and loads the members.
    ///
    /// # Errors
    /// Fewer than 2 passes, a model without dropout, one with other classes.
    pub fn attach(&self, engine: &mut Engine) -> Result<Option<Ensemble>> {
        if let Some(count) = self.passes {
            let passes = Passes::new(count, self.seed).map_err(|_| {
                Error::Usage(format!("--passes: expected at least 2 passes, found {count}"))
            })?;
            engine.sample_dropout(passes)?;
        }
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
