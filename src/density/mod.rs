//! The feature density: one Gaussian per class over the features of the labelled training pixels.
//!
//! ```text
//! images, masks --fit--> moments --+ covariance, prior--> gaussians --pack--> evaluator --> log q(z)
//!                        (the file)
//! ```
//! Moments are what is stored and merged; Gaussians are made from them when a density is evaluated.
//! Low log-density = a feature unlike anything the network was taught = epistemic uncertainty.
//! Source: Mukhoti et al. 2021, "Deep Deterministic Uncertainty for Semantic Segmentation"
//! (arXiv 2111.00079).

mod confidence;
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
use crate::ops::Size;
pub use confidence::weight_roots;
pub use evaluate::{Evaluation, Evaluator, Options, TAU};
pub use file::Progress;
pub use gaussian::{CONDITION_CAP, ClassGaussian, Covariance, Gaussian, Gaussians, Prior, Warning};
pub use half::{finite_in_half, round_to_half};
pub use moments::{Moments, Tally, VOID, WeightSums};
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
    /// Least and greatest shorter side, in pixels, of the images as the network saw them, after
    /// `--resize`; None where features were added without images.
    pub short_side: Option<[usize; 2]>,
    /// How many pixels were fitted, void, unknown or not finite.
    pub pixels: Tally,
    /// First 64 bits of the SHA-256 of each image's decoded pixels, sorted. A sorted Vec, not a tree, whose many
    /// small nodes would fragment the heap.
    pub images: Vec<u64>,
}

/// The content of a density file.
#[derive(Clone, Debug, PartialEq)]
pub struct Density {
    pub moments: Moments,
    /// The same pixels weighted by [`weight_roots`], where they were asked for.
    pub weighted: Option<Moments>,
    pub sample: Sample,
    pub origin: Origin,
}

/// The Gaussians of a density and the model that its features come from.
#[derive(Clone, Debug)]
pub struct ModelGaussians {
    /// [`crate::model::Model::hash`]
    pub model: String,
    pub gaussians: Gaussians,
    /// From the weighted moments, where the density has them and the network is sure of some pixels.
    pub weighted: Option<Gaussians>,
}

