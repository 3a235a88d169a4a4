//! The loops of a kernel's SASS: what the main loop spends on each of its products, what comes before it, and how many loads
//! from global memory are under way at once.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::sass::{Code, registers};

/// A natural loop: the instructions from which a branch back to `header`, which dominates it, is reached without passing
/// `header`. Branches back to one header are one loop.
struct Loop {
    header: usize,
    body: BTreeSet<usize>,
}

/// What the gates hold of a kernel's loops; None where it has no main loop. Loads are counted in loops that hold no other, in
/// the order of their addresses.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Loops {
    /// Instructions per product (HMMA, HGMMA) of the main loop, rounded up to tenths: of the loops that hold products and no
    /// other loop with products, the one with the most, the first of equals.
    pub per_product: Option<f64>,
    /// The fewest instructions that lead from the entry to the main loop's header.
    pub prologue: Option<usize>,
    /// The most loads from global memory that a loop issues before the result of one of them is needed.
    pub batch: usize,
    /// Loops with several such loads that need the result of each before they issue the next.
    pub serial: usize,
}

/// By how much a main loop and its prologue may exceed the table, which holds what they are today: as much as ptxas's order of
/// instructions alone changes them between sm_80, 86 and 89, which have the same instructions (129 and 135 in
/// conv2d_64x32's main loop).
const SLACK: f64 = 0.05;

/// The immediate dominator of each instruction that is reached (Cooper, Harvey and Kennedy, "A simple, fast dominance
/// algorithm", 2001), and their order in reverse postorder.
fn dominators(code: &Code) -> (Vec<Option<usize>>, Vec<usize>) {
    let n = code.instructions.len();
    let (mut order, mut seen, mut stack) = (Vec::new(), vec![false; n], vec![(0, 0)]);
    seen[0] = true;
    while let Some((i, branch)) = stack.pop() {
        match code.next[i].get(branch) {
            Some(&to) => {
                stack.push((i, branch + 1));
                if !std::mem::replace(&mut seen[to], true) {
                    stack.push((to, 0));
                }
            }
            None => order.push(i),
        }
    }
    order.reverse();
    let mut position = vec![usize::MAX; n];
    order.iter().enumerate().for_each(|(at, i)| position[*i] = at);
    let before = before(code);
    let mut dominator = vec![None; n];
    dominator[0] = Some(0);
    let mut changed = true;
    while changed {
        changed = false;
        for &i in &order[1..] {
            let mut known = before[i].iter().copied().filter(|b| dominator[*b].is_some());
            let first = known.next().expect("one before it is nearer to the entry");
            let new = known.fold(first, |mut a, mut b| {
                while a != b {
                    while position[a] > position[b] {
                        a = dominator[a].unwrap();
                    }
                    while position[b] > position[a] {
                        b = dominator[b].unwrap();
                    }
                }
                a
            });
            changed |= dominator[i].replace(new) != Some(new);
        }
    }
    (dominator, order)
}

/// The instructions that each may come from.
fn before(code: &Code) -> Vec<Vec<usize>> {
    let mut before = vec![Vec::new(); code.next.len()];
    for (i, next) in code.next.iter().enumerate() {
        next.iter().for_each(|to| before[*to].push(i));
    }
    before
}

fn loops(code: &Code) -> Vec<Loop> {
    let (dominator, order) = dominators(code);
    let before = before(code);
    let dominates = |header: usize, mut i: usize| {
        while i != header && i != 0 {
            i = dominator[i].unwrap();
        }
        i == header
    };
    let mut found: BTreeMap<usize, BTreeSet<usize>> = BTreeMap::new();
    for &i in &order {
        for &header in code.next[i].iter().filter(|to| dominates(**to, i)) {
            let body = found.entry(header).or_insert(BTreeSet::from([header]));
            let mut open = vec![i];
            while let Some(i) = open.pop() {
                if body.insert(i) {
                    open.extend(before[i].iter().filter(|b| dominator[**b].is_some()));
                }
            }
        }
    }
    found.into_iter().map(|(header, body)| Loop { header, body }).collect()
}

