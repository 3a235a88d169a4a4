//! Barriers of a block and of a warp, mbarriers, and the fences between proxies.

use super::{Case, wait};

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for of in ["bar.sync", "barrier.sync"] {
        cases.extend(of_a_block(of));
    }
    cases.extend(of_a_warp());
    cases.extend(initialisations());
    cases.extend(arrivals());
    cases.extend(waits());
    cases.extend(fences());
    cases.extend(traps());
    cases
}

/// The number of a barrier is 0 to 15, a count is a multiple of the warp's size.
fn of_a_block(of: &'static str) -> Vec<Case> {
    let case = |threads, what: &str, body: String| Case::new(of, threads, what, &body);
    let store = "@%first st.shared.u32 [%s], 5;\n";
    let load = "ld.shared.u32 %w1, [%s];\n";
    let first_two = "setp.lt.u32 %p1, %t, 64;\n@!%p1 bra $end;\n";
    let mut cases = Vec::new();
    for id in [0, 15] {
        let body = format!("{store}{of} {id};\n{load}");
        cases.push(case(64, "the ends of the numbers", body).gives(|_| [5, 0]));
    }
    let again = format!(
        "{store}{of} 3;\n{load}{of} 3;\n@%first st.shared.u32 [%s], 6;\n{of} 3;\nld.shared.u32 %w2, [%s];"
    );
    cases.push(case(96, "three times in a row", again).gives(|_| [5, 6]));
    let counted = format!("{first_two}{store}{of} 1, 64;\n{load}");
    cases.push(case(96, "two of three warps", counted).gives(|t| [if t < 64 { 5 } else { 0 }, 0]));
    // Number and count in registers; each pair of warps has its own word.
    let pairs = format!(
        "shr.u32 %w3, %t, 6;\nadd.s32 %w4, %w3, 1;\nshl.b32 %w5, %w3, 2;\nadd.s32 %w5, %w5, %s;\n\
         and.b32 %w6, %t, 63;\nsetp.eq.s32 %p1, %w6, 0;\nadd.s32 %w6, %w3, 5;\nmov.u32 %w7, 64;\n\
         @%p1 st.shared.u32 [%w5], %w6;\n{of} %w4, %w7;\nld.shared.u32 %w1, [%w5];"
    );
    cases.push(case(128, "two pairs of warps at once", pairs).gives(|t| [5 + t / 64, 0]));
    let number = format!("{of} 16;");
    cases.push(case(64, "a number too high", number).says("no such barrier"));
    for count in [0, 33, 96] {
        let body = format!("{of} 1, {count};");
        cases.push(case(64, "a wrong count", body).says("thread count of a barrier"));
    }
    let counts = format!("setp.lt.u32 %p1, %t, 32;\n@%p1 {of} 1, 64;\n@!%p1 {of} 1, 96;");
    cases.push(case(96, "two counts", counts).says("a barrier with another count than it has"));
    let differ = format!("{of} %lane;");
    cases.push(case(64, "numbers that differ", differ).says("an operand that differs"));
    let diverged = format!("@%low {of} 0;");
    cases.push(case(64, "half a warp", diverged).says("a barrier in divergent code"));
    let ended = format!("setp.lt.u32 %p1, %t, 32;\n@!%p1 bra $end;\n{of} 0;");
    cases.push(case(64, "one warp alone", ended).says("deadlock"));
    let other = format!("shr.u32 %w3, %t, 5;\n{store}{of} %w3, 32;\n{load}");
    cases.push(case(64, "each warp at its own", other).says("RACE"));
    cases
}

fn of_a_warp() -> Vec<Case> {
    let case = |what: &str, body: &str| Case::new("bar.warp.sync", 64, what, body);
    let store = "shl.b32 %w3, %t, 2;\nadd.s32 %w3, %w3, %s;\nst.shared.u32 [%w3], %t;\n";
    let load = "xor.b32 %w4, %w3, 4;\nld.shared.u32 %w1, [%w4];\n";
    let half = "@!%low bra $end;\n";
    vec![
        case("all lanes", &format!("{store}bar.warp.sync -1;\n{load}")).gives(|t| [t ^ 1, 0]),
        case("half of them", &format!("{half}{store}bar.warp.sync 65535;\n{load}"))
            .gives(|t| [if t % 32 < 16 { t ^ 1 } else { 0 }, 0]),
        case("a mask with lanes that are elsewhere", &format!("{half}bar.warp.sync -1;"))
            .says("lanes of the membermask are elsewhere"),
        case("a mask without all that come", "bar.warp.sync 65535;")
            .says("executed by a lane that the membermask lacks"),
        case("masks that differ", "or.b32 %w3, %lane, -2;\nbar.warp.sync %w3;")
            .says("an operand that differs"),
        case("none", &format!("{store}{load}")).says("RACE"),
        // Another warp's lanes do not come.
        case(
            "between two warps",
            &format!("{store}bar.warp.sync -1;\nxor.b32 %w4, %w3, 128;\nld.shared.u32 %w1, [%w4];"),
        )
        .says("RACE"),
    ]
}

