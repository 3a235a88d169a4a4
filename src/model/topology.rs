//! The network of DeepLab-v3 and -v3+ (Chen et al., arXiv 1706.05587 and 1802.02611) on a ResNet, written
//! once: a list of steps over numbered activations. The names and shapes of a model's tensors
//! ([`units`]), the folded weights and the plan ([`crate::plan::compile`]) are all made from it.
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
//!
//! The dropouts of the training graph are steps too, which only MC Dropout runs ([`crate::ops::Dropout`]). Every
//! family has them behind the ReLU of the unit that `Config::dropout` names, before what follows it.

use super::config::{ConcatOrder, Config, Decoder};
use crate::ops::{Conv2d, Dropout, MaxPool, Resize, Spatial};

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
    let convolution = |step: Step| match step.action {
        Action::Conv { unit, .. } => Some(unit),
        _ => None,
    };
    Topology::new(config).steps.into_iter().filter_map(convolution).collect()
}

/// What a step computes.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// Convolution, then batch norm or bias as the unit says, then the sum with another activation,
    /// then ReLU.
    Conv {
        unit: Unit,
        residual: Option<usize>,
        relu: bool,
    },
    Spatial(Spatial),
    /// The identity outside MC Dropout.
    Dropout(Dropout),
}

/// Where a step writes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Output {
    pub activation: usize,
    /// One of the parts that are concatenated in it; None: all of it.
    pub part: Option<usize>,
}

/// All parts of an activation.
fn all_parts(activation: usize) -> Output {
    Output { activation, part: None }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// The unit's name, or the step's place.
    pub name: String,
    pub action: Action,
    /// The activation that is read, all its parts.
    pub input: usize,
    pub output: Output,
}

/// A network: steps in the order in which they run.
#[derive(Clone, Debug, PartialEq)]
pub struct Topology {
    pub steps: Vec<Step>,
    /// Channels of each part of each activation; parts are concatenated in order, and most
    /// activations have one.
    pub activations: Vec<Vec<usize>>,
    /// The image.
    pub input: usize,
    /// The input of the last 1x1 convolution, whose density is taken.
    pub features: usize,
    pub logits: usize,
}

impl Topology {
    pub fn new(config: &Config) -> Self {
        let mut network = Builder { steps: Vec::new(), activations: Vec::new(), config };
        let input = network.activation(vec![3]);
        let (low_level, deep) = resnet(&mut network, input);
        let mut features = aspp(&mut network, deep);
        for (i, &channels) in config.post_aspp_channels.iter().enumerate() {
            let separable = config.decoder_separable;
            let name = format!("post.{i}");
            features = network.three(&name, features, channels, separable);
            features = network.dropout(&name, features);
        }
        if let Some(decoder) = &config.decoder {
            features = decode(&mut network, decoder, low_level, features);
        }
        let conv = Conv2d::dense(network.channels(features), config.classes.len(), 1);
        let logits = network.activation(vec![config.classes.len()]);
        let unit = Unit { bias: true, norm: false, ..network.unit("classifier", features, conv) };
        network.push(unit, features, None, false, all_parts(logits));
        let Builder { steps, activations, .. } = network;
        Topology { steps, activations, input, features, logits }
    }
}

impl Topology {
    /// Whether an activation's channels are padded in memory: the image keeps its 3 and the logits their C.
    pub fn padded(&self, activation: usize) -> bool {
        activation != self.input && activation != self.logits
    }
}

/// ResNet. Returns the output of the first stage (the low-level features) and of the last.
fn resnet(network: &mut Builder, image: usize) -> (usize, usize) {
    let config = network.config;
    let stem = Conv2d::dense(3, config.stem_channels, 7).stride(2);
    let stem = network.conv("backbone.stem", image, stem);
    let mut x = network.activation(vec![config.stem_channels]);
    let pool = Action::Spatial(Spatial::MaxPool(MaxPool { kernel: 3, stride: 2, padding: 1 }));
    network.step("backbone.pool", pool, stem, all_parts(x));
    let mut low_level = x;
    for stage in 0..4 {
        for block in 0..config.backbone.blocks()[stage] {
            x = residual_block(network, stage, block, x);
        }
        if stage == 0 {
            low_level = x;
        }
    }
    (low_level, x)
}

