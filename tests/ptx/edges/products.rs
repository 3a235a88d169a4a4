//! Products of a warp and of a warpgroup, and the registers that warpgroups share. How sums round is not the ISA's: they are
//! exact and cut off here, as matrices.cpp says.

use half::f16;

use super::{Case, NAN};

pub fn cases() -> Vec<Case> {
    let mut cases = of_a_warp();
    cases.extend(shapes());
    cases.extend(descriptors());
    cases.extend(order());
    cases.extend(registers());
    cases
}

/// d = a b + c with a [rows][16], b [16][columns], c [rows][columns].
struct Product {
    a: Vec<[f16; 16]>,
    b: Vec<[f16; 16]>, // by column
    c: Vec<Vec<f32>>,
    d: Vec<Vec<u32>>,
}

/// Small whole numbers: any sum of their products is exact.
fn number(i: usize) -> f32 {
    (i * i * 5 + i * 7) as f32 % 23.0 - 11.0
}

impl Product {
    /// All elements differ from their neighbours.
    fn counted(rows: usize, columns: usize) -> Self {
        let matrix = |n: usize, start: usize| -> Vec<[f16; 16]> {
            (0..n)
                .map(|i| std::array::from_fn(|k| f16::from_f32(number(start + 16 * i + k))))
                .collect()
        };
        let (a, b) = (matrix(rows, 0), matrix(columns, 5000));
        let c: Vec<Vec<f32>> = (0..rows)
            .map(|i| (0..columns).map(|j| number(9000 + i * columns + j)).collect())
            .collect();
        let dot = |i: usize, j: usize| -> f32 {
            (0..16).map(|k| f32::from(a[i][k]) * f32::from(b[j][k])).sum()
        };
        let d = (0..rows).map(|i| (0..columns).map(|j| (dot(i, j) + c[i][j]).to_bits()).collect());
        Product { d: d.collect(), a, b, c }
    }

    /// Every row, column and element the same: the sum of these products (fp16 bits) and `c`.
    fn same(rows: usize, columns: usize, terms: Terms, c: u32, d: u32) -> Self {
        let term = |k: usize| terms.get(k).copied().unwrap_or_default();
        let a = [std::array::from_fn(|k| f16::from_bits(term(k).0))].repeat(rows);
        let b = [std::array::from_fn(|k| f16::from_bits(term(k).1))].repeat(columns);
        Product {
            a,
            b,
            c: vec![vec![f32::from_bits(c); columns]; rows],
            d: vec![vec![d; columns]; rows],
        }
    }

    fn pair(low: f16, high: f16) -> u32 {
        u32::from(high.to_bits()) << 16 | u32::from(low.to_bits())
    }

    /// A thread's four registers of `a` (PTX ISA, m16n8k16 and m64nNk16: element i of 8).
    fn registers_of_a(&self, thread: usize) -> [u32; 4] {
        let element = |i: usize| {
            let row = thread / 32 * 16 + thread % 32 / 4 + if i % 4 >= 2 { 8 } else { 0 };
            self.a[row][thread % 4 * 2 + i % 2 + if i >= 4 { 8 } else { 0 }]
        };
        std::array::from_fn(|r| Self::pair(element(2 * r), element(2 * r + 1)))
    }

    /// A thread's elements of c and d: row and column.
    fn places(&self, thread: usize) -> impl Iterator<Item = (usize, usize)> {
        (0..self.b.len() / 2).map(move |i| {
            let row = thread / 32 * 16 + thread % 32 / 4 + 8 * (i / 2 % 2);
            (row, i / 4 * 8 + thread % 4 * 2 + i % 2)
        })
    }

    fn result(&self, threads: usize) -> Vec<u32> {
        (0..threads).flat_map(|t| self.places(t).map(|(i, j)| self.d[i][j])).collect()
    }
}

const INFINITY: u16 = 0x7c00;
const MINUS: u16 = 0x8000;
const ONE: u16 = 0x3c00;
/// 65504 = 2047 * 2^5
const LARGEST: u16 = 0x7bff;
/// 2^-24
const LEAST: u16 = 0x0001;

/// Factors in fp16.
type Terms = &'static [(u16, u16)];

