//! Clusters: their barrier, addresses of another block's shared memory, and loads from it.

use super::{Case, word};

const ARRIVE: &str = "barrier.cluster.arrive.release.aligned;\n";
const WAIT: &str = "barrier.cluster.wait.acquire.aligned;\n";
/// Block r has 10 r + 7 in its first word; %w4 is the rank of whom it reads.
const STORE: &str = "mad.lo.s32 %w3, %r, 10, 7;\n@%first st.shared.u32 [%s], %w3;\n";
const LOAD: &str = "mapa.shared::cluster.u32 %w5, %s, %w4;\nld.shared::cluster.u32 %w1, [%w5];\n";

fn next(blocks: usize) -> String {
    format!("add.s32 %w4, %r, 1;\nsetp.eq.s32 %p1, %w4, {blocks};\nselp.b32 %w4, 0, %w4, %p1;\n")
}

fn case(of: &'static str, blocks: usize, what: &str, body: String) -> Case {
    Case { blocks, ..Case::new(of, 64, what, &body) }
}

pub fn cases() -> Vec<Case> {
    [addresses(), loads(), arrivals(), waits()].into_iter().flatten().collect()
}

fn sync() -> String {
    format!("{ARRIVE}{WAIT}")
}

/// A rank is below the number of blocks; the address is one of the block's own.
fn addresses() -> Vec<Case> {
    let of = "mapa";
    let exchange = |rank: String| STORE.to_owned() + &sync() + &rank + LOAD + &sync();
    let fixed = |rank: usize| format!("mov.u32 %w4, {rank};\n");
    let mut cases: Vec<Case> = [1, 2, 3, 8]
        .into_iter()
        .map(|blocks: usize| {
            let n = blocks as u32;
            let body = exchange(next(blocks));
            case(of, blocks, "of the next block", body).gives(|t| [(t / 64 + 1) % n * 10 + 7, 0])
        })
        .collect();
    cases.extend([
        case(of, 4, "of its own", exchange("mov.u32 %w4, %r;\n".into()))
            .gives(|t| [t / 64 * 10 + 7, 0]),
        case(of, 4, "of one block for all", exchange(fixed(3))).gives(|_| [37, 0]),
        case(of, 4, "of no block", exchange(fixed(4))).says("no block 4 in the cluster"),
        case(of, 1, "without a cluster", exchange(fixed(1))).says("no block 1 in the cluster"),
        case(of, 2, "of an address that is one already", {
            exchange(next(2)) + "mapa.shared::cluster.u32 %w6, %w5, 0;\n"
        })
        .says("mapa of what is no shared address of the block's own"),
    ]);
    cases
}

