//! The configuration of a DeepLab: everything the topology needs that the weights do not say.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The family whose projections stay where a stride became a dilation ([`Config::downsamples`]).
pub const SMP: &str = "smp";

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Backbone {
    Resnet18,
    Resnet34,
    Resnet50,
    Resnet101,
}

impl std::fmt::Display for Backbone {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Backbone {
    pub const ALL: [Backbone; 4] =
        [Backbone::Resnet18, Backbone::Resnet34, Backbone::Resnet50, Backbone::Resnet101];

    pub fn name(self) -> &'static str {
        match self {
            Backbone::Resnet18 => "resnet18",
            Backbone::Resnet34 => "resnet34",
            Backbone::Resnet50 => "resnet50",
            Backbone::Resnet101 => "resnet101",
        }
    }

    /// Residual blocks of each of the four stages.
    pub fn blocks(self) -> [usize; 4] {
        match self {
            Backbone::Resnet18 => [2, 2, 2, 2],
            Backbone::Resnet34 | Backbone::Resnet50 => [3, 4, 6, 3],
            Backbone::Resnet101 => [3, 4, 23, 3],
        }
    }

    /// Bottleneck blocks (1x1, 3x3, 1x1) rather than basic ones (3x3, 3x3).
    pub fn bottleneck(self) -> bool {
        matches!(self, Backbone::Resnet50 | Backbone::Resnet101)
    }
}

/// Which comes first in the channels of the decoder's concatenation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ConcatOrder {
    AsppFirst,
    LowLevelFirst,
}

/// The V3+ decoder: project the stride-4 backbone features, concatenate, refine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Decoder {
    /// Channels of the 1x1 projection of the low-level features (48 in all published models).
    pub low_level_channels: usize,
    pub concat_order: ConcatOrder,
    /// Output channels of each 3x3 convolution after the concatenation.
    pub refine_channels: Vec<usize>,
}

/// A dropout of the training graph, used by MC Dropout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dropout {
    /// The unit (see [`super::topology`]) whose output it acts on.
    pub after: String,
    pub probability: f32,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// The family whose code trained it ([`crate::import::families`]).
    pub family: String,
    pub backbone: Backbone,
    /// Output channels of the 7x7 stem.
    pub stem_channels: usize,
    /// Width of the 3x3 convolutions of each stage.
    pub stage_width: [usize; 4],
    /// Output channels of each stage (the width again for basic blocks).
    pub stage_channels: [usize; 4],
    /// 8 or 16.
    pub output_stride: usize,
    /// Dilation of the 3x3 convolutions of each block of each stage.
    pub dilations: [Vec<usize>; 4],
    pub aspp_rates: Vec<usize>,
    pub aspp_channels: usize,
    /// Output channels of each 3x3 convolution between the ASPP projection and whatever follows it
    /// (smp's `aspp.1`, torchvision's `classifier.1`); empty elsewhere.
    pub post_aspp_channels: Vec<usize>,
    /// The dilated convolutions of the ASPP are depthwise-separable (no norm in between).
    pub aspp_separable: bool,
    /// So are the 3x3 convolutions after the ASPP and in the decoder.
    pub decoder_separable: bool,
    /// None: DeepLab-v3, whose classifier reads the post-ASPP features.
    pub decoder: Option<Decoder>,
    /// Rule of every bilinear upsampling (irrelevant for the 1x1 image-pooling branch).
    pub align_corners: bool,
    /// Height and width must divide by this; smaller inputs are padded at the bottom and right.
    pub input_multiple: usize,
    pub dropout: Vec<Dropout>,
    /// One name per class, in index order; [`unnamed_class`] where none was given.
    pub classes: Vec<String>,
    /// Of RGB / 255.
    pub mean: [f32; 3],
    pub std: [f32; 3],
}

/// Keeps products of a file's sizes far from overflow.
pub const MAX_CHANNELS: usize = 1 << 16;
const MAX_DILATION: usize = 1 << 12;

pub const IMAGENET_MEAN: [f32; 3] = [0.485, 0.456, 0.406];
pub const IMAGENET_STD: [f32; 3] = [0.229, 0.224, 0.225];

/// What class `index` is called in a model whose classes were not named.
pub fn unnamed_class(index: usize) -> String {
    format!("class{index}")
}

impl Config {
    /// Whether the classes have names of their own, not [`unnamed_class`].
    pub fn has_class_names(&self) -> bool {
        self.classes.iter().enumerate().any(|(i, name)| *name != unnamed_class(i))
    }

