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
use super::winograd::pairs::{self as winograd_pairs, WinogradPairs};
use super::winograd::{self, Winograd};
use super::{dropout, mixture, spatial};
use crate::error::{Error, Result};
use crate::model::Model;
use crate::ops::{Pass, Size};
use crate::plan::{Bands, ConvWeights, Folding, Limits, Node, Op, Plan, Step, View};

/// Packed weights (made when first needed, kept for every later size) and the arena.
#[derive(Default)]
pub struct Runner {
    bf16: bool,
    packed: HashMap<(usize, Method), Convolution>,
    /// Elements of different types lie beside each other: in bf16 some buffers stay in f32 ([`crate::plan::Buffer::wide`]).
    arena: Vec<Line>,
}

/// Ops run in bands where each writes more than this: neither would find in the caches what the other wrote.
const BAND_BYTES: usize = 16 << 20;
/// What the windows of such a band may take: half of a last-level cache.
const WINDOW_BYTES: usize = 16 << 20;

/// The algorithm that computes a convolution.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Method {
    Direct,
    Pairs,
    Depthwise,
    Winograd,
    WinogradPairs,
}

enum Convolution {
    Direct(Direct),
    Pairs(Pairs),
    Depthwise(Depthwise),
    Winograd(Winograd),
    WinogradPairs(WinogradPairs),
}

impl Runner {
    pub fn new() -> Self {
        Runner::default()
    }

    /// One that keeps activations as bf16 and multiplies in pairs of bf16 ([`Pairs`], [`WinogradPairs`]); sums, the
    /// features and the logits stay in f32.
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

    /// A plan as this runner runs it: in its precision, and in bands where they pay.
    pub fn plan(&self, plan: Plan) -> Plan {
        let plan = if self.bf16 { plan.in_bf16() } else { plan };
        plan.in_bands(Limits {
            bytes: BAND_BYTES,
            window_bytes: WINDOW_BYTES,
            rows: 4 * rayon::current_num_threads(),
        })
    }

    /// Whether the arena is already large enough for a plan.
    pub fn fits(&self, plan: &Plan) -> bool {
        self.arena_bytes() >= plan.arena_bytes(plan.element_bytes())
    }

