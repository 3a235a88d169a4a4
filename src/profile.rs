//! What every kernel of a plan costs: on paper for an H200, and measured on a device.
//!
//! On paper: the busiest of the 132 multiprocessors has ceil(blocks / 132) blocks and works at its share
//! of the tensor cores' peak, tile padding included; memory moves every operand once at full bandwidth;
//! the larger of the two counts, and each launch adds 1.3 us. It is a lower bound of the time (one block
//! alone does not fill a multiprocessor, and mma.sync does not reach the peak, which is wgmma's): it
//! tells which layers are too small, not how fast they are.

use crate::data::Image;
use crate::device::dry_run::{MULTIPROCESSORS, SHARED_BYTES};
use crate::device::launch::density::{BLOCK, PANEL, blocks};
use crate::device::{Cost, Launch};
use crate::error::Result;
use crate::gpu::network::{Network, Step};
use crate::gpu::scoring::Scoring;
use crate::ops::{Conv2d, Size};
use crate::plan::{Node, Op, Plan};

/// Dense fp16 FLOP/s, bytes/s, and seconds a launch costs inside a CUDA graph: an H200 (SXM).
const PEAK_FLOPS: f64 = 989e12;
const PEAK_BYTES: f64 = 4.8e12;
const LAUNCH_SECONDS: f64 = 1.3e-6;

/// One launch.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Row {
    pub op: String,
    pub kernel: &'static str,
    /// `[batch, h, w, channels]` of the op's output.
    pub shape: [usize; 4],
    /// Parts of the reduction (convolutions).
    pub splits: usize,
    pub blocks: u64,
    /// Blocks over what 132 multiprocessors hold at once (by threads and shared memory).
    pub waves: f64,
    /// Of the op, without tile padding; a reduction of splits has none of its own.
    pub flop: u64,
    /// Each operand once.
    pub bytes: u64,
    pub h200_predicted_us: f64,
    /// Time at the roof (FLOP or bytes) over the predicted time, in percent.
    pub h200_predicted_roof_percent: f64,
    pub measured: Option<Cost>,
}

/// What a plan's launches cost.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Profile {
    pub launches: Vec<Row>,
    /// Share of the triangular blocks of W that the density's early exit left out on this picture; FLOP
    /// and predicted time of the density count them.
    pub early_exit_skipped: Option<f64>,
}

/// Every launch of a plan, and of the density where the network has one; `picture`: run on as many of it
/// as the plan's batch.
pub fn profile(network: &mut Network, plan: &Plan, picture: Option<&Image>) -> Result<Profile> {
    network.prepare(plan)?;
    if let Some(picture) = picture {
        network.write_pictures(plan, &vec![picture; plan.batch])?;
    }
    let steps = network.steps(plan)?;
    let none = std::iter::repeat(None);
    let nodes = std::iter::once(None).chain(plan.nodes.iter().map(Some)).chain(none);
    let mut launches = Vec::new();
    for (step, node) in steps.iter().zip(nodes) {
        for (i, launch) in step.launches.iter().enumerate() {
            let measured = picture.map(|_| network.device().measure(launch)).transpose()?;
            launches.push(Row { measured, ..row(network, plan, step, node, i, launch)? });
        }
    }
    let early_exit_skipped = match (network.scoring(), picture) {
        (Some(scoring), Some(_)) => {
            let done = scoring.multiplied_share(network.device(), plan.batch, &plan.head())?;
            Some(1.0 - done)
        }
        _ => None,
    };
    Ok(Profile { launches, early_exit_skipped })
}

/// What one launch has to do.
struct Work {
    shape: [usize; 4],
    flop: u64,
    bytes: u64,
    splits: usize,
    /// Issued by the busiest block, tile padding included.
    block_flop: f64,
}

impl Work {
    /// Of one that moves bytes.
    fn moving(shape: [usize; 4], bytes: usize) -> Self {
        Work { shape, flop: 0, bytes: bytes as u64, splits: 1, block_flop: 0.0 }
    }
}

fn row(
    network: &Network,
    plan: &Plan,
    step: &Step,
    node: Option<&Node>,
    i: usize,
    launch: &Launch,
) -> Result<Row> {
    let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    let held = (2048 / launch.kernel.threads).min(match launch.kernel.shared_bytes {
        0 => usize::MAX,
        bytes => SHARED_BYTES / (bytes + 1024),
    });
    let Work { shape, flop, bytes, splits, block_flop } = match (node, network.scoring()) {
        (Some(node), _) => node_work(network, plan, node, i, blocks),
        (None, Some(scoring)) if launch.kernel.file.starts_with("density") => {
            density_work(network, scoring, plan, i)?
        }
        (None, _) => map_work(plan, launch.kernel.file),
    };
    let roof = (flop as f64 / PEAK_FLOPS).max(bytes as f64 / PEAK_BYTES);
    let busiest = (blocks as f64 / MULTIPROCESSORS as f64).ceil();
    let compute = busiest * block_flop * MULTIPROCESSORS as f64 / PEAK_FLOPS;
    let predicted = compute.max(bytes as f64 / PEAK_BYTES) + LAUNCH_SECONDS;
    Ok(Row {
        op: step.name.into(),
        kernel: launch.kernel.name,
        shape,
        splits,
        blocks,
        waves: blocks as f64 / (MULTIPROCESSORS * held) as f64,
        flop,
        bytes,
        h200_predicted_us: predicted * 1e6,
        h200_predicted_roof_percent: 100.0 * roof / predicted,
        measured: None,
    })
}

