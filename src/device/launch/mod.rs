//! A typed launch for each kernel: checks shapes and extents, fills the parameter struct, sets the grid and
//! states the work. A launch file also holds its kernels' rows of the table and their parameter struct.

/// Declares a struct of `kernels/common/` that is part of parameter structs, and the list of its fields, for the comparison
/// with that file.
macro_rules! nested {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),+ $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Clone, Copy, bytemuck::Pod, bytemuck::Zeroable)]
        pub(super) struct $name { $($field: $kind),+ }

        impl $name {
            pub(super) const PARAMETERS: crate::device::kernels::Parameters = crate::device::kernels::Parameters {
                name: stringify!($name),
                bytes: size_of::<$name>(),
                fields: &[$(crate::device::kernels::Field {
                    name: stringify!($field),
                    kind: stringify!($kind),
                    offset: std::mem::offset_of!($name, $field),
                }),+],
            };
        }
    };
}

/// The same for the parameter struct of a `.cu`.
macro_rules! params {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty),+ $(,)? }) => {
        nested! { $(#[$doc])* $name { $($field: $kind),+ } }

        impl $name {
            /// A row of the table of kernels.
            const fn kernel(
                name: &'static str,
                file: &'static str,
                threads: usize,
                shared_bytes: usize,
            ) -> crate::device::kernels::Kernel {
                let params_bytes = size_of::<$name>();
                crate::device::kernels::Kernel { name, file, threads, shared_bytes, params_bytes }
            }
        }
    };
}

mod address;
pub(super) mod arg_max;
mod bilinear;
pub(super) mod clip;
pub mod conv2d;
pub mod density;
pub(super) mod depthwise;
mod divisor;
pub(super) mod dropout;
pub(super) mod gather;
pub(super) mod head;
pub(super) mod label_grid;
pub(super) mod mixture;
// Its kernels index by what the previous ones wrote to scratch memory: only the complete list is safe to launch.
pub(crate) mod moments;
pub(super) mod pool;
pub(super) mod preprocess;
pub(super) mod resize;
pub(super) mod stem;
pub(super) mod tensor_map;
pub(super) mod upsample;

pub use arg_max::arg_max;
pub use clip::clip;
pub use conv2d::conv2d;
pub use density::density;
pub use depthwise::depthwise;
pub use dropout::dropout;
pub use gather::gather;
pub use head::{head, logit_scores};
pub use label_grid::{LabelGrid, label_grid};
pub use mixture::{MixtureMaps, mixture_add, mixture_finish};
pub use pool::{global_average_pool, max_pool};
pub use preprocess::preprocess;
pub use resize::resize;
pub use stem::stem;
pub use upsample::upsample;

use std::marker::PhantomData;

use super::kernels::{Kernel, Parameters, Source};
use super::{Buffer, DeviceId, Element, Tensor};
use crate::error::{Error, Result};
use crate::ops::{Size, Spatial};
use address::{Address, Addresses};

/// Every `.cu`, one per line.
pub static SOURCES: [&Source; 19] = [
    &conv2d::SOURCE,
    &conv2d::HOPPER_SOURCE,
    &stem::SOURCE,
    &depthwise::SOURCE,
    &pool::SOURCE,
    &resize::SOURCE,
    &head::SOURCE,
    &preprocess::SOURCE,
    &density::SOURCE,
    &density::HOPPER_SOURCE,
    &moments::SORT_SOURCE,
    &moments::SOURCE,
    &label_grid::SOURCE,
    &upsample::SOURCE,
    &arg_max::SOURCE,
    &gather::SOURCE,
    &clip::SOURCE,
    &dropout::SOURCE,
    &mixture::SOURCE,
];

/// Structs that parameters hold, and a `.cu` that has or includes each.
pub static NESTED: [(&str, &Parameters); 4] = [
    ("resize", &divisor::Divisor::PARAMETERS),
    ("resize", &bilinear::Axis::PARAMETERS),
    ("mixture", &bilinear::Upsampling::PARAMETERS),
    ("label_grid", &label_grid::Sampling::PARAMETERS),
];

/// The launch of an op without weights.
pub fn spatial<'a>(op: &Spatial, x: Tensor<'a>, y: Tensor<'a>) -> Result<Launch<'a>> {
    match op {
        Spatial::MaxPool(pool) => max_pool(pool, x, y),
        Spatial::GlobalAvgPool => global_average_pool(x, y),
        Spatial::Resize(op) => resize(op, x, y),
    }
}

/// Blocks of a cluster that every device with clusters can run together.
pub(super) const MOST_CLUSTER: usize = 8;

/// One kernel ready to run: made by the functions of this module alone, which have checked that it stays
/// inside the slices it was given, all of one device.
#[derive(Clone)]
pub struct Launch<'a> {
    // Only a device that launches asks for it.
    #[cfg_attr(not(any(feature = "cuda", feature = "simt")), expect(dead_code))]
    device: DeviceId,
    kernel: &'static Kernel,
    grid: [u32; 3],
    // Blocks of x that run together; 1: none do.
    cluster: u32,
    // Of a list given to `Device::run`: how far back in it those lie that it waits for; None: for all before.
    waits: Option<Box<[u32]>>,
    params: Box<[u64]>,
    // As many of them come first in `params`.
    #[cfg_attr(not(feature = "cuda"), expect(dead_code))]
    tensor_maps: usize,
    work: Work,
    buffers: PhantomData<&'a Buffer>,
}

