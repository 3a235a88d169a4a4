//! Folding batch norm into the convolutions, once per model, in f32.
//!
//! w' = w s and b' = t with scale s and shift t of [`Model::scale_and_shift`]. Channels are padded with zeros to multiples of 8 here, each
//! concatenated input separately, so that every op works on padded channels without knowing.

use super::CHANNEL_ALIGN;
use crate::model::topology::{Action, Step, Topology};
use crate::model::{Model, Unit};
use crate::ops::Conv2d;

/// One convolution with its norm folded in.
#[derive(Clone, Debug)]
pub struct ConvWeights {
    pub name: String,
    /// With padded channel counts.
    pub conv: Conv2d,
    /// `[K, R, S, C]`: output channel, kernel row, kernel column, input channel (depthwise: C = 1).
    pub weight: Vec<f32>,
    /// `[K]`
    pub bias: Vec<f32>,
}

/// All convolutions of a model, in the order in which the network runs them.
#[derive(Clone, Debug)]
pub struct Folded {
    pub convs: Vec<ConvWeights>,
}

impl Folded {
    pub fn new(model: &Model) -> Self {
        let topology = Topology::new(model.config());
        let convolution = |step: &Step| match &step.action {
            Action::Conv { unit, .. } => {
                let pads = [step.input, step.output.activation].map(|a| topology.padded(a));
                Some(fold(model, unit, pads))
            }
            _ => None,
        };
        Folded { convs: topology.steps.iter().filter_map(convolution).collect() }
    }
}

impl Folded {
    /// The last convolution: features to logits.
    pub fn classifier(&self) -> &ConvWeights {
        self.convs.last().expect("a network ends with its classifier")
    }
}

/// Channels in memory of `channels` logical ones.
pub fn padded(channels: usize) -> usize {
    channels.next_multiple_of(CHANNEL_ALIGN)
}

/// `pad_input` and `pad_output`: whether those channels are padded.
fn fold(model: &Model, unit: &Unit, [pad_input, pad_output]: [bool; 2]) -> ConvWeights {
    let [out, inner, kernel, _] = unit.conv.weight_shape();
    let in_map = ChannelMap::new(&unit.segments, pad_input);
    let out_map = match unit.conv.depthwise {
        true => in_map.clone(),
        false => ChannelMap::new(&[out], pad_output),
    };
    let inner_padded = if unit.conv.depthwise { 1 } else { in_map.padded };
    let taps = kernel * kernel;

    let source = &model.tensor(&format!("{}.weight", unit.name)).data;
    let mut weight = vec![0.0; out_map.padded * taps * inner_padded];
    let mut bias = vec![0.0; out_map.padded];
    for (k, (scale, shift)) in model.scale_and_shift(unit).into_iter().enumerate() {
        let to = out_map.place[k];
        bias[to] = shift;
        for tap in 0..taps {
            let row = &mut weight[(to * taps + tap) * inner_padded..][..inner_padded];
            for c in 0..inner {
                let value = source[(k * inner + c) * taps + tap] * scale;
                row[if unit.conv.depthwise { 0 } else { in_map.place[c] }] = value;
            }
        }
    }
    let conv = Conv2d { in_channels: in_map.padded, out_channels: out_map.padded, ..unit.conv };
    ConvWeights { name: unit.name.clone(), conv, weight, bias }
}

/// Where each logical channel lies among the padded ones.
#[derive(Clone)]
struct ChannelMap {
    place: Vec<usize>,
    padded: usize,
}

impl ChannelMap {
    fn new(segments: &[usize], pad: bool) -> Self {
        let mut map = ChannelMap { place: Vec::new(), padded: 0 };
        for &n in segments {
            map.place.extend(map.padded..map.padded + n);
            map.padded += if pad { padded(n) } else { n };
        }
        map
    }
}
