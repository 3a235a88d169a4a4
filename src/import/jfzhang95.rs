//! jfzhang95/pytorch-deeplab-xception with its ResNet: multi-grid dilations in layer4, two 3x3
//! convolutions in the decoder, each with a dropout.

use super::family::{Keys, Rules};
use crate::model::{Backbone, ConcatOrder};

pub const RULES: Rules = Rules {
    family: "jfzhang95",
    signature: "aspp.aspp1.",
    backbone: "backbone.",
    backbones: &[Backbone::Resnet50, Backbone::Resnet101],
    head,
    output_stride: 16,
    aspp_rates: |output_stride| [6, 12, 18].map(|rate| rate * 16 / output_stride),
    dilation: |output_stride, stage, block| match (output_stride, stage) {
        (8, 2) => 2,
        (_, 3) => (16 / output_stride * 2) << block,
        _ => 1,
    },
    concat_order: Some(ConcatOrder::AsppFirst),
    align_corners: true,
    whole_strides: false,
    dropout: &[("aspp.project", 0.5), ("decoder.0", 0.5), ("decoder.1", 0.1)],
    auxiliary: None,
};

fn head(base: &str, part: &str) -> Option<Keys> {
    let branch =
        |i: usize| Some(Keys::new(format!("aspp.aspp{i}.atrous_conv"), format!("aspp.aspp{i}.bn")));
    match (base, part) {
        ("aspp.0", "") => branch(1),
        ("aspp.1", "") => branch(2),
        ("aspp.2", "") => branch(3),
        ("aspp.3", "") => branch(4),
        ("aspp.pool", _) => Some(Keys::new("aspp.global_avg_pool.1", "aspp.global_avg_pool.2")),
        ("aspp.project", _) => Some(Keys::new("aspp.conv1", "aspp.bn1")),
        ("decoder.low_level", _) => Some(Keys::new("decoder.conv1", "decoder.bn1")),
        ("decoder.0", "") => Some(Keys::new("decoder.last_conv.0", "decoder.last_conv.1")),
        ("decoder.1", "") => Some(Keys::new("decoder.last_conv.4", "decoder.last_conv.5")),
        ("classifier", _) => Some(Keys::new("decoder.last_conv.8", "")),
        _ => None,
    }
}