/// What is summed, c and d.
const SUMS: [(&str, Terms, u32, u32); 16] = [
    ("sixteen ones and a half", &[(ONE, ONE); 16], 0x3f00_0000, 0x4184_0000),
    ("the last of sixteen", &LAST, 0, 0x3f80_0000),
    ("a subnormal", &[(LEAST, ONE)], 0, 0x3380_0000),
    ("subnormals, 2^-48", &[(LEAST, LEAST)], 0, 0x2780_0000),
    ("the least of f32", &[], 0x0000_0001, 0x0000_0001),
    ("sixteen of the largest", &[(LARGEST, LARGEST); 16], 0, 0x517f_c004),
    ("the largest of f32 and they", &[(LARGEST, LARGEST); 16], 0x7f7f_ffff, 0x7f7f_ffff),
    (
        "the largest, and its negative",
        &[(LARGEST, LARGEST), (LARGEST, LARGEST | MINUS)],
        ONES,
        ONES,
    ),
    ("1 - 2^-25, cut off", &[(0x0c00, MINUS | 0x0800)], ONES, 0x3f7f_ffff),
    ("-1 + 2^-25, cut off", &[(0x0c00, 0x0800)], 0x8000_0000 | ONES, 0xbf7f_ffff),
    ("an infinity", &[(INFINITY, ONE)], ONES, 0x7f80_0000),
    ("one below zero", &[(INFINITY, MINUS | ONE)], ONES, 0xff80_0000),
    ("both", &[(INFINITY, ONE), (INFINITY, MINUS | ONE)], ONES, NAN),
    ("infinity times zero", &[(INFINITY, 0)], ONES, NAN),
    ("no number", &[(0x7e00, 0)], ONES, NAN),
    ("infinities of products and c", &[(INFINITY, ONE)], 0xff80_0000, NAN),
];
const ONES: u32 = 0x3f80_0000;
const LAST: [(u16, u16); 16] = {
    let mut terms = [(0, 0); 16];
    terms[15] = (ONE, ONE);
    terms
};

/// mma.m16n8k16: each thread loads four registers of a, two of b (element i of 4: row 2 (lane % 4) + i % 2 + 8 (i / 2), column
/// lane / 4) and four of c.
fn of_a_warp() -> Vec<Case> {
    const MMA: &str = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 \
        {%w1, %w2, %w3, %w4}, {%w10, %w11, %w12, %w13}, {%w14, %w15}, {%w1, %w2, %w3, %w4};";
    let loads = "mul.wide.u32 %d1, %t, 48;\nadd.s64 %d1, %d1, %in;\n\
        ld.global.v4.u32 {%w10, %w11, %w12, %w13}, [%d1];\nld.global.v2.u32 {%w14, %w15}, [%d1+16];\n\
        ld.global.v4.u32 {%w1, %w2, %w3, %w4}, [%d1+32];\n";
    let case = |what: &str, product: &Product, body: String| {
        let mut input = Vec::new();
        for t in 0..32 {
            let b = |i: usize| product.b[t / 4][t % 4 * 2 + i % 2 + i / 2 * 8];
            let pairs = [Product::pair(b(0), b(1)), Product::pair(b(2), b(3)), 0, 0];
            let c: Vec<u32> = product.places(t).map(|(i, j)| product.c[i][j].to_bits()).collect();
            let words = product.registers_of_a(t).into_iter().chain(pairs).chain(c);
            input.extend(words.flat_map(u32::to_le_bytes));
        }
        let case = Case { input, ..Case::new("mma", 32, what, &body) };
        Case { words: 4, expected: super::Words(product.result(32)), ..case }
    };
    let counted = Product::counted(16, 8);
    let mut cases = vec![case("whole numbers", &counted, format!("{loads}{MMA}"))];
    for (what, terms, c, d) in SUMS {
        cases.push(case(what, &Product::same(16, 8, terms, c, d), format!("{loads}{MMA}")));
    }
    // Sources are read before the first destination is written.
    let over = MMA.replace("{%w1, %w2, %w3, %w4}, {%w10", "{%w10, %w11, %w12, %w13}, {%w10");
    let moves: String = (1..5).map(|i| format!("mov.b32 %w{i}, %w{};\n", i + 9)).collect();
    cases.push(case("over its own a", &counted, format!("{loads}{over}\n{moves}")));
    let half = format!("{loads}@%low {MMA}");
    cases.push(case("half a warp", &counted, half).says("not executed by all lanes"));
    let nothing = format!("{loads}{}", MMA.replace("%w15", "%w70"));
    cases.push(case("half of b undefined", &counted, nothing).says("stores an undefined value"));
    let three = format!("{loads}{}", MMA.replace("%w12, ", ""));
    cases.push(case("three registers of a", &counted, three).says("fragments of mma"));
    cases
}

/// A product of a warpgroup: where b lies in shared memory, and which part of it the descriptor names.
#[derive(Clone, Copy)]
struct Layout {
    columns: usize,
    /// The first of 16 rows of 64.
    k: usize,
    /// Bytes from the arena's start; from one group of eight columns to the next.
    at: usize,
    stride: usize,
}

