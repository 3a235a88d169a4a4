//! Loads, stores, shuffles, votes and matrix loads on edge values, from the PTX ISA; copies with fewer bytes than they fill.
//! What works lane by lane on registers is in `operations`.

use crate::{Block, run};

/// The instructions that these tests hold, as decode.cpp calls them.
pub const HELD: [&str; 13] = [
    "ld.global",
    "ld.shared",
    "ld.param",
    "st.global",
    "st.shared",
    "pack.b32",
    "pack.b64",
    "unpack.b32",
    "unpack.b64",
    "shfl.sync.bfly.b32",
    "shfl.sync.idx.b32",
    "vote.sync.ballot.b32",
    "ldmatrix",
];

/// A kernel of one warp around `body`: %in is the address of the input, %out that of the lane's 8 bytes, which `body` stores %d1
/// to, or %w1 (0 before); %lane its number; %s the address of 1024 bytes of shared memory that start as the input does.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0\n.target sm_80\n.address_size 64\n.extern .shared .align 16 .b8 ddu_arena[];\n\
         .visible .entry test(\n.param .align 8 .b8 test_param_0[16]\n)\n.maxntid 32\n{{\n\
         .reg .pred %p<4>;\n.reg .b16 %h<4>;\n.reg .b32 %w<8>;\n.reg .b64 %d<8>;\n.reg .b32 %t<8>;\n\
         .reg .b32 %lane;\n.reg .b32 %s;\n.reg .b64 %in;\n.reg .b64 %out;\n.reg .b64 %a<2>;\n\
         ld.param.u64 %out, [test_param_0];\nld.param.u64 %in, [test_param_0+8];\n\
         mov.u32 %lane, %tid.x;\nmov.u32 %s, ddu_arena;\n\
         mul.wide.u32 %a1, %lane, 32;\nadd.s64 %a1, %a1, %in;\n\
         ld.global.v4.u32 {{%t0, %t1, %t2, %t3}}, [%a1];\nld.global.v4.u32 {{%t4, %t5, %t6, %t7}}, [%a1+16];\n\
         mad.lo.s32 %w0, %lane, 32, %s;\nst.shared.v4.u32 [%w0], {{%t0, %t1, %t2, %t3}};\n\
         st.shared.v4.u32 [%w0+16], {{%t4, %t5, %t6, %t7}};\n\
         bar.sync 0;\nmul.wide.u32 %a1, %lane, 8;\nadd.s64 %out, %out, %a1;\nmov.u32 %w1, 0;\nmov.u64 %d1, 0;\n\
         {body}\nret;\n}}\n"
    )
}

/// What each lane stores: 8 bytes, of which `body` may leave the upper ones alone (ee).
fn lanes(body: &str, input: &[u8]) -> Vec<u64> {
    let mut input = input.to_vec();
    input.resize(1024, 0);
    let block = Block { threads: 32, shared: 1024, out: 64, input: &input, seed: None };
    let text = kernel(body);
    let words = run(&text, &block).unwrap_or_else(|e| panic!("{e}\n{text}"));
    words.chunks_exact(2).map(|w| u64::from(w[1]) << 32 | u64::from(w[0])).collect()
}

const BYTES: [u8; 16] = [
    0x80, 0x7f, 0xff, 0x80, 0x01, 0x00, 0x00, 0x80, 0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x81,
];

#[test]
fn loads_extend_and_take_what_they_name() {
    // (type, offset, in a register of 32 and of 64 bits)
    let cases: [(&str, usize, u32, u64); 9] = [
        ("u8", 0, 0x80, 0x80),
        ("s8", 0, 0xffff_ff80, 0xffff_ffff_ffff_ff80),
        ("s8", 1, 0x7f, 0x7f),
        ("u16", 2, 0x80ff, 0x80ff),
        ("s16", 2, 0xffff_80ff, 0xffff_ffff_ffff_80ff),
        ("s16", 4, 1, 1),
        ("b32", 4, 0x8000_0001, 0x8000_0001),
        ("u32", 8, 0x89ab_cdef, 0x89ab_cdef),
        ("s32", 8, 0x89ab_cdef, 0xffff_ffff_89ab_cdef),
    ];
    for space in ["global", "global.nc", "shared"] {
        let base = if space == "shared" { "%s" } else { "%in" };
        for (kind, at, narrow, wide) in cases {
            let load = |register| format!("ld.{space}.{kind} {register}, [{base}+{at}];\n");
            let found = lanes(
                &(load("%w1") + "st.global.u64 [%out], 0;\nst.global.u32 [%out], %w1;"),
                &BYTES,
            );
            assert_eq!(found, [u64::from(narrow); 32], "{space} {kind} at {at}");
            let found = lanes(&(load("%d1") + "st.global.u64 [%out], %d1;"), &BYTES);
            assert_eq!(found, [wide; 32], "{space} {kind} at {at}, 64 bits");
        }
        let found =
            lanes(&format!("ld.{space}.u64 %d1, [{base}+8];\nst.global.u64 [%out], %d1;"), &BYTES);
        assert_eq!(found, [0x8123_4567_89ab_cdef; 32], "{space} u64");
        // Elements in order; a half-word in a register of 16 bits.
        let four = format!(
            "ld.{space}.v4.u32 {{%w1, %w2, %w3, %w4}}, [{base}];\nst.global.v2.u32 [%out], {{%w4, %w2}};"
        );
        assert_eq!(lanes(&four, &BYTES), [0x8000_0001_8123_4567; 32], "{space} v4");
        let two =
            format!("ld.{space}.v2.u16 {{%h1, %h2}}, [{base}];\nmov.b32 %w1, {{%h2, %h1}};\n")
                + "st.global.v2.u32 [%out], {%w1, 0};";
        assert_eq!(lanes(&two, &BYTES), [0x7f80_80ff; 32], "{space} v2.u16");
    }
}