/// The fewest instructions from the entry to another.
fn distance(code: &Code, to: usize) -> usize {
    let mut distance = vec![None; code.next.len()];
    distance[0] = Some(0);
    let mut open = VecDeque::from([0]);
    while let Some(i) = open.pop_front() {
        for &next in &code.next[i] {
            if distance[next].is_none() {
                distance[next] = distance[i].map(|d| d + 1);
                open.push_back(next);
            }
        }
    }
    distance[to].expect("a loop is reached")
}

/// (loads from global memory to registers, the most of them that are issued before the result of one is needed), in the
/// order of their addresses.
fn batch(code: &Code, body: &BTreeSet<usize>) -> (usize, usize) {
    let (mut loads, mut run, mut longest) = (0, 0, 0);
    let mut awaited: BTreeSet<u32> = BTreeSet::new();
    for &i in body {
        let found = registers(&code.instructions[i].text);
        let needs =
            |(first, width): &(u32, u32)| (*first..first + width).any(|r| awaited.contains(&r));
        if found.iter().any(needs) {
            awaited.clear();
            run = 0;
        }
        let opcode = code.opcode(i);
        if opcode == "LDG" || opcode.starts_with("LDG.") {
            loads += 1;
            run += 1;
            longest = longest.max(run);
            awaited.extend(found.first().iter().flat_map(|(first, width)| *first..first + width));
        }
    }
    (loads, longest)
}

impl Loops {
    pub fn of(code: &Code) -> Loops {
        let loops = loops(code);
        let inside = |inner: &Loop, outer: &Loop| {
            inner.header != outer.header && outer.body.contains(&inner.header)
        };
        let products = |l: &Loop| l.body.iter().filter(|i| is_product(code.opcode(**i))).count();
        let mut main: Option<(&Loop, usize)> = None;
        for l in &loops {
            let n = products(l);
            let innermost = !loops.iter().any(|other| inside(other, l) && products(other) > 0);
            if n > 0 && innermost && main.is_none_or(|(_, most)| most < n) {
                main = Some((l, n));
            }
        }
        let batches: Vec<(usize, usize)> = loops
            .iter()
            .filter(|l| !loops.iter().any(|other| inside(other, l)))
            .map(|l| batch(code, &l.body))
            .collect();
        Loops {
            per_product: main.map(|(l, n)| (l.body.len() as f64 / n as f64 * 10.0).ceil() / 10.0),
            prologue: main.map(|(l, _)| distance(code, l.header)),
            batch: batches.iter().map(|(_, longest)| *longest).max().unwrap_or(0),
            serial: batches.iter().filter(|(loads, longest)| *loads > 1 && *longest == 1).count(),
        }
    }

    /// Where what was found is worse than these.
    pub fn exceeded(&self, found: &Loops) -> Vec<String> {
        let mut faults = Vec::new();
        let mut at_most = |what: &str, found: Option<f64>, bound: Option<f64>| {
            if found.is_some() != bound.is_some() || found > bound.map(|b| b * (1.0 + SLACK)) {
                faults.push(format!("{what}: {found:?}, of {bound:?} in the table"));
            }
        };
        at_most("instructions per product", found.per_product, self.per_product);
        let count = |n: Option<usize>| n.map(|n| n as f64);
        at_most("instructions before the main loop", count(found.prologue), count(self.prologue));
        if found.batch < self.batch {
            faults
                .push(format!("loads under way at once: {}, at least {}", found.batch, self.batch));
        }
        if found.serial > self.serial {
            faults.push(format!(
                "loops that wait for each load: {}, at most {}",
                found.serial, self.serial
            ));
        }
        faults
    }
}

fn is_product(opcode: &str) -> bool {
    opcode.starts_with("HMMA.") || opcode.starts_with("HGMMA.")
}

#[cfg(test)]
mod tests {
    use super::{Code, Loops};

    /// Of a kernel of these instructions, at multiples of 16.
    fn loops(lines: &[&str]) -> Loops {
        let line = |(i, text): (usize, &&str)| format!("/*{:04x}*/ {text} ;\n", i * 16);
        Loops::of(&Code::parse(&lines.iter().enumerate().map(line).collect::<String>()))
    }