/// What a launch has to do, for `ddu profile`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Work {
    /// `[batch, h, w, channels]` of the op's output.
    pub shape: [usize; 4],
    /// Of the op, without tile padding (a multiply-add counts as two); 0 where it only moves bytes.
    pub flop: u64,
    /// Each operand once.
    pub bytes: u64,
    /// Parts that the op is split into, joined by a second kernel; 1: not split.
    pub splits: usize,
    /// FLOP that the busiest block issues, tile padding included.
    pub block_flop: f64,
    /// What an H200's multiprocessors take by the kernel's cost model, where it has one.
    pub modelled: Option<Modelled>,
}

/// A kernel's time on an H200 by its cost model, without the launch and without memory beyond L2.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Modelled {
    pub seconds: f64,
    /// The same on as many multiprocessors as the launch's device has.
    pub here: f64,
    /// What most of it goes to.
    pub bound: Bound,
    /// What most of it goes to that its FLOP do not need, and how long that takes.
    pub loss: (f64, Bound),
}

/// What most of a launch's time goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bound {
    /// The tensor cores.
    Tensor,
    /// Instructions around the products.
    Issue,
    /// What the products read from shared memory, and copies write there.
    Shared,
    /// Operands from L2.
    L2,
    /// The way from L2 to the products: too little is in flight on a multiprocessor.
    Latency,
    /// Blocks that fill a part of the multiprocessors, or of their last round.
    Idle,
    /// Prologue and epilogue.
    Edges,
    /// The sums of a split reduction, on their way between the blocks of a cluster.
    Exchange,
    /// Each operand once from memory.
    Memory,
    /// The launch itself.
    Launch,
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.pad(match self {
            Bound::Tensor => "tensor cores",
            Bound::Issue => "instructions",
            Bound::Shared => "shared memory",
            Bound::L2 => "L2",
            Bound::Latency => "latency",
            Bound::Idle => "idle multiprocessors",
            Bound::Edges => "prologue and epilogue",
            Bound::Exchange => "sums within clusters",
            Bound::Memory => "memory",
            Bound::Launch => "launch",
        })
    }
}

impl Work {
    /// The work of a kernel limited by memory: bytes, no FLOP.
    fn moving(shape: [usize; 4], bytes: usize) -> Self {
        Work { shape, flop: 0, bytes: bytes as u64, splits: 1, block_flop: 0.0, modelled: None }
    }

    /// The work of a kernel whose blocks share the FLOP evenly.
    fn even(shape: [usize; 4], flop: u64, bytes: u64, grid: [usize; 3]) -> Self {
        let blocks: f64 = grid.iter().map(|&n| n as f64).product();
        let block_flop = flop as f64 / blocks.max(1.0);
        Work { shape, flop, bytes, splits: 1, block_flop, modelled: None }
    }
}