    /// Bytes of the arena.
    pub fn arena_bytes(&self) -> u64 {
        size_of_val(self.arena.as_slice()) as u64
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
            Op::Conv { weights, .. } => Some((weights, path(plan, node))),
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
                    Method::WinogradPairs => Convolution::WinogradPairs(WinogradPairs::new(conv)),
                };
                (key, packed)
            });
            self.packed.par_extend(packed);
        }
        if !self.fits(plan) {
            // Freed first: both at once would double the peak.
            self.arena = Vec::new();
            self.arena =
                aligned((plan.arena_len * plan.element_bytes()).div_ceil(size_of::<f32>()));
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
        let Region { bytes, shape } = Region::whole(plan, plan.input);
        let arena: &mut [u8] = bytemuck::cast_slice_mut(&mut self.arena);
        if plan.bf16 {
            let buffer: &mut [bf16] = bytemuck::cast_slice_mut(&mut arena[bytes]);
            preprocess(images, size, mean, std, Output { buffer, shape });
        } else {
            let buffer: &mut [f32] = bytemuck::cast_slice_mut(&mut arena[bytes]);
            preprocess(images, size, mean, std, Output { buffer, shape });
        }
    }

    /// The contents of a buffer that is alive and kept in f32: in bf16 only the features and the logits are.
    pub fn read(&self, plan: &Plan, view: View) -> &[f32] {
        let arena: &[u8] = bytemuck::cast_slice(&self.arena);
        bytemuck::cast_slice(&arena[Region::whole(plan, view).bytes])
    }

    /// The same, to change.
    pub fn write(&mut self, plan: &Plan, view: View) -> &mut [f32] {
        let arena: &mut [u8] = bytemuck::cast_slice_mut(&mut self.arena);
        bytemuck::cast_slice_mut(&mut arena[Region::whole(plan, view).bytes])
    }

    /// Runs nodes of a prepared plan, in bands where it has them, all of which lie within the nodes or outside; in a pass of
    /// MC Dropout dropouts mask, otherwise they copy.
    pub fn run(&mut self, plan: &Plan, nodes: Range<usize>, pass: Option<Pass>) {
        let mut next = nodes.start;
        while next < nodes.end {
            next = match plan.bands.iter().find(|bands| bands.nodes.start == next) {
                Some(bands) => {
                    (0..plan.batch).for_each(|image| self.bands(plan, bands, image));
                    bands.nodes.end
                }
                None => {
                    self.run_on(plan, &plan.nodes[next], pass, |view| Region::whole(plan, view));
                    next + 1
                }
            };
        }
    }

    /// Runs one op of a prepared plan without bands; a dropout copies.
    pub fn step(&mut self, plan: &Plan, node: &Node) {
        self.run_on(plan, node, None, |view| Region::whole(plan, view));
    }

    fn bands(&mut self, plan: &Plan, bands: &Bands, image: usize) {
        // The first row that each window holds.
        let mut tops = vec![0; plan.buffers.len()];
        for step in &bands.steps {
            match step {
                Step::Run { node, rows } => {
                    let node = &plan.nodes[*node];
                    self.run_on(plan, node, None, |view| {
                        let window = Region::of(plan, view, image, tops[view.buffer]);
                        if view == node.output { window.rows(plan, view, rows) } else { window }
                    });
                }
                Step::Slide { buffer, rows } => {
                    let view = View { buffer: *buffer, first: 0, channels: 0 };
                    let window = Region::of(plan, view, image, tops[*buffer]);
                    let start = window.bytes.start;
                    let arena: &mut [u8] = bytemuck::cast_slice_mut(&mut self.arena);
                    arena.copy_within(window.rows(plan, view, rows).bytes, start);
                    tops[*buffer] = rows.start;
                }
            }
        }
    }

    /// Runs an op on what lies in these parts of the arena.
    fn run_on(
        &mut self,
        plan: &Plan,
        node: &Node,
        pass: Option<Pass>,
        region: impl Fn(View) -> Region,
    ) {
        let conv = match node.op {
            Op::Conv { weights, .. } => Some(&self.packed[&(weights, path(plan, node))]),
            _ => None,
        };
        let arena: &mut [u8] = bytemuck::cast_slice_mut(&mut self.arena);
        let wide = |view: View| !plan.bf16 || plan.buffer(view).wide;
        match [node.input, node.output].map(wide) {
            [true, true] => run(node, conv, pass, operands(node, arena, region), convolve),
            [false, false] => {
                let operands: Operands<bf16, bf16> = operands(node, arena, region);
                run(node, conv, pass, operands, convolve_bf16);
            }
            [false, true] => {
                let operands: Operands<bf16, f32> = operands(node, arena, region);
                run(node, conv, pass, operands, convolve_bf16);
            }
            [true, false] => unreachable!("what reads the features is kept in f32"),
        }
    }
}

/// Where a view lies.
struct Region {
    /// Of the arena.
    bytes: Range<usize>,
    shape: Shape,
}

impl Region {
    /// All images.
    fn whole(plan: &Plan, view: View) -> Self {
        let buffer = plan.buffer(view);
        let start = buffer.offset * plan.element_bytes();
        let shape = Shape {
            batch: plan.batch,
            size: buffer.size,
            channels: buffer.channels,
            first: view.first,
            count: view.channels,
            top: 0,
        };
        Region { bytes: start..start + buffer.len * plan.element(view.buffer), shape }
    }

    /// What there is of one image; `top` is the first row that a window holds.
    fn of(plan: &Plan, view: View, image: usize, top: usize) -> Self {
        let Region { bytes: Range { start, end }, shape } = Region::whole(plan, view);
        let shape = Shape { batch: 1, top, ..shape };
        if plan.buffer(view).window.is_some() {
            return Region { bytes: start..end, shape };
        }
        let len = (end - start) / plan.batch;
        Region { bytes: start + image * len..start + (image + 1) * len, shape }
    }

    /// Some rows of it.
    fn rows(self, plan: &Plan, view: View, rows: &Range<usize>) -> Self {
        let Region { bytes, shape } = self;
        let row = shape.size.w * shape.channels * plan.element(view.buffer);
        let at = |y: usize| bytes.start + (y - shape.top) * row;
        Region { bytes: at(rows.start)..at(rows.end), shape: Shape { top: rows.start, ..shape } }
    }
}