#[test]
fn stores_write_their_bytes_and_no_others() {
    let cases = [
        ("u8", 1, 0xeeee_eeee_eeee_98ee_u64),
        ("u16", 2, 0xeeee_eeee_ba98_eeee),
        ("u32", 4, 0xfedc_ba98_eeee_eeee),
        ("u64", 0, 0x7654_3210_fedc_ba98),
    ];
    for (kind, at, expected) in cases {
        let value = "mov.u64 %d1, 8526495043095935640;\ncvt.u32.u64 %w1, %d1;\n";
        let register = if kind == "u64" { "%d1" } else { "%w1" };
        let store = format!("{value}st.global.{kind} [%out+{at}], {register};");
        assert_eq!(lanes(&store, &[]), [expected; 32], "global {kind}");
        // In shared memory, every lane in its own 8 bytes.
        let filled = "shl.b32 %w2, %lane, 3;\nadd.s32 %w2, %w2, %s;\nmov.u64 %d2, -1229782938247303442;\n\
                      st.shared.u64 [%w2], %d2;\n";
        let back = "ld.shared.u64 %d3, [%w2];\nst.global.u64 [%out], %d3;";
        let store =
            format!("{value}{filled}bar.sync 0;\nst.shared.{kind} [%w2+{at}], {register};\n{back}");
        assert_eq!(lanes(&store, &[]), [expected; 32], "shared {kind}");
    }
}

#[test]
fn parameters_and_halves_of_registers() {
    let halves = "ld.param.u32 %w1, [test_param_0+8];\nld.param.u32 %w2, [test_param_0+12];\n\
                  mov.b64 %d1, {%w1, %w2};\nsub.s64 %d1, %d1, %in;\n";
    assert_eq!(lanes(&format!("{halves}st.global.u64 [%out], %d1;"), &[]), [0; 32]);
    let pair = "ld.param.v2.u32 {%w1, %w2}, [test_param_0+8];\nmov.b64 %d1, {%w1, %w2};\nsub.s64 %d1, %d1, %in;\n";
    assert_eq!(lanes(&format!("{pair}st.global.u64 [%out], %d1;"), &[]), [0; 32]);
    // The first of a pair is the lower half.
    let swapped =
        "ld.global.u64 %d2, [%in+8];\nmov.b64 {%w1, %w2}, %d2;\nmov.b64 %d1, {%w2, %w1};\n";
    let found = lanes(&format!("{swapped}st.global.u64 [%out], %d1;"), &BYTES);
    assert_eq!(found, [0x89ab_cdef_8123_4567; 32]);
    let swapped =
        "ld.global.u32 %w2, [%in+8];\nmov.b32 {%h1, %h2}, %w2;\nmov.b32 %w1, {%h2, %h1};\n";
    let found = lanes(&format!("{swapped}st.global.v2.u32 [%out], {{%w1, 0}};"), &BYTES);
    assert_eq!(found, [0xcdef_89ab; 32]);
}

