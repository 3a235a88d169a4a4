//! What each node has to wait for, and with it which buffers may share memory: a device may run two nodes at the same time where
//! neither waits for the other.

use super::{Node, Plan, View};

/// How far back in the plan's order the inputs of a branch may lie: as far as those of an ASPP. What reads older buffers (the
/// decoder's low-level features) waits for its turn: begun early, it would hold its output the longer.
const REACH: usize = 8;

impl Plan {
    /// The same plan for a device that may run branches of the network at the same time. What is repeated for each pass
    /// of MC Dropout stays in order, and with it all.
    pub fn in_branches(self) -> Self {
        if self.once < self.nodes.len() {
            return self;
        }
        let mut plan = Plan { waits: waits(&self.nodes), ..self.clone() };
        // An arena that no address space holds would stay as it was.
        if plan.place().is_some() { plan } else { self }
    }
}

/// Each of some nodes waits for the one before.
pub fn in_order(nodes: usize) -> Vec<Vec<usize>> {
    (0..nodes).map(|i| i.checked_sub(1).into_iter().collect()).collect()
}

/// Of each node the nodes that it waits for: those that write what it reads, without those that another of them waits for.
fn waits(nodes: &[Node]) -> Vec<Vec<usize>> {
    let mut waits: Vec<Vec<usize>> = Vec::with_capacity(nodes.len());
    let mut order = Order(Vec::new());
    for (i, node) in nodes.iter().enumerate() {
        let writes = |j: &usize| node.reads().any(|view| overlap(view, nodes[*j].output));
        let mut found: Vec<usize> = (0..i).filter(writes).collect();
        if i > 0 && found.last().is_none_or(|&last| last + REACH < i) {
            found.push(i - 1);
        }
        let implied = |j: usize| found.iter().any(|&other| order.precedes(j, other));
        let needed: Vec<usize> = found.iter().copied().filter(|&j| !implied(j)).collect();
        order.push(&needed);
        waits.push(needed);
    }
    waits
}

fn overlap(a: View, b: View) -> bool {
    let end = |view: View| view.first + view.channels;
    a.buffer == b.buffer && a.first < end(b) && b.first < end(a)
}

/// Which node ends before which begins, whatever a device runs at the same time: `[later][earlier]`.
struct Order(Vec<Vec<bool>>);

impl Order {
    fn new(waits: &[Vec<usize>]) -> Self {
        let mut order = Order(Vec::with_capacity(waits.len()));
        waits.iter().for_each(|waits| order.push(waits));
        order
    }

    /// The next node, which waits for these.
    fn push(&mut self, waits: &[usize]) {
        let mut before = vec![false; self.0.len()];
        for &j in waits {
            before[j] = true;
            before.iter_mut().zip(&self.0[j]).for_each(|(to, from)| *to |= from);
        }
        self.0.push(before);
    }

    fn precedes(&self, earlier: usize, later: usize) -> bool {
        self.0[later].get(earlier).copied().unwrap_or(false)
    }
}

