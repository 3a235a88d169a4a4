//! The table of kernels, the same for every device: [`SOURCES`] lists a `.cu` per line, and the file of its launch
//! holds its rows.

use super::launch::SOURCES;

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

/// A parameter struct: tensor maps first, then addresses, then 32-bit fields, no padding.
#[derive(Debug)]
pub struct Parameters {
    pub name: &'static str,
    pub bytes: usize,
    pub fields: &'static [Field],
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    pub name: &'static str,
    /// "TensorMap", "Address", "i32", "f32", "[f32; 3]"
    pub kind: &'static str,
    pub offset: usize,
}

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
