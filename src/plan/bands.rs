//! Bands: where activations do not fit in the caches, neighbouring ops run together, a few rows of each at a time. What lies
//! between them is held in *windows*, buffers of some rows that slide down the image: rows that a later band still
//! reads are moved to the window's start, so nothing is computed twice and every value is the one that whole ops give.
//!
//! An op makes rows in multiples of four, counted from the top of its output: the tiles of Winograd's transform are then
//! those of the whole image.

use std::ops::Range;

use super::{Node, Op, Plan, View};
use crate::ops::Spatial;

/// Ops that run together, for each image of the batch by itself.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Bands {
    /// The nodes' places in the plan.
    pub nodes: Range<usize>,
    pub steps: Vec<Step>,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub enum Step {
    /// A node makes some rows of its output.
    Run { node: usize, rows: Range<usize> },
    /// These rows move to the start of a buffer's window; those before them are gone.
    Slide { buffer: usize, rows: Range<usize> },
}

/// When ops run in bands.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// They do where each writes more bytes than this for an image.
    pub bytes: usize,
    /// Bands become lower, from 64 rows on, until the windows take no more bytes than this.
    pub window_bytes: usize,
    /// Fewest rows of a band in the smallest of the maps: enough that all threads have work.
    pub rows: usize,
}

/// Weights that are read anew for each band are to stay in a cache.
const WEIGHTS: usize = (1 << 20) / size_of::<f32>();
/// Rows of a band in the smallest of the maps, at most.
const TALLEST: usize = 64;
/// Rows are made in multiples of this.
const ROWS: usize = 4;

impl Plan {
    /// The same plan, in bands where they pay.
    pub fn in_bands(mut self, limits: Limits) -> Self {
        let mut start = 0;
        while start < self.nodes.len() {
            let chain = self.chain(start, limits);
            start = chain.end.max(start + 1);
            let Some((steps, windows)) = self.divide(chain.clone(), limits) else { continue };
            for (buffer, rows) in self.buffers.iter_mut().zip(windows) {
                if let Some(rows) = rows {
                    buffer.window = Some(rows);
                    buffer.len = rows * buffer.size.w * buffer.channels;
                }
            }
            self.bands.push(Bands { nodes: chain, steps });
        }
        if !self.bands.is_empty() {
            self.place().expect("windows are smaller than the buffers were");
        }
        self
    }

    /// As many nodes from `start` on as can run in bands together: each touches what an earlier one does.
    fn chain(&self, start: usize, limits: Limits) -> Range<usize> {
        // Both groups of a plan with dropout run by themselves.
        let stop = if start < self.once { self.once } else { self.nodes.len() };
        let touches = |node: &Node| node.reads().chain([node.output]).map(|view| view.buffer);
        let local = |end: &usize| {
            let (node, before) = (&self.nodes[*end], &self.nodes[start..*end]);
            let large = self.element(node.output.buffer) * self.buffer(node.output).len;
            let touched: Vec<usize> = before.iter().flat_map(touches).collect();
            let joins = before.is_empty() || touches(node).any(|buffer| touched.contains(&buffer));
            let computed = before.iter().any(|other| other.output.buffer == node.input.buffer);
            large > limits.bytes * self.batch
                && joins
                && match &node.op {
                    Op::Conv { conv, .. } => {
                        let weights = conv.weight_shape().iter().product::<usize>();
                        conv.dilation == 1 && weights <= WEIGHTS
                    }
                    Op::Spatial(Spatial::MaxPool(_)) => true,
                    // Its rows are not in step with those that it reads, all of which must be there.
                    Op::Spatial(Spatial::Resize(_)) => !computed,
                    Op::Spatial(Spatial::GlobalAvgPool) | Op::Dropout(_) => false,
                }
        };
        start..(start..stop).take_while(local).last().map_or(start, |last| last + 1)
    }

    /// The steps of a chain, and the rows of the buffers that become windows; None where there are none, or one band
    /// is the whole.
    fn divide(
        &self,
        chain: Range<usize>,
        limits: Limits,
    ) -> Option<(Vec<Step>, Vec<Option<usize>>)> {
        let touches = |node: &Node, buffer: usize| {
            node.reads().chain([node.output]).any(|view| view.buffer == buffer)
        };
        let kept = [self.input, self.features, self.logits].map(|view| view.buffer);
        let windowed = |buffer: usize| {
            let mut touching = (0..self.nodes.len()).filter(|&i| touches(&self.nodes[i], buffer));
            !kept.contains(&buffer) && touching.all(|i| chain.contains(&i))
        };
        let windowed: Vec<bool> = (0..self.buffers.len()).map(windowed).collect();
        let least = self.nodes[chain.clone()].iter().map(|node| self.size(node.output).h).min()?;
        if !windowed.contains(&true) {
            return None;
        }
        let mut rows = TALLEST;
        loop {
            let bands = least.div_ceil(rows);
            let (steps, windows) = self.slide(chain.clone(), &windowed, bands);
            let bytes = |(buffer, rows): (usize, &Option<usize>)| {
                let row = self.buffers[buffer].size.w * self.buffers[buffer].channels;
                rows.map_or(0, |rows| rows * row * self.element(buffer))
            };
            let all: usize = windows.iter().enumerate().map(bytes).sum();
            if all <= limits.window_bytes || rows / 2 < limits.rows.max(1) {
                return (bands > 1).then_some((steps, windows));
            }
            rows /= 2;
        }
    }

