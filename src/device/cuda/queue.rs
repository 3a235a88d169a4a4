//! The stream of a cuda device, and the graphs that lists of launches become.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use cudarc::driver::DriverError;
use cudarc::driver::sys::CUresult;

use super::driver::{
    self, Context, Current, Event, Function, Graph, Grid, Module, Stream, Template,
};
use super::staging::Staging;
use crate::device::Launch;
use crate::device::gpus::words;
use crate::device::kernels;
use crate::error::{Error, Result};

/// Graphs kept; the one that was not used for the longest time goes first.
const GRAPHS: usize = 16;

/// The context and everything in it; dropped when the device and its buffers are. Fields are dropped in
/// order, the context last.
pub struct Queue {
    pub name: String,
    pub work: Mutex<StreamState>,
    pub stream: Stream,
    /// Other libraries make it wait for what they share ([`Cuda::inbound`]). `stream` waits for it when a tensor is adopted.
    pub inbound: Stream,
    /// In the order of [`kernels::all`].
    pub functions: Vec<Function>,
    pub _modules: Vec<Module>,
    /// While the fields above are dropped.
    pub leaving: Option<Current>,
    pub context: Context,
}

/// The stream's state, locked, with the context current.
pub struct Entered<'a> {
    work: MutexGuard<'a, StreamState>,
    _current: Current,
}

impl Deref for Entered<'_> {
    type Target = StreamState;

    fn deref(&self) -> &StreamState {
        &self.work
    }
}

impl DerefMut for Entered<'_> {
    fn deref_mut(&mut self) -> &mut StreamState {
        &mut self.work
    }
}

/// Locked by each user of the stream, whose work is in the order in which it is given.
pub struct StreamState {
    pub staging: Staging,
    /// Recorded in `inbound`.
    pub arrived: Event,
    /// Each with the [`key`] of its launches; the most recently used is last.
    pub graphs: Vec<(Box<[u64]>, Graph)>,
}

/// Kernels, clusters, grids, parameters and order of launches: equal where they do the same, since the parameters hold every
/// address.
fn key(launches: &[Launch]) -> Box<[u64]> {
    let words = launches.iter().enumerate().flat_map(|(i, launch)| {
        let kernel = std::ptr::from_ref(launch.kernel()) as u64;
        let grid = launch.grid().map(u64::from);
        let waits =
            launch.waits(i).map_or(vec![u64::MAX], |waits| waits.map(|j| j as u64).collect());
        let head = [kernel, launch.cluster().into(), waits.len() as u64];
        head.into_iter().chain(waits).chain(grid).chain(launch.params().iter().copied())
    });
    words.collect()
}

