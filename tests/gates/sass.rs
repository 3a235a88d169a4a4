//! A kernel's SASS as `cuobjdump -sass` prints it: instructions, their registers, and which may come next.

use std::collections::HashMap;

pub struct Instruction {
    pub address: u64,
    /// With its predicate.
    pub text: String,
}

pub struct Code {
    pub instructions: Vec<Instruction>,
    /// Of each instruction those that may come next: the one below it last.
    pub next: Vec<Vec<usize>>,
}

impl Code {
    /// Of the lines that are instructions.
    pub fn parse(sass: &str) -> Code {
        let parse = |line: &str| {
            let (address, rest) = line.trim().strip_prefix("/*")?.split_once("*/")?;
            let address = u64::from_str_radix(address, 16).ok()?;
            let text = rest.split(';').next()?.trim();
            rest.contains(';').then(|| Instruction { address, text: text.into() })
        };
        let instructions: Vec<Instruction> = sass.lines().filter_map(parse).collect();
        let places = instructions.iter().enumerate().map(|(i, ins)| (ins.address, i)).collect();
        let next = (0..instructions.len()).map(|i| next(&instructions, &places, i)).collect();
        Code { instructions, next }
    }

    pub fn opcode(&self, i: usize) -> &str {
        opcode(&self.instructions[i].text)
    }

    /// Whether it divides integers at run time, which begins with a divisor made a float, rounded up, for its reciprocal.
    pub fn divides(&self) -> bool {
        (0..self.instructions.len()).any(|i| {
            let opcode = self.opcode(i);
            opcode.starts_with("I2F") && opcode.ends_with(".RP")
        })
    }
}

/// The instructions that may come after number `i`. A subroutine (CALL) is entered and, as every one returns, passed.
fn next(code: &[Instruction], places: &HashMap<u64, usize>, i: usize) -> Vec<usize> {
    let place = |text: &str| {
        let address = u64::from_str_radix(text.rsplit("0x").next()?.trim(), 16).ok()?;
        places.get(&address).copied()
    };
    let text = &code[i].text;
    let name = opcode(text);
    let mut next = Vec::new();
    if name.starts_with("BRA") || name.starts_with("CALL") {
        next.extend(place(text));
    }
    // To where the last BSSY of the barrier before it says.
    if name.starts_with("BSYNC") {
        let barrier = text.split_whitespace().last().unwrap();
        let sets = |ins: &&Instruction| {
            opcode(&ins.text).starts_with("BSSY") && ins.text.contains(&format!(" {barrier},"))
        };
        next.extend(code[..i].iter().rev().find(sets).and_then(|ins| place(&ins.text)));
    }
    // "@P0 BRA 0x40", "BRA.U !UP0, 0x40" and "BRA.DIV UR4, 0x40" may go on.
    let may_go_on = text.starts_with('@') || name.starts_with("BRA") && text.contains(',');
    let leaves = ["BRA", "EXIT", "BSYNC", "RET"].iter().any(|o| name.starts_with(o));
    if (may_go_on || !leaves) && i + 1 < code.len() {
        next.push(i + 1);
    }
    next
}

pub fn opcode(text: &str) -> &str {
    text.split_whitespace().find(|word| !word.starts_with('@')).unwrap_or_default()
}

/// The operands' registers: first and how many.
pub fn registers(text: &str) -> Vec<(u32, u32)> {
    let opcode = opcode(text);
    let width = match opcode {
        _ if opcode.contains(".128") => 4,
        _ if opcode.contains(".64") || opcode.contains("WIDE") => 2,
        _ => 1,
    };
    let operands = &text[text.find(opcode).unwrap_or(0) + opcode.len()..];
    let mut found = Vec::new();
    for (at, _) in operands.match_indices('R') {
        let alone = !operands[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_');
        let digits = operands[at + 1..].split(|c: char| !c.is_ascii_digit()).next().unwrap();
        if let (true, Ok(register)) = (alone, digits.parse()) {
            // An address, whatever is moved.
            let width = match operands[..at].ends_with('[') {
                true => 1 + u32::from(operands[at + 1 + digits.len()..].starts_with(".64")),
                false => width,
            };
            found.push((register, width));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::Code;

    #[test]
    fn a_division_by_what_is_known_at_run_time() {
        let divides = |text: &str| Code::parse(&format!("/*0000*/ {text} ;\n")).divides();
        assert!(divides("I2F.U32.RP R0, UR5") && divides("@P0 I2F.U64.RP R2, R2"));
        assert!(!divides("I2F.U32 R0, R5") && !divides("DMUL.RP R2, R2, R4"));
    }
}
