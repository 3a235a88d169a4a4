//! One-instruction changes of PTX, of the kinds that a slip of the pen makes. Every other line stays as and where it is.

/// Another text for one line.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    pub kind: &'static str,
    pub text: String,
}

/// "@%p1 opcode operands;", one instruction on a line.
struct Instruction<'a> {
    guard: &'a str,
    opcode: &'a str,
    operands: Vec<String>,
}

impl Instruction<'_> {
    fn parse(line: &str) -> Option<Instruction<'_>> {
        let text = line.trim().strip_suffix(';')?;
        if text.contains(';') || text.starts_with(['.', '{', '}', '$', '/']) {
            return None;
        }
        let (guard, text) = match text.starts_with('@') {
            true => text.split_once(char::is_whitespace)?,
            false => ("", text),
        };
        let (opcode, rest) =
            text.trim().split_once(char::is_whitespace).unwrap_or((text.trim(), ""));
        Some(Instruction { guard, opcode, operands: split(rest) })
    }

    fn text(&self, guard: &str, opcode: &str, operands: &[String]) -> String {
        format!("\t{guard} {opcode} {};", operands.join(", ")).replace("\t ", "\t")
    }

    /// With another operand `i`.
    fn with(&self, i: usize, operand: String) -> String {
        let mut operands = self.operands.clone();
        operands[i] = operand;
        self.text(self.guard, self.opcode, &operands)
    }

    /// The first part of the opcode, and the rest.
    fn parts(&self) -> Vec<&str> {
        self.opcode.split('.').collect()
    }

    /// Which operand is the first that is read.
    fn first_source(&self) -> usize {
        let first = self.parts()[0];
        let none = ["st", "cp", "bar", "barrier", "mbarrier", "bra", "setmaxnreg", "red"];
        usize::from(!none.contains(&first))
    }
}

/// Operands, at the commas outside of braces and brackets.
fn split(text: &str) -> Vec<String> {
    let (mut operands, mut depth) = (vec![String::new()], 0);
    for c in text.chars() {
        depth += i32::from("{[".contains(c)) - i32::from("}]".contains(c));
        match c {
            ',' if depth == 0 => operands.push(String::new()),
            _ => operands.last_mut().unwrap().push(c),
        }
    }
    operands.retain_mut(|operand| {
        *operand = operand.trim().into();
        !operand.is_empty()
    });
    operands
}

/// "%rd12" is of class "%rd".
fn class(register: &str) -> Option<&str> {
    let class = register.trim_end_matches(|c: char| c.is_ascii_digit());
    let letters = class.strip_prefix('%')?;
    let named = !letters.is_empty() && letters.chars().all(|c| c.is_ascii_lowercase());
    (named && class.len() < register.len()).then_some(class)
}

/// The registers in an operand: where they start, and they.
fn registers(operand: &str) -> Vec<(usize, &str)> {
    let found = operand.match_indices('%').map(|(at, _)| {
        let rest = &operand[at + 1..];
        let end = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        (at, &operand[at..at + 1 + end])
    });
    found.filter(|(_, register)| class(register).is_some()).collect()
}

/// Does nothing, or waits for nothing.
const DROPPED: [&str; 9] =
    ["st.", "bar.", "barrier.", "cp.async", "fence.", "wgmma.", "mbarrier.", "setmaxnreg.", "red."];

/// Where the order of the first two sources says nothing.
const SYMMETRIC: [&str; 9] = ["add", "mul", "mad", "fma", "and", "or", "xor", "min", "max"];

const COMPARISONS: [[&str; 2]; 7] = [
    ["lt", "le"],
    ["gt", "ge"],
    ["eq", "ne"],
    ["ltu", "leu"],
    ["gtu", "geu"],
    ["equ", "neu"],
    ["nan", "num"],
];

const SIBLINGS: [[&str; 2]; 7] = [
    ["add", "sub"],
    ["min", "max"],
    ["and", "or"],
    ["lo", "hi"],
    ["shl", "shr"],
    ["rn", "rz"],
    ["rn", "rm"],
];

/// The other of a pair.
fn other<'a>(pairs: &[[&'a str; 2]], name: &str) -> Vec<&'a str> {
    let matching = |[a, b]: &[&'a str; 2]| match name {
        _ if name == *a => Some(*b),
        _ if name == *b => Some(*a),
        _ => None,
    };
    pairs.iter().filter_map(matching).collect()
}