impl Launch<'_> {
    pub fn kernel(&self) -> &'static Kernel {
        self.kernel
    }

    /// Blocks in x, y and z.
    pub fn grid(&self) -> [u32; 3] {
        self.grid
    }

    /// Blocks of x that the device runs together, with access to each other's shared memory; 1: none.
    pub fn cluster(&self) -> u32 {
        self.cluster
    }

    /// The launches that it waits for, of a list in which it is number `i`; None: all that come before it.
    pub fn waits(&self, i: usize) -> Option<impl Iterator<Item = usize>> {
        let waits = self.waits.as_ref()?;
        Some(waits.iter().filter_map(move |&back| i.checked_sub(back as usize)))
    }

    /// From now on it waits for those alone that lie so far before it in a list. What it reads must come from them or from those
    /// that they wait for, and nobody else may be using what it writes.
    pub(crate) fn wait_for(&mut self, back: impl IntoIterator<Item = usize>) {
        self.waits = Some(back.into_iter().map(|back| back as u32).collect());
    }

    /// The same, waiting for all before it.
    pub(crate) fn in_order(self) -> Self {
        Launch { waits: None, ..self }
    }

    /// The kernel's parameter struct, as 64-bit words; tensor maps in it are those of `kernels/simt/tensor_map.h`.
    pub fn params(&self) -> &[u64] {
        &self.params
    }

    /// The tensor maps that [`Self::params`] begins with.
    #[cfg(feature = "cuda")]
    pub(super) fn tensor_maps(&self) -> &[tensor_map::TensorMap] {
        let words = size_of::<tensor_map::TensorMap>() / 8;
        bytemuck::cast_slice(&self.params[..self.tensor_maps * words])
    }

    pub fn work(&self) -> &Work {
        &self.work
    }

    /// Refuses a device that its memory does not belong to.
    #[cfg(any(feature = "cuda", feature = "simt"))]
    pub(super) fn check(&self, device: DeviceId) -> Result<()> {
        device.require(self.kernel.name, self.device)
    }

    fn new(
        source: &'static Source,
        name: &str,
        grid: [usize; 3],
        params: &impl bytemuck::Pod,
        addresses: Addresses,
        work: Work,
    ) -> Result<Self> {
        let kernel = source.kernel(name);
        // The grid's y and z are 16 bits wide on a GPU.
        let limit = [i32::MAX as usize, 65535, 65535];
        if grid.iter().zip(limit).any(|(&n, limit)| n == 0 || n > limit) {
            let expected = format!("a grid within {limit:?}");
            return Err(Error::invalid(name, expected, format!("{grid:?}"))
                .fix("use a smaller batch or image"));
        }
        let Some(device) = addresses.device() else {
            return Err(Error::invalid(name, "memory to work on", "none"));
        };
        let params: Box<[u64]> = bytemuck::pod_collect_to_vec(bytemuck::bytes_of(params)).into();
        assert_eq!(params.len() * 8, kernel.params_bytes, "the parameters are {name}'s");
        let grid = grid.map(|n| n as u32);
        let fields = source.parameters.fields.iter();
        let tensor_maps = fields.filter(|field| field.kind == "TensorMap").count();
        let (cluster, waits, buffers) = (1, None, PhantomData);
        Ok(Launch { device, kernel, grid, cluster, waits, params, tensor_maps, work, buffers })
    }

    /// In clusters of so many blocks of x, which the grid must be made of.
    fn in_clusters(self, blocks: usize) -> Self {
        let cluster = blocks as u32;
        assert!(blocks <= MOST_CLUSTER && self.grid[0].is_multiple_of(cluster), "whole clusters");
        Launch { cluster, ..self }
    }
}

/// Makes a size a kernel's 32-bit parameter.
fn param(what: &str, value: usize) -> Result<i32> {
    i32::try_from(value).map_err(|_| too_large(what, value))
}

/// The product of sizes, where it fits a kernel's 32-bit parameter.
fn param_product(what: &str, factors: &[usize]) -> Result<usize> {
    let product = factors.iter().fold(1, |product: usize, &n| product.saturating_mul(n));
    param(what, product).map(|_| product)
}

fn too_large(what: &str, value: usize) -> Error {
    Error::invalid(what, "at most 2147483647", value).fix("use a smaller batch or image")
}

/// Refuses a launch of `what` unless `holds`.
fn require(what: &str, holds: bool, expected: &str, found: impl ToString) -> Result<()> {
    if holds { Ok(()) } else { Err(Error::invalid(what, expected, found)) }
}

/// fp16 input, an output of `y_size`, as many images out as in, output channels in eights.
fn require_tensors(what: &str, x: &Tensor, y: &Tensor, y_size: Size) -> Result<()> {
    let found = || {
        let part =
            |t: &Tensor| format!("{} x {} x {} {:?}", t.batch, t.size, t.channels, t.element);
        format!("{} to {}", part(x), part(y))
    };
    let eights = |t: &Tensor| t.channels.is_multiple_of(8);
    require(
        what,
        x.element == Element::F16 && eights(y),
        "fp16 input, channels in eights",
        found(),
    )?;
    require(what, x.batch == y.batch, "as many images out as in", found())?;
    require(what, y.size == y_size, &format!("a {y_size} output"), found())?;
    // Also keeps every pixel count that the kernels compute in 32 bits inside them.
    param(what, x.pixels())?;
    param(what, y.pixels())?;
    Ok(())
}

/// `[batch, h, w, channels]` of a tensor.
fn shape(tensor: &Tensor) -> [usize; 4] {
    [tensor.batch, tensor.size.h, tensor.size.w, tensor.channels]
}

/// Bytes of a tensor's channels, without the other channels of its buffer.
fn tensor_bytes(tensor: &Tensor) -> usize {
    tensor.pixels() * tensor.channels * tensor.element.bytes()
}
