//! From the topology of a network to the plan of one input size: sizes, padded channels, buffers and
//! their offsets in the arena.

use super::arena::{Lifetime, place};
use super::bands::reads;
use super::fold::{padded, padded_conv};
use super::{Buffer, Node, Op, Plan, View};
use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::topology::{Action, Output, Topology};
use crate::ops::Size;

/// The plan for `batch` images of size `image`.
///
/// # Errors
/// An empty batch or image, or an image whose activations no address space holds.
pub fn compile(config: &Config, batch: usize, image: Size) -> Result<Plan> {
    plan(config, batch, image, false)
}

/// The same for MC Dropout: with the dropouts among the nodes, which are in two groups ([`Plan::once`]).
///
/// # Errors
/// As [`compile`].
pub fn compile_with_dropout(config: &Config, batch: usize, image: Size) -> Result<Plan> {
    plan(config, batch, image, true)
}

fn plan(config: &Config, batch: usize, image: Size, dropout: bool) -> Result<Plan> {
    if batch == 0 || image.h == 0 || image.w == 0 {
        let found = format!("{batch} images of {image}");
        return Err(Error::invalid("input", "at least one image of at least one pixel", found));
    }
    let multiple = config.input_multiple;
    let round = |n: usize| n.checked_next_multiple_of(multiple).ok_or_else(|| too_large(image));
    let size = Size::new(round(image.h)?, round(image.w)?);
    let topology = Topology::new(config);
    let places = vec![None; topology.activations.len()];
    let mut build = Builder { topology: &topology, places, batch, image, buffers: vec![] };
    build.write(Output { activation: topology.input, part: None }, size)?;

    let mut nodes = Vec::new();
    let mut convs = 0..;
    for step in &topology.steps {
        let input = build.view(step.input);
        let from = build.buffers[input.buffer].size;
        let (op, size) = match &step.action {
            Action::Conv { unit, residual, relu } => {
                let weights = convs.next().expect("numbers without end");
                let conv = padded_conv(&topology, step, unit);
                let residual = residual.map(|activation| build.view(activation));
                (Op::Conv { conv, weights, residual, relu: *relu }, conv.output_size(from)?)
            }
            Action::Spatial(op) => {
                let written = build.places[step.output.activation];
                let written = written.map(|buffer| build.buffers[buffer].size);
                (Op::Spatial(*op), op.output_size(from, written)?)
            }
            Action::Dropout(op) if dropout => (Op::Dropout(*op), from),
            Action::Dropout(_) => {
                build.places[step.output.activation] = Some(input.buffer);
                continue;
            }
        };
        let output = build.write(step.output, size)?;
        if let Op::Conv { conv, .. } = op {
            debug_assert_eq!(
                (conv.in_channels, conv.out_channels),
                (input.channels, output.channels)
            );
        }
        debug_assert_eq!(build.buffers[output.buffer].size, size);
        nodes.push(Node { name: step.name.clone(), op, input, output });
    }
    let [input, features, logits] =
        [topology.input, topology.features, topology.logits].map(|a| build.view(a));
    let buffers = build.buffers;
    let (nodes, once) = once_first(nodes, buffers.len());
    let padded = buffers[input.buffer].size;
    let mut plan = Plan {
        batch,
        image,
        padded,
        align_corners: config.align_corners,
        nodes,
        once,
        buffers,
        bands: Vec::new(),
        bf16: false,
        arena_len: 0,
        whole_len: 0,
        input,
        features,
        logits,
    };
    plan.place().ok_or_else(|| too_large(image))?;
    Ok(plan)
}

impl Plan {
    /// Places the buffers in the arena; None where it exceeds usize.
    pub(super) fn place(&mut self) -> Option<()> {
        let lives = lifetimes(self);
        let units = self.buffers.iter().enumerate();
        let units = units.map(|(i, b)| b.len.checked_mul(self.element(i) / self.element_bytes()));
        let (offsets, all) = place(&units.collect::<Option<Vec<_>>>()?, &lives)?;
        for (buffer, offset) in self.buffers.iter_mut().zip(offsets) {
            buffer.offset = offset;
        }
        self.arena_len = all;
        if self.bands.is_empty() {
            self.whole_len = all;
        }
        Some(())
    }
}

