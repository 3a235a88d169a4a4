//! Warpgroup products in flight, followed through a kernel's SASS: between HGMMA and the WARPGROUP.DEPBAR that waits for
//! its group nothing else may touch its accumulator nor write its left operand, and a product of another shape on
//! the same accumulator needs a WARPGROUP.ARRIVE (wgmma.fence) between (PTX ISA, "wgmma.mma_async", "wgmma.fence").
//!
//! Every path is followed: at each instruction, what may be in flight there.

use std::collections::{BTreeMap, BTreeSet};

use crate::sass::{Code, Instruction, opcode, registers};

/// Registers of products that a later wait ends together.
#[derive(Clone, Default, PartialEq)]
struct Group {
    accumulators: BTreeSet<u32>,
    lefts: BTreeSet<u32>,
}

/// What may be in flight before an instruction; the newest group first, the open one before it.
#[derive(Clone, Default, PartialEq)]
struct State {
    open: Group,
    committed: Vec<Group>,
    /// Shapes of the products on an accumulator's first register since the last fence.
    shapes: BTreeMap<u32, BTreeSet<u32>>,
}

/// More groups than any kernel has in flight: where a loop never waits.
const GROUPS: usize = 8;

impl State {
    /// Adds what another path brings; whether that is new.
    fn join(&mut self, other: &State) -> bool {
        let before = self.clone();
        let add = |to: &mut Group, from: &Group| {
            to.accumulators.extend(&from.accumulators);
            to.lefts.extend(&from.lefts);
        };
        add(&mut self.open, &other.open);
        for (i, group) in other.committed.iter().enumerate() {
            if i == self.committed.len() {
                self.committed.push(Group::default());
            }
            add(&mut self.committed[i], group);
        }
        for (register, shapes) in &other.shapes {
            self.shapes.entry(*register).or_default().extend(shapes);
        }
        *self != before
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        std::iter::once(&self.open).chain(&self.committed)
    }
}

/// N of "HGMMA.64xNx16...".
fn shape(opcode: &str) -> u32 {
    let columns = opcode.split_once(".64x").and_then(|(_, rest)| rest.split('x').next());
    columns.and_then(|n| n.parse().ok()).unwrap_or_else(|| panic!("no shape in {opcode}"))
}

/// Executes one instruction on what may be in flight; complaints go to `faults`.
fn step(state: &mut State, ins: &Instruction, faults: &mut BTreeSet<String>) {
    let (opcode, found) = (opcode(&ins.text), registers(&ins.text));
    let mut fault = |what: String| {
        faults.insert(format!("/*{:04x}*/ {}: {what}", ins.address, ins.text));
    };
    if opcode.starts_with("HGMMA") {
        let n = shape(opcode);
        let (accumulator, left) = (found[0].0, found[1].0);
        let shapes = state.shapes.entry(accumulator).or_default();
        if shapes.iter().any(|other| *other != n) {
            fault(format!(
                "R{accumulator} has products of {shapes:?} columns since the last fence"
            ));
        }
        shapes.insert(n);
        // Not where both operands lie in shared memory.
        if ins.text.contains(&format!("R{left}, gdesc")) && left != accumulator {
            if state.groups().any(|g| (left..left + 4).any(|r| g.accumulators.contains(&r))) {
                fault(format!("R{left} is an accumulator in flight"));
            }
            state.open.lefts.extend(left..left + 4);
        }
        state.open.accumulators.extend(accumulator..accumulator + n / 2);
        if ins.text.contains("gsb0") {
            let group = std::mem::take(&mut state.open);
            state.committed.insert(0, group);
            state.committed.truncate(GROUPS);
        }
        return;
    }
    if opcode.starts_with("WARPGROUP.ARRIVE") {
        state.shapes.clear();
        return;
    }
    if opcode.starts_with("WARPGROUP.DEPBAR") {
        let pending = ins.text.rsplit("0x").next().and_then(|n| u32::from_str_radix(n, 16).ok());
        state.committed.truncate(pending.expect("a number of groups") as usize);
        return;
    }
    let writes = |i: usize| i == 0 && !opcode.starts_with("ST") && !opcode.starts_with("RED");
    for (i, (first, width)) in found.iter().enumerate() {
        for register in *first..first + width {
            if state.groups().any(|group| group.accumulators.contains(&register)) {
                fault(format!("R{register} is the accumulator of a product in flight"));
            }
            if writes(i) && state.groups().any(|group| group.lefts.contains(&register)) {
                fault(format!("R{register} is the left operand of a product in flight"));
            }
        }
    }
}