/// Which pairs of buffers may be in use at the same time: `[a][b]` unless every node that touches one of them ends before each that
/// touches the other begins.
pub fn at_once(nodes: &[Node], waits: &[Vec<usize>], buffers: usize) -> Vec<Vec<bool>> {
    let order = Order::new(waits);
    let mut touched = vec![Vec::new(); buffers];
    for (i, node) in nodes.iter().enumerate() {
        node.reads().chain([node.output]).for_each(|view| touched[view.buffer].push(i));
    }
    let all_before = |a: usize, b: usize| {
        touched[a].iter().all(|&i| touched[b].iter().all(|&j| order.precedes(i, j)))
    };
    let apart = |a, b| all_before(a, b) || all_before(b, a);
    (0..buffers).map(|a| (0..buffers).map(|b| !apart(a, b)).collect()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::arena::{Lifetime, place};
    use super::super::{Buffer, Node, Op, View};
    use super::*;
    use crate::ops::{Conv2d, Size, Spatial};
    use proptest::prelude::*;

    const CHANNELS: usize = 8;

    fn whole(buffer: usize) -> View {
        View { buffer, first: 0, channels: CHANNELS }
    }

    fn node(input: View, residual: Option<View>, output: View) -> Node {
        let op = match residual {
            None => Op::Spatial(Spatial::GlobalAvgPool),
            residual => {
                let conv = Conv2d::dense(CHANNELS, CHANNELS, 1);
                Op::Conv { conv, weights: 0, residual, relu: true }
            }
        };
        Node { name: String::new(), op, input, output }
    }

    /// Buffers of these lengths; the first is the input.
    fn buffers(lengths: &[usize]) -> Vec<Buffer> {
        let buffer = |&len: &usize| Buffer {
            size: Size::new(1, len),
            channels: 1,
            offset: 0,
            len,
            wide: false,
            window: None,
        };
        lengths.iter().map(buffer).collect()
    }

    /// Pairs of nodes that may run at the same time of which one writes what the other reads or writes; and (node, reader) where the
    /// node may write over what the reader is still to read.
    fn conflicts(nodes: &[Node], waits: &[Vec<usize>], buffers: &[Buffer]) -> Vec<(usize, usize)> {
        // Independent of `Order`: who comes before whom, by walking back.
        let before = |i: usize, j: usize| {
            let (mut open, mut seen) = (vec![j], vec![false; nodes.len()]);
            while let Some(at) = open.pop() {
                for &k in &waits[at] {
                    if k == i {
                        return true;
                    }
                    if !std::mem::replace(&mut seen[k], true) {
                        open.push(k);
                    }
                }
            }
            false
        };
        let meet = |a: View, b: View| {
            if a.buffer == b.buffer {
                return overlap(a, b);
            }
            let [a, b] = [a, b].map(|view| &buffers[view.buffer]);
            a.offset < b.offset + b.len && b.offset < a.offset + a.len
        };
        let mut found = Vec::new();
        for (i, node) in nodes.iter().enumerate() {
            for (j, other) in nodes.iter().enumerate().filter(|&(j, _)| j != i) {
                let touches = other.reads().chain([other.output]).any(|v| meet(node.output, v));
                if touches && !before(i, j) && !before(j, i) {
                    found.push((i, j));
                }
            }
            // Whoever reads: nobody else writes there between the writer and it.
            for view in node.reads() {
                for (w, _) in nodes.iter().enumerate().filter(|(_, n)| overlap(n.output, view)) {
                    for (x, other) in nodes.iter().enumerate() {
                        let elsewhere = x == w || x == i || overlap(other.output, view);
                        if !elsewhere && meet(other.output, view) && !before(x, w) && !before(i, x)
                        {
                            found.push((x, i));
                        }
                    }
                }
            }
        }
        found
    }

    /// By what the plan's order alone says of lives.
    fn lives(nodes: &[Node], buffers: usize) -> Vec<Lifetime> {
        let mut lives = vec![Lifetime { first: usize::MAX, last: 0 }; buffers];
        for (i, node) in nodes.iter().enumerate() {
            for view in node.reads().chain([node.output]) {
                let life = &mut lives[view.buffer];
                *life = Lifetime { first: life.first.min(i), last: life.last.max(i) };
            }
        }
        lives
    }

    fn place_for(nodes: &[Node], waits: &[Vec<usize>], buffers: &mut [Buffer]) {
        let (lives, at_once) = (lives(nodes, buffers.len()), at_once(nodes, waits, buffers.len()));
        place_by(buffers, |a, b| lives[a].overlaps(lives[b]) || at_once[a][b]);
    }

    fn place_by(buffers: &mut [Buffer], overlap: impl Fn(usize, usize) -> bool) {
        let lens: Vec<usize> = buffers.iter().map(|buffer| buffer.len).collect();
        let (offsets, _) = place(&lens, overlap).unwrap();
        buffers.iter_mut().zip(offsets).for_each(|(buffer, offset)| buffer.offset = offset);
    }

    /// A residual block: 0 -> 1 -> 2, its shortcut 0 -> 3, and their sum 4, on what is made of the input, 5.
    fn block() -> Vec<Node> {
        vec![
            node(whole(5), None, whole(0)),
            node(whole(0), None, whole(1)),
            node(whole(1), None, whole(2)),
            node(whole(0), None, whole(3)),
            node(whole(2), Some(whole(3)), whole(4)),
        ]
    }

    #[test]
    fn a_shortcut_is_a_branch_and_shares_no_memory_with_the_other() {
        let nodes = block();
        let order = waits(&nodes);
        assert_eq!(order, [vec![], vec![0], vec![1], vec![0], vec![2, 3]]);
        let mut there = buffers(&[64; 6]);
        place_for(&nodes, &order, &mut there);
        assert_eq!(conflicts(&nodes, &order, &there), []);
        // Where lives are counted in the plan's order, the shortcut takes what the first convolution's output leaves.
        let lives = lives(&nodes, 6);
        place_by(&mut there, |a, b| lives[a].overlaps(lives[b]));
        assert!(!conflicts(&nodes, &order, &there).is_empty(), "the check sees nothing");
        // In order it may.
        assert_eq!(conflicts(&nodes, &in_order(nodes.len()), &there), []);
    }

    #[test]
    fn branches_that_write_side_by_side_do_not_wait_for_each_other() {
        let half = |first| View { buffer: 1, first, channels: CHANNELS / 2 };
        let nodes = [
            node(whole(3), None, whole(0)),
            node(whole(0), None, half(0)),
            node(whole(0), None, half(CHANNELS / 2)),
            node(whole(1), None, whole(2)),
        ];
        assert_eq!(waits(&nodes), [vec![], vec![0], vec![0], vec![1, 2]]);
    }

    #[test]
    fn what_reads_old_buffers_waits_for_its_turn() {
        let mut nodes: Vec<Node> =
            (0..REACH + 2).map(|i| node(whole(i), None, whole(i + 1))).collect();
        nodes.push(node(whole(1), None, whole(REACH + 3)));
        assert_eq!(waits(&nodes)[REACH + 2], [REACH + 1]);
    }

    proptest! {
        /// Any network whose nodes read what earlier ones wrote.
        #[test]
        fn nothing_that_runs_at_once_shares_memory(
            spec in prop::collection::vec((1usize..400, 0usize..12, 0usize..24), 1..30)
        ) {
            let nodes: Vec<Node> = spec
                .iter()
                .enumerate()
                .map(|(i, &(_, back, residual))| {
                    let residual = (residual <= i).then(|| whole(i - residual));
                    node(whole(i.saturating_sub(back)), residual, whole(i + 1))
                })
                .collect();
            let lengths: Vec<usize> = std::iter::once(64).chain(spec.iter().map(|s| s.0)).collect();
            let mut there = buffers(&lengths);
            let order = waits(&nodes);
            place_for(&nodes, &order, &mut there);
            prop_assert_eq!(conflicts(&nodes, &order, &there), []);
        }
    }
}
