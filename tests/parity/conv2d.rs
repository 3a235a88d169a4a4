//! Convolution: dense (implicit GEMM and Winograd) and depthwise.
//!
//! Tolerance of a plain f32 sum: (n + 3) u sum |x w|, the worst case of n products and sums and an
//! epilogue of three operations (Higham, Accuracy and Stability, 3.1). Winograd's transforms amplify
//! rounding; see [`WINOGRAD`].

use ddu::cpu::conv::Direct;
use ddu::cpu::depthwise::Depthwise;
use ddu::cpu::winograd::Winograd;
use ddu::ops::{Conv2d, Size};
use ddu::plan::ConvWeights;

use crate::common::{Rng, Tensor, U};

/// Ratio of Winograd's rms rounding error to u sqrt(C) times the rms of the result, for
/// uncorrelated inputs. With mean squared row norms of B^T 28.7, of G 0.217 and of A^T 45, squared
/// for two dimensions, a point's product has variance 824 * 0.047 C, its rounding passes through
/// A^T with gain 2025, and the result itself has variance 9 C: sqrt(824 * 0.047 * 2025 / 9) = 93.
pub const WINOGRAD: f64 = 93.0;

pub struct Case {
    pub conv: Conv2d,
    pub batch: usize,
    pub input: Size,
    pub residual: bool,
    pub relu: bool,
}

pub fn case(conv: Conv2d, batch: usize, h: usize, w: usize, residual: bool, relu: bool) -> Case {
    Case { conv, batch, input: Size::new(h, w), residual, relu }
}

pub fn dense(i: usize, o: usize, k: usize) -> Conv2d {
    Conv2d::dense(i, o, k)
}

/// Shapes of the networks with odd sizes, and shapes that leave a tail everywhere.
pub fn dense_cases() -> Vec<Case> {
    vec![
        case(dense(3, 64, 7).stride(2), 1, 97, 131, false, true),
        case(dense(3, 16, 7).stride(2), 2, 9, 6, false, true),
        case(dense(5, 7, 3), 1, 4, 5, true, true),
        case(dense(16, 16, 3), 2, 11, 13, true, true),
        case(dense(64, 64, 3), 1, 25, 33, true, true),
        case(dense(48, 80, 3), 1, 5, 70, false, false),
        case(dense(32, 16, 3).dilation(2), 2, 23, 30, true, true),
        case(dense(16, 32, 3).dilation(36), 1, 23, 30, false, true),
        case(dense(24, 9, 3).dilation(12), 1, 7, 9, false, true),
        case(dense(64, 128, 3).stride(2), 1, 25, 31, false, true),
        case(dense(130, 24, 3).stride(2).dilation(2), 1, 18, 11, false, true),
        case(dense(256, 9, 1), 1, 19, 7, false, false),
        case(dense(304, 100, 1), 2, 5, 9, true, true),
        case(dense(8, 8, 1).stride(2), 1, 9, 7, false, false),
        case(dense(1, 1, 1), 1, 1, 1, false, false),
        // Deeper than one pass over a panel.
        case(dense(512, 72, 3), 1, 6, 5, true, true),
        case(dense(1300, 17, 1), 1, 3, 4, false, true),
        // A kernel wider than the image, and no padding.
        case(Conv2d { padding: 0, ..dense(4, 6, 3) }, 1, 3, 8, false, true),
        case(Conv2d { padding: 3, ..dense(6, 4, 5) }, 1, 2, 3, false, false),
    ]
}

pub fn depthwise_cases() -> Vec<Case> {
    let depthwise = |c| Conv2d::depthwise(c, 3);
    vec![
        case(depthwise(304), 1, 13, 17, false, false),
        case(depthwise(20), 2, 5, 4, false, true),
        case(depthwise(512).dilation(18), 1, 23, 30, false, false),
        case(depthwise(40).dilation(36), 1, 23, 30, false, true),
        case(depthwise(7).stride(2), 1, 9, 8, false, true),
        case(Conv2d::depthwise(12, 5), 1, 6, 7, false, false),
        case(depthwise(1), 1, 1, 1, false, false),
    ]
}

pub struct Reference {
    /// Before the ReLU.
    pub value: f64,
    /// sum |x w| + |bias| + |residual|
    pub magnitude: f64,
    pub terms: f64,
}

/// The f64 loop.
pub fn reference(
    conv: &Conv2d,
    weights: &ConvWeights,
    x: &Tensor,
    residual: Option<&Tensor>,
    (image, y, q, k): (usize, usize, usize, usize),
) -> Reference {
    let [_, inner, kernel, _] = conv.weight_shape();
    let bias = f64::from(weights.bias[k]);
    let extra = residual.map_or(0.0, |r| r.at(image, y, q, k));
    let (mut value, mut magnitude) = (bias + extra, bias.abs() + extra.abs());
    for r in 0..kernel {
        for s in 0..kernel {
            let at = |i: usize, tap: usize| {
                (i * conv.stride + tap * conv.dilation).checked_sub(conv.padding)
            };
            let (Some(row), Some(column)) = (at(y, r), at(q, s)) else { continue };
            if row >= x.shape.size.h || column >= x.shape.size.w {
                continue;
            }
            for c in 0..inner {
                let channel = if conv.depthwise { k } else { c };
                let w = weights.weight[((k * kernel + r) * kernel + s) * inner + c];
                let term = x.at(image, row, column, channel) * f64::from(w);
                value += term;
                magnitude += term.abs();
            }
        }
    }
    Reference { value, magnitude, terms: (inner * kernel * kernel) as f64 }
}

