//! A model: the weights of a network and the configuration that says what they mean.

pub mod config;
mod file;
pub mod topology;

use std::collections::BTreeMap;

pub use config::{Backbone, ConcatOrder, Config, Decoder, Dropout, Family, unnamed_class};
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
}

impl Model {
    /// # Errors
    /// A tensor that is missing, surplus, misshaped or not finite, or a configuration that
    /// contradicts itself; `source` names the file in the message.
    pub fn new(source: &str, config: Config, tensors: BTreeMap<String, Tensor>) -> Result<Self> {
        config.validate(source)?;
        let expected: BTreeMap<_, _> =
            units(&config).iter().flat_map(|unit| unit.tensors()).collect();
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
        Ok(Model { config, tensors })
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