/// What a lane gets is what the lane of that number has: its number and 100; and whether that lane was in range.
#[test]
fn shuffles_at_the_ends_of_their_segments() {
    let expect = |mode: &str, b: i32, c: u32, from: &dyn Fn(u64) -> (u64, bool)| {
        let body = format!(
            "add.s32 %w2, %lane, 100;\nshfl.sync.{mode}.b32 %w1|%p1, %w2, {b}, {c}, -1;\n\
             selp.u32 %w3, 1, 0, %p1;\nst.global.v2.u32 [%out], {{%w1, %w3}};"
        );
        let expected: Vec<u64> = (0..32)
            .map(|lane| {
                let (from, good) = from(lane);
                u64::from(good) << 32 | (100 + from)
            })
            .collect();
        assert_eq!(lanes(&body, &[]), expected, "{mode} {b} {c:#x}");
    };
    expect("bfly", 31, 31, &|l| (31 - l, true));
    expect("bfly", 0, 31, &|l| (l, true));
    // b counts modulo 32.
    expect("bfly", 33, 31, &|l| (l ^ 1, true));
    // Halves of 16 lanes: from the lower the upper is out of range, which keeps a lane's own value.
    expect("bfly", 16, 0x101f, &|l| if l < 16 { (l, false) } else { (l - 16, true) });
    expect("bfly", 15, 0x101f, &|l| (l ^ 15, true));
    expect("idx", 3, 31, &|_| (3, true));
    expect("idx", 35, 31, &|_| (3, true));
    // Segments of 8 lanes: the number counts in each.
    expect("idx", 3, 0x181f, &|l| (l / 8 * 8 + 3, true));
    expect("idx", 9, 0x181f, &|l| (l / 8 * 8 + 1, true));
    // No lane above the clamp.
    expect("idx", 3, 0x1802, &|l| (l, false));
    expect("idx", 2, 0x1802, &|l| (l / 8 * 8 + 2, true));
}

#[test]
fn votes_of_all_and_of_those_that_come() {
    let vote = "rem.u32 %w2, %lane, 3;\nsetp.eq.s32 %p1, %w2, 0;\n";
    let all =
        format!("{vote}vote.sync.ballot.b32 %w1, %p1, -1;\nst.global.v2.u32 [%out], {{%w1, 0}};");
    assert_eq!(lanes(&all, &[]), [0x4924_9249; 32]);
    let some = format!(
        "{vote}setp.ge.u32 %p2, %lane, 16;\nst.global.v2.u32 [%out], {{0, 0}};\n@%p2 bra $over;\n\
         vote.sync.ballot.b32 %w1, %p1, 65535;\nst.global.u32 [%out], %w1;\n$over:"
    );
    let expected: Vec<u64> = (0..32).map(|lane| if lane < 16 { 0x9249 } else { 0 }).collect();
    assert_eq!(lanes(&some, &[]), expected);
}

/// Four matrices of 8 x 8 whose element (m, row, column) is 64 m + 8 row + column; lane 8 m + row has that row's address.
#[test]
fn matrices_as_they_lie_and_transposed() {
    let input: Vec<u8> = (0..256u16).flat_map(u16::to_le_bytes).collect();
    let element = |m: u64, row: u64, column: u64| 64 * m + 8 * row + column;
    for (trans, at) in [("", false), (".trans", true)] {
        for m in 0..4 {
            let body = format!(
                "shl.b32 %w2, %lane, 4;\nadd.s32 %w2, %w2, %s;\n\
                 ldmatrix.sync.aligned.m8n8.x4{trans}.shared.b16 {{%w3, %w4, %w5, %w6}}, [%w2];\n\
                 st.global.v2.u32 [%out], {{%w{}, 0}};",
                3 + m
            );
            let pair = |lane: u64, e: u64| match at {
                false => element(m, lane / 4, lane % 4 * 2 + e),
                true => element(m, lane % 4 * 2 + e, lane / 4),
            };
            let expected: Vec<u64> = (0..32).map(|l| pair(l, 1) << 16 | pair(l, 0)).collect();
            assert_eq!(lanes(&body, &input), expected, "matrix {m}{trans}");
        }
    }
}

/// The rest of the 16 bytes becomes zero.
#[test]
fn copies_of_fewer_bytes() {
    for bytes in [0, 4, 8, 16] {
        let body = format!(
            "shl.b32 %w2, %lane, 4;\nadd.s32 %w2, %w2, %s;\nmov.u32 %w3, {bytes};\n\
             cp.async.cg.shared.global [%w2], [%in], 16, %w3;\ncp.async.commit_group;\n\
             cp.async.wait_group 0;\nld.shared.v4.u32 {{%w4, %w5, %w6, %w7}}, [%w2];\n\
             add.s32 %w4, %w4, %w6;\nadd.s32 %w5, %w5, %w7;\nst.global.v2.u32 [%out], {{%w4, %w5}};"
        );
        let word = |i: usize| match i * 4 < bytes {
            true => u32::from_le_bytes(BYTES[i * 4..][..4].try_into().unwrap()),
            false => 0,
        };
        let sum = |a: usize, b: usize| u64::from(word(a).wrapping_add(word(b)));
        assert_eq!(lanes(&body, &BYTES), [sum(1, 3) << 32 | sum(0, 2); 32], "{bytes} bytes");
    }
}