fn loads() -> Vec<Case> {
    let of = "ld.shared::cluster";
    let two = |what: &str, body: String| case(of, 2, what, next(2) + &body);
    let mapped = "mapa.shared::cluster.u32 %w5, %s, %w4;\n";
    // Each thread its 16 bytes of the input, the block's rank added to the last word.
    let stored = "ld.global.v4.u32 {%w10, %w11, %w12, %w13}, [%a];\nadd.s32 %w13, %w13, %r;\n\
                  st.shared.v4.u32 [%sa], {%w10, %w11, %w12, %w13};\n";
    let own = "mapa.shared::cluster.u32 %w5, %sa, %w4;\n";
    let wide = format!(
        "{stored}{}{own}ld.shared::cluster.v4.u32 {{%w10, %w11, %w1, %w2}}, [%w5];\n{}",
        sync(),
        sync()
    );
    let at = |offset: usize| {
        let load = format!("ld.shared::cluster.u32 %w1, [%w5+{offset}];\n");
        format!("{stored}{}{mapped}{load}{}", sync(), sync())
    };
    let race = "RACE: reads what another thread wrote, unordered";
    vec![
        two("sixteen bytes", wide).gives(|t| {
            let at = 4 * (t as usize % 64);
            [word(at + 2), word(at + 3) + 1 - t / 64]
        }),
        two("an offset", at(20)).gives(|_| [word(5), 0]),
        two("the last word", at(1020)).gives(|t| [word(255) + 1 - t / 64, 0]),
        two("beyond the last", at(1024)).says("shared address 1024 of 1024 bytes"),
        two("two bytes further", at(2)).says("misaligned shared address"),
        two("an address of its own", {
            format!("{STORE}{}ld.shared::cluster.u32 %w1, [%s];\n", sync())
        })
        .gives(|t| [t / 64 * 10 + 7, 0]),
        two("what nobody has written", format!("{}{LOAD}{}", sync(), sync()))
            .says("stores an undefined value"),
        two("what a copy is under way to", {
            let copy = "@%first cp.async.cg.shared.global [%s], [%in], 16;\n";
            format!("{copy}cp.async.commit_group;\n{}{LOAD}{}", sync(), sync())
        })
        .says("an asynchronous copy is under way to"),
        two("no barrier before", format!("{STORE}{ARRIVE}{LOAD}{WAIT}")).says(race),
        two("a barrier of the block", format!("{STORE}bar.sync 0;\n{LOAD}{}", sync())).says(race),
        two("none before the next store", {
            format!("{STORE}{}{LOAD}@%first st.shared.u32 [%s], 1;\n{}", sync(), sync())
        })
        .says("RACE: writes what another thread read, unordered"),
        two("of a block that has ended", format!("{STORE}{}{LOAD}", sync()))
            .says("reads the shared memory of a block that has ended"),
    ]
}

/// All warps of all blocks that have not ended.
fn arrivals() -> Vec<Case> {
    let of = "barrier.cluster.arrive";
    let first_warp = "setp.eq.s32 %p1, %warp, 0;\n";
    let again = |i: usize| {
        let store = format!("mad.lo.s32 %w3, %r, 10, {i};\n@%first st.shared.u32 [%s], %w3;\n");
        format!("{store}{}{LOAD}{}", sync(), sync())
    };
    vec![
        case(of, 3, "three exchanges", next(3) + &again(1) + &again(2) + &again(3))
            .gives(|t| [(t / 64 + 1) % 3 * 10 + 3, 0]),
        case(of, 2, "a block that has ended counts", {
            format!("setp.eq.s32 %p1, %r, 1;\n@%p1 bra $end;\n{}mov.u32 %w1, 1;\n", sync())
        })
        .gives(|t| [1 - t / 64, 0]),
        case(of, 2, "a warp that has ended counts", {
            format!("{first_warp}@!%p1 bra $end;\n{}mov.u32 %w1, 1;\n", sync())
        })
        .gives(|t| [u32::from(t % 64 < 32), 0]),
        case(of, 2, "one warp waits elsewhere", {
            format!("{first_warp}@!%p1 bra $other;\n{}$other:\nbar.sync 0;\n", sync())
        })
        .says("deadlock"),
        case(of, 2, "twice", format!("{ARRIVE}{ARRIVE}{WAIT}"))
            .says("arrives at the cluster's barrier again"),
        case(of, 2, "half a warp", format!("@%low bra $end;\n{}", sync()))
            .says("a barrier in divergent code"),
        case(of, 2, "no wait for it", ARRIVE.into()).says("ends between its arrival and its wait"),
    ]
}

fn waits() -> Vec<Case> {
    let of = "barrier.cluster.wait";
    let between = "mov.u32 %w1, 5;\n";
    vec![
        case(of, 2, "something between", format!("{ARRIVE}{between}{WAIT}mov.u32 %w2, 6;\n"))
            .gives(|_| [5, 6]),
        case(of, 1, "of a block alone", sync() + between).gives(|_| [5, 0]),
        case(of, 2, "without an arrival", WAIT.into()).says("without having arrived"),
        case(of, 2, "a second", format!("{}{WAIT}", sync())).says("without having arrived"),
        case(of, 2, "half a warp", format!("{ARRIVE}@%low bra $end;\n{WAIT}"))
            .says("a barrier in divergent code"),
    ]
}
