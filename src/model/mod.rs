//! A model: the weights of a network and the configuration that says what they mean.

pub mod config;
mod file;
pub mod topology;

use std::collections::BTreeMap;
use std::sync::OnceLock;

pub use config::{Backbone, ConcatOrder, Config, Decoder, Dropout, unnamed_class};
pub use topology::{Topology, Unit, units};

use crate::error::{Error, Result};

/// A weight tensor in f32, row-major, in PyTorch's axis order (a convolution is `[out, in / groups, kh, kw]`).
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub data: Vec<f32>,
}

/// Weights and configuration. The tensors are exactly those that [`topology::units`] names for the
/// configuration, each of the shape it states, all finite: [`Model::new`] checks it.
#[derive(Clone, Debug)]
pub struct Model {
    config: Config,
    tensors: BTreeMap<String, Tensor>,
    /// See [`Model::hash`].
    hash: OnceLock<String>,
}

/// PyTorch's default, used by all families.
const NORM_EPSILON: f32 = 1e-5;

impl Model {
    /// # Errors
    /// A tensor that is missing, surplus, misshaped or not finite, a norm that makes its convolution's
    /// weights overflow, or a configuration that contradicts itself; `source` names the file in the
    /// message.
    pub fn new(source: &str, config: Config, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        config.validate(source)?;
        let units = units(&config);
        let expected: BTreeMap<_, _> = units.iter().flat_map(|unit| unit.tensors()).collect();
        for (name, shape) in &expected {
            let Some(tensor) = tensors.get(name) else {
                let what = format!("{source}: tensor {name}");
                return Err(Error::invalid(what, format!("shape {shape:?}"), "no such tensor"));
            };
            check(source, name, shape, tensor)?;
        }
        if let Some(name) = tensors.keys().find(|name| !expected.contains_key(*name)) {
            return Err(Error::invalid(source, "only tensors of its configuration", name));
        }
        let model = Model { config, tensors, hash: OnceLock::new() };
        units.iter().try_for_each(|unit| model.check_folded(source, unit))?;
        Ok(model)
    }

    /// Scale and shift of each output channel of a unit's convolution: `y = scale * conv(x) + shift`.
    /// With a norm scale = gamma / sqrt(var + 1e-5) and shift = beta + (bias - mean) * scale, else 1 and
    /// the bias (0 where the convolution has none).
    pub fn scale_and_shift(&self, unit: &Unit) -> Vec<(f32, f32)> {
        let part = |part: &str| self.tensor(&format!("{}.{part}", unit.name)).data.as_slice();
        let bias = unit.bias.then(|| part("bias"));
        let norm = ["weight", "bias", "mean", "var"].map(|name| format!("norm.{name}"));
        let norm = unit.norm.then(|| norm.map(|name| part(&name)));
        let channel = |k: usize| {
            let bias = bias.map_or(0.0, |bias| bias[k]);
            let Some([gamma, beta, mean, var]) = norm else { return (1.0, bias) };
            let scale = gamma[k] / (var[k] + NORM_EPSILON).sqrt();
            (scale, beta[k] + (bias - mean[k]) * scale)
        };
        (0..unit.conv.out_channels).map(channel).collect()
    }

    /// An input of ones must not overflow: the folded weights of an output channel and its shift sum
    /// up to a finite number.
    fn check_folded(&self, source: &str, unit: &Unit) -> Result<()> {
        let weight = &self.tensor(&format!("{}.weight", unit.name)).data;
        let rows = weight.chunks_exact(weight.len() / unit.conv.out_channels);
        for (k, (row, (scale, shift))) in rows.zip(self.scale_and_shift(unit)).enumerate() {
            let sum = row.iter().map(|w| (w * scale).abs()).sum::<f32>() + shift.abs();
            if !sum.is_finite() {
                let what = format!("{source}: {}", unit.name);
                let expected = "weights that do not overflow fp32 with the batch norm folded in";
                let found = format!("scale {scale:e}, shift {shift:e} in output channel {k}");
                return Err(Error::invalid(what, expected, found)
                    .fix("use a checkpoint of a training that did not diverge"));
            }
        }
        Ok(())
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// A tensor that [`topology::units`] names for this model's configuration.
    ///
    /// # Panics
    /// If `name` is no such tensor.
    pub fn tensor(&self, name: &str) -> &Tensor {
        &self.tensors[name]
    }

    pub fn tensors(&self) -> &BTreeMap<String, Tensor> {
        &self.tensors
    }
}

fn check(source: &str, name: &str, shape: &[usize], tensor: &Tensor) -> Result<()> {
    let what = || format!("{source}: tensor {name}");
    if tensor.shape != shape {
        let found = format!("{:?}", tensor.shape);
        return Err(Error::invalid(what(), format!("shape {shape:?}"), found));
    }
    if let Some(i) = tensor.data.iter().position(|v| !v.is_finite()) {
        let found = format!("{} at element {i}", tensor.data[i]);
        return Err(Error::invalid(what(), "finite weights", found)
            .fix("use a checkpoint of a training that did not diverge"));
    }
    if name.ends_with(".norm.var")
        && let Some(i) = tensor.data.iter().position(|v| *v < 0.0)
    {
        let found = format!("{} at element {i}", tensor.data[i]);
        return Err(Error::invalid(what(), "variances of at least 0", found));
    }
    Ok(())
}
