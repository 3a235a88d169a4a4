//! The plan: a network at one batch and input size as a list of fused ops over buffers that share
//! one arena. Every device runs the same plan.
//!
//! Buffers are NHWC; all but the input (3 channels) and the logits have their channels padded to a
//! multiple of 8, the padding being zero. An op reads and writes *views*, channel slices of
//! buffers, so a concatenation is two ops that write side by side.

mod arena;
mod compile;
mod fold;
mod order;

pub use compile::{compile, compile_with_dropout};
pub use fold::{ConvWeights, Folded};

use crate::ops::{Conv2d, Dropout, Head, Resize, Size, Spatial};

/// Channels are padded to a multiple of this (16 bytes of fp16).
pub const CHANNEL_ALIGN: usize = 8;

/// A tensor `[batch, size.h, size.w, channels]` in the arena.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Buffer {
    pub size: Size,
    pub channels: usize,
    /// Offset in the arena, in elements; a multiple of 64.
    pub offset: usize,
    /// Elements.
    pub len: usize,
}

/// Channels `first..first + channels` of a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct View {
    pub buffer: usize,
    pub first: usize,
    pub channels: usize,
}

#[derive(Clone, Debug, serde::Serialize)]
pub enum Op {
    /// Convolution + bias (batch norm is folded in) + residual + ReLU.
    Conv {
        conv: Conv2d,
        /// Index into [`Folded`].
        weights: usize,
        residual: Option<View>,
        relu: bool,
    },
    Spatial(Spatial),
    /// In a plan with dropout alone: masks in a pass, copies in the network's own run.
    Dropout(Dropout),
}

/// One op of the plan.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Node {
    /// The unit's name (see [`crate::model::topology`]), or the op's place.
    pub name: String,
    pub op: Op,
    pub input: View,
    pub output: View,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct Plan {
    pub batch: usize,
    /// Size of the images.
    pub image: Size,
    /// Size of the network's input: `image` padded at the bottom and right.
    pub padded: Size,
    pub nodes: Vec<Node>,
    /// Of each node those that it waits for. Nodes of which neither waits for the other, however indirectly, may run at the same
    /// time: their buffers do not share memory.
    #[serde(skip)]
    pub waits: Vec<Vec<usize>>,
    /// How many of the nodes run once. The others depend on a dropout and run again in each pass: what they
    /// read of the first ones stays in the arena. All of them in a plan without dropout.
    pub once: usize,
    pub buffers: Vec<Buffer>,
    /// Elements of the arena that holds all buffers.
    pub arena_len: usize,
    /// The normalised image, 3 channels.
    pub input: View,
    /// The D-dimensional features on the feature grid.
    pub features: View,
    /// The logits on the feature grid.
    pub logits: View,
    pub align_corners: bool,
}

impl Plan {
    pub fn buffer(&self, view: View) -> &Buffer {
        &self.buffers[view.buffer]
    }

    pub fn size(&self, view: View) -> Size {
        self.buffer(view).size
    }

    /// Height and width of the feature grid.
    pub fn grid(&self) -> Size {
        self.size(self.features)
    }

    /// The geometry of the head, and of every map that is upsampled as its logits are.
    pub fn head(&self) -> Head {
        Head {
            classes: self.logits.channels,
            grid: self.grid(),
            padded: self.padded,
            crop: self.image,
            resize: Resize { align_corners: self.align_corners },
        }
    }

    /// FLOP of one node (a multiply-add counts as two, a comparison as one).
    pub fn node_flops(&self, node: &Node) -> u64 {
        let (input, output) = (self.size(node.input), self.size(node.output));
        match &node.op {
            Op::Conv { conv, .. } => conv.flops(self.batch, output),
            Op::Spatial(op) => op.flops(self.batch, node.output.channels, input, output),
            Op::Dropout(_) => (self.batch * node.output.channels * output.pixels()) as u64,
        }
    }

    /// FLOP of the network's own run.
    pub fn flops(&self) -> u64 {
        self.nodes.iter().map(|node| self.node_flops(node)).sum()
    }

    /// FLOP of one pass of MC Dropout, in addition to those.
    pub fn pass_flops(&self) -> u64 {
        self.nodes[self.once..].iter().map(|node| self.node_flops(node)).sum()
    }

    /// Bytes of the arena at `element` bytes each (4 on the CPU, 2 on the devices).
    pub fn arena_bytes(&self, element: usize) -> u64 {
        self.arena_len as u64 * element as u64
    }
}
