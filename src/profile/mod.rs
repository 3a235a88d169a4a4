//! What every kernel of a plan costs: on paper for an H200, and measured on a device (`measure`: runs and kernels,
//! `ceilings`: what the device can do, `tiles`: other tiles and splits of the convolutions; `batch`: the batch that pays).
//!
//! On paper: a dense convolution takes what its cost model says (`device/launch/conv2d/tiling.rs`). Of
//! other kernels the busiest of the 132 multiprocessors has ceil(blocks / 132) blocks and works at its
//! share of the tensor cores' peak, tile padding included: a lower bound, since one block alone does not
//! fill a multiprocessor. Memory moves every operand once at full bandwidth; the larger of the two
//! counts, and each launch adds 1.3 us. The whole run is less than their sum: branches of the network overlap (`overlap`). No GPU has
//! confirmed any of it.

mod batch;
mod ceilings;
mod measure;
mod overlap;
mod tiles;

use crate::density::{ModelGaussians, Moments};
use crate::device::dry_run::{MULTIPROCESSORS, Paper, SHARED_BYTES};
use crate::device::launch::conv2d::LAUNCH_SECONDS;
use crate::device::launch::density::Precision;
use crate::device::launch::{Bound, Modelled};
use crate::device::{Launch, Speed, Work};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gpu::moments::DeviceMoments;
use crate::gpu::network::Network;
use crate::model::Model;
use crate::ops::Size;
use crate::report::json::Summary;
use crate::score::Score;

pub use batch::paying_batch;
pub use ceilings::{Ceilings, Clocks};
pub use measure::{Measured, Settings, profile};
pub use tiles::{CSV_HEADER, TimedTiling, tilings};

/// Dense fp16 FLOP/s of an H200 (SXM).
const PEAK_FLOPS: f64 = 989e12;
/// Of a launch at a smaller share of its roof `bound` says what the rest goes to.
const FAR_FROM_ROOF: f64 = 0.4;

/// One launch.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    pub op: String,
    pub kernel: &'static str,
    /// `[batch, h, w, channels]` of the op's output.
    pub shape: [usize; 4],
    /// Parts of the reduction (convolutions).
    pub splits: usize,
    /// Blocks that run together, as the splits of a tile may; 1: none.
    pub cluster: u32,
    pub blocks: u64,
    /// Blocks over what 132 multiprocessors hold at once (by threads and shared memory).
    pub waves: f64,
    /// Of the op, without tile padding; 0 for a kernel that joins splits.
    pub flop: u64,
    /// Each operand once.
    pub bytes: u64,
    pub h200_predicted_us: f64,
    /// Time at the roof (FLOP or bytes) over the predicted time, in percent.
    pub h200_predicted_roof_percent: f64,
    /// What most of the predicted time goes to; below 40 % of the roof, most of what the roof does not need.
    pub h200_bound: Bound,
    pub measured: Option<Measured>,
}

/// What a plan's launches cost.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Profile {
    pub launches: Vec<Row>,
    /// A whole run, with what may run at the same time.
    pub h200_predicted_run_us: f64,
    /// Share of the triangular blocks of W that the density's early exit left out on this picture; FLOP
    /// and predicted time of the density count them.
    pub early_exit_skipped: Option<f64>,
    /// Microseconds of whole runs, each a graph's replay from its submission to its end; none on simt, whose times
    /// say nothing of a GPU.
    pub run_us: Option<Summary>,
    /// Microseconds of folding the batch's features into a fit's moments ([`Settings::moments`]).
    pub moments_us: Option<Summary>,
    /// What the device was found to be able to do, in the same run; none on simt.
    pub ceilings: Option<Ceilings>,
    /// Of the GPU during whole runs, as nvidia-smi says; None where it cannot be asked.
    pub clocks: Option<Clocks>,
}

/// A density to be profiled with a network.
#[derive(Clone, Copy, Debug)]
pub struct ProfiledDensity<'a> {
    pub density: &'a ModelGaussians,
    pub scores: &'a [Score],
    pub precision: Precision,
}