    /// The steps where ops that read nothing of the chain make their rows in `bands` equal parts, and the others what
    /// they can of what is there; and the most rows that each window holds.
    fn slide(
        &self,
        chain: Range<usize>,
        windowed: &[bool],
        bands: usize,
    ) -> (Vec<Step>, Vec<Option<usize>>) {
        // Rows that each node has made, and the first that each window holds.
        let mut made = vec![0; self.nodes.len()];
        let mut tops = vec![0; self.buffers.len()];
        let mut windows: Vec<_> = windowed.iter().map(|windowed| windowed.then_some(0)).collect();
        let mut steps = Vec::new();
        let height = |i: usize| self.size(self.nodes[i].output).h;
        let writers =
            |buffer: usize| chain.clone().filter(move |&i| self.nodes[i].output.buffer == buffer);
        for band in 1..=bands {
            for i in chain.clone() {
                let (node, h) = (&self.nodes[i], height(i));
                let there = |view: View, made: &[usize]| {
                    let rows = writers(view.buffer).map(|writer| made[writer]).min();
                    rows.unwrap_or(self.size(view).h)
                };
                let mut end = makes(node, there(node.input, &made), self.size(node.input).h, h);
                if let Op::Conv { residual: Some(view), .. } = node.op {
                    end = end.min(there(view, &made));
                }
                if node.reads().all(|view| writers(view.buffer).next().is_none()) {
                    end = end.min((h * band).div_ceil(bands));
                }
                if end < h {
                    end = end / ROWS * ROWS;
                }
                if end <= made[i] {
                    continue;
                }
                let buffer = node.output.buffer;
                if let Some(window) = &mut windows[buffer] {
                    let least = writers(buffer).map(|writer| made[writer]).min().unwrap_or(0);
                    let most = writers(buffer).map(|writer| made[writer]).max().unwrap_or(0);
                    let needed = chain.clone().filter_map(|reader| {
                        let next = |view: &View| {
                            (view.buffer == buffer).then(|| {
                                let other = &self.nodes[reader];
                                needs(
                                    other,
                                    *view,
                                    made[reader],
                                    self.size(*view).h,
                                    height(reader),
                                )
                            })
                        };
                        self.nodes[reader].reads().filter_map(|view| next(&view)).min()
                    });
                    let first = needed.min().map_or(least, |first| first.min(least));
                    if first > tops[buffer] {
                        steps.push(Step::Slide { buffer, rows: first..most });
                        tops[buffer] = first;
                    }
                    *window = (*window).max(end - tops[buffer]);
                }
                steps.push(Step::Run { node: i, rows: made[i]..end });
                made[i] = end;
            }
        }
        debug_assert!(chain.clone().all(|i| made[i] == height(i)));
        (steps, windows)
    }
}

/// Kernel with dilation, stride and padding of what reads a window of rows.
fn window(op: &Op) -> Option<[usize; 3]> {
    match op {
        Op::Conv { conv, .. } => {
            Some([(conv.kernel - 1) * conv.dilation + 1, conv.stride, conv.padding])
        }
        Op::Spatial(Spatial::MaxPool(pool)) => Some([pool.kernel, pool.stride, pool.padding]),
        _ => None,
    }
}

/// Rows of `h` that a node can have made when the first `there` of its input's `of` are there.
fn makes(node: &Node, there: usize, of: usize, h: usize) -> usize {
    match window(&node.op) {
        _ if there == of => h,
        Some([reach, stride, padding]) if there + padding >= reach => {
            ((there + padding - reach) / stride + 1).min(h)
        }
        _ => 0,
    }
}

/// The first row of a view, of `of`, that a node needs once it has made `made` of its `h`.
fn needs(node: &Node, view: View, made: usize, of: usize, h: usize) -> usize {
    match window(&node.op) {
        _ if made == h => of,
        Some([_, stride, padding]) if view == node.input => (made * stride).saturating_sub(padding),
        // A residual.
        _ => made,
    }
}