const EIGHT: Layout = Layout { columns: 8, k: 0, at: 0, stride: 1024 };

const FENCE: &str = "wgmma.fence.sync.aligned;\n";
const COMMIT: &str = "wgmma.commit_group.sync.aligned;\n";
const WAIT: &str = "wgmma.wait_group.sync.aligned 0;\n";

impl Layout {
    /// b by loads and stores to shared memory, a in %w60 .., c in %w1 .. , the descriptor in %d3; true in %p1.
    fn before(&self) -> String {
        let Layout { columns, k, at, stride } = *self;
        let mut text = format!(
            "mul.wide.u32 %d1, %t, 8;\nadd.s64 %d1, %d1, %in;\nshl.b32 %w70, %t, 3;\nadd.s32 %w70, %w70, %s;\n\
             add.s32 %w70, %w70, {at};\n"
        );
        for group in 0..columns / 8 {
            text += &format!("ld.global.v2.u32 {{%w71, %w72}}, [%d1+{}];\n", 1024 * group);
            text += &format!("st.shared.v2.u32 [%w70+{}], {{%w71, %w72}};\n", stride * group);
        }
        text += "fence.proxy.async.shared::cta;\nbar.sync 0;\n";
        text += &format!("mul.wide.u32 %d2, %t, {};\nadd.s64 %d2, %d2, %in;\n", 16 + 2 * columns);
        for r in 0..4 {
            text += &format!("ld.global.u32 %w{}, [%d2+{}];\n", 60 + r, 128 * columns + 4 * r);
        }
        for i in 0..columns / 2 {
            text += &format!("ld.global.u32 %w{}, [%d2+{}];\n", 1 + i, 128 * columns + 16 + 4 * i);
        }
        // Address / 16, stride / 16, the 128-byte swizzle.
        let rest = (stride as u64 / 16) << 32 | 1 << 62;
        text + &format!(
            "add.s32 %w73, %s, {};\ncvt.u64.u32 %d3, %w73;\nshr.u64 %d3, %d3, 4;\nor.b64 %d3, %d3, {rest};\n\
             setp.eq.s32 %p1, 0, 0;\n",
            at + 2 * k
        )
    }

    fn product(&self) -> String {
        let d: Vec<String> = (1..=self.columns / 2).map(|i| format!("%w{i}")).collect();
        format!(
            "wgmma.mma_async.sync.aligned.m64n{}k16.f32.f16.f16 {{{}}}, {{%w60, %w61, %w62, %w63}}, %d3, %p1, 1, 1, 0;\n",
            self.columns,
            d.join(", ")
        )
    }

    /// Element k of column n lies in chunk (k / 8) ^ (n % 8) of the column's 128 bytes. What `product` leaves is filled up.
    fn input(&self, product: &Product) -> Vec<u8> {
        let mut tile = vec![f16::from_f32(3.0); self.columns * 64];
        for n in 0..self.columns {
            for k in 0..16 {
                let at = self.k + k;
                tile[n * 64 + ((at / 8) ^ (n % 8)) * 8 + at % 8] = product.b[n][k];
            }
        }
        let mut input: Vec<u8> = tile.into_iter().flat_map(f16::to_le_bytes).collect();
        for t in 0..128 {
            let c = product.places(t).map(|(i, j)| product.c[i][j].to_bits());
            input.extend(product.registers_of_a(t).into_iter().chain(c).flat_map(u32::to_le_bytes));
        }
        input
    }

    fn case(
        &self,
        of: &'static str,
        what: impl Into<String>,
        product: &Product,
        body: &str,
    ) -> Case {
        let shared = self.at + self.columns / 8 * self.stride;
        let case = Case::new(of, 128, what, &(self.before() + body));
        let expected = super::Words(product.result(128));
        Case { shared, words: self.columns / 2, input: self.input(product), expected, ..case }
    }

    fn sound(&self) -> String {
        format!("{FENCE}{}{COMMIT}{WAIT}", self.product())
    }
}

