//! What every kernel of a plan costs: on paper for an H200, and measured on a device.
//!
//! On paper: the busiest of the 132 multiprocessors has ceil(blocks / 132) blocks and works at its share
//! of the tensor cores' peak, tile padding included; memory moves every operand once at full bandwidth;
//! the larger of the two counts, and each launch adds 1.3 us. It is a lower bound of the time (one block
//! alone does not fill a multiprocessor, and mma.sync does not reach the peak, which is wgmma's): it
//! tells which layers are too small, not how fast they are.

use super::network::{Network, Step};
use super::{Buffer, Cost, Device, Launch, Slice};
use crate::data::Image;
use crate::error::{Error, Result};
use crate::ops::{Conv2d, Size};
use crate::plan::{Node, Op, Plan};

/// Streaming multiprocessors, dense fp16 FLOP/s, bytes/s, bytes of shared memory of a multiprocessor, and
/// seconds a launch costs inside a CUDA graph: an H200 (SXM).
const MULTIPROCESSORS: usize = 132;
const PEAK_FLOPS: f64 = 989e12;
const PEAK_BYTES: f64 = 4.8e12;
const SHARED_BYTES: usize = 227 << 10;
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

/// A device that allocates addresses only: what a plan would launch, without running it.
pub struct Paper;

impl Device for Paper {
    fn name(&self) -> String {
        "paper".into()
    }

    fn multiprocessors(&self) -> usize {
        MULTIPROCESSORS
    }

    fn alloc(&self, bytes: usize) -> Result<Buffer> {
        Ok(Buffer::new(1 << 20, bytes, ()))
    }

    fn write(&self, _: Slice, _: &[u8]) -> Result<()> {
        Ok(())
    }

    fn read(&self, _: Slice, _: &mut [u8]) -> Result<()> {
        Err(Error::invalid("a plan on paper", "a device", "nothing to read from"))
    }

    fn launch(&self, _: &Launch) -> Result<()> {
        Err(Error::invalid("a plan on paper", "a device", "nothing to run on"))
    }

    fn synchronize(&self) -> Result<()> {
        Ok(())
    }

    fn measure(&self, launch: &Launch) -> Result<Cost> {
        self.launch(launch).map(|()| Cost::default())
    }
}

/// Every launch of a plan; `measure`: run, on a picture of stripes.
pub fn profile(network: &mut Network, plan: &Plan, measure: bool) -> Result<Vec<Row>> {
    network.prepare(plan)?;
    if measure {
        let stripes = (0..plan.image.pixels() * 3).map(|i| (i * 7 % 256) as u8).collect();
        let picture = Image { size: plan.image, rgb: stripes };
        network.write_pictures(plan, &vec![&picture; plan.batch])?;
    }
    let steps = network.steps(plan)?;
    let nodes = std::iter::once(None).chain(plan.nodes.iter().map(Some)).chain([None]);
    let mut rows = Vec::new();
    for (step, node) in steps.iter().zip(nodes) {
        for (i, launch) in step.launches.iter().enumerate() {
            let measured = measure.then(|| network.device().measure(launch)).transpose()?;
            rows.push(Row { measured, ..row(network, plan, step, node, i, launch) });
        }
    }
    Ok(rows)
}

fn row(
    network: &Network,
    plan: &Plan,
    step: &Step,
    node: Option<&Node>,
    i: usize,
    launch: &Launch,
) -> Row {
    let blocks: u64 = launch.grid.iter().map(|&n| u64::from(n)).product();
    let held = (2048 / launch.kernel.threads).min(match launch.kernel.shared_bytes {
        0 => usize::MAX,
        bytes => SHARED_BYTES / (bytes + 1024),
    });
    let (shape, flop, bytes, splits, block_flop) = match node {
        Some(node) => {
            let Size { h, w } = plan.size(node.output);
            let shape = [plan.batch, h, w, node.output.channels];
            let (flop, bytes) = (plan.node_flops(node), plan.node_bytes(node, 2));
            match dense(node) {
                Some(conv) => {
                    let spread = network.spread(plan, node, &conv);
                    let pixels = plan.batch * h * w;
                    let partial = spread.partial_bytes(&conv, pixels) as u64;
                    let tile = spread.tile;
                    let work = 2 * tile.pixels * tile.channels * spread.k_blocks * 32;
                    match i {
                        0 => (shape, flop, bytes + partial, spread.splits, work as f64),
                        _ => (shape, 0, partial + (pixels * conv.out_channels * 2) as u64, 1, 0.0),
                    }
                }
                None => (shape, flop, bytes, 1, flop as f64 / blocks as f64),
            }
        }
        // Preprocessing and head: every byte of picture, image, logits and maps once.
        None => {
            let pixels = plan.batch * plan.image.pixels();
            let (shape, bytes) = if step.name == "head" {
                let logits = plan.buffer(plan.logits).len * 4;
                ([plan.batch, plan.image.h, plan.image.w, 1], logits + pixels * 5)
            } else {
                let Size { h, w } = plan.padded;
                ([plan.batch, h, w, 4], pixels * 3 + plan.batch * h * w * 8)
            };
            (shape, 0, bytes as u64, 1, 0.0)
        }
    };
    let roof = (flop as f64 / PEAK_FLOPS).max(bytes as f64 / PEAK_BYTES);
    let busiest = (blocks as f64 / MULTIPROCESSORS as f64).ceil();
    let compute = busiest * block_flop * MULTIPROCESSORS as f64 / PEAK_FLOPS;
    let predicted = compute.max(bytes as f64 / PEAK_BYTES) + LAUNCH_SECONDS;
    Row {
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
    }
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