pub struct Run {
    pub weights: ConvWeights,
    pub x: Tensor,
    pub residual: Option<Tensor>,
    pub y: Tensor,
}

pub fn prepare(case: &Case, seed: u64) -> Run {
    let mut rng = Rng(seed);
    let Case { conv, batch, input, residual, .. } = *case;
    let weights = ConvWeights {
        name: "test".into(),
        conv,
        weight: rng.vector(conv.weight_shape().iter().product()),
        bias: rng.vector(conv.out_channels),
    };
    let size = conv.output_size(input).unwrap();
    let x = Tensor::random(&mut rng, batch, input, conv.in_channels, 3);
    let residual = residual.then(|| Tensor::random(&mut rng, batch, size, conv.out_channels, 2));
    Run { weights, x, residual, y: Tensor::poisoned(batch, size, conv.out_channels, 5) }
}

/// Of what was written, all elements together.
pub fn rms_error(case: &Case, run: &Run) -> f64 {
    let (mut squares, mut count) = (0.0, 0.0);
    for (image, row, column, k) in run.y.positions() {
        let at = (image, row, column, k);
        let r = reference(&case.conv, &run.weights, &run.x, run.residual.as_ref(), at);
        let value = if case.relu { r.value.max(0.0) } else { r.value };
        squares += (run.y.at(image, row, column, k) - value).powi(2);
        count += 1.0;
    }
    f64::sqrt(squares / count)
}

fn check_plain(case: &Case, run: &Run) {
    let Run { weights, x, residual, y } = run;
    y.check(&format!("{:?} of {}", case.conv, case.input), |image, row, column, k| {
        let at = (image, row, column, k);
        let r = reference(&case.conv, weights, x, residual.as_ref(), at);
        let value = if case.relu { r.value.max(0.0) } else { r.value };
        (value, (r.terms + 3.0) * U * r.magnitude)
    });
}

#[test]
fn dense_convolutions() {
    for (seed, case) in dense_cases().iter().enumerate() {
        let mut run = prepare(case, seed as u64);
        let residual = run.residual.as_ref().map(Tensor::input);
        Direct::new(&run.weights).run(run.x.input(), residual, case.relu, run.y.output());
        check_plain(case, &run);
    }
}

#[test]
fn depthwise_convolutions() {
    for (seed, case) in depthwise_cases().iter().enumerate() {
        let mut run = prepare(case, seed as u64);
        Depthwise::new(&run.weights).run(run.x.input(), case.relu, run.y.output());
        check_plain(case, &run);
    }
}

/// Winograd on every shape it takes, also where it would not pay.
#[test]
fn winograd_convolutions() {
    let mut cases = Vec::new();
    for (h, w) in [(1, 1), (3, 5), (4, 4), (23, 30), (25, 33), (8, 121)] {
        for dilation in [1, 2, 5] {
            for (residual, relu) in [(false, false), (true, true)] {
                let conv = dense(48, 16, 3).dilation(dilation);
                cases.push(case(conv, 2, h, w, residual, relu));
            }
        }
    }
    // Weights large enough that all threads share one pass over them.
    cases.push(case(dense(320, 128, 3).dilation(2), 2, 11, 14, true, true));
    for (seed, case) in cases.iter().enumerate() {
        let mut run = prepare(case, seed as u64);
        let residual = run.residual.as_ref().map(Tensor::input);
        Winograd::new(&run.weights).run(run.x.input(), residual, case.relu, run.y.output());

        let what = format!("Winograd, {:?} of {}", case.conv, case.input);
        let c = case.conv.in_channels as f64;
        // The result's rms in the interior: 9 C products of variance 1/9, bias and residual.
        let rms = (9.0 * c / 9.0 + 2.0 / 3.0).sqrt();
        let sigma = WINOGRAD * U * c.sqrt() * rms;
        run.y.check(&what, |image, row, column, k| {
            let at = (image, row, column, k);
            let r = reference(&case.conv, &run.weights, &run.x, run.residual.as_ref(), at);
            let value = if case.relu { r.value.max(0.0) } else { r.value };
            // 8 sigma: about one element in 1e15 of a normal distribution.
            (value, 8.0 * sigma)
        });
        let error = rms_error(case, &run);
        assert!(error <= sigma, "{what}: rms error {error:e}, allowed {sigma:e}");
    }
}

#[test]
fn parameters_are_validated() {
    assert!(dense(0, 4, 3).validate().is_err());
    assert!(dense(4, 4, 3).stride(0).validate().is_err());
    assert!(Conv2d { depthwise: true, ..dense(4, 8, 3) }.validate().is_err());
    let no_padding = Conv2d { padding: 0, ..dense(4, 4, 3) };
    assert!(no_padding.output_size(Size::new(2, 5)).is_err());
    assert_eq!(no_padding.output_size(Size::new(3, 5)).unwrap(), Size::new(1, 3));
    let stem = dense(3, 64, 7).stride(2);
    assert_eq!(stem.output_size(Size::new(513, 97)).unwrap(), Size::new(257, 49));
    // 2 * 3 * 49 multiply-adds per pixel and channel, two FLOP each.
    assert_eq!(stem.flops(2, Size::new(257, 49)), 2 * 2 * 257 * 49 * 64 * 3 * 49);
}