struct Builder<'a> {
    topology: &'a Topology,
    /// The buffer of each activation, once a step has written to it.
    places: Vec<Option<usize>>,
    batch: usize,
    image: Size,
    buffers: Vec<Buffer>,
}

impl Builder<'_> {
    /// Channels in memory of each part of an activation.
    fn parts(&self, activation: usize) -> impl Iterator<Item = usize> + use<'_> {
        let pad = self.topology.padded(activation);
        let parts = self.topology.activations[activation].iter();
        parts.map(move |&channels| if pad { padded(channels) } else { channels })
    }

    /// All of an activation that has been written.
    fn view(&self, activation: usize) -> View {
        let buffer = self.places[activation].expect("a step reads what an earlier one wrote");
        View { buffer, first: 0, channels: self.buffers[buffer].channels }
    }

    /// Where a step writes its output of `size`; the first to write an activation makes its buffer.
    fn write(&mut self, output: Output, size: Size) -> Result<View> {
        let Output { activation, part } = output;
        if self.places[activation].is_none() {
            let channels = self.parts(activation).sum();
            let len = [size.h, size.w, channels]
                .iter()
                .try_fold(self.batch, |product, &n| product.checked_mul(n))
                .ok_or_else(|| too_large(self.image))?;
            self.places[activation] = Some(self.buffers.len());
            let (wide, window) = (false, None);
            self.buffers.push(Buffer { size, channels, offset: 0, len, wide, window });
        }
        let all = self.view(activation);
        Ok(match part {
            None => all,
            Some(part) => {
                let first = self.parts(activation).take(part).sum();
                let channels = self.parts(activation).nth(part).expect("a part of the activation");
                View { first, channels, ..all }
            }
        })
    }
}

/// The nodes that depend on no dropout, in order, then the others; and how many the first are.
fn once_first(nodes: Vec<Node>, buffers: usize) -> (Vec<Node>, usize) {
    let mut differs = vec![false; buffers];
    let (mut first, mut again) = (Vec::with_capacity(nodes.len()), Vec::new());
    for node in nodes {
        if matches!(node.op, Op::Dropout(_)) || reads(&node).any(|view| differs[view.buffer]) {
            differs[node.output.buffer] = true;
            again.push(node);
        } else {
            first.push(node);
        }
    }
    let once = first.len();
    first.extend(again);
    (first, once)
}

/// Op i runs at time i + 1; the input is written at time 0, and what the caller reads stays alive to the end,
/// as does what the first `once` ops write for the others, which run again.
/// The ops of a band run at one time.
fn lifetimes(plan: &Plan) -> Vec<Lifetime> {
    let (nodes, once) = (&plan.nodes, plan.once);
    let end = nodes.len() + 1;
    let mut lives = vec![Lifetime { first: usize::MAX, last: 0 }; plan.buffers.len()];
    let mut touch = |view: View, time: usize| {
        let life = &mut lives[view.buffer];
        life.first = life.first.min(time);
        life.last = life.last.max(time);
    };
    touch(plan.input, 0);
    [plan.features, plan.logits].into_iter().for_each(|view| touch(view, end));
    for (i, node) in nodes.iter().enumerate() {
        reads(node).chain([node.output]).for_each(|view| touch(view, i + 1));
    }
    for life in lives.iter_mut().filter(|life| life.first <= once && life.last > once) {
        life.last = end;
    }
    for bands in &plan.bands {
        let time = Lifetime { first: bands.nodes.start + 1, last: bands.nodes.end };
        for life in lives.iter_mut().filter(|life| life.overlaps(time)) {
            life.first = life.first.min(time.first);
            life.last = life.last.max(time.last);
        }
    }
    lives
}

fn too_large(image: Size) -> Error {
    Error::invalid("input", "an image whose activations can be addressed", image)
        .fix("scale it down with --resize")
}