fn residual_block(network: &mut Builder, stage: usize, block: usize, x: usize) -> usize {
    let config = network.config;
    let name = format!("backbone.layer{}.{block}", stage + 1);
    let (input, width) = (network.channels(x), config.stage_width[stage]);
    let output = config.stage_channels[stage];
    let stride = if block == 0 { config.stage_strides()[stage] } else { 1 };
    let three = |i, o| Conv2d::dense(i, o, 3).dilation(config.dilations[stage][block]);
    let (first, last): (Vec<Conv2d>, Conv2d) = match config.backbone.bottleneck() {
        true => (
            vec![Conv2d::dense(input, width, 1), three(width, width).stride(stride)],
            Conv2d::dense(width, output, 1),
        ),
        false => (vec![three(input, width).stride(stride)], three(width, output)),
    };
    let mut y = x;
    for (i, &conv) in first.iter().enumerate() {
        y = network.conv(&format!("{name}.conv{}", i + 1), y, conv);
    }
    let mut shortcut = x;
    if block == 0 && config.downsamples(stage, input) {
        let conv = Conv2d::dense(input, output, 1).stride(stride);
        let unit = network.unit(&format!("{name}.downsample"), x, conv);
        shortcut = network.activation(vec![output]);
        network.push(unit, x, None, false, all_parts(shortcut));
    }
    let unit = network.unit(&format!("{name}.conv{}", first.len() + 1), y, last);
    let sum = network.activation(vec![output]);
    network.push(unit, y, Some(shortcut), true, all_parts(sum));
    sum
}

/// Atrous spatial pyramid pooling: every branch writes its part of one activation.
fn aspp(network: &mut Builder, x: usize) -> usize {
    let config = network.config;
    let (input, channels) = (network.channels(x), config.aspp_channels);
    let branches = config.aspp_rates.len() + 2;
    let all = network.activation(vec![channels; branches]);
    let part = |index: usize| Output { activation: all, part: Some(index) };
    let one = Conv2d::dense(input, channels, 1);
    network.conv_into("aspp.0", x, one, part(0));
    for (i, &rate) in config.aspp_rates.iter().enumerate() {
        let name = format!("aspp.{}", i + 1);
        let three = Conv2d::dense(input, channels, 3).dilation(rate);
        network.three_into(&name, x, three, config.aspp_separable, part(i + 1));
    }
    let mean = network.activation(vec![input]);
    network.step("aspp.pool.mean", Action::Spatial(Spatial::GlobalAvgPool), x, all_parts(mean));
    let pooled = network.conv("aspp.pool", mean, one);
    network.resize("aspp.pool.upsample", pooled, part(branches - 1));
    let project = Conv2d::dense(branches * channels, channels, 1);
    let projected = network.conv("aspp.project", all, project);
    network.dropout("aspp.project", projected)
}

/// The V3+ decoder: the low-level features projected, the deep ones upsampled, both refined.
fn decode(network: &mut Builder, decoder: &Decoder, low_level: usize, deep: usize) -> usize {
    let (low, up) = (decoder.low_level_channels, network.channels(deep));
    let (parts, low_index) = match decoder.concat_order {
        ConcatOrder::AsppFirst => (vec![up, low], 1),
        ConcatOrder::LowLevelFirst => (vec![low, up], 0),
    };
    let both = network.activation(parts);
    let part = |index| Output { activation: both, part: Some(index) };
    let conv = Conv2d::dense(network.channels(low_level), low, 1);
    network.conv_into("decoder.low_level", low_level, conv, part(low_index));
    network.resize("decoder.upsample", deep, part(1 - low_index));
    let mut x = both;
    for (i, &channels) in decoder.refine_channels.iter().enumerate() {
        let separable = network.config.decoder_separable;
        let name = format!("decoder.{i}");
        x = network.three(&name, x, channels, separable);
        x = network.dropout(&name, x);
    }
    x
}

