//! From the topology of a network to the plan of one input size: sizes, padded channels, buffers and
//! their offsets in the arena.

use super::arena::{Lifetime, place};
use super::fold::{Folded, padded};
use super::order::{at_once, waits};
use super::{Buffer, Node, Op, Plan, View};
use crate::error::{Error, Result};
use crate::model::Config;
use crate::model::topology::{Action, Output, Topology};
use crate::ops::Size;

/// The plan for `batch` images of size `image`.
///
/// # Errors
/// An empty batch or image, or an image whose activations no address space holds.
pub fn compile(config: &Config, weights: &Folded, batch: usize, image: Size) -> Result<Plan> {
    plan(config, weights, batch, image, false)
}

/// The same for MC Dropout: with the dropouts among the nodes, which are in two groups ([`Plan::once`]).
///
/// # Errors
/// As [`compile`].
pub fn compile_with_dropout(
    config: &Config,
    weights: &Folded,
    batch: usize,
    image: Size,
) -> Result<Plan> {
    plan(config, weights, batch, image, true)
}

fn plan(
    config: &Config,
    weights: &Folded,
    batch: usize,
    image: Size,
    dropout: bool,
) -> Result<Plan> {
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
    let mut convs = weights.convs.iter().enumerate();
    for step in &topology.steps {
        let input = build.view(step.input);
        let from = build.buffers[input.buffer].size;
        let (op, size) = match &step.action {
            Action::Conv { residual, relu, .. } => {
                let (weights, folded) = convs.next().expect("weights of this configuration");
                debug_assert_eq!(folded.name, step.name);
                let conv = folded.conv;
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
    let mut buffers = build.buffers;
    let (nodes, once) = once_first(nodes, buffers.len());
    let lives = lifetimes(&nodes, once, buffers.len(), input, [features, logits]);
    // What is repeated for each pass of MC Dropout runs in order.
    let waits = waits(&nodes, !dropout);
    let at_once = at_once(&nodes, &waits, buffers.len());
    let overlap = |a: usize, b: usize| lives[a].overlaps(lives[b]) || at_once[a][b];
    let arena_len = place(&mut buffers, overlap).ok_or_else(|| too_large(image))?;
    let padded = buffers[input.buffer].size;
    let align_corners = config.align_corners;
    Ok(Plan {
        batch,
        image,
        padded,
        align_corners,
        nodes,
        waits,
        once,
        buffers,
        arena_len,
        input,
        features,
        logits,
    })
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
            self.buffers.push(Buffer { size, channels, offset: 0, len });
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
        let residual = match node.op {
            Op::Conv { residual, .. } => residual,
            _ => None,
        };
        let mut read = [Some(node.input), residual].into_iter().flatten();
        if matches!(node.op, Op::Dropout(_)) || read.any(|view| differs[view.buffer]) {
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
fn lifetimes(
    nodes: &[Node],
    once: usize,
    buffers: usize,
    input: View,
    kept: [View; 2],
) -> Vec<Lifetime> {
    let end = nodes.len() + 1;
    let mut lives = vec![Lifetime { first: usize::MAX, last: 0 }; buffers];
    let mut touch = |view: View, time: usize| {
        let life = &mut lives[view.buffer];
        life.first = life.first.min(time);
        life.last = life.last.max(time);
    };
    touch(input, 0);
    kept.into_iter().for_each(|view| touch(view, end));
    for (i, node) in nodes.iter().enumerate() {
        touch(node.input, i + 1);
        touch(node.output, i + 1);
        if let Op::Conv { residual: Some(view), .. } = node.op {
            touch(view, i + 1);
        }
    }
    for life in lives.iter_mut().filter(|life| life.first <= once && life.last > once) {
        life.last = end;
    }
    lives
}

fn too_large(image: Size) -> Error {
    Error::invalid("input", "an image whose activations can be addressed", image)
        .fix("scale it down with --resize")
}
