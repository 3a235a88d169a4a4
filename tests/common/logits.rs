//! Logits of which some are not finite, for every head: `tests/parity/head.rs`, `tests/kernels/ops/head.rs`.

const INF: f32 = f32::INFINITY;
const NAN: f32 = f32::NAN;

/// Logits of four classes, and the class that `ddu::ops::Head` says; the entropy of each is NaN.
pub const NOT_FINITE: [([f32; 4], u8); 12] = [
    ([NAN, 1.0, 3.0, 2.0], 2),
    ([1.0, NAN, 3.0, 2.0], 2),
    ([3.0, 1.0, 2.0, NAN], 0),
    ([1.0, INF, 3.0, 2.0], 1),
    ([INF, 1.0, 3.0, INF], 0),
    ([NAN, 1.0, INF, INF], 2),
    ([-INF, 1.0, 3.0, 2.0], 2),
    ([3.0, 1.0, -INF, 2.0], 0),
    ([NAN, -INF, 1.0, 0.0], 2),
    ([NAN; 4], 0),
    ([-INF; 4], 0),
    ([NAN, -INF, -INF, NAN], 0),
];

/// The logit of the only class, and whether it is certain: entropy 0, else NaN.
pub const ALONE: [(f32, bool); 4] = [(2.0, true), (INF, false), (-INF, false), (NAN, false)];