/// What a kernel's SASS does to registers of products in flight.
pub fn faults(code: &Code) -> BTreeSet<String> {
    let mut faults = BTreeSet::new();
    let mut states: Vec<Option<State>> = vec![None; code.instructions.len()];
    let mut open = Vec::new();
    if let Some(first) = states.first_mut() {
        *first = Some(State::default());
        open.push(0);
    }
    while let Some(i) = open.pop() {
        let mut state = states[i].clone().expect("a state where somebody comes from");
        step(&mut state, &code.instructions[i], &mut faults);
        for &to in &code.next[i] {
            let changed = match &mut states[to] {
                Some(known) => known.join(&state),
                unseen => {
                    *unseen = Some(state.clone());
                    true
                }
            };
            if changed && !open.contains(&to) {
                open.push(to);
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::{Code, faults};

    /// A kernel of these instructions, at multiples of 16.
    fn said(lines: &[&str]) -> String {
        let line = |(i, text): (usize, &&str)| format!("/*{:04x}*/ {text} ;\n", i * 16);
        let sass: String = lines.iter().enumerate().map(line).collect();
        Vec::from_iter(faults(&Code::parse(&sass))).join("\n")
    }

    const FIRST: &str = "HGMMA.64x64x16.F32 R56, R148, gdesc[UR24], RZ, !UPT";
    const LAST: &str = "HGMMA.64x64x16.F32 R56, R144, gdesc[UR20], R56, gsb0";
    const WAIT: &str = "WARPGROUP.DEPBAR.LE gsb0, 0x0";

    #[test]
    fn products_that_are_waited_for() {
        let read = "FADD R1, R87, R2";
        assert_eq!(
            said(&["WARPGROUP.ARRIVE", FIRST, "FADD R1, R88, R2", LAST, WAIT, read, "EXIT"]),
            ""
        );
    }

    #[test]
    fn an_accumulator_read_before_its_wait() {
        for read in ["FADD R1, R87, R2", "STS.128 [R3], R54", "MOV R60, RZ"] {
            assert!(said(&[FIRST, LAST, read, WAIT, "EXIT"]).contains("in flight"), "{read}");
        }
        // The wait lets the newest group go on.
        let read = "FADD R1, R60, R2";
        let one = "WARPGROUP.DEPBAR.LE gsb0, 0x1";
        assert!(said(&[FIRST, LAST, one, read, WAIT, "EXIT"]).contains("in flight"));
    }

    #[test]
    fn on_one_path_alone() {
        let lines = [FIRST, LAST, "@P0 BRA 0x40", WAIT, "FADD R1, R60, R2", "EXIT"];
        assert!(said(&lines).contains("/*0040*/"));
        let both = [FIRST, LAST, "@P0 BRA 0x40", WAIT, WAIT, "FADD R1, R60, R2", "EXIT"];
        assert_eq!(said(&both), "");
        // A branch without a guard may go on as well.
        let uniform = [FIRST, LAST, "BRA.U UP0, 0x40", "FADD R1, R60, R2", WAIT, "EXIT"];
        assert!(said(&uniform).contains("/*0030*/"));
    }

    #[test]
    fn a_left_operand_written_before_the_wait() {
        assert_eq!(said(&[FIRST, LAST, "FADD R1, R148, R2", WAIT, "EXIT"]), "");
        assert!(said(&[FIRST, LAST, "FADD R150, R1, R2", WAIT, "EXIT"]).contains("left operand"));
    }

    #[test]
    fn another_shape_without_a_fence() {
        let other = "HGMMA.64x48x16.F32 R56, R144, gdesc[UR20], R56, gsb0";
        assert!(said(&[FIRST, other, WAIT, "EXIT"]).contains("since the last fence"));
        assert_eq!(said(&[FIRST, "WARPGROUP.ARRIVE", other, WAIT, "EXIT"]), "");
    }
}
