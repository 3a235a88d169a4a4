//! The canonical names of a model's convolutions and their tensors.
//!
//! A [`Unit`] is one convolution with what is fused to it. Its tensors are
//! `NAME.weight [out, in / groups, k, k]`, `NAME.bias [out]` where it has one, and where a batch norm
//! follows `NAME.norm.{weight,bias,mean,var} [out]`.
//!
//! ```text
//! backbone.stem                        7x7, stride 2
//! backbone.layer{1..4}.{i}.conv{1,2,3} and .downsample
//! aspp.0                               1x1
//! aspp.{1..}                           3x3 dilated, or .depthwise and .pointwise
//! aspp.pool                            1x1 after the global average
//! aspp.project                         1x1
//! post.{i}                             3x3 after the ASPP (or .depthwise and .pointwise)
//! decoder.low_level                    1x1
//! decoder.{i}                          3x3 after the concatenation (or .depthwise and .pointwise)
//! classifier                           1x1 with bias
//! ```

use super::config::{ConcatOrder, Config};
use crate::ops::Conv2d;

/// One convolution of the network: its parameters and which tensors go with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Unit {
    pub name: String,
    pub conv: Conv2d,
    /// Channel counts of the inputs that are concatenated, in order; they sum to the input channels.
    pub segments: Vec<usize>,
    pub bias: bool,
    pub norm: bool,
}

impl Unit {
    fn new(name: impl Into<String>, conv: Conv2d) -> Self {
        let segments = vec![conv.in_channels];
        Unit { name: name.into(), conv, segments, bias: false, norm: true }
    }

    /// Name and shape of each tensor of the unit.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let Unit { name, conv, .. } = self;
        let mut all = vec![(format!("{name}.weight"), conv.weight_shape().to_vec())];
        if self.bias {
            all.push((format!("{name}.bias"), vec![conv.out_channels]));
        }
        if self.norm {
            for part in ["weight", "bias", "mean", "var"] {
                all.push((format!("{name}.norm.{part}"), vec![conv.out_channels]));
            }
        }
        all
    }
}

/// Every convolution of the network, in the order in which the network runs them.
pub fn units(config: &Config) -> Vec<Unit> {
    let mut all = Vec::new();
    let stem = config.stem_channels;
    all.push(Unit::new("backbone.stem", Conv2d::dense(3, stem, 7).stride(2)));

    let mut input = stem;
    for (stage, blocks) in config.backbone.blocks().into_iter().enumerate() {
        let (width, output) = (config.stage_width[stage], config.stage_channels[stage]);
        for block in 0..blocks {
            let name = format!("backbone.layer{}.{block}", stage + 1);
            let stride = if block == 0 { config.stage_strides()[stage] } else { 1 };
            let dilation = config.dilations[stage][block];
            let three = |i, o| Conv2d::dense(i, o, 3).dilation(dilation);
            let conv = |i: usize| format!("{name}.conv{i}");
            if config.backbone.bottleneck() {
                all.push(Unit::new(conv(1), Conv2d::dense(input, width, 1)));
                all.push(Unit::new(conv(2), three(width, width).stride(stride)));
                all.push(Unit::new(conv(3), Conv2d::dense(width, output, 1)));
            } else {
                all.push(Unit::new(conv(1), three(input, width).stride(stride)));
                all.push(Unit::new(conv(2), three(width, output)));
            }
            if block == 0 && config.downsamples(stage, input) {
                let conv = Conv2d::dense(input, output, 1).stride(stride);
                all.push(Unit::new(format!("{name}.downsample"), conv));
            }
            input = output;
        }
    }

    let aspp = config.aspp_channels;
    all.push(Unit::new("aspp.0", Conv2d::dense(input, aspp, 1)));
    for (i, &rate) in config.aspp_rates.iter().enumerate() {
        let name = format!("aspp.{}", i + 1);
        push_three(&mut all, config.aspp_separable, name, &[input], aspp, rate);
    }
    all.push(Unit::new("aspp.pool", Conv2d::dense(input, aspp, 1)));
    let branches = config.aspp_rates.len() + 2;
    all.push(Unit {
        segments: vec![aspp; branches],
        ..Unit::new("aspp.project", Conv2d::dense(branches * aspp, aspp, 1))
    });

    let separable = config.decoder_separable;
    let mut width = aspp;
    for (i, &output) in config.post_aspp_channels.iter().enumerate() {
        push_three(&mut all, separable, format!("post.{i}"), &[width], output, 1);
        width = output;
    }
    if let Some(decoder) = &config.decoder {
        let low = decoder.low_level_channels;
        let conv = Conv2d::dense(config.stage_channels[0], low, 1);
        all.push(Unit::new("decoder.low_level", conv));
        let mut segments = match decoder.concat_order {
            ConcatOrder::AsppFirst => vec![width, low],
            ConcatOrder::LowLevelFirst => vec![low, width],
        };
        for (i, &output) in decoder.refine_channels.iter().enumerate() {
            push_three(&mut all, separable, format!("decoder.{i}"), &segments, output, 1);
            segments = vec![output];
        }
        width = segments.iter().sum();
    }
    let classifier = Conv2d::dense(width, config.classes.len(), 1);
    all.push(Unit { bias: true, norm: false, ..Unit::new("classifier", classifier) });
    all
}

/// A 3x3 convolution of the ASPP or the decoder, as one unit or as depthwise and pointwise.
/// `segments` are the channels of its (concatenated) inputs.
fn push_three(
    all: &mut Vec<Unit>,
    separable: bool,
    name: String,
    segments: &[usize],
    output: usize,
    dilation: usize,
) {
    let input = segments.iter().sum();
    let segments = segments.to_vec();
    if separable {
        all.push(Unit {
            name: format!("{name}.depthwise"),
            conv: Conv2d::depthwise(input, 3).dilation(dilation),
            segments: segments.clone(),
            bias: false,
            norm: false,
        });
        let pointwise = Conv2d::dense(input, output, 1);
        all.push(Unit { segments, ..Unit::new(format!("{name}.pointwise"), pointwise) });
    } else {
        let conv = Conv2d::dense(input, output, 3).dilation(dilation);
        all.push(Unit { segments, ..Unit::new(name, conv) });
    }
}
