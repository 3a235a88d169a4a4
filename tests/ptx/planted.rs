//! Faults that simt cannot see, for it has words in place of these instructions: each is one change of a sound kernel's
//! text, and is named by the interpreter or changes what comes out.

mod tensors;

use std::io::Write;
use std::process::Command;

pub use tensors::HELD;

use crate::{Block, ptx, run};

struct Kernel {
    text: &'static str,
    threads: usize,
    shared: usize,
    input: Vec<u8>,
    expected: Vec<u32>,
}

impl Kernel {
    fn run(&self, text: &str, seed: Option<u32>) -> Result<Vec<u32>, String> {
        let Kernel { threads, shared, ref input, ref expected, .. } = *self;
        run(text, &Block { threads, shared, out: expected.len(), input, seed })
    }
}

/// What a planted fault must lead to.
enum Seen {
    /// An error, or a note of what the ISA leaves undefined, with these words.
    Said(&'static str),
    /// Other values.
    Values,
}
use Seen::{Said, Values};

struct Fault {
    what: &'static str,
    from: &'static str,
    to: &'static str,
    seen: Seen,
}

const fn fault(what: &'static str, from: &'static str, to: &'static str, seen: Seen) -> Fault {
    Fault { what, from, to, seen }
}

/// Small whole numbers, exact in fp16 as are their sums in f32.
fn number(i: usize) -> f32 {
    (i * 7 % 23) as f32 - 11.0
}

fn halves(values: impl Iterator<Item = f32>) -> Vec<u8> {
    values.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect()
}

fn bits(values: impl Iterator<Item = f32>) -> Vec<u32> {
    values.map(f32::to_bits).collect()
}

fn warp() -> Kernel {
    let a = |row: usize, k: usize| number(row * 16 + k);
    let b = |k: usize, column: usize| number(300 + k * 8 + column);
    let mut input = halves((0..256).map(|i| a(i / 16, i % 16)));
    input.extend(halves((0..128).map(|i| b(i / 8, i % 8))));
    let product = |row, column| 1.0 + (0..16).map(|k| a(row, k) * b(k, column)).sum::<f32>();
    let mut expected = bits((0..128).map(|i| product(i / 8, i % 8)));
    expected.extend((0..32).map(|lane| 100 + 31 - lane));
    expected.extend([0xaaaa_aaaa; 32]);
    expected.extend((0..32).map(|lane| lane ^ 5));
    expected.extend([0x4000_3c00; 32]);
    let word = |i: usize| u32::from_le_bytes(input[i * 4..][..4].try_into().unwrap());
    expected.extend((0..32).map(|lane| word(lane * 4 + 3)));
    Kernel { text: include_str!("warp.ptx"), threads: 32, shared: 1280, input, expected }
}

fn warpgroup() -> Kernel {
    let a = |row: usize, k: usize| number(row * 32 + k);
    let b = |n: usize, k: usize| number(77 + n * 64 + k);
    // Chunk c of 16 bytes of row n lies where c and n % 8 differ.
    let mut tile = vec![0.0; 32 * 64];
    for n in 0..32 {
        for k in 0..64 {
            tile[n * 64 + ((k / 8) ^ (n % 8)) * 8 + k % 8] = b(n, k);
        }
    }
    let mut input = halves(tile.into_iter());
    input.extend(halves((0..64 * 32).map(|i| a(i / 32, i % 32))));
    let depth = |n: usize| if n < 16 { 32 } else { 16 };
    let product = |row, n| (0..depth(n)).map(|k| a(row, k) * b(n, k)).sum::<f32>();
    let expected = bits((0..64 * 32).map(|i| product(i / 32, i % 32)));
    Kernel { text: include_str!("warpgroup.ptx"), threads: 128, shared: 4224, input, expected }
}

fn proxies() -> Kernel {
    let b = |n: usize, k: usize| number(n * 64 + k);
    // As in `warpgroup`.
    let mut tile = vec![0.0; 16 * 64];
    for n in 0..16 {
        for k in 0..64 {
            tile[n * 64 + ((k / 8) ^ (n % 8)) * 8 + k % 8] = b(n, k);
        }
    }
    let sum = |n| (0..16).map(|k| b(n, k)).sum::<f32>();
    let expected = bits((0..64 * 16).map(|i| sum(i % 16)));
    let input = halves(tile.into_iter());
    Kernel { text: include_str!("proxies.ptx"), threads: 128, shared: 2176, input, expected }
}

fn registers() -> Kernel {
    let (text, expected) = (include_str!("registers.ptx"), vec![1; 384]);
    Kernel { text, threads: 384, shared: 0, input: vec![0; 16], expected }
}

/// The sound kernel runs, in order and by chance; each fault is seen.
fn check(kernel: &Kernel, faults: &[Fault]) {
    for seed in [None, Some(1), Some(2)] {
        assert_eq!(kernel.run(kernel.text, seed), Ok(kernel.expected.clone()), "{seed:?}");
    }
    for Fault { what, from, to, seen } in faults {
        assert_eq!(kernel.text.matches(from).count(), 1, "{what}: {from}");
        let text = kernel.text.replacen(from, to, 1);
        let runs = [None, Some(1)].map(|seed| kernel.run(&text, seed));
        let noticed = runs.iter().any(|run| match (seen, run) {
            (Said(words), Err(said)) => said.contains(words),
            (Values, Ok(values)) => *values != kernel.expected,
            _ => false,
        });
        assert!(noticed, "{what}: {runs:?}");
    }
}

#[test]
fn faults_of_a_warp() {
    const MMA: &str = "{%f1, %f2, %f3, %f4}, {%r12, %r13, %r14, %r15}, {%r18, %r19}, ";
    let faults = [
        fault(
            "operands of a in the order of rows, not of columns",
            MMA,
            "{%f1, %f2, %f3, %f4}, {%r12, %r14, %r13, %r15}, {%r18, %r19}, ",
            Values,
        ),
        fault(
            "a swapped fragment of b",
            MMA,
            "{%f1, %f2, %f3, %f4}, {%r12, %r13, %r14, %r15}, {%r19, %r18}, ",
            Values,
        ),
        fault(
            "a swapped fragment of d",
            MMA,
            "{%f1, %f3, %f2, %f4}, {%r12, %r13, %r14, %r15}, {%r18, %r19}, ",
            Values,
        ),
        fault("ldmatrix not transposed", "x4.trans.shared", "x4.shared", Values),
        fault(
            "an offset in place of an address in the shared window",
            "mov.u32 %r2, ddu_arena;",
            "mov.u32 %r2, 0;",
            Said("shared address -"),
        ),
        fault("a wait for too few copies", "wait_group 0", "wait_group 1", Said("under way to")),
        fault(
            "copies that no group holds",
            "cp.async.commit_group;",
            "",
            Said("an asynchronous copy is under way to"),
        ),
        fault("a misaligned vector", "[%rd4];\n\tst", "[%rd4+4];\n\tst", Said("misaligned global")),
        fault("a misaligned row", "[%r17+512]", "[%r17+520]", Said("misaligned shared")),
        fault("a copy beyond the buffer", "[%rd4+512]", "[%rd4+528]", Said("of a buffer of")),
        fault("halves of a pair exchanged", "%f5, %f6;", "%f6, %f5;", Values),
        fault("a shuffle over other lanes", "%r1, 5, 31, -1", "%r1, 6, 31, -1", Values),
        fault(
            "a mask without all that come",
            "%r31, %p2, -1",
            "%r31, %p2, 65535",
            Said("that the membermask lacks"),
        ),
        fault(
            "no warp barrier between store and load",
            "[%r24+1024], %r25;\n\tbar.warp.sync -1;",
            "[%r24+1024], %r25;",
            Said("RACE: reads what another thread wrote"),
        ),
    ];
    check(&warp(), &faults);
}

#[test]
fn faults_of_a_warpgroup() {
    const FIRST_FENCE: &str = "0, 0;\n\twgmma.fence.sync.aligned;";
    let faults = [
        fault(
            "other shapes on one accumulator, no fence between",
            "// between\n\twgmma.fence.sync.aligned;",
            "",
            Said("a product of n16 on the accumulator of one of n32, no wgmma.fence between"),
        ),
        fault("no fence before the first", FIRST_FENCE, "0, 0;", Said("wgmma.fence")),
        fault(
            "an accumulator written after the fence",
            FIRST_FENCE,
            "0, 0;\n\twgmma.fence.sync.aligned;\n\tmov.f32 %f3, 0f00000000;",
            Said("an accumulator was written since the last wgmma.fence"),
        ),
        fault(
            "a left operand written after the fence",
            FIRST_FENCE,
            "0, 0;\n\twgmma.fence.sync.aligned;\n\tmov.u32 %r21, 0;",
            Said("an a operand was written since the last wgmma.fence"),
        ),
        fault(
            "an accumulator written before the wait",
            "wgmma.commit_group.sync.aligned;",
            "wgmma.commit_group.sync.aligned;\n\tmov.f32 %f2, 0f00000000;",
            Said("a wgmma.mma_async that is not waited for"),
        ),
        fault(
            "a stride of the descriptor of half the swizzle's period",
            "4611686293305360384",
            "4611686155866406912",
            Said("a stride that is no multiple of the swizzle's period"),
        ),
        fault(
            "another swizzle",
            "4611686293305360384",
            "9223372311732748288",
            Said("a swizzle other than of 128 bytes"),
        ),
        fault("a descriptor off by one chunk", "%rd8, %rd7, 2", "%rd8, %rd7, 1", Values),
        fault(
            "the arena at less than the swizzle's period",
            ".shared .align 1024",
            ".shared .align 128",
            Said("the matrix does not start with the swizzle's period"),
        ),
        fault(
            "a descriptor of an offset in place of an address",
            "cvt.u64.u32 %rd5, %r2;",
            "mov.u64 %rd5, 0;",
            Said("shared address -1024"),
        ),
        fault("the wrong parity", "mov.u32 %r14, 0;", "mov.u32 %r14, 1;", Said("under way to")),
        fault(
            "no wait for the products",
            "wait_group.sync.aligned 0",
            "wait_group.sync.aligned 1",
            Said("undefined"),
        ),
        fault(
            "no group of the products",
            "wgmma.commit_group.sync.aligned;",
            "",
            Said("undefined"),
        ),
        fault("bytes that nobody expects", "_, [%r3], %r4;", "_, [%r3], 0;", Said("under way to")),
        fault("more bytes than come", "_, [%r3], %r4;", "_, [%r3], 8192;", Said("deadlock")),
        fault(
            "a barrier that one warp alone has seen initialised",
            "$start:\n\tbar.sync 0;",
            "$start:",
            Said("no mbarrier there"),
        ),
        fault(
            "a swapped fragment of the accumulator",
            "{%f0, %f1, %f2, %f3, %f4, %f5, %f6, %f7}, {%r24",
            "{%f0, %f2, %f1, %f3, %f4, %f5, %f6, %f7}, {%r24",
            Values,
        ),
        fault("the first product adds to nothing", "%rd7, %p3,", "%rd7, %p4,", Said("undefined")),
        fault(
            "a product that one warp leaves out",
            "wgmma.mma_async.sync.aligned.m64n16k16",
            "@%p1 wgmma.mma_async.sync.aligned.m64n16k16",
            Said("not executed by all lanes"),
        ),
    ];
    check(&warpgroup(), &faults);
}

#[test]
fn faults_between_proxies() {
    const LOADED: &str = "// loaded\n\tfence.proxy.async.shared::cta;";
    const FENCED: &str = "// stored\n\tfence.proxy.async.shared::cta;";
    const STORED: &str = "// stored\n\tfence.proxy.async.shared::cta;\n\tbar.sync 0;";
    let faults = [
        fault(
            "a copy over what was loaded, no fence between",
            LOADED,
            "// loaded",
            Said("writes what a load read, no fence.proxy.async between"),
        ),
        fault(
            "a product of what was stored, no fence between",
            FENCED,
            "// stored",
            Said("reads what a store wrote, no fence.proxy.async between"),
        ),
        fault(
            "the fence before the store",
            "st.shared.u32 [%r6], %r8;\n\t// stored\n\tfence.proxy.async.shared::cta;",
            "fence.proxy.async.shared::cta;\n\tst.shared.u32 [%r6], %r8;",
            Said("reads what a store wrote, no fence.proxy.async between"),
        ),
        fault(
            "one warp's fence for all, before they met",
            FENCED,
            "setp.lt.s32 %p5, %r1, 32;\n\t@%p5 fence.proxy.async.shared::cta;",
            Said("reads what a store wrote, no fence.proxy.async between"),
        ),
        fault(
            "a fence, but no barrier",
            STORED,
            "fence.proxy.async.shared::cta;",
            Said("RACE: reads what another thread wrote"),
        ),
        fault(
            "a load of what comes, no wait for it",
            "mov.u32 %r7, 0;",
            "mov.u32 %r7, 1;",
            Said("under way to"),
        ),
        fault(
            "an mbarrier that bulk copies cannot see",
            "fence.mbarrier_init.release.cluster;",
            "",
            Said("no fence after mbarrier.init"),
        ),
    ];
    check(&proxies(), &faults);
}

#[test]
fn faults_of_the_registers() {
    let faults = [
        fault("more than there are", "aligned.u32 24;", "aligned.u32 40;", Said("deadlock")),
        fault("the wrong way", "inc.sync.aligned.u32 240", "inc.sync.aligned.u32 160", Said("way")),
        fault("no multiple of eight", "aligned.u32 240;", "aligned.u32 236;", Said("registers")),
    ];
    check(&registers(), &faults);
}

/// `mbarrier_wait` of `kernels/common/hopper.cuh` in a build that gives up, as nvcc compiles it (`stuck.cu`): the variable
/// that it leaves for the core dump holds the block, the thread, the barrier's byte of shared memory and the parity.
#[test]
fn a_wait_that_never_ends_traps_with_block_barrier_and_parity() {
    let Some(nvcc) = ptx::nvcc() else {
        let why = "no nvcc was found to make PTX with (NVCC)";
        let _ = writeln!(std::io::stderr(), "a_wait_that_never_ends.. SKIPPED: {why}");
        return;
    };
    for sound in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("stuck.ptx");
        let mut command = Command::new(&nvcc);
        command.args(["-ptx", "-std=c++17", "-O3", "-arch=sm_90a", "-DDDU_WAIT_TRIES=3"]);
        command.arg(format!("-DMADE_SOUND={sound}"));
        command.arg(ptx::project().join("tests/ptx/stuck.cu")).arg("-o").arg(&out);
        let made = command.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let text = std::fs::read_to_string(out).unwrap();
        let block = Block { threads: 128, shared: 128, out: 128, input: &[0; 16], seed: None };
        let found = run(&text, &block);
        if sound {
            assert_eq!(found, Ok((0..128).collect()));
            continue;
        }
        let said = found.unwrap_err();
        let (_, words) = said.split_once("trap; ddu_stuck = ").unwrap_or_else(|| panic!("{said}"));
        let words: Vec<u32> = words.split_whitespace().map(|word| word.parse().unwrap()).collect();
        assert_eq!(words[..3], [0, 0, 0], "block: {said}");
        assert!(words[3] < 128, "thread: {said}");
        assert_eq!(words[4..], [72, 1], "barrier and parity: {said}");
    }
}
