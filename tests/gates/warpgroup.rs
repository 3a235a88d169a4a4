//! What a kernel with warpgroup products needs besides: registers that one warpgroup gives and the others take, and a
//! shared arena that starts where the 128-byte swizzle does.

use std::collections::BTreeMap;

/// The period of the 128-byte swizzle: eight rows of 128 bytes.
const PERIOD: u64 = 1024;

/// The alignment of each kernel's shared memory, from the list of sections of `cuobjdump -elf`. The arena is all that a
/// kernel declares there, so it starts where the section does.
pub fn alignments(elf: &str) -> BTreeMap<String, u64> {
    // Index, Offset, Size, ES, Align, Type, Flags, Link, Info, Name, in hexadecimal.
    let section = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let kernel = fields.get(9)?.strip_prefix(".nv.shared.")?;
        Some((kernel.into(), u64::from_str_radix(fields[4], 16).ok()?))
    };
    elf.lines().filter_map(section).collect()
}

/// What is missing.
pub fn faults(sass: &str, alignment: Option<u64>) -> Vec<String> {
    let mut faults = Vec::new();
    for (instruction, what) in [("DEALLOC", "gives"), ("TRY_ALLOC", "takes")] {
        if !sass.contains(&format!("USETMAXREG.{instruction}")) {
            faults.push(format!("no warpgroup {what} registers (USETMAXREG.{instruction})"));
        }
    }
    if alignment.is_none_or(|bytes| bytes % PERIOD != 0) {
        faults.push(format!("shared memory aligned to {alignment:?} bytes, not to {PERIOD}"));
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::{alignments, faults};

    const GIVES: &str = "/*10bc0*/ USETMAXREG.DEALLOC.CTAPOOL 0x18 ;\n";
    const TAKES: &str = "/*22e0*/ USETMAXREG.TRY_ALLOC.CTAPOOL UP1, 0xf0 ;\n";

    #[test]
    fn registers_change_hands() {
        assert_eq!(faults(&(TAKES.to_owned() + GIVES), Some(1024)), [""; 0]);
        assert!(faults(GIVES, Some(1024))[0].contains("TRY_ALLOC"));
        assert!(faults(TAKES, Some(1024))[0].contains("DEALLOC"));
    }

    #[test]
    fn the_arena_starts_where_the_swizzle_does() {
        let section = |align| {
            format!("   17  a1000    400  0 {align}   NOBITS   43  0  15 .nv.shared.kernel\n")
        };
        let alignment = |align| alignments(&section(align)).get("kernel").copied();
        let of = |align| faults(&(TAKES.to_owned() + GIVES), alignment(align));
        assert_eq!(of("400"), [""; 0]);
        assert_eq!(of("1000"), [""; 0]);
        assert_eq!(of("80"), ["shared memory aligned to Some(128) bytes, not to 1024"]);
        assert_eq!(faults(&(TAKES.to_owned() + GIVES), None).len(), 1);
    }
}
