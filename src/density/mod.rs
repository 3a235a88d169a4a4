//! The feature density: one Gaussian a class over the features of the labelled training pixels.
//!
//! ```text
//! images, masks --fit--> moments --+ covariance, prior--> gaussians --pack--> evaluator --> log q(z)
//!                        (the file)
//! ```
//! Moments are what is stored and merged; Gaussians are made from them when a density is evaluated.
//! Low log-density = a feature unlike anything the network was taught = epistemic uncertainty.
//! Source: Mukhoti et al. 2021, "Deep Deterministic Uncertainty for Semantic Segmentation"
//! (arXiv 2111.00079).

mod evaluate;
mod file;
mod gaussian;
mod half;
mod moments;
mod sample;
mod scale;
mod syrk;

use crate::data::LabelRule;
use crate::error::{Error, Result};
pub use evaluate::{Evaluation, Evaluator, Options, Score, TAU};
pub use file::Progress;
pub use gaussian::{CONDITION_CAP, ClassGaussian, Covariance, Gaussian, Gaussians, Prior, Warning};
pub use half::{finite_in_half, round_to_half};
pub use moments::{Moments, Tally, VOID};
pub use sample::Sample;
pub use scale::colour_range;

/// What a density was fitted with and on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// [`crate::model::Model::hash`]
    pub model: String,
    /// The model's class names.
    pub classes: Vec<String>,
    pub label_rule: LabelRule,
    /// `--resize` of the fit.
    pub resize: Option<usize>,
    /// What became of the pixels.
    pub pixels: Tally,
    /// First 64 bits of the SHA-256 of each image's decoded pixels, sorted. Not a tree: its nodes,
    /// one every few images, would leave the heap in pieces.
    pub images: Vec<u64>,
}

/// The content of a density file.
#[derive(Clone, Debug, PartialEq)]
pub struct Density {
    pub moments: Moments,
    pub sample: Sample,
    pub origin: Origin,
}

impl Density {
    /// An empty density: no images yet.
    pub fn new(
        model: String,
        classes: Vec<String>,
        channels: usize,
        label_rule: LabelRule,
        resize: Option<usize>,
    ) -> Self {
        Density {
            moments: Moments::new(classes.len(), channels),
            sample: Sample::new(channels),
            origin: Origin {
                model,
                classes,
                label_rule,
                resize,
                pixels: Tally::default(),
                images: Vec::new(),
            },
        }
    }

    /// Folds one image in: its content's hash, features `[cells, D]` (rounded to fp16 here) and labels
    /// `[cells]`. False, and nothing done, if an image of this content is already in.
    pub fn add(&mut self, image: u64, features: &[f32], labels: &[u8]) -> bool {
        let new = self.claim(image);
        if new {
            self.origin.pixels += self.moments.add(features, labels);
            self.sample.add(image, features, labels, self.moments.classes());
        }
        new
    }

    /// Notes that an image of this content is in; false if one was.
    pub(crate) fn claim(&mut self, image: u64) -> bool {
        let Err(place) = self.origin.images.binary_search(&image) else {
            return false;
        };
        self.origin.images.insert(place, image);
        true
    }

    /// Joins a shard; `source` names its file in the message.
    ///
    /// # Errors
    /// A shard of another model, class list, label rule or resize, one that shares images, or one
    /// whose sums with these leave the range of their numbers; nothing is joined then.
    pub fn merge(&mut self, source: &str, other: &Density) -> Result<()> {
        let (own, its) = (&self.origin, &other.origin);
        let foreign = |what: &str, own: String, its: String| {
            Err(Error::invalid(format!("{source}: {what}"), own, its)
                .fix("only shards of one model, fitted alike, can be merged"))
        };
        if own.model != its.model {
            return foreign("model", own.model.clone(), its.model.clone());
        }
        if own.classes != its.classes {
            return foreign("classes", own.classes.join(", "), its.classes.join(", "));
        }
        if self.moments.channels() != other.moments.channels() {
            let channels = |d: &Density| d.moments.channels().to_string();
            return foreign("channels", channels(self), channels(other));
        }
        if (own.label_rule, own.resize) != (its.label_rule, its.resize) {
            let rule = |o: &Origin| match o.resize {
                Some(side) => format!("{:?} at --resize {side}", o.label_rule),
                None => format!("{:?} at native size", o.label_rule),
            };
            return foreign("label rule", rule(own), rule(its));
        }
        let shared = its.images.iter().filter(|i| own.images.binary_search(i).is_ok()).count();
        if shared > 0 {
            let found = format!("{shared} of {} already merged", its.images.len());
            return Err(Error::invalid(format!("{source}: images"), "images of its own", found)
                .fix("shards must not overlap: leave it out, or fit the remaining images"));
        }
        let mut moments = self.moments.clone();
        moments.merge(&other.moments);
        let mut pixels = own.pixels.clone();
        pixels += its.pixels.clone();
        moments.check(&format!("{source}, merged"))?;
        pixels.check(&format!("{source}, merged"), &moments)?;
        (self.moments, self.origin.pixels) = (moments, pixels);
        self.sample.merge(&other.sample);
        self.origin.images.extend(&its.images);
        self.origin.images.sort_unstable();
        Ok(())
    }

    /// Refuses what no fit gives; `source` names the file in the message.
    fn check(&self, source: &str) -> Result<()> {
        self.moments.check(source)?;
        self.origin.pixels.check(source, &self.moments)?;
        if let Some(pair) = self.origin.images.windows(2).find(|pair| pair[0] == pair[1]) {
            let found = format!("{:016x} twice", pair[0]);
            return Err(Error::invalid(format!("{source}: images"), "each image once", found));
        }
        Ok(())
    }

    /// Refuses a model that this density was not fitted with; `source` names the density's file.
    pub fn check_model(&self, source: &str, model: &str) -> Result<()> {
        if self.origin.model == model {
            return Ok(());
        }
        let short = |hash: &str| hash.chars().take(16).collect::<String>();
        Err(Error::invalid(
            format!("{source}: model"),
            format!("a density of this model ({})", short(model)),
            format!("one of {}", short(&self.origin.model)),
        )
        .fix("fit a density with this model: ddu fit"))
    }
}
