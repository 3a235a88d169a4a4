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

/// The convolutions of a model, in the order in which the network runs them. Each is folded when it is asked for, so that
/// folded weights need not all lie in memory beside the model's and those that are packed for some hardware.
pub struct Folding<'a> {
    model: &'a Model,
    /// Each unit, and whether its input's and output's channels are padded.
    units: Vec<(Unit, [bool; 2])>,
}

impl<'a> Folding<'a> {
    pub fn new(model: &'a Model) -> Self {
        let topology = Topology::new(model.config());
        let unit = |step: &Step| match &step.action {
            Action::Conv { unit, .. } => Some((unit.clone(), padding(&topology, step))),
            _ => None,
        };
        Folding { model, units: topology.steps.iter().filter_map(unit).collect() }
    }

    /// Number of convolutions.
    pub fn count(&self) -> usize {
        self.units.len()
    }

    pub fn conv(&self, index: usize) -> ConvWeights {
        let (unit, pads) = &self.units[index];
        fold(self.model, unit, *pads)
    }

    /// The last convolution: features to logits.
    pub fn classifier(&self) -> ConvWeights {
        self.conv(self.count() - 1)
    }
}

/// Whether the channels are padded of what a step reads and of what it writes.
fn padding(topology: &Topology, step: &Step) -> [bool; 2] {
    [step.input, step.output.activation].map(|activation| topology.padded(activation))
}

/// A step's convolution with padded channel counts.
pub(super) fn padded_conv(topology: &Topology, step: &Step, unit: &Unit) -> Conv2d {
    let [input, output] = channel_maps(unit, padding(topology, step));
    Conv2d { in_channels: input.padded, out_channels: output.padded, ..unit.conv }
}

/// Channels in memory of `channels` logical ones.
pub fn padded(channels: usize) -> usize {
    channels.next_multiple_of(CHANNEL_ALIGN)
}

/// Of input and output.
fn channel_maps(unit: &Unit, [pad_input, pad_output]: [bool; 2]) -> [ChannelMap; 2] {
    let input = ChannelMap::new(&unit.segments, pad_input);
    let output = match unit.conv.depthwise {
        true => input.clone(),
        false => ChannelMap::new(&[unit.conv.out_channels], pad_output),
    };
    [input, output]
}

/// `pads`: whether input and output channels are padded.
fn fold(model: &Model, unit: &Unit, pads: [bool; 2]) -> ConvWeights {
    let [_, inner, kernel, _] = unit.conv.weight_shape();
    let [in_map, out_map] = channel_maps(unit, pads);
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