/// Every launch as an H200 would get it, with `moments` those of a fit as well; nothing runs, and no device is needed.
///
/// # Errors
/// A model or a size that the kernels do not take.
pub fn dry_run(
    model: Model,
    scoring: Option<ProfiledDensity>,
    batch: usize,
    size: Size,
    moments: bool,
) -> Result<Profile> {
    let mut engine = Engine::on(model, Box::new(Paper::new()))?;
    if let Some(ProfiledDensity { density, scores, precision }) = scoring {
        engine.score_with(density, scores, precision)?;
    }
    let plan = engine.plan(batch, size)?;
    let network = network(&mut engine)?;
    network.prepare(&plan)?;
    let steps = network.steps(&plan)?;
    let all = || steps.iter().flat_map(|step| step.launches.iter().map(|one| (step.name, one)));
    let mut launches: Vec<Row> = all().map(|(op, launch)| row(op, launch)).collect();
    let run_us = run_us(&launches, all().map(|(_, launch)| launch));
    if moments {
        let (device, features) = (network.device(), network.features(&plan)?);
        let labels = device.alloc(features.pixels())?;
        let empty = Moments::new(plan.logits.channels, plan.features.channels);
        let mut moments = DeviceMoments::new(device, &empty)?;
        let list = moments.launches(device, features, labels.all(), None)?;
        launches.extend(list.iter().map(|launch| row("moments", launch)));
    }
    Ok(Profile {
        h200_predicted_run_us: run_us,
        launches,
        early_exit_skipped: None,
        run_us: None,
        moments_us: None,
        ceilings: None,
        clocks: None,
    })
}

/// Microseconds of a run of these launches, whose rows are `rows`.
fn run_us<'a>(rows: &[Row], launches: impl Iterator<Item = &'a Launch<'a>>) -> f64 {
    let item = |(i, (row, launch)): (usize, (&Row, &Launch))| overlap::Item {
        seconds: row.h200_predicted_us / 1e6 - LAUNCH_SECONDS,
        waves: row.waves,
        waits: launch.waits(i).map_or_else(|| (0..i).collect(), Iterator::collect),
    };
    let items: Vec<_> = rows.iter().zip(launches).enumerate().map(item).collect();
    overlap::seconds(&items) * 1e6
}

/// The network of an engine on a device.
fn network(engine: &mut Engine) -> Result<&mut Network> {
    let cpu = Error::invalid("profile", "a device with kernels", "cpu");
    engine.network_mut().ok_or(cpu)
}

/// Seconds of a launch on a device, without the launch itself, what bounds it, and [`Modelled::loss`] on an H200. A multiprocessor
/// is taken to do in a clock what an H200's does.
fn working(launch: &Launch, multiprocessors: usize, speed: Speed) -> (f64, Bound, (f64, Bound)) {
    let Work { bytes, block_flop, modelled, .. } = *launch.work();
    let blocks: f64 = launch.grid().iter().map(|&n| f64::from(n)).product();
    let busiest = (blocks / multiprocessors as f64).ceil();
    let multiprocessor = PEAK_FLOPS / MULTIPROCESSORS as f64;
    let at_peak = busiest * block_flop / multiprocessor;
    let idle = at_peak - blocks * block_flop / (multiprocessor * multiprocessors as f64);
    let at_peak = Modelled {
        seconds: at_peak,
        here: at_peak,
        bound: Bound::Tensor,
        loss: (idle, Bound::Idle),
    };
    let Modelled { seconds, here, bound, loss } = modelled.unwrap_or(at_peak);
    let seconds = if multiprocessors == MULTIPROCESSORS { seconds } else { here };
    let seconds = seconds * Speed::H200.clock_hz / speed.clock_hz;
    let memory = bytes as f64 / speed.bytes_per_s;
    let (working, bound) =
        if seconds > memory { (seconds, bound) } else { (memory, Bound::Memory) };
    (working, if LAUNCH_SECONDS > working { Bound::Launch } else { bound }, loss)
}

fn row(op: &str, launch: &Launch) -> Row {
    let kernel = launch.kernel();
    let blocks: u64 = launch.grid().iter().map(|&n| u64::from(n)).product();
    let resident = (2048 / kernel.threads).min(match kernel.shared_bytes {
        0 => usize::MAX,
        bytes => SHARED_BYTES / (bytes + 1024),
    });
    let Work { shape, flop, bytes, splits, .. } = *launch.work();
    let (working, bound, loss) = working(launch, MULTIPROCESSORS, Speed::H200);
    let roof = (flop as f64 / PEAK_FLOPS).max(bytes as f64 / Speed::H200.bytes_per_s);
    let predicted = working + LAUNCH_SECONDS;
    // What its roof needs is no answer to why it is far from it.
    let far = roof < FAR_FROM_ROOF * predicted && matches!(bound, Bound::Tensor | Bound::Memory);
    let bound = match loss {
        _ if !far => bound,
        (seconds, _) if LAUNCH_SECONDS > seconds => Bound::Launch,
        (_, why) => why,
    };
    Row {
        op: op.into(),
        kernel: kernel.name,
        shape,
        splits,
        cluster: launch.cluster(),
        blocks,
        waves: blocks as f64 / (MULTIPROCESSORS * resident) as f64,
        flop,
        bytes,
        h200_predicted_us: predicted * 1e6,
        h200_predicted_roof_percent: 100.0 * roof / predicted,
        h200_bound: bound,
        measured: None,
    }
}