impl Queue {
    /// The stream, for this thread alone, with the context current.
    pub fn enter(&self) -> Result<Entered<'_>> {
        let work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.context.make_current();
        let current = current.map_err(|error| self.fault("the context", error))?;
        Ok(Entered { work, _current: current })
    }

    /// The function of a launch, its grid and parameters.
    fn ready(&self, launch: &Launch) -> driver::Result<(Function, Grid, Vec<u64>)> {
        let (kernel, grid, cluster) = (launch.kernel(), launch.grid(), launch.cluster());
        let i = kernels::all().position(|k| std::ptr::eq(k, kernel));
        let function = self.functions[i.expect("a launch's kernel is of the table")];
        if kernel.shared_bytes > function.shared_bytes {
            return Err(DriverError(CUresult::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES));
        }
        let (threads, shared) = (kernel.threads as u32, kernel.shared_bytes as u32);
        let mut params = launch.params().to_vec();
        for (words, map) in params.chunks_exact_mut(16).zip(launch.tensor_maps()) {
            words.copy_from_slice(&driver::encode(map)?);
        }
        Ok((function, Grid { blocks: grid, cluster, threads, shared }, params))
    }

    /// Gives a launch to the stream; the caller holds `work`.
    pub fn launch(&self, launch: &Launch) -> driver::Result<()> {
        let (function, grid, params) = self.ready(launch)?;
        // SAFETY: the function's one parameter has the size that `function` compared with the table, and
        // Launch::new its words with the table; a Launch is made only by functions that checked that the
        // kernel stays inside its buffers. They outlive the launch: a dropped buffer waits for the stream.
        unsafe { self.stream.launch(function, grid, &params) }
    }

    /// A graph of launches, each after those that it waits for; `at`: whose turn it is.
    fn build(&self, launches: &[Launch], at: &mut &'static str) -> driver::Result<Graph> {
        let template = Template::new()?;
        let mut nodes = Vec::with_capacity(launches.len());
        // Those that nobody waits for so far.
        let mut ends: Vec<usize> = Vec::new();
        for (i, launch) in launches.iter().enumerate() {
            *at = launch.kernel().name;
            let (function, grid, params) = self.ready(launch)?;
            let waits = launch.waits(i).map_or_else(|| ends.clone(), Iterator::collect);
            let after: Vec<_> = waits.iter().map(|&j| nodes[j]).collect();
            // SAFETY: as in `launch`; `run` says why a replay is sound.
            nodes.push(unsafe { template.add(function, grid, &params, &after) }?);
            ends.retain(|end| !waits.contains(end));
            ends.push(i);
        }
        template.instantiate()
    }

    /// Gives launches to the stream, several as a graph; the caller holds `work`.
    pub fn run(&self, work: &mut StreamState, launches: &[Launch]) -> Result<()> {
        match launches {
            [] => Ok(()),
            [launch] => {
                let name = launch.kernel().name;
                self.launch(launch).map_err(|error| self.fault(name, error))
            }
            _ => {
                let graph = self.graph(work, launches)?;
                // SAFETY: the graph was made of launches with the same parameters, so the same addresses;
                // these launches prove that what lies there now is alive and large enough.
                unsafe { self.stream.replay(graph) }.map_err(|error| self.fault("a run", error))
            }
        }
    }

    /// The graph of a list: the one that is kept, or a new one.
    pub fn graph<'a>(&self, work: &'a mut StreamState, launches: &[Launch]) -> Result<&'a Graph> {
        let key = key(launches);
        let entry = match work.graphs.iter().position(|(kept, _)| *kept == key) {
            Some(i) => work.graphs.remove(i),
            None => {
                let mut at = "a run";
                let graph = self.build(launches, &mut at);
                let graph = graph.map_err(|error| self.fault(at, error))?;
                if work.graphs.len() == GRAPHS {
                    work.graphs.remove(0);
                }
                (key, graph)
            }
        };
        work.graphs.push(entry);
        Ok(&work.graphs.last().expect("one was pushed").1)
    }

    /// What an error of the driver means, one line.
    pub fn fault(&self, at: &str, error: DriverError) -> Error {
        use CUresult::*;
        let (name, words) = (&self.name, words(error));
        let advice = match error.0 {
            CUDA_ERROR_ILLEGAL_ADDRESS
            | CUDA_ERROR_MISALIGNED_ADDRESS
            | CUDA_ERROR_INVALID_ADDRESS_SPACE
            | CUDA_ERROR_ILLEGAL_INSTRUCTION
            | CUDA_ERROR_INVALID_PC
            | CUDA_ERROR_HARDWARE_STACK_ERROR
            | CUDA_ERROR_LAUNCH_TIMEOUT
            | CUDA_ERROR_LAUNCH_FAILED
            | CUDA_ERROR_ASSERT => {
                "a kernel given before it failed, and this process cannot use the GPU any more; compute-sanitizer \
                 with the same command names the kernel; --device cpu does without"
            }
            CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES => {
                "the GPU lacks the shared memory or the registers for it; --device cpu does without"
            }
            CUDA_ERROR_ECC_UNCORRECTABLE => "the GPU's memory is damaged: see nvidia-smi -q",
            CUDA_ERROR_OUT_OF_MEMORY => "take a smaller --batch or --resize",
            _ => "see nvidia-smi, and start again",
        };
        Error::Kernel(format!("{name}, {at}: {words}; {advice}"))
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        // The fields' own drops need the context, and nothing under way.
        self.leaving = self.context.make_current().ok();
        let _ = self.inbound.wait();
        let _ = self.stream.wait();
    }
}
