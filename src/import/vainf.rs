//! VainF/DeepLabV3Plus-Pytorch: torchvision's backbone and ASPP, the decoder with the low-level
//! features first; optionally separable, each 3x3 of the head then being `.body.{0,1}`.

use super::family::{Keys, Rules, aspp, dilation_after_first, three};
use crate::model::{Backbone, ConcatOrder};

pub const RULES: Rules = Rules {
    family: "vainf",
    signature: "classifier.aspp.",
    backbone: "backbone.",
    backbones: &[Backbone::Resnet50, Backbone::Resnet101],
    head,
    output_stride: 16,
    aspp_rates: |output_stride| [6, 12, 18].map(|rate| rate * 16 / output_stride),
    dilation: dilation_after_first,
    concat_order: Some(ConcatOrder::LowLevelFirst),
    align_corners: false,
    whole_strides: false,
    dropout: &[("aspp.project", 0.1)],
    auxiliary: None,
};

fn head(base: &str, part: &str) -> Option<Keys> {
    match base {
        "decoder.low_level" => Some(Keys::new("classifier.project.0", "classifier.project.1")),
        "decoder.0" => three("classifier.classifier.0", "classifier.classifier.1", ".body.", part),
        "classifier" => Some(Keys::new("classifier.classifier.3", "")),
        _ => aspp("classifier.aspp.", base, part, ".body."),
    }
}
