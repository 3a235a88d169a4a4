//! What differs between the families: the names of the keys, and what a state dict does not say
//! (dilations, defaults, dropout). Each family's file fills in [`Rules`].

use crate::model::{Backbone, ConcatOrder, Dropout};

/// Prefixes of a unit's keys in a checkpoint; `norm` is empty where no batch norm follows.
#[derive(Debug, PartialEq)]
pub struct Keys {
    pub conv: String,
    pub norm: String,
}

impl Keys {
    pub fn new(conv: impl Into<String>, norm: impl Into<String>) -> Self {
        Keys { conv: conv.into(), norm: norm.into() }
    }
}

pub struct Rules {
    pub family: &'static str,
    /// Begins keys of this family and of no other.
    pub signature: &'static str,
    /// The prefix of the ResNet's keys.
    pub backbone: &'static str,
    /// The ResNets that the family's code can build.
    pub backbones: &'static [Backbone],
    /// Keys of a unit ([`crate::model::topology`]) outside the backbone; None where the family has
    /// no such unit. The second argument is "", "depthwise" or "pointwise".
    pub head: fn(&str, &str) -> Option<Keys>,
    pub output_stride: usize,
    /// ASPP rates for an output stride.
    pub aspp_rates: fn(usize) -> [usize; 3],
    /// Dilations of the 3x3 convolutions of block `b` of layer3 and layer4.
    pub dilation: fn(output_stride: usize, stage: usize, block: usize) -> usize,
    /// None: DeepLab-v3.
    pub concat_order: Option<ConcatOrder>,
    pub align_corners: bool,
    /// The code takes only multiples of the output stride.
    pub whole_strides: bool,
    /// Unit and probability.
    pub dropout: &'static [(&'static str, f32)],
    /// Begins keys that inference does not need.
    pub auxiliary: Option<&'static str>,
}

impl Rules {
    /// Keys of a unit by its canonical name.
    pub fn keys(&self, unit: &str) -> Option<Keys> {
        let Some(rest) = unit.strip_prefix("backbone.") else {
            let (base, part) = match unit.rsplit_once('.') {
                Some((base, part @ ("depthwise" | "pointwise"))) => (base, part),
                _ => (unit, ""),
            };
            return (self.head)(base, part);
        };
        let p = self.backbone;
        Some(match rest.rsplit_once('.') {
            None => Keys::new(format!("{p}conv1"), format!("{p}bn1")),
            Some((block, "downsample")) => {
                Keys::new(format!("{p}{block}.downsample.0"), format!("{p}{block}.downsample.1"))
            }
            Some((block, conv)) => {
                let norm = conv.replace("conv", "bn");
                Keys::new(format!("{p}{block}.{conv}"), format!("{p}{block}.{norm}"))
            }
        })
    }

    pub fn dropout(&self) -> Vec<Dropout> {
        let place =
            |&(after, probability): &(&str, f32)| Dropout { after: after.into(), probability };
        self.dropout.iter().map(place).collect()
    }
}

/// torchvision's dilation rule, shared by its descendants: a layer whose stride became a dilation
/// keeps its predecessor's dilation in the first block.
pub fn dilation_after_first(output_stride: usize, stage: usize, block: usize) -> usize {
    let before = if output_stride == 8 && stage == 3 { 2 } else { 1 };
    match stage {
        2 if output_stride == 16 => 1,
        _ if block == 0 => before,
        _ => 2 * before,
    }
}

/// Keys of a 3x3 convolution and its norm; `body` leads from `conv` to the parts of a separable one.
pub fn three(conv: &str, norm: &str, body: &str, part: &str) -> Option<Keys> {
    Some(match part {
        "depthwise" => Keys::new(format!("{conv}{body}0"), ""),
        "pointwise" => Keys::new(format!("{conv}{body}1"), norm),
        _ => Keys::new(conv, norm),
    })
}

/// Keys of torchvision's ASPP module, which smp and VainF took over, at `prefix`.
pub fn aspp(prefix: &str, base: &str, part: &str, body: &str) -> Option<Keys> {
    let pair = |conv: &str, norm: &str| {
        Some(Keys::new(format!("{prefix}{conv}"), format!("{prefix}{norm}")))
    };
    match base {
        "aspp.0" => pair("convs.0.0", "convs.0.1"),
        "aspp.1" | "aspp.2" | "aspp.3" => {
            let branch = format!("{prefix}convs.{}", &base["aspp.".len()..]);
            three(&format!("{branch}.0"), &format!("{branch}.1"), body, part)
        }
        "aspp.pool" => pair("convs.4.1", "convs.4.2"),
        "aspp.project" => pair("project.0", "project.1"),
        _ => None,
    }
}