fn node_work(network: &Network, plan: &Plan, node: &Node, i: usize, blocks: u64) -> Work {
    let Size { h, w } = plan.size(node.output);
    let shape = [plan.batch, h, w, node.output.channels];
    let (flop, bytes) = (plan.node_flops(node), plan.node_bytes(node, 2));
    let Some(conv) = dense(node) else {
        return Work { shape, flop, bytes, splits: 1, block_flop: flop as f64 / blocks as f64 };
    };
    let spread = network.spread(plan, node, &conv);
    let pixels = plan.batch * h * w;
    let partial = spread.partial_bytes(&conv, pixels);
    if i > 0 {
        return Work::moving(shape, partial + pixels * conv.out_channels * 2);
    }
    let tile = spread.tile;
    let block_flop = (2 * tile.pixels * tile.channels * spread.k_blocks * 32) as f64;
    Work { shape, flop, bytes: bytes + partial as u64, splits: spread.splits, block_flop }
}

/// `kernels/density.cu`, nothing skipped by early exit: per pixel, class and term a triangle of D (D + 1) / 2
/// multiply-adds has to be done; issued are whole steps of 16 columns. `i`: the joining of splits is the
/// second launch.
fn density_work(network: &Network, scoring: &Scoring, plan: &Plan, i: usize) -> Result<Work> {
    let (density, cells) = (scoring.density(), plan.batch * plan.grid().pixels());
    let spread = scoring.spread(network.device(), plan.batch, &plan.head())?;
    let Size { h, w } = plan.grid();
    let shape = [plan.batch, h, w, 1];
    let (channels, terms) = (density.channels(), density.precision().terms());
    let background = usize::from(scoring.relative());
    let items = density.classes() + background;
    let partial = spread.partial_bytes(cells);
    let outputs = cells * 4 * (1 + background);
    if i > 0 {
        return Ok(Work::moving(shape, partial + outputs));
    }
    // A panel of 64 rows: whole blocks of 32 columns, then four steps at the diagonal of which tiles of 8
    // rows above it are left out.
    let panel = |p: usize| 2 * p * PANEL * BLOCK + (64 + 48 + 32 + 16) * 16;
    let issued: usize = (0..channels.div_ceil(PANEL)).map(panel).sum();
    let padded = channels.next_multiple_of(PANEL);
    let weights = blocks(channels) * terms * PANEL * BLOCK * 2 + padded * 8;
    let features = cells * channels * 2;
    Ok(Work {
        shape,
        flop: (cells * items * terms * channels * (channels + 1)) as u64,
        bytes: (features + cells + items * weights + partial + outputs) as u64,
        splits: spread.splits,
        block_flop: (2 * terms * issued * spread.tile.pixels * (spread.per_split + background))
            as f64,
    })
}

/// What moves every byte of its maps once.
fn map_work(plan: &Plan, file: &str) -> Work {
    let (pixels, cells) = (plan.batch * plan.image.pixels(), plan.batch * plan.grid().pixels());
    let logits = plan.buffer(plan.logits).len * 4;
    let image = [plan.batch, plan.image.h, plan.image.w, 1];
    let (shape, bytes) = match file {
        "head" => (image, logits + pixels * 5),
        "upsample" => (image, cells * 4 + pixels * 4),
        "arg_max" => ([plan.batch, plan.grid().h, plan.grid().w, 1], logits + cells),
        _ => {
            let Size { h, w } = plan.padded;
            ([plan.batch, h, w, 4], pixels * 3 + plan.batch * h * w * 8)
        }
    };
    Work::moving(shape, bytes)
}

/// The convolution that `kernels/conv2d.cu` runs for a node.
fn dense(node: &Node) -> Option<Conv2d> {
    match &node.op {
        Op::Conv { conv, .. } if !conv.depthwise && conv.in_channels != 3 => {
            let out_channels = conv.out_channels.next_multiple_of(crate::plan::CHANNEL_ALIGN);
            Some(Conv2d { out_channels, ..*conv })
        }
        _ => None,
    }
}
