//! Runs a plan on the CPU, op by op, over one arena.

use std::collections::HashMap;

use super::conv::Direct;
use super::depthwise::Depthwise;
use super::gemm::{Line, aligned};
use super::tensor::{Input, Output, Shape};
use super::winograd::{self, Winograd};
use super::{dropout, spatial};
use crate::ops::{Pass, mixture};
use crate::plan::{Folded, Node, Op, Plan, View};

/// Direct weights (made when first needed, kept for every later size) and the arena.
pub struct Runner {
    weights: Folded,
    packed: HashMap<(usize, Method), Convolution>,
    arena: Vec<Line>,
}

/// The algorithm that computes a convolution.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Method {
    Direct,
    Depthwise,
    Winograd,
}

enum Convolution {
    Direct(Direct),
    Depthwise(Depthwise),
    Winograd(Winograd),
}

impl Runner {
    pub fn new(weights: Folded) -> Self {
        Runner { weights, packed: HashMap::new(), arena: Vec::new() }
    }

    pub fn weights(&self) -> &Folded {
        &self.weights
    }

    /// Whether the arena is already large enough for a plan.
    pub fn fits(&self, plan: &Plan) -> bool {
        self.arena.len() * 16 >= plan.arena_len
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> u64 {
        size_of_val(self.arena.as_slice()) as u64
    }

    /// Packs what the plan needs and makes the arena large enough.
    pub fn prepare(&mut self, plan: &Plan) {
        for node in &plan.nodes {
            if let Op::Conv { weights, .. } = node.op {
                let path = path(plan, node);
                let conv = &self.weights.convs[weights];
                self.packed.entry((weights, path)).or_insert_with(|| match path {
                    Method::Direct => Convolution::Direct(Direct::new(conv)),
                    Method::Depthwise => Convolution::Depthwise(Depthwise::new(conv)),
                    Method::Winograd => Convolution::Winograd(Winograd::new(conv)),
                });
            }
        }
        if !self.fits(plan) {
            // Freed first: both at once would double the peak.
            self.arena = Vec::new();
            self.arena = aligned(plan.arena_len);
        }
    }

    /// Where the normalised image goes.
    pub fn input(&mut self, plan: &Plan) -> Output<'_> {
        let shape = shape(plan, plan.input);
        let buffer = plan.buffer(plan.input);
        let arena: &mut [f32] = bytemuck::cast_slice_mut(&mut self.arena);
        Output { buffer: &mut arena[buffer.offset..][..buffer.len], shape }
    }

    /// The contents of a buffer, to change.
    pub fn write(&mut self, plan: &Plan, view: View) -> &mut [f32] {
        let buffer = plan.buffer(view);
        let arena: &mut [f32] = bytemuck::cast_slice_mut(&mut self.arena);
        &mut arena[buffer.offset..][..buffer.len]
    }

    /// Runs one op of a prepared plan; a dropout copies.
    pub fn step(&mut self, plan: &Plan, node: &Node) {
        self.step_of(plan, node, None);
    }

    /// The same in a pass of MC Dropout, where a dropout masks.
    pub fn step_of(&mut self, plan: &Plan, node: &Node, pass: Option<Pass>) {
        let residual = match node.op {
            Op::Conv { residual, .. } => residual,
            _ => None,
        };
        let range = |view: View| {
            let buffer = plan.buffer(view);
            buffer.offset..buffer.offset + buffer.len
        };
        let arena: &mut [f32] = bytemuck::cast_slice_mut(&mut self.arena);
        let alive = "operands of an op do not overlap in the arena";
        let same = residual.filter(|r| r.buffer == node.input.buffer);
        let (x, residual_data, y): (&[f32], Option<&[f32]>, &mut [f32]) = match residual {
            Some(view) if same.is_none() => {
                let ranges = [range(node.input), range(view), range(node.output)];
                let [x, r, y] = arena.get_disjoint_mut(ranges).expect(alive);
                (x, Some(r), y)
            }
            _ => {
                let ranges = [range(node.input), range(node.output)];
                let [x, y] = arena.get_disjoint_mut(ranges).expect(alive);
                let x: &[f32] = x;
                (x, same.map(|_| x), y)
            }
        };
        let x = input(plan, node.input, x);
        let residual = residual.zip(residual_data).map(|(view, data)| input(plan, view, data));
        let y = Output { buffer: y, shape: shape(plan, node.output) };
        match &node.op {
            Op::Conv { weights, relu, .. } => match &self.packed[&(*weights, path(plan, node))] {
                Convolution::Direct(kernel) => kernel.run(x, residual, *relu, y),
                Convolution::Winograd(kernel) => kernel.run(x, residual, *relu, y),
                Convolution::Depthwise(kernel) => kernel.run(x, *relu, y),
            },
            Op::Spatial(op) => spatial(op, x, y),
            Op::Dropout(op) => dropout::dropout(op, pass, x, y),
        }
    }

    /// The contents of a buffer that is alive.
    pub fn read(&self, plan: &Plan, view: View) -> &[f32] {
        let buffer = plan.buffer(view);
        let arena: &[f32] = bytemuck::cast_slice(&self.arena);
        &arena[buffer.offset..][..buffer.len]
    }
}

/// Bytes that running a plan takes in addition to the weights: the arena, the largest scratch of an op, and
/// the images and maps that wait before and after; with dropout the sums over the passes too.
pub fn memory_bytes(plan: &Plan) -> u64 {
    let scratch = |node: &Node| match &node.op {
        Op::Conv { conv, .. } if path(plan, node) == Method::Winograd => {
            let size = plan.size(node.output);
            winograd::scratch_bytes(conv, plan.batch, size.h, size.w)
        }
        _ => 0,
    };
    // 8 bytes per pixel for RGB, class and entropy of a batch being decoded, one being run and one being written.
    let pixels = 3 * 8 * (plan.batch * plan.image.pixels()) as u64;
    let mixed = match plan.once == plan.nodes.len() {
        true => 0,
        false => plan.batch as u64 * mixture::bytes(plan.logits.channels, plan.image),
    };
    let scratch = plan.nodes.iter().map(scratch).max().unwrap_or(0);
    plan.arena_bytes(size_of::<f32>()) + scratch + pixels + mixed
}

fn path(plan: &Plan, node: &Node) -> Method {
    let Op::Conv { conv, .. } = &node.op else { unreachable!("only convolutions have a path") };
    let size = plan.size(node.output);
    if conv.depthwise {
        Method::Depthwise
    } else if winograd::pays(conv, size.h, size.w) {
        Method::Winograd
    } else {
        Method::Direct
    }
}

fn shape(plan: &Plan, view: View) -> Shape {
    let buffer = plan.buffer(view);
    Shape {
        batch: plan.batch,
        size: buffer.size,
        channels: buffer.channels,
        first: view.first,
        count: view.channels,
    }
}

fn input<'a>(plan: &Plan, view: View, data: &'a [f32]) -> Input<'a> {
    let Shape { batch, size, channels, first, count } = shape(plan, view);
    Input { data, batch, size, channels, first, count }
}