impl Density {
    /// The Gaussians, ready to evaluate, and warnings about doubtful classes.
    ///
    /// # Errors
    /// As [`Gaussians::new`].
    pub fn gaussians(
        &self,
        covariance: Covariance,
        prior: Prior,
    ) -> Result<(ModelGaussians, Vec<Warning>)> {
        let (gaussians, mut warnings) = Gaussians::new(&self.moments, covariance, prior)?;
        let mut weighted = None;
        if let Some(moments) = &self.weighted {
            let classes = 0..moments.classes();
            let left_out =
                |class| Warning::LeftOut { class, count: moments.effective(class) as i64 };
            let more = match classes.clone().any(|class| moments.effective(class) >= 2.0) {
                false => classes.map(left_out).collect(),
                true => {
                    let (made, more) = Gaussians::new(moments, covariance, prior)?;
                    weighted = Some(made);
                    more
                }
            };
            warnings.extend(more.into_iter().map(|warning| Warning::Weighted(Box::new(warning))));
        }
        Ok((ModelGaussians { model: self.origin.model.clone(), gaussians, weighted }, warnings))
    }

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
            weighted: None,
            sample: Sample::new(channels),
            origin: Origin {
                model,
                classes,
                label_rule,
                resize,
                short_side: None,
                pixels: Tally::default(),
                images: Vec::new(),
            },
        }
    }

    /// An empty density like this one that also takes weighted moments.
    pub fn with_weights(mut self) -> Self {
        self.weighted = Some(Moments::weighted(self.moments.classes(), self.moments.channels()));
        self
    }

    /// Folds one image in: its content's hash, features `[cells, D]` (rounded to fp16 here) and labels
    /// `[cells]`. False, and nothing done, if an image of this content is already in.
    ///
    /// # Panics
    /// If the lengths do not agree, or for a density with weighted moments.
    pub fn add(&mut self, image: u64, features: &[f32], labels: &[u8]) -> bool {
        assert!(self.weighted.is_none(), "weighted moments need logits");
        self.fold(image, features, labels)
    }

    /// As [`Self::add`], to weighted moments too; `logits` `[cells, C]` say how sure the network is.
    ///
    /// # Panics
    /// If the lengths do not agree, or for a density without weighted moments.
    pub fn add_weighted(
        &mut self,
        image: u64,
        features: &[f32],
        logits: &[f32],
        labels: &[u8],
    ) -> bool {
        assert!(self.weighted.is_some(), "a density without weighted moments");
        let new = self.fold(image, features, labels);
        if let (true, Some(weighted)) = (new, &mut self.weighted) {
            let roots = weight_roots(logits, weighted.classes(), labels);
            weighted.add_weighted(features, labels, &roots);
        }
        new
    }

    fn fold(&mut self, image: u64, features: &[f32], labels: &[u8]) -> bool {
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

    /// Notes the size at which the network saw an image.
    pub(crate) fn saw(&mut self, size: Size) {
        let short = size.h.min(size.w);
        self.origin.short_side = range_of([self.origin.short_side, Some([short; 2])]);
    }

    /// Joins a shard; `source` names its file in the message.
    ///
    /// # Errors
    /// A shard of another model, class list, label rule or resize, one that shares images, or one
    /// whose sums with these leave the range of their numbers; nothing is joined then.
    pub fn merge(&mut self, source: &str, other: &Density) -> Result<()> {
        let (ours, theirs) = (&self.origin, &other.origin);
        let foreign = |what: &str, expected: String, found: String| {
            Err(Error::invalid(format!("{source}: {what}"), expected, found)
                .fix("only shards of one model, fitted alike, can be merged"))
        };
        if ours.model != theirs.model {
            return foreign("model", ours.model.clone(), theirs.model.clone());
        }
        if ours.classes != theirs.classes {
            return foreign("classes", ours.classes.join(", "), theirs.classes.join(", "));
        }
        if self.moments.channels() != other.moments.channels() {
            let channels = |d: &Density| d.moments.channels().to_string();
            return foreign("channels", channels(self), channels(other));
        }
        if (ours.label_rule, ours.resize) != (theirs.label_rule, theirs.resize) {
            let rule = |o: &Origin| match o.resize {
                Some(side) => format!("{:?} at --resize {side}", o.label_rule),
                None => format!("{:?} at native size", o.label_rule),
            };
            return foreign("label rule", rule(ours), rule(theirs));
        }
        if self.weighted.is_some() != other.weighted.is_some() {
            let name = |d: &Density| if d.weighted.is_some() { "confidence" } else { "none" };
            return foreign("weight", name(self).into(), name(other).into());
        }
        let shared = theirs.images.iter().filter(|i| ours.images.binary_search(i).is_ok()).count();
        if shared > 0 {
            let found = format!("{shared} of {} already merged", theirs.images.len());
            return Err(Error::invalid(
                format!("{source}: images"),
                "images that no other shard has",
                found,
            )
            .fix("shards must not overlap: leave it out, or fit the remaining images"));
        }
        let mut moments = self.moments.clone();
        moments.merge(&other.moments);
        let mut weighted = self.weighted.clone();
        if let (Some(ours), Some(theirs)) = (&mut weighted, &other.weighted) {
            ours.merge(theirs);
            ours.check(&format!("{source}, merged"))?;
        }
        let mut pixels = ours.pixels.clone();
        pixels += theirs.pixels.clone();
        moments.check(&format!("{source}, merged"))?;
        pixels.check(&format!("{source}, merged"), &moments)?;
        (self.moments, self.weighted, self.origin.pixels) = (moments, weighted, pixels);
        self.sample.merge(&other.sample);
        self.origin.short_side = range_of([self.origin.short_side, theirs.short_side]);
        self.origin.images.extend(&theirs.images);
        self.origin.images.sort_unstable();
        Ok(())
    }

    /// Refuses values that no fit produces; `source` names the file in the message.
    fn check(&self, source: &str) -> Result<()> {
        self.moments.check(source)?;
        if let Some(weighted) = &self.weighted {
            weighted.check(&format!("{source}: weighted"))?;
            let shape = |moments: &Moments| (moments.classes(), moments.channels());
            let pairs = || weighted.count().iter().zip(self.moments.count());
            if shape(weighted) != shape(&self.moments) || pairs().any(|(some, all)| some > all) {
                let what = format!("{source}: weighted");
                return Err(Error::invalid(what, "moments of the fitted pixels", "of others"));
            }
        }
        self.origin.pixels.check(source, &self.moments)?;
        if let Some([least, greatest]) = self.origin.short_side
            && !(1..=greatest).contains(&least)
        {
            let found = format!("{least} to {greatest}");
            return Err(Error::invalid(
                format!("{source}: short_side_px"),
                "a range of sides",
                found,
            ));
        }
        if let Some(pair) = self.origin.images.windows(2).find(|pair| pair[0] == pair[1]) {
            let found = format!("{:016x} twice", pair[0]);
            return Err(Error::invalid(format!("{source}: images"), "each image once", found));
        }
        Ok(())
    }

    /// Refuses a model that this density was not fitted with; `source` names the density's file.
    pub fn check_model(&self, source: &str, model: &str) -> Result<()> {
        same_model(source, &self.origin.model, model)
    }
}

/// The range that holds both.
fn range_of(ranges: [Option<[usize; 2]>; 2]) -> Option<[usize; 2]> {
    ranges.into_iter().flatten().reduce(|a, b| [a[0].min(b[0]), a[1].max(b[1])])
}

impl ModelGaussians {
    /// Refuses a model that the density was not fitted with.
    pub fn check_model(&self, model: &str) -> Result<()> {
        same_model("density", &self.model, model)
    }
}

fn same_model(source: &str, fitted: &str, model: &str) -> Result<()> {
    if fitted == model {
        return Ok(());
    }
    let short = |hash: &str| hash.chars().take(16).collect::<String>();
    Err(Error::invalid(
        format!("{source}: model"),
        format!("a density of this model ({})", short(model)),
        format!("one of {}", short(fitted)),
    )
    .fix("fit a density with this model: ddu fit"))
}
