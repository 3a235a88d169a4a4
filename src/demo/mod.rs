//! The demo: scenes it draws itself, a small network that ships with the program, and what the two
//! uncertainties say about them. Nothing is read and nothing is downloaded.
//!
//! ```text
//! training scenes --network--> features --fit--> density --+
//! unseen scenes with unknown objects --network--> class, entropy, features --+--> maps, summary
//! ```

mod findings;
mod measure;
mod page;
pub mod scenes;

use std::path::Path;

use crate::data::{LabelRule, Mask};
use crate::density::{Covariance, Density, Prior, colour_range};
use crate::device::launch::density::Precision;
use crate::engine::{Engine, Maps, Output};
use crate::error::{Error, Result};
use crate::fit::{Annotation, Fit};
use crate::model::Model;
use crate::score::Score;
pub use measure::{Stranger, Summary, Zone};
use scenes::Scene;

/// `assets/README.md` says what made it.
static MODEL: &[u8] = include_bytes!("../../assets/demo.safetensors");

/// Scenes of the fit are the first of those that the network was trained on (no unknown objects).
pub const FIT_SEED: u64 = 0;
/// Those of the test come from seeds that no training used; among the first four, which get pictures,
/// every unknown class appears.
pub const TEST_SEED: u64 = (1 << 40) + 6;

/// The network of the demo.
///
/// # Errors
/// None that a build without faults has.
pub fn model() -> Result<Model> {
    Model::from_bytes("the demo's network", MODEL)
}

/// How much of the demo to run.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// Scenes that the density is fitted to.
    pub fit: usize,
    /// Unseen scenes that are measured.
    pub test: usize,
    /// Of those, how many get pictures: the first, whatever they show.
    pub pictures: usize,
}

impl Default for Extent {
    fn default() -> Self {
        Extent { fit: 100, test: 50, pictures: 4 }
    }
}

/// A scene and what was made of it, every map of the scene's size.
struct Seen {
    scene: Scene,
    maps: Maps,
    /// log q(z), nats.
    density: Vec<f32>,
    /// log q(z) less the log-density of the Gaussian of all pixels, nats.
    relative: Vec<f32>,
}

/// Runs the demo and writes pictures, `summary.json` and `index.html` to `folder`, which is created
/// where it is missing. `progress` is told how many scenes are done, of how many; an error of its ends the run.
pub fn run(
    extent: Extent,
    folder: &Path,
    progress: &dyn Fn(usize, usize) -> Result<()>,
) -> Result<Summary> {
    std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
    let scenes = extent.fit + extent.test;
    let mut engine = Engine::new(model()?);
    let hash = engine.model().hash();
    let config = engine.model().config();
    let (classes, channels) = (config.classes.clone(), config.feature_channels());

    let rule = LabelRule::of(config.align_corners);
    let empty = Density::new(hash, classes.clone(), channels, rule, None);
    let mut fit = Fit::new(empty, &engine)?;
    for i in 0..extent.fit {
        let seed = FIT_SEED + i as u64;
        let scene = scenes::draw(seed, false);
        let output = engine.run(&[&scene.image])?;
        let mask = Mask { size: scenes::SIZE, label: scene.label };
        fit.add(&output, &[Some(Annotation { hash: seed, mask: &mask })])?;
        progress(i + 1, scenes)?;
    }
    let density = fit.density()?;
    let (ready, _) = density.gaussians(Covariance::Full, Prior::Empirical)?;
    engine.score_with(&ready, &[Score::Density, Score::Relative], Precision::Exact)?;

    let mut summary = measure::Measure::new(&classes);
    let mut pictured = Vec::new();
    for i in 0..extent.test {
        let scene = scenes::draw(TEST_SEED + i as u64, true);
        let output = engine.run(&[&scene.image])?;
        let seen = look(scene, &output)?;
        summary.add(&seen)?;
        if i < extent.pictures {
            pictured.push(seen);
        }
        progress(extent.fit + i + 1, scenes)?;
    }
    let mut summary = summary.summary(extent, &density.origin);
    summary.findings = findings::of(&summary);
    let range = colour_range(&density.sample, &ready.gaussians, false);
    page::write(folder, &summary, &pictured, range)?;
    Ok(summary)
}

fn look(scene: Scene, output: &Output) -> Result<Seen> {
    let map = |score| output.score(0, score).map(|map| map.values);
    Ok(Seen {
        maps: output.maps(0)?,
        density: map(Score::Density)?,
        relative: map(Score::Relative)?,
        scene,
    })
}