/// Every change of line `i`. Another register is the one of its type that was written last before.
pub fn changes(lines: &[&str], i: usize) -> Vec<Change> {
    let Some(ins) = Instruction::parse(lines[i]) else { return Vec::new() };
    let mut changes = Vec::new();
    let mut add = |kind, text: String| changes.push(Change { kind, text });
    let parts = ins.parts();
    if DROPPED.iter().any(|name| ins.opcode.starts_with(name)) {
        add("dropped", String::new());
    }
    if let Some(predicate) = ins.guard.strip_prefix("@!") {
        add("predicate", ins.text(&format!("@{predicate}"), ins.opcode, &ins.operands));
    } else if let Some(predicate) = ins.guard.strip_prefix('@') {
        add("predicate", ins.text(&format!("@!{predicate}"), ins.opcode, &ins.operands));
    }
    if parts[0] == "setp" {
        for comparison in other(&COMPARISONS, parts[1]) {
            let opcode = ins.opcode.replacen(parts[1], comparison, 1);
            add("comparison", ins.text(ins.guard, &opcode, &ins.operands));
        }
    }
    for (at, part) in parts.iter().enumerate() {
        for sibling in other(&SIBLINGS, part) {
            let mut new = parts.clone();
            new[at] = sibling;
            let mut opcode = new.join(".");
            // Right shifts have signs, left shifts have none.
            let bits = parts.last().unwrap().trim_start_matches(['u', 's', 'b']);
            match sibling {
                "shl" => opcode = format!("shl.b{bits}"),
                "shr" => opcode = format!("shr.u{bits}"),
                _ => {}
            }
            add("sibling", ins.text(ins.guard, &opcode, &ins.operands));
        }
    }
    if parts.contains(&"trans") {
        add("sibling", ins.text(ins.guard, &ins.opcode.replace(".trans", ""), &ins.operands));
    } else if parts[0] == "ldmatrix" {
        let opcode = ins.opcode.replace(".x4", ".x4.trans");
        add("sibling", ins.text(ins.guard, &opcode, &ins.operands));
    }
    let symmetric = SYMMETRIC.contains(&parts[0])
        || parts[0] == "setp" && ["eq", "ne", "equ", "neu", "nan", "num"].contains(&parts[1]);
    for a in ins.first_source()..ins.operands.len() {
        for b in a + 1..ins.operands.len() {
            let of = |i: usize| class(&ins.operands[i]);
            let alike = of(a).is_some() && of(a) == of(b) && ins.operands[a] != ins.operands[b];
            if alike && !(symmetric && (a, b) == (1, 2)) {
                let mut operands = ins.operands.clone();
                operands.swap(a, b);
                add("swapped", ins.text(ins.guard, ins.opcode, &operands));
            }
        }
    }
    for (at, operand) in ins.operands.iter().enumerate() {
        let Some(inner) = operand.strip_prefix('{').and_then(|o| o.strip_suffix('}')) else {
            continue;
        };
        let elements = split(inner);
        for e in 1..elements.len() {
            if elements[e] != elements[e - 1] && class(&elements[e]) == class(&elements[e - 1]) {
                let mut new = elements.clone();
                new.swap(e, e - 1);
                add("swapped", ins.with(at, format!("{{{}}}", new.join(", "))));
            }
        }
    }
    for at in ins.first_source()..ins.operands.len() {
        let operand = &ins.operands[at];
        for (start, register) in registers(operand) {
            if let Some(last) = written_before(lines, i, register) {
                let rest = &operand[start + register.len()..];
                add("register", ins.with(at, format!("{}{last}{rest}", &operand[..start])));
            }
        }
        for immediate in immediates(operand) {
            add("immediate", ins.with(at, immediate));
        }
    }
    changes
}

/// The register of the same class, other than `register`, that a line before `i` in the same kernel wrote last.
fn written_before(lines: &[&str], i: usize, register: &str) -> Option<String> {
    let inside = lines[..i].iter().rev().take_while(|line| !line.starts_with(".visible"));
    inside.take(100).find_map(|line| {
        let ins = Instruction::parse(line)?;
        let destination = ins.operands.first().filter(|_| ins.first_source() == 1)?;
        let found = registers(destination).into_iter().map(|(_, found)| found);
        let alike = |found: &&str| class(found) == class(register) && *found != register;
        found.rev().find(alike).map(String::from)
    })
}