fn init(address: &str, count: &str) -> String {
    format!("@%first mbarrier.init.shared::cta.b64 [{address}], {count};\nbar.sync 0;\n")
}

const ARRIVE: &str = "mbarrier.arrive.shared::cta.b64 _, [%s];\n";

fn expect(bytes: &str) -> String {
    format!("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%s], {bytes};\n")
}

/// Count: 1 to 2^20 - 1. Eight bytes at a multiple of eight, which nothing else touches.
fn initialisations() -> Vec<Case> {
    let case = |what: &str, body: String| Case::new("mbarrier.init", 64, what, &body);
    let (passed, done) = (wait("$w", "%s", "1"), "mov.u32 %w1, 1;");
    let at = |offset: usize| {
        let body = format!("add.s32 %w3, %s, {offset};\n") + &init("%w3", "1");
        body + &wait("$w", "%w3", "1") + done
    };
    let mut cases = Vec::new();
    for count in ["1", "1048575"] {
        let body = init("%s", count) + &passed + done;
        cases.push(case("the ends of the counts", body).gives(|_| [1, 0]));
    }
    for count in ["0", "1048576"] {
        cases.push(case("a wrong count", init("%s", count)).says("an arrival count of"));
    }
    cases.extend([
        case("the last eight bytes", at(1016)).gives(|_| [1, 0]),
        case("beyond the last", at(1024)).says("shared address 1024 of 1024 bytes"),
        case("four bytes further", at(4)).says("misaligned shared address"),
        case("an offset", init("%s+8", "1")).says("an offset"),
        case("twice", init("%s", "1") + &init("%s", "1")).says("mbarrier.init writes an mbarrier"),
        case("a store to it", init("%s", "1") + "@%first st.shared.u32 [%s+4], 0;")
            .says("st writes an mbarrier"),
        case("a load of it", init("%s", "1") + "@%first ld.shared.u32 %w1, [%s+4];")
            .says("reads an mbarrier"),
        case("the bytes behind it", init("%s", "1") + "@%first st.shared.u32 [%s+8], 0;\n" + done)
            .gives(|_| [1, 0]),
        // The second's phase stays.
        case(
            "two side by side",
            format!("{}add.s32 %w3, %s, 8;\n{}", init("%s", "1"), init("%w3", "1"))
                + &format!("@%first {ARRIVE}{}", wait("$w", "%s", "0"))
                + &format!("{}{done}", wait("$x", "%w3", "1")),
        )
        .gives(|_| [1, 0]),
    ]);
    cases
}

/// Count of bytes: at most 2^20 - 1.
fn arrivals() -> Vec<Case> {
    let case =
        |threads, what: &str, body: String| Case::new("mbarrier.arrive", threads, what, &body);
    let (over, done) = (wait("$w", "%s", "0"), "mov.u32 %w1, 1;");
    let store = "shl.b32 %w3, %t, 2;\nadd.s32 %w3, %w3, %s;\nadd.s32 %w3, %w3, 256;\nst.shared.u32 [%w3], %t;\n";
    let load = "xor.b32 %w4, %w3, 128;\nld.shared.u32 %w1, [%w4];\n";
    let once = |bytes: &str| init("%s", "1") + "@%first " + &expect(bytes) + &over + done;
    vec![
        case(32, "all lanes", init("%s", "32") + ARRIVE + &over + done).gives(|_| [1, 0]),
        case(96, "three warps", init("%s", "96") + ARRIVE + &over + done).gives(|_| [1, 0]),
        case(32, "one too few", init("%s", "33") + ARRIVE + &over).says("deadlock"),
        case(
            32,
            "one too many",
            init("%s", "1") + "@%first " + &expect("16") + "@%first " + ARRIVE,
        )
        .says("more arrivals than the phase awaits"),
        case(32, "without an mbarrier", ARRIVE.into()).says("no mbarrier there"),
        case(32, "no bytes", once("0")).gives(|_| [1, 0]),
        case(32, "bytes that never come", once("1048560")).says("deadlock"),
        case(32, "too many bytes", once("1048576")).says("a tx-count out of its range"),
        case(64, "what was stored before", init("%s", "64") + store + ARRIVE + &over + load)
            .gives(|t| [t ^ 32, 0]),
        case(64, "no wait for it", init("%s", "64") + store + ARRIVE + load).says("RACE"),
        case(32, "an offset", init("%s", "1") + "mbarrier.arrive.shared::cta.b64 _, [%s+8];")
            .says("an offset"),
    ]
}