/// Every N up to 64, each part of a row of b, and the sums.
fn shapes() -> Vec<Case> {
    let mut cases = Vec::new();
    for columns in (8..=64).step_by(8) {
        let layout = Layout { columns, k: columns / 8 % 4 * 16, ..EIGHT };
        let product = Product::counted(64, columns);
        let what = format!("whole numbers, n = {columns}");
        cases.push(layout.case("wgmma", what, &product, &layout.sound()));
    }
    for (what, terms, c, d) in SUMS {
        let product = Product::same(64, 8, terms, c, d);
        cases.push(EIGHT.case("wgmma", what, &product, &EIGHT.sound()));
    }
    // Without scale-d, whatever the accumulator holds.
    let fresh = EIGHT.sound().replacen(FENCE, &format!("setp.ne.s32 %p1, 0, 0;\n{FENCE}"), 1);
    let product = Product::same(64, 8, &[(ONE, ONE)], NAN, ONES);
    cases.push(EIGHT.case("wgmma", "no number before, scale-d 0", &product, &fresh));
    let counted = Product::counted(64, 8);
    let refused = |what: &str, from: &str, to: &str, words: &'static str| {
        let body = EIGHT.sound();
        assert_eq!(body.matches(from).count(), 1, "{what}");
        EIGHT.case("wgmma", what, &counted, &body.replacen(from, to, 1)).says(words)
    };
    cases.extend([
        refused("n = 12", "m64n8k16", "m64n12k16", ": wgmma.mma_async"),
        refused("n = 136", "m64n8k16", "m64n136k16", ": wgmma.mma_async"),
        refused("another k", "m64n8k16", "m64n8k8", ": wgmma.mma_async"),
        refused("b negated", "1, 1, 0;", "1, -1, 0;", "scales and transposition"),
        refused("b transposed", "1, 1, 0;", "1, 1, 1;", "scales and transposition"),
    ]);
    cases
}

/// Start, stride and swizzle; the leading dimension's offset means nothing here.
fn descriptors() -> Vec<Case> {
    let counted = Product::counted(64, 16);
    let sixteen = Layout { columns: 16, ..EIGHT };
    let case = |what: &str, layout: Layout, change: &str| {
        let body = format!("{change}{}", layout.sound());
        layout.case("wgmma", what, &counted, &body)
    };
    let bits = |field: u64| format!("or.b64 %d3, %d3, {field};\n");
    let flipped = |field: u64| format!("xor.b64 %d3, %d3, {field};\n");
    // 227 KiB, the most that a block has.
    let most = 227 * 1024 - 2 * 1024;
    vec![
        case("at the end of the largest arena", Layout { at: most, k: 48, ..sixteen }, ""),
        case("a stride of two periods", Layout { stride: 2048, ..sixteen }, ""),
        case("a leading dimension", sixteen, &bits(0x3fff << 16)),
        case("no swizzle", sixteen, &flipped(1 << 62)).says("a swizzle other than of 128 bytes"),
        case("of 32 bytes", sixteen, &flipped(2 << 62)).says("a swizzle other than of 128 bytes"),
        case("a base offset", sixteen, &bits(1 << 49)).says("a base offset"),
        case("half a period", sixteen, &flipped(((1024 ^ 512) / 16) << 32))
            .says("a stride that is no multiple of the swizzle's period"),
        case("from the second row", sixteen, &flipped(128 / 16))
            .says("the matrix does not start with the swizzle's period"),
        case("beyond the arena", sixteen, &flipped(((1024 ^ 2048) / 16) << 32))
            .says("shared address 2048 of 2048 bytes"),
        case("that differs", sixteen, "cvt.u64.u32 %d4, %lane;\nadd.s64 %d3, %d3, %d4;\n")
            .says("a descriptor that differs between lanes"),
        case("scale-d that differs", sixteen, "setp.lt.u32 %p1, %lane, 16;\n")
            .says("scale-d differs between lanes"),
        case(
            "of one warp alone",
            sixteen,
            "setp.eq.s32 %p2, %warp, 0;\n@%p2 add.s64 %d3, %d3, 2;\n",
        )
        .says("the warps of the group issue other products"),
    ]
}