    const PRODUCT: &str = "HMMA.16816.F32 R4, R8, R12, R4";
    const ADD: &str = "IADD3 R1, R1, 0x1, RZ";
    const END: &str = "EXIT";

    #[test]
    fn a_product_that_costs_more_instructions() {
        let found = loops(&[ADD, PRODUCT, PRODUCT, ADD, "@P0 BRA 0x10", END]);
        assert_eq!((found.per_product, found.prologue), (Some(2.0), Some(1)));
        let found = loops(&[ADD, PRODUCT, PRODUCT, ADD, ADD, "@P0 BRA 0x10", END]);
        assert_eq!(found.per_product, Some(2.5));
        assert_eq!(loops(&[ADD, PRODUCT, PRODUCT, END]).per_product, None);
    }

    #[test]
    fn a_block_that_lies_behind_the_loop_belongs_to_it() {
        let wait = "@!P1 BRA 0x50";
        let lines = [ADD, PRODUCT, wait, "@P0 BRA 0x10", END, "@!P1 BRA 0x50", "BRA 0x30"];
        assert_eq!(loops(&lines).per_product, Some(5.0));
    }

    #[test]
    fn the_main_loop_is_the_one_inside_with_the_most_products() {
        let (outer, one, two) = ("@P0 BRA 0x10", "@P1 BRA 0x20", "@P2 BRA 0x50");
        let lines = [ADD, ADD, PRODUCT, one, ADD, PRODUCT, PRODUCT, two, outer, END];
        assert_eq!(
            loops(&lines),
            Loops { per_product: Some(1.5), prologue: Some(5), ..Loops::default() }
        );
    }

    #[test]
    fn a_longer_prologue() {
        let body = [PRODUCT, "@P0 BRA 0x30", END];
        assert_eq!(loops(&[&[ADD, ADD, ADD][..], &body].concat()).prologue, Some(3));
        // Not what a branch goes around.
        assert_eq!(loops(&[&[ADD, "@P1 BRA 0x30", ADD][..], &body].concat()).prologue, Some(2));
        assert_eq!(loops(&[&["BRA.U !UP0, 0x20", ADD, ADD][..], &body].concat()).prologue, Some(2));
    }

    #[test]
    fn what_exceeds_the_table() {
        let bound = Loops { per_product: Some(6.0), prologue: Some(300), batch: 4, serial: 1 };
        let small = Loops { per_product: Some(6.3), prologue: Some(315), batch: 8, serial: 0 };
        assert_eq!(bound.exceeded(&small), [""; 0]);
        for worse in [
            Loops { per_product: Some(6.4), ..bound.clone() },
            Loops { per_product: None, ..bound.clone() },
            Loops { prologue: Some(316), ..bound.clone() },
            Loops { batch: 3, ..bound.clone() },
            Loops { serial: 2, ..bound.clone() },
        ] {
            assert_eq!(bound.exceeded(&worse).len(), 1, "{worse:?}");
        }
    }

    #[test]
    fn loads_that_wait_for_each_other() {
        let (a, b) = ("LDG.E.128 R4, [R2.64]", "LDG.E.128 R8, desc[UR4][R2.64+0x10]");
        let (use_a, use_b) = ("FADD R1, R1, R7", "FADD R1, R1, R8");
        let batches = |body: &[&str]| {
            let found = loops(&[body, &["@P0 BRA 0x0", END]].concat());
            (found.batch, found.serial)
        };
        assert_eq!(batches(&[a, b, use_a, use_b]), (2, 0));
        assert_eq!(batches(&[a, use_a, b, use_b]), (1, 1));
        // An address that was loaded.
        assert_eq!(batches(&["LDG.E.64 R2, [R4.64]", a]), (1, 1));
        // One load an iteration.
        assert_eq!(batches(&[a, use_a]), (1, 0));
        // Outside a loop.
        assert_eq!(loops(&[a, use_a, b, use_b, END]), Loops::default());
    }
}
