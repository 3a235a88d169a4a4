//! Copies from global to shared memory: cp.async and its groups, bulk copies.

use super::{Case, wait, word};

pub fn cases() -> Vec<Case> {
    let mut cases = asynchronous();
    cases.extend(groups());
    cases.extend(bulk());
    cases
}

const COPY: &str = "cp.async.cg.shared.global";
const COMMIT: &str = "cp.async.commit_group;\n";
const LOAD: &str = "ld.shared.v2.u32 {%w1, %w2}, [%sa];\n";

/// The first two words of a thread's own 16 bytes.
fn own(t: u32) -> [u32; 2] {
    [word(4 * t as usize), word(4 * t as usize + 1)]
}

/// 16 bytes, both addresses at multiples of 16, a source of up to 16 bytes.
fn asynchronous() -> Vec<Case> {
    let case = |threads, what: &str, body: String| Case::new(COPY, threads, what, &body);
    let landed = format!("{COMMIT}cp.async.wait_group 0;\n");
    let plain = format!("{COPY} [%sa], [%a], 16;\n");
    let neighbour = "xor.b32 %w3, %sa, 512;\nld.shared.v2.u32 {%w1, %w2}, [%w3];\n";
    let next = |t: u32| own(t ^ 32);
    let beside = |register: &str, by: i32| format!("{COPY} [{register}], [%a+{by}], 16;\n{landed}");
    vec![
        case(64, "the last of both", plain.clone() + &landed + LOAD).gives(own),
        case(
            64,
            "an offset",
            format!("@%first {COPY} [%sa], [%a+1008], 16;\n{landed}@%first {LOAD}"),
        )
        .gives(|t| if t == 0 { own(63) } else { [0; 2] }),
        // Nothing is read.
        case(
            32,
            "no bytes from nowhere",
            format!("mov.u64 %d1, 0;\n{COPY} [%sa], [%d1], 16, 0;\n{landed}{LOAD}"),
        )
        .gives(|_| [0; 2]),
        case(32, "no bytes, misaligned", format!("{COPY} [%sa], [%a+8], 16, 0;\n{landed}"))
            .says("cp.async of no bytes from a misaligned address"),
        case(32, "17 bytes", format!("{COPY} [%sa], [%a], 16, 17;\n")).says("a source size above"),
        case(32, "8 bytes", format!("{COPY} [%sa], [%a], 8;\n")).says("of other than 16 bytes"),
        case(32, "a misaligned source", beside("%sa", 8)).says("misaligned global address"),
        case(32, "a misaligned target", format!("add.s32 %w3, %sa, 8;\n{}", beside("%w3", 0)))
            .says("misaligned shared address"),
        case(64, "beyond the source", beside("%sa", 16)).says("of a buffer of 1024 bytes"),
        case(64, "before the source", beside("%sa", -1024)).says("outside every buffer"),
        case(64, "beyond the target", format!("add.s32 %w3, %sa, 16;\n{}", beside("%w3", 0)))
            .says("shared address 1024 of 1024 bytes"),
        case(32, "no wait", format!("{plain}{COMMIT}"))
            .says("a thread ends with cp.async under way"),
        case(32, "a store over it", plain.clone() + "st.shared.u32 [%sa+4], 0;")
            .says("st writes shared memory that an asynchronous copy is under way to"),
        case(32, "twice to one place", plain.clone() + &plain)
            .says("cp.async writes shared memory that an asynchronous copy is under way to"),
        case(64, "another's", plain.clone() + &landed + "bar.sync 0;\n" + neighbour).gives(next),
        case(64, "another's, no barrier", plain.clone() + &landed + neighbour).says("RACE"),
    ]
}

/// `wait_group n`: all groups but the last n are there. Each thread has its own.
fn groups() -> Vec<Case> {
    let commit = |what: &str, body: String| Case::new("cp.async.commit_group", 32, what, &body);
    let wait = |what: &str, body: String| Case::new("cp.async.wait_group", 32, what, &body);
    let plain = format!("{COPY} [%sa], [%a], 16;\n");
    let second = format!("add.s32 %w3, %sa, 512;\n{COPY} [%w3], [%a+512], 16;\n");
    let load_second = "ld.shared.v2.u32 {%w1, %w2}, [%w3];\n";
    let both = format!("{plain}{COMMIT}{second}{COMMIT}");
    let (one, all) = ("cp.async.wait_group 1;\n", "cp.async.wait_group 0;\n");
    let under_way = "reads shared memory that an asynchronous copy is under way to";
    let rest = format!("{all}{load_second}");
    vec![
        commit("without copies, counted", format!("{plain}{COMMIT}{COMMIT}{one}{LOAD}")).gives(own),
        commit("none", format!("{plain}{all}{LOAD}")).says(under_way),
        commit("before the copy", format!("{COMMIT}{plain}{all}{LOAD}")).says(under_way),
        commit("of half the lanes", format!("@%low {plain}{COMMIT}{all}@%low {LOAD}"))
            .gives(|t| if t < 16 { own(t) } else { [0; 2] }),
        commit("of two copies", format!("{plain}{second}{COMMIT}{all}{load_second}"))
            .gives(|t| own(t + 32)),
        wait("the first of two", format!("{both}{one}{LOAD}{all}")).gives(own),
        wait("the second of two, too early", format!("{both}{one}{load_second}")).says(under_way),
        wait("both", format!("{both}{rest}")).gives(|t| own(t + 32)),
        wait("fewer than there are", format!("{plain}{COMMIT}cp.async.wait_group 2;\n{LOAD}"))
            .says(under_way),
        wait("of nothing", format!("{all}mov.u32 %w1, 1;")).gives(|_| [1, 0]),
        wait("again", format!("{both}{one}{one}{all}{LOAD}")).gives(own),
    ]
}