/// What fences, groups and waits say of registers and shared memory.
fn order() -> Vec<Case> {
    let counted = Product::counted(64, 8);
    let mut twice = Product::counted(64, 8);
    for (row, c) in twice.d.iter_mut().zip(&twice.c) {
        for (d, c) in row.iter_mut().zip(c) {
            *d = (2.0 * f32::from_bits(*d) - c).to_bits();
        }
    }
    let product = EIGHT.product();
    let case = |of, what: &str, body: String| EIGHT.case(of, what, &counted, &body);
    let fence = |what: &str, body: String| case("wgmma.fence.sync.aligned", what, body);
    let commit = |what: &str, body: String| case("wgmma.commit_group.sync.aligned", what, body);
    let wait = |what: &str, body: String| case("wgmma.wait_group.sync.aligned", what, body);
    let one = "wgmma.wait_group.sync.aligned 1;\n";
    let rest = format!("{product}{COMMIT}{WAIT}");
    let two = EIGHT.case(
        "wgmma",
        "two on one accumulator, no fence between",
        &twice,
        &format!("{FENCE}{product}{rest}"),
    );
    // On accumulators of their own; the second adds to zeros.
    let other = product.replace("%w1, %w2, %w3, %w4", "%w41, %w42, %w43, %w44");
    let zeros: String = (41..45).map(|i| format!("mov.b32 %w{i}, 0;\n")).collect();
    let both = format!("{zeros}{FENCE}{product}{COMMIT}{other}{COMMIT}{one}");
    let written = "an accumulator was written since the last wgmma.fence";
    vec![
        two,
        fence("none", rest.clone()).says("wgmma.fence"),
        fence("after the product", format!("{product}{FENCE}{COMMIT}{WAIT}")).says("wgmma.fence"),
        fence("before the accumulator is written", format!("{FENCE}mov.b32 %w2, %w2;\n{rest}"))
            .says(written),
        fence("before a is written", format!("{FENCE}mov.b32 %w61, %w61;\n{rest}"))
            .says("an a operand was written since the last wgmma.fence"),
        fence("after the wait, and read between", format!("{FENCE}{rest}mov.b32 %w50, %w1;\n")),
        fence("of half a warp", format!("@%low {FENCE}{rest}")).says("not executed by all lanes"),
        commit("an empty group counts", format!("{FENCE}{product}{COMMIT}{COMMIT}{one}")),
        commit("none", format!("{FENCE}{product}{WAIT}")).says("undefined"),
        commit("before the product", format!("{FENCE}{COMMIT}{product}{WAIT}")).says("undefined"),
        commit("of half a warp", format!("{FENCE}{product}@%low {COMMIT}{WAIT}"))
            .says("not executed by all lanes"),
        wait("the first of two groups", format!("{both}{WAIT}")),
        wait("the second of two, too early", format!("{both}mov.b32 %w1, %w41;\n{WAIT}"))
            .says("undefined"),
        wait("fewer than there are", format!("{FENCE}{product}{COMMIT}{one}")).says("undefined"),
        wait("of nothing", format!("{WAIT}{FENCE}{rest}")),
        wait("of half a warp", format!("{FENCE}{product}{COMMIT}@%low {WAIT}"))
            .says("not executed by all lanes"),
        wait("none, a is written", format!("{FENCE}{product}{COMMIT}mov.b32 %w61, 0;\n{WAIT}"))
            .says("writes a register of a wgmma.mma_async that is not waited for"),
        wait(
            "none, b is written",
            format!("{FENCE}{product}{COMMIT}st.shared.u32 [%w70], 0;\n{WAIT}"),
        )
        .says("st writes shared memory that a wgmma.mma_async or a tensor store under way reads"),
        wait("none, to the end", format!("{FENCE}{product}{COMMIT}bra.uni $end;\n"))
            .says("wgmma.mma_async under way"),
    ]
}

/// A warpgroup's count of registers: 24 to 256 by eights. Of 65536 four have 128 a thread at first.
fn registers() -> Vec<Case> {
    let case = |what: &str, low: u32, high: u32| {
        let body = format!(
            "setp.lt.u32 %p1, %t, 128;\n@%p1 bra $take;\nsetmaxnreg.dec.sync.aligned.u32 {low};\nbra.uni $over;\n\
             $take:\nsetmaxnreg.inc.sync.aligned.u32 {high};\n$over:\nmov.u32 %w1, 1;"
        );
        Case::new("setmaxnreg", 512, what, &body)
    };
    let all = |what: &str, text: &str| Case::new("setmaxnreg", 512, what, text);
    vec![
        case("the least and most", 24, 256).gives(|_| [1, 0]),
        case("as many as there are", 128, 128).gives(|_| [1, 0]),
        case("all that is given", 88, 248).gives(|_| [1, 0]),
        case("eight more than is given", 88, 256).says("deadlock"),
        case("too few", 16, 128).says("a count of registers"),
        case("too many", 24, 264).says("a count of registers"),
        case("no multiple of eight", 24, 252).says("a count of registers"),
        case("more by dec", 136, 128).says("the wrong way"),
        case("fewer by inc", 24, 120).says("the wrong way"),
        all("nobody gives", "setmaxnreg.inc.sync.aligned.u32 136;").says("deadlock"),
        all("half a warp", "@%low setmaxnreg.dec.sync.aligned.u32 24;")
            .says("not executed by all lanes"),
        all(
            "one warp alone",
            "setp.eq.s32 %p1, %warp, 0;\n@%p1 setmaxnreg.dec.sync.aligned.u32 24;",
        )
        .says("the warps of a warpgroup differ in setmaxnreg"),
    ]
}
