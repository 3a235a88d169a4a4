//! The plan: a network at one batch and input size as a list of fused ops over buffers that share
//! one arena. Every device runs the same plan.
//!
//! Buffers are NHWC; all but the input (3 channels) and the logits have their channels padded to a
//! multiple of 8, the padding being zero. An op reads and writes *views*, channel slices of
//! buffers, so a concatenation is two ops that write side by side.

mod arena;
mod bands;
mod compile;
mod fold;

pub use bands::{Bands, Limits, Step};
pub use compile::{compile, compile_with_dropout};
pub use fold::{ConvWeights, Folding};

use crate::ops::{Conv2d, Dropout, Head, Resize, Size, Spatial};

/// Channels are padded to a multiple of this (16 bytes of fp16).
pub const CHANNEL_ALIGN: usize = 8;

/// A tensor `[batch, size.h, size.w, channels]` in the arena.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Buffer {
    pub size: Size,
    pub channels: usize,
    /// Offset in the arena, in the plan's elements; a multiple of 64.
    pub offset: usize,
    /// Elements.
    pub len: usize,
    /// In a plan in bf16: kept in f32.
    pub wide: bool,
    /// In a plan in bands: the rows that it holds at a time, of one image. None: it holds all.
    pub window: Option<usize>,
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
        /// Index of [`Folding::conv`].
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
    /// How many of the nodes run once. The others depend on a dropout and run again in each pass: what they
    /// read of the first ones stays in the arena. All of them in a plan without dropout.
    pub once: usize,
    pub buffers: Vec<Buffer>,
    /// Ops that run together, a band of rows at a time, in order: none but on the CPU ([`Plan::in_bands`]).
    pub bands: Vec<Bands>,
    /// Activations are bf16 but where a buffer is wide, on the CPU ([`Plan::in_bf16`]).
    pub bf16: bool,
    /// Elements of the arena that holds all buffers.
    pub arena_len: usize,
    /// The same without bands: it grows with the image's area, which `arena_len` does not where bands begin.
    pub whole_len: usize,
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

    /// The same plan with activations in bf16 but for the features, which a density rounds to fp16, the logits, and what a
    /// dropout makes features of: they stay in f32.
    pub fn in_bf16(mut self) -> Self {
        let kept = [self.features, self.logits].map(|view| view.buffer);
        for node in &self.nodes {
            if matches!(node.op, Op::Dropout(_)) && kept.contains(&node.output.buffer) {
                self.buffers[node.input.buffer].wide = true;
            }
        }
        kept.into_iter().for_each(|buffer| self.buffers[buffer].wide = true);
        self.bf16 = true;
        self.place().expect("elements became smaller");
        self
    }

    /// Bytes of an element of the arena on the CPU.
    pub fn element_bytes(&self) -> usize {
        if self.bf16 { 2 } else { 4 }
    }

    /// Bytes of an element of a buffer on the CPU.
    pub fn element(&self, buffer: usize) -> usize {
        if self.buffers[buffer].wide { 4 } else { self.element_bytes() }
    }

    /// Bytes of the arena at `element` bytes each (4 on the CPU, 2 on the devices).
    pub fn arena_bytes(&self, element: usize) -> u64 {
        self.arena_len as u64 * element as u64
    }
}