/// Multiples of 16 bytes at multiples of 16; the mbarrier counts them down.
fn bulk() -> Vec<Case> {
    const START: &str = "add.s32 %w9, %s, 1008;\n@%first mbarrier.init.shared::cta.b64 [%w9], 1;\n\
        @%first fence.mbarrier_init.release.cluster;\nbar.sync 0;\n";
    let expect = |bytes: usize| {
        format!("@%first mbarrier.arrive.expect_tx.shared::cta.b64 _, [%w9], {bytes};\n")
    };
    let copy = |guard: &str, to: &str, from: &str, bytes: usize| {
        format!(
            "{guard} cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}], [{from}], {bytes}, [%w9];\n"
        )
    };
    let first = |bytes: usize| copy("@%first", "%s", "%in", bytes);
    let case = |what: &str, body: String| Case::new("cp.async.bulk", 64, what, &body);
    let over = wait("$w", "%w9", "0");
    let one = |bytes: usize| format!("{START}{}{}{over}", expect(bytes), first(bytes));
    let last = |bytes: usize| format!("{}ld.shared.u32 %w1, [%s+{}];", one(bytes), bytes - 4);
    let aside = |what: &str, to: usize, from: usize| {
        let places = format!("add.s32 %w3, %s, {to};\nadd.s64 %d1, %in, {from};\n");
        case(what, format!("{START}{places}{}", copy("@%first", "%w3", "%d1", 32)))
    };
    let rest = format!(
        "add.s32 %w3, %s, 16;\nadd.s64 %d1, %in, 16;\n{}",
        copy("@%first", "%w3", "%d1", 32)
    );
    let two = |bytes: usize| {
        let loads = "ld.shared.u32 %w1, [%s+12];\nld.shared.u32 %w2, [%s+44];";
        format!("{START}{}{}{rest}{over}{loads}", expect(bytes), first(16))
    };
    let mut cases = Vec::new();
    for bytes in [16, 1008] {
        cases.push(case("the least and most", last(bytes)).gives(|_| [word(bytes / 4 - 1), 0]));
    }
    for bytes in [0, 8, 24] {
        cases.push(case("no multiple of 16", one(bytes)).says("a bulk copy of"));
    }
    cases.extend([
        aside("a misaligned target", 8, 0).says("misaligned shared address"),
        aside("a misaligned source", 0, 8).says("misaligned global address"),
        aside("beyond the target", 1008, 0).says("shared address 1008 of 1024 bytes"),
        aside("beyond the source", 0, 1008).says("global address 1008 of a buffer of 1024 bytes"),
        aside("over the mbarrier", 992, 0).says("cp.async.bulk writes an mbarrier"),
        case("two of one phase", two(48)).gives(|_| [word(3), word(11)]),
        case("more bytes than expected", two(32)).says("deadlock"),
        case("fewer bytes than expected", two(64)).says("deadlock"),
        // The count of bytes may fall below 0 before the arrival.
        case(
            "before it is expected",
            format!("{START}{}{}{over}ld.shared.u32 %w1, [%s+12];", first(16), expect(16)),
        )
        .gives(|_| [word(3), 0]),
        case("no wait", format!("{START}{}{}ld.shared.u32 %w1, [%s];", expect(16), first(16)))
            .says("reads shared memory that an asynchronous copy is under way to"),
        case("never waited for", format!("{START}{}{}", expect(16), first(16)))
            .says("the block ends with cp.async.bulk under way"),
        case("a store over it", format!("{START}{}@%first st.shared.u32 [%s+12], 0;", first(16)))
            .says("st writes shared memory that an asynchronous copy is under way to"),
        case("no mbarrier", format!("add.s32 %w9, %s, 1008;\n{}", first(16))).says("no mbarrier there"),
        case("an offset", format!("{START}{}", copy("@%first", "%s+16", "%in", 16))).says("an offset"),
        // Each lane its own 16 bytes.
        case(
            "of 32 lanes",
            format!(
                "{START}{}bar.sync 0;\nsetp.lt.u32 %p2, %t, 32;\n{}{over}@%p2 ld.shared.u32 %w1, [%sa];",
                expect(512),
                copy("@%p2", "%sa", "%a", 16)
            ),
        )
        .gives(|t| [if t < 32 { own(t)[0] } else { 0 }, 0]),
    ]);
    cases
}