/// An operand with another number: one more, zero, the other sign; of an address 16 bytes further, or without its offset.
fn immediates(operand: &str) -> Vec<String> {
    let mut found = Vec::new();
    if let Some(hex) = operand.strip_prefix("0f").or(operand.strip_prefix("0F")) {
        if let Ok(bits) = u32::from_str_radix(hex, 16) {
            found.extend([bits ^ 1 << 31, bits ^ 1, 0].map(|bits| format!("0f{bits:08X}")));
        }
    } else if let Ok(number) = operand.parse::<i64>() {
        found.extend([number + 1, 0, number.wrapping_neg()].map(|n| n.to_string()));
    } else if let Some((base, offset)) = operand.strip_suffix(']').and_then(|o| o.split_once('+'))
        && let Ok(offset) = offset.parse::<i64>()
    {
        found.extend([format!("{base}+{}]", offset + 16), format!("{base}]")]);
    }
    found.retain(|new| new != operand);
    found.dedup();
    found
}

#[cfg(test)]
mod tests {
    use super::{Change, changes};

    fn of(kind: &str, line: &str) -> Vec<String> {
        let lines = ["\tmov.u32 %r8, %r7;", "\tadd.f32 %f8, %f1, %f2;", line];
        let found = changes(&lines, 2).into_iter().filter(|c| c.kind == kind);
        found.map(|Change { text, .. }| text.trim().to_owned()).collect()
    }

    #[test]
    fn every_kind() {
        assert_eq!(of("dropped", "\tbar.sync 0;"), [""]);
        assert_eq!(of("dropped", "\tadd.s32 %r1, %r2, 1;"), [""; 0]);
        assert_eq!(of("predicate", "\t@%p1 bra \t$L;"), ["@!%p1 bra $L;"]);
        assert_eq!(of("predicate", "\t@!%p1 bra $L;"), ["@%p1 bra $L;"]);
        assert_eq!(
            of("comparison", "setp.ltu.f32 %p1, %f1, %f2;"),
            ["setp.leu.f32 %p1, %f1, %f2;"]
        );
        assert_eq!(of("sibling", "mul.lo.s32 %r1, %r2, %r3;"), ["mul.hi.s32 %r1, %r2, %r3;"]);
        assert_eq!(of("sibling", "shr.s32 %r1, %r2, 3;"), ["shl.b32 %r1, %r2, 3;"]);
        assert_eq!(of("swapped", "sub.f32 %f1, %f2, %f3;"), ["sub.f32 %f1, %f3, %f2;"]);
        assert_eq!(of("swapped", "add.f32 %f1, %f2, %f3;"), [""; 0]);
        assert_eq!(
            of("swapped", "st.v2.u32 [%rd1], {%r1, %r2};"),
            ["st.v2.u32 [%rd1], {%r2, %r1};"]
        );
        assert_eq!(of("register", "add.s32 %r1, %r2, 1;"), ["add.s32 %r1, %r8, 1;"]);
        assert_eq!(of("register", "st.f32 [%rd1+4], %f1;"), ["st.f32 [%rd1+4], %f8;"]);
        assert_eq!(
            of("immediate", "add.s32 %r1, %r2, 5;"),
            ["add.s32 %r1, %r2, 6;", "add.s32 %r1, %r2, 0;", "add.s32 %r1, %r2, -5;"]
        );
        assert_eq!(
            of("immediate", "ld.f32 %f1, [%rd1+4];"),
            ["ld.f32 %f1, [%rd1+20];", "ld.f32 %f1, [%rd1];"]
        );
        assert_eq!(of("immediate", "mov.f32 %f1, 0f3F800000;").len(), 3);
    }

    #[test]
    fn what_is_no_instruction_stays() {
        for line in [".reg .f32 %f<4>;", "$L__BB0_2:", "{", "// begin inline asm", ".loc 1 5 3", ""]
        {
            assert_eq!(changes(&[line], 0), []);
        }
    }
}
