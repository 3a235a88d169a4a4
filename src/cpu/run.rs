//! Runs a plan on the CPU, op by op, over one arena.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use half::bf16;
use rayon::prelude::*;

use super::conv::Direct;
use super::depthwise::Depthwise;
use super::element::Element;
use super::gemm::{Line, aligned};
use super::pairs::{self, Pairs};
use super::preprocess::preprocess;
use super::tensor::{Input, Output, Shape};
use super::winograd::{self, Winograd};
use super::{dropout, mixture, spatial};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::{Pass, Size};
use crate::plan::{ConvWeights, Folding, Node, Op, Plan, View};

/// Packed weights (made when first needed, kept for every later size) and the arena.
#[derive(Default)]
pub struct Runner {
    bf16: bool,
    packed: HashMap<(usize, Method), Convolution>,
    arena: Vec<Line>,
    /// In bf16: the buffers that stay in f32, one after another ([`wide`]).
    wide: Vec<Line>,
}

/// The algorithm that computes a convolution.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Method {
    Direct,
    Pairs,
    Depthwise,
    Winograd,
}

enum Convolution {
    Direct(Direct),
    Pairs(Pairs),
    Depthwise(Depthwise),
    Winograd(Winograd),
}

impl Runner {
    pub fn new() -> Self {
        Runner::default()
    }

    /// One that keeps activations as bf16 and multiplies in pairs of bf16 ([`Pairs`]); Winograd's products stay in f32, and
    /// so do sums, the features and the logits.
    ///
    /// # Errors
    /// A CPU without AVX512-BF16.
    pub fn in_bf16() -> Result<Self> {
        if !pairs::available() {
            let found = format!("one without ({})", crate::host::cpu_name());
            return Err(Error::invalid("--precision bf16", "a CPU with AVX512-BF16", found)
                .fix("leave it out: the network then runs in f32"));
        }
        Ok(Runner { bf16: true, ..Runner::default() })
    }

    pub fn is_bf16(&self) -> bool {
        self.bf16
    }