struct Builder<'a> {
    steps: Vec<Step>,
    activations: Vec<Vec<usize>>,
    config: &'a Config,
}

impl Builder<'_> {
    fn activation(&mut self, parts: Vec<usize>) -> usize {
        self.activations.push(parts);
        self.activations.len() - 1
    }

    fn channels(&self, activation: usize) -> usize {
        self.activations[activation].iter().sum()
    }

    /// A convolution of `x` with a batch norm and without a bias.
    fn unit(&self, name: &str, x: usize, conv: Conv2d) -> Unit {
        let segments = self.activations[x].clone();
        Unit { name: name.into(), conv, segments, bias: false, norm: true }
    }

    fn step(&mut self, name: &str, action: Action, input: usize, output: Output) {
        self.steps.push(Step { name: name.into(), action, input, output });
    }

    fn push(&mut self, unit: Unit, x: usize, residual: Option<usize>, relu: bool, y: Output) {
        let name = unit.name.clone();
        self.step(&name, Action::Conv { unit, residual, relu }, x, y);
    }

    /// Convolution, batch norm and ReLU.
    fn conv(&mut self, name: &str, x: usize, conv: Conv2d) -> usize {
        let activation = self.activation(vec![conv.out_channels]);
        self.conv_into(name, x, conv, all_parts(activation));
        activation
    }

    fn conv_into(&mut self, name: &str, x: usize, conv: Conv2d, y: Output) {
        let unit = self.unit(name, x, conv);
        self.push(unit, x, None, true, y);
    }

    /// A 3x3 convolution of the ASPP or the decoder, as one unit or as depthwise and pointwise without
    /// a norm in between.
    fn three_into(&mut self, name: &str, x: usize, three: Conv2d, separable: bool, y: Output) {
        let input = self.channels(x);
        if !separable {
            return self.conv_into(name, x, three, y);
        }
        let conv = Conv2d::depthwise(input, 3).dilation(three.dilation);
        let depthwise = Unit { norm: false, ..self.unit(&format!("{name}.depthwise"), x, conv) };
        // A depthwise convolution keeps the parts of its input.
        let between = self.activation(self.activations[x].clone());
        self.push(depthwise, x, None, false, all_parts(between));
        let conv = Conv2d::dense(input, three.out_channels, 1);
        self.conv_into(&format!("{name}.pointwise"), between, conv, y);
    }

    fn three(&mut self, name: &str, x: usize, output: usize, separable: bool) -> usize {
        let activation = self.activation(vec![output]);
        let conv = Conv2d::dense(self.channels(x), output, 3);
        self.three_into(name, x, conv, separable, all_parts(activation));
        activation
    }

    /// The dropouts after a unit of the ASPP or the decoder; `x` itself where it has none.
    fn dropout(&mut self, unit: &str, mut x: usize) -> usize {
        let config = self.config;
        for (place, dropout) in config.dropout.iter().enumerate() {
            if dropout.after == unit && dropout.probability > 0.0 {
                let y = self.activation(self.activations[x].clone());
                let op = Dropout { place: place as u32, probability: dropout.probability };
                self.step(&format!("{unit}.dropout"), Action::Dropout(op), x, all_parts(y));
                x = y;
            }
        }
        x
    }

    fn resize(&mut self, name: &str, x: usize, y: Output) {
        let align_corners = self.config.align_corners;
        let resize = Spatial::Resize(Resize { align_corners });
        self.step(name, Action::Spatial(resize), x, y);
    }
}