fn residual(node: &Node) -> Option<View> {
    match node.op {
        Op::Conv { residual, .. } => residual,
        _ => None,
    }
}

/// What an op reads, its residual, and what it writes.
type Operands<'a, I, O> = (Input<'a, I>, Option<Input<'a, I>>, Output<'a, O>);

/// Those of a node.
fn operands<'a, I: Element, O: Element>(
    node: &Node,
    arena: &'a mut [u8],
    region: impl Fn(View) -> Region,
) -> Operands<'a, I, O> {
    let residual = residual(node);
    let alive = "operands of an op do not overlap in the arena";
    let same = residual.filter(|r| r.buffer == node.input.buffer);
    let [x, y] = [node.input, node.output].map(&region);
    let residual = residual.map(&region);
    let (x_bytes, residual_bytes, y_bytes): (&[u8], Option<&[u8]>, &mut [u8]) = match &residual {
        Some(residual) if same.is_none() => {
            let ranges = [x.bytes, residual.bytes.clone(), y.bytes];
            let [x, residual, y] = arena.get_disjoint_mut(ranges).expect(alive);
            (x, Some(residual), y)
        }
        _ => {
            let [x, y] = arena.get_disjoint_mut([x.bytes, y.bytes]).expect(alive);
            let x: &[u8] = x;
            (x, same.map(|_| x), y)
        }
    };
    let input = |bytes, Shape { batch, size, channels, first, count, top }| Input {
        data: bytemuck::cast_slice(bytes),
        batch,
        size,
        channels,
        first,
        count,
        top,
    };
    let residual = residual.zip(residual_bytes).map(|(region, bytes)| input(bytes, region.shape));
    let y = Output { buffer: bytemuck::cast_slice_mut(y_bytes), shape: y.shape };
    (input(x_bytes, x.shape), residual, y)
}

/// Runs an op; `convolve` a convolution.
fn run<I: Element, O: Element>(
    node: &Node,
    conv: Option<&Convolution>,
    pass: Option<Pass>,
    (x, residual, y): Operands<I, O>,
    convolve: impl FnOnce(&Convolution, Operands<I, O>, bool),
) {
    match (&node.op, conv) {
        (Op::Conv { relu, .. }, Some(conv)) => convolve(conv, (x, residual, y), *relu),
        (Op::Conv { .. }, None) => unreachable!("a prepared plan has its weights packed"),
        (Op::Spatial(op), _) => spatial(op, x, y),
        (Op::Dropout(op), _) => dropout::dropout(op, pass, x, y),
    }
}

fn convolve(conv: &Convolution, (x, residual, y): Operands<f32, f32>, relu: bool) {
    match conv {
        Convolution::Direct(kernel) => kernel.run(x, residual, relu, y),
        Convolution::Winograd(kernel) => kernel.run(x, residual, relu, y),
        Convolution::Depthwise(kernel) => kernel.run(x, relu, y),
        _ => unreachable!("the paths of f32"),
    }
}

fn convolve_bf16<O: Element>(conv: &Convolution, (x, residual, y): Operands<bf16, O>, relu: bool) {
    match conv {
        Convolution::Pairs(kernel) => kernel.run(x, residual, relu, y),
        Convolution::WinogradPairs(kernel) => kernel.run(x, residual, relu, y),
        Convolution::Depthwise(kernel) => kernel.run_bf16(x, relu, y),
        _ => unreachable!("the paths of bf16"),
    }
}

/// Bytes that running a plan takes at most, in addition to the weights: the arena, the largest
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
    plan.arena_bytes(plan.element_bytes()) + scratch + pixels + mixed
}

fn path(plan: &Plan, node: &Node) -> Method {
    let Op::Conv { conv, .. } = &node.op else { unreachable!("only convolutions have a path") };
    let size = plan.size(node.output);
    // The classifier reads features, which stay in f32.
    let pairs = plan.bf16 && !plan.buffer(node.input).wide;
    if conv.depthwise {
        Method::Depthwise
    } else if pairs && winograd_pairs::pays(conv, size.h, size.w) {
        Method::WinogradPairs
    } else if pairs {
        Method::Pairs
    } else if winograd::pays(conv, size.h, size.w) {
        Method::Winograd
    } else {
        Method::Direct
    }
}
