//! Every operation of `interpreter/lanes.cpp` on the edge values of `opcodes.txt`, all lanes at once and in a
//! diverged warp.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use crate::{Block, program, run};

struct Case {
    line: usize,
    operation: String,
    operands: Vec<u64>,
    result: u64,
}

fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let lines = include_str!("opcodes.txt").lines().enumerate();
    for (line, text) in lines.filter(|(_, l)| !l.is_empty() && !l.starts_with('#')) {
        let parts: Vec<&str> = text.split([':', '=']).collect();
        let [operations, operands, result] = parts[..] else { panic!("opcodes.txt: {text}") };
        let hex =
            |word: &str| u64::from_str_radix(word, 16).unwrap_or_else(|e| panic!("{text}: {e}"));
        for operation in operations.split_whitespace() {
            cases.push(Case {
                line: line + 1,
                operation: operation.into(),
                operands: operands.split_whitespace().map(hex).collect(),
                result: hex(result.trim()),
            });
        }
    }
    cases
}

/// The operations that there are, with the classes of their operands, the result first.
fn operations() -> BTreeMap<String, String> {
    let output = Command::new(program()).arg("operations").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let pair = |line: &str| line.split_once(' ').map(|(name, c)| (name.into(), c.into()));
    text.lines().filter_map(pair).collect()
}

/// A kernel that loads the operands (8 bytes each), executes the operation in the lanes of `only`, and stores 8 bytes.
fn kernel(case: &Case, classes: &str, only: &str) -> String {
    let mut text = String::from(
        ".version 8.0\n.target sm_80\n.address_size 64\n.visible .entry test(\n\
         .param .align 8 .b8 test_param_0[16]\n)\n.maxntid 32\n{\n.reg .pred %p<8>;\n\
         .reg .b32 %w<8>;\n.reg .b64 %d<8>;\n.reg .b64 %a<4>;\n.reg .b32 %t<2>;\n\
         ld.param.u64 %a1, [test_param_0];\nld.param.u64 %a2, [test_param_0+8];\n\
         mov.u32 %t1, %tid.x;\nmul.wide.u32 %a3, %t1, 8;\nadd.s64 %a1, %a1, %a3;\n\
         st.global.u64 [%a1], 0;\n",
    );
    for (i, class) in classes.chars().enumerate().skip(1) {
        let at = (i - 1) * 8;
        text += &match class {
            'd' => format!("ld.global.u64 %d{i}, [%a2+{at}];\n"),
            'p' => format!("ld.global.u32 %w{i}, [%a2+{at}];\nsetp.ne.s32 %p{i}, %w{i}, 0;\n"),
            _ => format!("ld.global.u32 %w{i}, [%a2+{at}];\n"),
        };
    }
    let name = |(i, class): (usize, char)| format!("%{class}{i}");
    let operands: Vec<String> = classes.chars().enumerate().map(name).collect();
    text += &format!("setp.lt.s32 %p7, %t1, {only};\n@!%p7 bra $over;\n");
    // "cvt.s64.s32/64" reads a register of 64 bits.
    let operation = case.operation.split('/').next().unwrap();
    text += &format!("{operation} {};\n", operands.join(", "));
    text += match classes.chars().next() {
        Some('d') => "st.global.u64 [%a1], %d0;\n",
        Some('p') => "selp.b32 %w0, 1, 0, %p0;\nst.global.u32 [%a1], %w0;\n",
        _ => "st.global.u32 [%a1], %w0;\n",
    };
    text + "$over:\nret;\n}\n"
}

#[test]
fn every_operation_on_edge_values() {
    let operations = operations();
    let mut seen = BTreeSet::new();
    let mut wrong = Vec::new();
    for case in cases() {
        let operation = case.operation.as_str();
        let classes = operations.get(operation).unwrap_or_else(|| panic!("no {operation}"));
        assert_eq!(case.operands.len() + 1, classes.len(), "opcodes.txt:{}", case.line);
        let input: Vec<u8> = case.operands.iter().flat_map(|v| v.to_le_bytes()).collect();
        for lanes in [32, 13] {
            let text = kernel(&case, classes, &lanes.to_string());
            let block = Block { threads: 32, shared: 0, out: 64, input: &input, seed: None };
            let words = run(&text, &block).unwrap_or_else(|e| panic!("{operation}: {e}\n{text}"));
            for (lane, found) in words.chunks_exact(2).enumerate() {
                let found = u64::from(found[1]) << 32 | u64::from(found[0]);
                let expected = if lane < lanes { case.result } else { 0 };
                if found != expected {
                    let line = case.line;
                    wrong.push(format!(
                        "{line}: {operation}, lane {lane}: {found:x}, not {expected:x}"
                    ));
                    break;
                }
            }
        }
        seen.insert(case.operation);
    }
    assert!(wrong.is_empty(), "opcodes.txt: {wrong:#?}");
    let missing: Vec<_> = operations.keys().filter(|o| !seen.contains(*o)).collect();
    assert!(missing.is_empty(), "operations without a line in opcodes.txt: {missing:?}");
}
