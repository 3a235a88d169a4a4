//! torchvision `deeplabv3_resnet50 / 101`: DeepLab-v3, dense convolutions, no decoder.

use super::family::{Keys, Rules, aspp, dilation_after_first};
use crate::model::Backbone;

pub const RULES: Rules = Rules {
    family: "torchvision",
    signature: "classifier.0.convs.",
    backbone: "backbone.",
    backbones: &[Backbone::Resnet50, Backbone::Resnet101],
    head,
    output_stride: 8,
    aspp_rates: |_| [12, 24, 36],
    dilation: dilation_after_first,
    concat_order: None,
    align_corners: false,
    whole_strides: false,
    dropout: &[("aspp.project", 0.5)],
    auxiliary: Some("aux_classifier."),
};

fn head(base: &str, part: &str) -> Option<Keys> {
    match (base, part) {
        ("post.0", "") => Some(Keys::new("classifier.1", "classifier.2")),
        ("classifier", _) => Some(Keys::new("classifier.4", "")),
        (_, "") => aspp("classifier.0.", base, part, ""),
        _ => None,
    }
}
