//! The one table of kernels, for every device: a line for each `.cu`, whose rows stand beside its launch.

use super::launch;

/// A `__global__` function of `kernels/<file>.cu`.
#[derive(Debug)]
pub struct Kernel {
    pub name: &'static str,
    pub file: &'static str,
    /// Threads per block.
    pub threads: usize,
    /// Bytes of shared memory per block.
    pub shared_bytes: usize,
    pub params_bytes: usize,
}

/// What the launches of one `.cu` share with it; `tests/twins.rs` holds it against the `.cu`'s text.
#[derive(Debug)]
pub struct Source {
    /// `kernels/<file>.cu`
    pub file: &'static str,
    /// The parameter struct of its kernels.
    pub parameters: Parameters,
    pub kernels: &'static [Kernel],
    /// Constants of the same name and value on both sides.
    pub constants: &'static [(&'static str, usize)],
}

/// A parameter struct: addresses first, then 32-bit fields, no padding.
#[derive(Debug)]
pub struct Parameters {
    pub name: &'static str,
    pub bytes: usize,
    pub fields: &'static [Field],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    /// "Address", "i32", "f32", "[f32; 3]"
    pub kind: &'static str,
    pub offset: usize,
}

pub static SOURCES: [&Source; 14] = [
    &launch::conv2d::SOURCE,
    &launch::stem::SOURCE,
    &launch::depthwise::SOURCE,
    &launch::pool::SOURCE,
    &launch::resize::SOURCE,
    &launch::head::SOURCE,
    &launch::preprocess::SOURCE,
    &launch::density::SOURCE,
    &launch::density::HOPPER_SOURCE,
    &launch::moments::SOURCE,
    &launch::label_grid::SOURCE,
    &launch::upsample::SOURCE,
    &launch::arg_max::SOURCE,
    &launch::gather::SOURCE,
];

/// Every kernel, in the order of the table.
pub fn all() -> impl Iterator<Item = &'static Kernel> {
    SOURCES.iter().flat_map(|source| source.kernels)
}

impl Source {
    /// # Panics
    /// If there is no such kernel: names are literals of this crate.
    pub(super) fn kernel(&self, name: &str) -> &'static Kernel {
        let found = self.kernels.iter().find(|kernel| kernel.name == name);
        found.unwrap_or_else(|| panic!("kernels/{}.cu has no kernel {name}", self.file))
    }
}