    /// Whether the arena is already large enough for a plan.
    pub fn fits(&self, plan: &Plan) -> bool {
        let (arena, wide) = self.lines(plan);
        self.arena.len() >= arena && self.wide.len() >= wide
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> u64 {
        (size_of_val(self.arena.as_slice()) + size_of_val(self.wide.as_slice())) as u64
    }

    /// Lines of the arena and of what stays in f32.
    fn lines(&self, plan: &Plan) -> (usize, usize) {
        if !self.bf16 {
            return (plan.arena_len.div_ceil(16), 0);
        }
        (plan.arena_len.div_ceil(32), wide_range(plan, plan.buffers.len()).start / 16)
    }

    /// Packs what the plan needs of the model's weights, which must be the same each time, and makes the arena large enough.
    pub fn prepare(&mut self, plan: &Plan, model: &Model) {
        self.pack(plan, || {
            let folding = Folding::new(model);
            move |index| folding.conv(index)
        });
    }

    /// The same with other weights, by the index of their convolution.
    pub fn prepare_with(&mut self, plan: &Plan, weights: impl Fn(usize) -> ConvWeights + Sync) {
        self.pack(plan, || weights);
    }

    /// `weights` is called where something must be packed.
    fn pack<W: Fn(usize) -> ConvWeights + Sync>(
        &mut self,
        plan: &Plan,
        weights: impl FnOnce() -> W,
    ) {
        let missing = plan.nodes.iter().filter_map(|node| match node.op {
            Op::Conv { weights, .. } => Some((weights, self.path(plan, node))),
            _ => None,
        });
        let missing: HashSet<_> =
            missing.filter(|packed| !self.packed.contains_key(packed)).collect();
        if !missing.is_empty() {
            let weights = weights();
            let packed = missing.into_par_iter().map(|key @ (index, method)| {
                let conv = &weights(index);
                let packed = match method {
                    Method::Direct => Convolution::Direct(Direct::new(conv)),
                    Method::Pairs => Convolution::Pairs(Pairs::new(conv)),
                    Method::Depthwise => Convolution::Depthwise(Depthwise::new(conv)),
                    Method::Winograd => Convolution::Winograd(Winograd::new(conv)),
                };
                (key, packed)
            });
            self.packed.par_extend(packed);
        }
        if !self.fits(plan) {
            // Freed first: both at once would double the peak.
            (self.arena, self.wide) = (Vec::new(), Vec::new());
            let (arena, wide) = self.lines(plan);
            (self.arena, self.wide) = (aligned(16 * arena), aligned(16 * wide));
        }
    }

    fn path(&self, plan: &Plan, node: &Node) -> Method {
        match path(plan, node) {
            // The classifier reads features, which stay in f32.
            Method::Direct if self.bf16 && !wide(plan, node.input.buffer) => Method::Pairs,
            path => path,
        }
    }

    /// Writes the normalised images ([`preprocess`]).
    pub fn preprocess(
        &mut self,
        plan: &Plan,
        images: &[&[u8]],
        size: Size,
        mean: [f32; 3],
        std: [f32; 3],
    ) {
        let shape = shape(plan, plan.input);
        let range = range(plan, plan.input);
        if self.bf16 {
            let arena: &mut [bf16] = bytemuck::cast_slice_mut(&mut self.arena);
            let y = Output { buffer: &mut arena[range], shape };
            preprocess(images, size, mean, std, y);
        } else {
            let arena: &mut [f32] = bytemuck::cast_slice_mut(&mut self.arena);
            let y = Output { buffer: &mut arena[range], shape };
            preprocess(images, size, mean, std, y);
        }
    }

    /// The contents of a buffer that is kept in f32, to change.
    pub fn write(&mut self, plan: &Plan, view: View) -> &mut [f32] {
        let (data, range) = match self.bf16 {
            true => (&mut self.wide, wide_range(plan, view.buffer)),
            false => (&mut self.arena, range(plan, view)),
        };
        &mut bytemuck::cast_slice_mut(data)[range]
    }

    /// Runs one op of a prepared plan; a dropout copies.
    pub fn step(&mut self, plan: &Plan, node: &Node) {
        self.step_of(plan, node, None);
    }

    /// The same in a pass of MC Dropout, where a dropout masks.
    pub fn step_of(&mut self, plan: &Plan, node: &Node, pass: Option<Pass>) {
        let conv = match node.op {
            Op::Conv { weights, .. } => Some(&self.packed[&(weights, self.path(plan, node))]),
            _ => None,
        };
        let ranges = |view: View| range(plan, view);
        let wides = |view: View| wide_range(plan, view.buffer);
        if !self.bf16 {
            let arena: &mut [f32] = bytemuck::cast_slice_mut(&mut self.arena);
            return run(node, conv, pass, operands(plan, node, arena, ranges), dense);
        }
        match [node.input, node.output].map(|view| wide(plan, view.buffer)) {
            [false, false] => {
                let arena: &mut [bf16] = bytemuck::cast_slice_mut(&mut self.arena);
                run(node, conv, pass, operands(plan, node, arena, ranges), dense_pairs);
            }
            [false, true] => {
                let arena: &[bf16] = bytemuck::cast_slice(&self.arena);
                let x = input(plan, node.input, &arena[ranges(node.input)]);
                let residual = residual(node).map(|view| input(plan, view, &arena[ranges(view)]));
                let buffer = &mut bytemuck::cast_slice_mut(&mut self.wide)[wides(node.output)];
                let y: Output = Output { buffer, shape: shape(plan, node.output) };
                run(node, conv, pass, (x, residual, y), dense_pairs);
            }
            [true, true] => {
                let arena: &mut [f32] = bytemuck::cast_slice_mut(&mut self.wide);
                run(node, conv, pass, operands(plan, node, arena, wides), dense);
            }
            [true, false] => unreachable!("what reads the features is kept in f32"),
        }
    }

    /// The contents of a buffer that is alive and kept in f32: in bf16 only the features and the logits are.
    pub fn read(&self, plan: &Plan, view: View) -> &[f32] {
        let (data, range) = match self.bf16 {
            true => (&self.wide, wide_range(plan, view.buffer)),
            false => (&self.arena, range(plan, view)),
        };
        &bytemuck::cast_slice(data)[range]
    }
}

/// Elements of a view's buffer in the arena.
fn range(plan: &Plan, view: View) -> Range<usize> {
    let buffer = plan.buffer(view);
    buffer.offset..buffer.offset + buffer.len
}

/// Whether a buffer stays in f32 in a network in bf16: the features, which a density rounds to fp16, the logits, and
/// what a dropout makes features of.
fn wide(plan: &Plan, buffer: usize) -> bool {
    let kept = |buffer| [plan.features.buffer, plan.logits.buffer].contains(&buffer);
    let dropped = |node: &Node| {
        matches!(node.op, Op::Dropout(_)) && node.input.buffer == buffer && kept(node.output.buffer)
    };
    kept(buffer) || plan.nodes.iter().any(dropped)
}

/// Elements of one of those among them; of the number of buffers: where they end.
fn wide_range(plan: &Plan, buffer: usize) -> Range<usize> {
    let before = (0..buffer).filter(|&other| wide(plan, other));
    let start = before.map(|other| plan.buffers[other].len.next_multiple_of(16)).sum();
    start..start + plan.buffers.get(buffer).map_or(0, |buffer| buffer.len)
}

fn residual(node: &Node) -> Option<View> {
    match node.op {
        Op::Conv { residual, .. } => residual,
        _ => None,
    }
}

/// What an op reads, its residual, and what it writes.
type Operands<'a, I, O> = (Input<'a, I>, Option<Input<'a, I>>, Output<'a, O>);