/// The parity of the phase before the first is 1.
fn waits() -> Vec<Case> {
    let case = |what: &str, body: String| Case::new("mbarrier.try_wait", 64, what, &body);
    let done = "mov.u32 %w1, 1;";
    // So many phases are over.
    let after = |phases: usize| {
        let phase = |i: usize| {
            let parity = (i % 2).to_string();
            format!("@%first {ARRIVE}{}bar.sync 0;\n", wait(&format!("$phase{i}"), "%s", &parity))
        };
        init("%s", "1") + &(0..phases).map(phase).collect::<String>()
    };
    let mut cases = Vec::new();
    for phases in 0..4 {
        let (over, next) = (((phases + 1) % 2).to_string(), (phases % 2).to_string());
        let what = format!("after {phases} phases");
        let body = after(phases) + &wait("$w", "%s", &over) + done;
        cases.push(case(&what, body).gives(|_| [1, 0]));
        cases.push(case(&what, after(phases) + &wait("$w", "%s", &next)).says("deadlock"));
    }
    // Lanes 0 to 15 wait for another than the rest.
    let both = |arrivals: &str| {
        format!("{}add.s32 %w3, %s, 8;\n{}", init("%s", "1"), init("%w3", "1"))
            + arrivals
            + &format!("selp.b32 %w4, %s, %w3, %low;\n{}{done}", wait("$w", "%w4", "0"))
    };
    let (one, other) =
        (format!("@%first {ARRIVE}"), "@%first mbarrier.arrive.shared::cta.b64 _, [%w3];\n");
    cases.extend([
        case("lanes that wait for two", both(&(one.clone() + other))).gives(|_| [1, 0]),
        case("lanes of which half wait in vain", both(&one)).says("deadlock"),
        case("a parity of 2", after(0) + &wait("$w", "%s", "2")).says("a parity of 2"),
        case("without an mbarrier", wait("$w", "%s", "1")).says("no mbarrier there"),
        case("an offset", after(0) + &wait("$w", "%s+8", "1")).says("an offset"),
    ]);
    cases
}

/// Sixteen bytes of the input to the second 16 of shared memory, counted by the mbarrier in the first.
const COPY: &str = "add.s32 %w3, %s, 16;\n\
    @%first cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%w3], [%in], 16, [%s];\n";

fn fences() -> Vec<Case> {
    let first = "@%first mbarrier.init.shared::cta.b64 [%s], 1;\n";
    let initialised = "fence.mbarrier_init.release.cluster;\n";
    let proxy = "fence.proxy.async.shared::cta;\n";
    let copied = format!(
        "@%first {}{COPY}{}ld.shared.u32 %w1, [%s+16];\n",
        expect("16"),
        wait("$w", "%s", "0")
    );
    let value = |_| [super::word(0), 0];
    let of_init = |what: &str, before: String| {
        let body = format!("{before}bar.sync 0;\n{copied}");
        Case::new("fence.mbarrier_init.release.cluster", 64, what, &body)
    };
    let unseen = "no fence after mbarrier.init";
    let second = "setp.eq.s32 %p2, %t, 1;\n";
    let stored = |what: &str, before: String| {
        let body = format!("{first}@%first {initialised}bar.sync 0;\n{second}{before}{copied}");
        Case::new("fence.proxy.async.shared::cta", 64, what, &body)
    };
    let store = "@%p2 st.shared.u32 [%s+16], 7;\n";
    let race = "RACE: writes what a store wrote, no fence.proxy.async between";
    vec![
        of_init("by the thread itself", format!("{first}@%first {initialised}")).gives(value),
        of_init("by all", format!("{first}{initialised}")).gives(value),
        of_init("that of the proxies is one", format!("{first}{proxy}")).gives(value),
        of_init("none", first.into()).says(unseen),
        of_init("before it", format!("{initialised}{first}")).says(unseen),
        of_init("by another", format!("{first}{second}@%p2 {initialised}")).says(unseen),
        stored("by whom has stored", format!("{store}{proxy}bar.sync 0;\n")).gives(value),
        stored("by whom copies", format!("{store}bar.sync 0;\n@%first {proxy}")).gives(value),
        stored("none", format!("{store}bar.sync 0;\n")).says(race),
        stored("before the store", format!("{proxy}{store}bar.sync 0;\n")).says(race),
        stored("by a third", format!("{store}bar.sync 0;\n@!%first {proxy}")).says(race),
    ]
}

fn traps() -> Vec<Case> {
    let case = |what: &str, body: &str| Case::new("trap", 32, what, body);
    vec![
        case("of one lane", "@%first trap;").says("trap"),
        case("of none", "setp.ne.s32 %p1, 0, 0;\n@%p1 trap;\nmov.u32 %w1, 1;").gives(|_| [1, 0]),
    ]
}