    /// Channels D of the feature whose density is taken: the input of the last 1x1 convolution.
    pub fn feature_channels(&self) -> usize {
        let chain = match &self.decoder {
            Some(decoder) => &decoder.refine_channels,
            None => &self.post_aspp_channels,
        };
        chain.last().copied().unwrap_or(self.aspp_channels)
    }

    /// Stride of each stage's first block: the strides that the output stride leaves.
    pub fn stage_strides(&self) -> [usize; 4] {
        match self.output_stride {
            8 => [1, 2, 1, 1],
            _ => [1, 2, 2, 1],
        }
    }

    /// Whether the first block of `stage` projects its residual; `input` is that stage's input.
    pub fn downsamples(&self, stage: usize, input: usize) -> bool {
        // smp builds a stride-32 ResNet and dilates it afterwards: the projections stay.
        let strides = if self.family == SMP { [1, 2, 2, 2] } else { self.stage_strides() };
        strides[stage] != 1 || input != self.stage_channels[stage]
    }
}

impl Config {
    /// The units that a dropout may follow.
    fn dropout_places(&self) -> Vec<String> {
        let chain = |name: &str, len: usize| (0..len).map(move |i| format!("{name}.{i}")).collect();
        let post: Vec<String> = chain("post", self.post_aspp_channels.len());
        let refine = chain("decoder", self.decoder.as_ref().map_or(0, |d| d.refine_channels.len()));
        [vec!["aspp.project".into()], post, refine].concat()
    }

    /// Checks what the shapes of the weights cannot: `source` names the file in the message.
    pub fn validate(&self, source: &str) -> Result<()> {
        let bad = |what: &str, expected: &str, found: String| {
            Err(Error::invalid(format!("{source}: {what}"), expected, found))
        };
        if !matches!(self.output_stride, 8 | 16) {
            return bad("output stride", "8 or 16", self.output_stride.to_string());
        }
        if !(2..=255).contains(&self.classes.len()) {
            return bad(
                "classes",
                "2 to 255 (a mask's void is 255)",
                self.classes.len().to_string(),
            );
        }
        for (stage, (dilations, blocks)) in
            self.dilations.iter().zip(self.backbone.blocks()).enumerate()
        {
            if dilations.len() != blocks {
                let what = format!("dilations of layer{}", stage + 1);
                return bad(&what, &format!("{blocks} of them"), dilations.len().to_string());
            }
        }
        if !self.backbone.bottleneck() && self.stage_width != self.stage_channels {
            let found = format!("{:?} and {:?}", self.stage_width, self.stage_channels);
            return bad("stages", "equal widths and channels for basic blocks", found);
        }
        let multiple = [self.input_multiple];
        let strides = self.dilations.iter().flatten().chain(&self.aspp_rates).chain(&multiple);
        if let Some(n) = strides.into_iter().find(|n| !(1..=MAX_DILATION).contains(*n)) {
            let expected = format!("1 to {MAX_DILATION}");
            return bad("dilations, ASPP rates and input multiple", &expected, n.to_string());
        }
        let decoder = self.decoder.iter();
        let channels = self
            .stage_width
            .iter()
            .chain(&self.stage_channels)
            .chain([&self.stem_channels, &self.aspp_channels])
            .chain(&self.post_aspp_channels)
            .chain(decoder.flat_map(|d| d.refine_channels.iter().chain([&d.low_level_channels])));
        if let Some(n) = channels.into_iter().find(|n| !(1..=MAX_CHANNELS).contains(*n)) {
            return bad("channels", &format!("1 to {MAX_CHANNELS}"), n.to_string());
        }
        // A pixel is (rgb / 255 - mean) / std: far from 1, the input would overflow.
        let sane = |m: &f32, s: &f32| m.abs() <= 1e3 && (1e-3..=1e3).contains(s);
        if !self.mean.iter().zip(&self.std).all(|(m, s)| sane(m, s)) {
            let expected = "finite numbers, mean within +-1000, std from 0.001 to 1000";
            let found = format!("mean {:?}, std {:?}", self.mean, self.std);
            return bad("normalisation", expected, found);
        }
        if let Some(d) = self.dropout.iter().find(|d| !(0.0..1.0).contains(&d.probability)) {
            return bad("dropout", "a probability below 1", d.probability.to_string());
        }
        let places = self.dropout_places();
        if let Some(d) = self.dropout.iter().find(|d| !places.contains(&d.after)) {
            return bad("dropout", &format!("after one of {}", places.join(", ")), d.after.clone());
        }
        if self.decoder.as_ref().is_some_and(|d| d.refine_channels.is_empty()) {
            return bad("decoder", "a convolution after the concatenation", "none".into());
        }
        for unit in super::units(self) {
            unit.conv.validate()?;
        }
        Ok(())
    }
}