/// Those of a node whose buffers lie in one arena.
fn operands<'a, T>(
    plan: &Plan,
    node: &Node,
    arena: &'a mut [T],
    range: impl Fn(View) -> Range<usize>,
) -> Operands<'a, T, T> {
    let residual = residual(node);
    let alive = "operands of an op do not overlap in the arena";
    let same = residual.filter(|r| r.buffer == node.input.buffer);
    let (x, residual_data, y): (&[T], Option<&[T]>, &mut [T]) = match residual {
        Some(view) if same.is_none() => {
            let ranges = [range(node.input), range(view), range(node.output)];
            let [x, r, y] = arena.get_disjoint_mut(ranges).expect(alive);
            (x, Some(r), y)
        }
        _ => {
            let ranges = [range(node.input), range(node.output)];
            let [x, y] = arena.get_disjoint_mut(ranges).expect(alive);
            let x: &[T] = x;
            (x, same.map(|_| x), y)
        }
    };
    let x = input(plan, node.input, x);
    let residual = residual.zip(residual_data).map(|(view, data)| input(plan, view, data));
    (x, residual, Output { buffer: y, shape: shape(plan, node.output) })
}

/// Runs an op; `dense` a convolution that is neither depthwise nor Winograd's.
fn run<I: Element, O: Element>(
    node: &Node,
    conv: Option<&Convolution>,
    pass: Option<Pass>,
    (x, residual, y): Operands<I, O>,
    dense: impl FnOnce(&Convolution, Operands<I, O>, bool),
) {
    match (&node.op, conv) {
        (Op::Conv { relu, .. }, Some(conv)) => match conv {
            Convolution::Winograd(kernel) => kernel.run(x, residual, *relu, y),
            Convolution::Depthwise(kernel) => kernel.run(x, *relu, y),
            _ => dense(conv, (x, residual, y), *relu),
        },
        (Op::Conv { .. }, None) => unreachable!("a prepared plan has its weights packed"),
        (Op::Spatial(op), _) => spatial(op, x, y),
        (Op::Dropout(op), _) => dropout::dropout(op, pass, x, y),
    }
}

fn dense(conv: &Convolution, (x, residual, y): Operands<f32, f32>, relu: bool) {
    let Convolution::Direct(kernel) = conv else { unreachable!("the path of f32") };
    kernel.run(x, residual, relu, y);
}

fn dense_pairs<O: Element>(conv: &Convolution, (x, residual, y): Operands<bf16, O>, relu: bool) {
    let Convolution::Pairs(kernel) = conv else { unreachable!("the path of bf16") };
    kernel.run(x, residual, relu, y);
}

/// Bytes that running a plan takes at most, in either precision, in addition to the weights: the arena, the largest
/// scratch of an op, and the images and maps that wait before and after; with dropout what mixing the passes takes too.
pub fn memory_bytes(plan: &Plan, passes: usize) -> u64 {
    let scratch = |node: &Node| match &node.op {
        Op::Conv { conv, .. } if path(plan, node) == Method::Winograd => {
            let size = plan.size(node.output);
            winograd::scratch_bytes(conv, plan.batch, size.h, size.w)
        }
        _ => 0,
    };
    // 8 bytes per pixel for RGB, class and entropy of a batch being decoded, one being run and one being written.
    let pixels = 3 * 8 * (plan.batch * plan.image.pixels()) as u64;
    let mixed = match passes {
        0 => 0,
        _ => plan.batch as u64 * mixture::bytes(&plan.head(), passes),
    };
    let scratch = plan.nodes.iter().map(scratch).max().unwrap_or(0);
    // In bf16 the arena is half, and what stays in f32 lies beside it: the larger of the two.
    let wide = wide_range(plan, plan.buffers.len()).start * size_of::<f32>();
    let arena = plan.arena_bytes(size_of::<f32>());
    arena.max(plan.arena_bytes(size_of::<bf16>()) + wide as u64) + scratch + pixels + mixed
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

fn input<'a, T>(plan: &Plan, view: View, data: &'a [T]) -> Input<'a, T> {
    let Shape { batch, size, channels, first, count } = shape(plan, view);
    Input { data, batch, size, channels, first, count }
}
