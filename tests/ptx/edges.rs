//! What is not done lane by lane on registers, on edge values from the PTX ISA: barriers, clusters, copies, products. A case is a small
//! kernel, and what its threads write or the interpreter says. Loads, stores, shuffles, votes and ldmatrix: `accesses`.

mod barriers;
mod clusters;
mod copies;
mod products;

use std::collections::BTreeSet;
use std::process::Command;

use crate::{Block, accesses, planted, program, run};

/// Stands for every NaN.
const NAN: u32 = 0x7fff_ffff;

enum Expected {
    /// By thread and word.
    Words(Vec<u32>),
    /// In an error, or a note of what the ISA leaves undefined. A race is looked for in random order.
    Said(&'static str),
}
use Expected::{Said, Words};

struct Case {
    /// The instruction that it holds, as decode.cpp calls it.
    of: &'static str,
    what: String,
    body: String,
    /// Of each block of its one cluster.
    threads: usize,
    blocks: usize,
    shared: usize,
    /// Words that each thread writes, from %w1 on.
    words: usize,
    input: Vec<u8>,
    expected: Expected,
}

/// Of the input where a case brings none: bytes that all differ from 0 and from those 256 before them.
fn pattern() -> Vec<u8> {
    (0..1024).map(|i| (i % 251 + 1) as u8).collect()
}

/// Its word of that input.
fn word(i: usize) -> u32 {
    u32::from_le_bytes(pattern()[4 * i..][..4].try_into().unwrap())
}

impl Case {
    /// A case whose threads write %w1 and %w2, which are 0 at first, with 1024 bytes of shared memory.
    fn new(of: &'static str, threads: usize, what: impl Into<String>, body: &str) -> Self {
        let (what, body) = (what.into(), body.into());
        let (blocks, shared, words, input, expected) = (1, 1024, 2, pattern(), Said("nothing"));
        Case { of, what, body, threads, blocks, shared, words, input, expected }
    }

    /// The words of each thread.
    fn gives<const N: usize>(mut self, of: impl Fn(u32) -> [u32; N]) -> Self {
        self.words = N;
        self.expected = Words((0..(self.blocks * self.threads) as u32).flat_map(of).collect());
        self
    }

    fn says(mut self, words: &'static str) -> Self {
        self.expected = Said(words);
        self
    }

    /// `body` in registers: %r the block, %t its thread, %warp and %lane, %first of thread 0, %low of lanes 0 to 15, %s the address of shared
    /// memory, %in of the input, %sa and %a of the thread's own 16 bytes of each. It ends at $end.
    fn text(&self) -> String {
        let Case { threads, blocks, words, ref body, .. } = *self;
        let cluster =
            if blocks > 1 { format!("\n.reqnctapercluster {blocks}") } else { String::new() };
        let mut text = format!(
            ".version 8.0\n.target sm_90a\n.address_size 64\n.extern .shared .align 1024 .b8 ddu_arena[];\n\
             .visible .entry test(\n.param .align 8 .b8 test_param_0[16]\n)\n.maxntid {threads}{cluster}\n{{\n\
             .reg .pred %p<8>;\n.reg .pred %first;\n.reg .pred %low;\n.reg .b32 %w<80>;\n.reg .b64 %d<8>;\n\
             .reg .b32 %r;\n.reg .b32 %g;\n.reg .b32 %t;\n.reg .b32 %warp;\n.reg .b32 %lane;\n.reg .b32 %s;\n.reg .b32 %sa;\n\
             .reg .b64 %in;\n.reg .b64 %out;\n.reg .b64 %a;\n\
             ld.param.u64 %out, [test_param_0];\nld.param.u64 %in, [test_param_0+8];\n\
             mov.u32 %t, %tid.x;\nshr.u32 %warp, %t, 5;\nand.b32 %lane, %t, 31;\nmov.u32 %s, ddu_arena;\n\
             setp.eq.s32 %first, %t, 0;\nsetp.lt.u32 %low, %lane, 16;\n\
             mov.u32 %r, %ctaid.x;\nmad.lo.s32 %g, %r, {threads}, %t;\n\
             mul.wide.u32 %a, %g, {};\nadd.s64 %out, %out, %a;\n\
             mul.wide.u32 %a, %t, 16;\nadd.s64 %a, %a, %in;\nmad.lo.s32 %sa, %t, 16, %s;\n",
            words * 4
        );
        for i in 1..=words {
            text += &format!("mov.u32 %w{i}, 0;\n");
        }
        text += &format!("{body}\n$end:\n");
        for i in 0..words {
            text += &format!("st.global.u32 [%out+{}], %w{};\n", 4 * i, i + 1);
        }
        text + "ret;\n}\n"
    }

    /// What is wrong, in order and by chance.
    fn check(&self) -> Result<(), String> {
        let text = self.text();
        let runs = [None, Some(1), Some(2)].map(|seed| {
            let Case { threads, blocks, shared, words, ref input, .. } = *self;
            run(&text, &Block { threads, shared, out: blocks * threads * words, input, seed })
        });
        let right = match &self.expected {
            Words(expected) => runs.iter().all(|run| {
                run.as_ref().is_ok_and(|found| {
                    let nan = |word: u32| f32::from_bits(word).is_nan();
                    let same = |(f, e): (&u32, &u32)| f == e || *e == NAN && nan(*f);
                    found.len() == expected.len() && found.iter().zip(expected).all(same)
                })
            }),
            Said(words) => {
                let says = |run: &Result<_, String>| run.as_ref().is_err_and(|e| e.contains(words));
                if words.starts_with("RACE") { runs[1..].iter().any(says) } else { says(&runs[0]) }
            }
        };
        if right { Ok(()) } else { Err(format!("{}, {}: {runs:x?}\n{text}", self.of, self.what)) }
    }
}

/// A wait for a phase of the mbarrier at `address`.
fn wait(label: &str, address: &str, parity: &str) -> String {
    format!(
        "{label}:\nmbarrier.try_wait.parity.shared::cta.b64 %p1, [{address}], {parity};\n@!%p1 bra {label};\n"
    )
}

#[test]
fn every_instruction_on_edge_values() {
    let cases: Vec<Case> =
        [barriers::cases(), clusters::cases(), copies::cases(), products::cases()]
            .into_iter()
            .flatten()
            .collect();
    let wrong: Vec<String> = cases.iter().filter_map(|case| case.check().err()).collect();
    assert!(wrong.is_empty(), "{} of {} cases:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let elsewhere = accesses::HELD.into_iter().chain(planted::HELD);
    let held: BTreeSet<&str> = cases.iter().map(|case| case.of).chain(elsewhere).collect();
    let output = Command::new(program()).arg("instructions").output().unwrap();
    let known = String::from_utf8(output.stdout).unwrap();
    let known: BTreeSet<&str> = known.lines().collect();
    assert_eq!(held, known, "instructions that have a case, and those of the interpreter");
}
