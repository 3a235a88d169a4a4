//! The network in bf16 (`--precision bf16`), where this machine has AVX512-BF16: each op against the f64 loop on
//! operands that bf16 holds exactly, so that only sums and the last rounding differ, and whole networks against f32.

use ddu::cpu::depthwise::Depthwise;
use ddu::cpu::element::Element;
use ddu::cpu::pairs::{Pairs, available};
use ddu::cpu::tensor::{Input, Output};
use ddu::cpu::winograd::pairs::WinogradPairs;
use ddu::engine::Engine;
use ddu::model::{Backbone, Config, Dropout};
use ddu::ops::{Passes, Size};
use half::bf16;

use crate::common::{Tensor, U};
use crate::conv2d::{
    Case, Run, case, dense, dense_cases, depthwise_cases, prepare, reference, rms_error,
};
use crate::models::{random_model, small};
use crate::plan::images;

/// Unit roundoff of bf16, which has 8 significant bits.
const U16: f64 = 1.0 / (1u64 << 8) as f64;

fn skipped() -> bool {
    if !available() {
        println!("skipped: this CPU has no AVX512-BF16");
    }
    !available()
}

/// bf16 to nearest, ties to even, by the definition: the nearer of the two neighbours.
fn round(value: f32) -> f32 {
    let low = f32::from_bits(value.to_bits() & 0xffff_0000);
    let high = f32::from_bits((value.to_bits() & 0xffff_0000).wrapping_add(0x1_0000));
    let [below, above] = [low, high].map(|x| (f64::from(value) - f64::from(x)).abs());
    let even = low.to_bits() >> 16 & 1 == 0;
    if below < above || (below == above && even) { low } else { high }
}

#[test]
fn elements_are_rounded_to_nearest_even() {
    let mut rng = crate::common::Rng(3);
    for _ in 0..100_000 {
        // Any exponent but the greatest, and ties one time in four.
        let mut bits = rng.next() as u32 & 0xbfff_ffff;
        if rng.next().is_multiple_of(4) {
            bits = bits & 0xffff_0000 | 0x8000;
        }
        let value = f32::from_bits(bits);
        let found = <bf16 as Element>::from_f32(value);
        assert_eq!(Element::to_f32(found).to_bits(), round(value).to_bits(), "{bits:x}");
    }
    for bits in [0x7f80_0000, 0xff80_0000, 0x0000_0000, 0x8000_0000u32] {
        let found = <bf16 as Element>::from_f32(f32::from_bits(bits));
        assert_eq!(u32::from(found.to_bits()) << 16, bits);
    }
    for bits in [0x7fc0_0000, 0x7f80_0001, 0xffff_ffffu32] {
        assert!(<bf16 as Element>::from_f32(f32::from_bits(bits)).is_nan(), "{bits:x}");
    }
    // Rounded up to infinity, as IEEE 754 has it.
    assert_eq!(<bf16 as Element>::from_f32(f32::MAX), bf16::INFINITY);
}

/// The case's operands, each rounded to bf16.
fn prepare_bf16(case: &Case, seed: u64, round_weights: bool) -> Run {
    let mut run = prepare(case, seed);
    let mut all = vec![&mut run.x.data];
    all.extend(run.residual.as_mut().map(|residual| &mut residual.data));
    if round_weights {
        all.push(&mut run.weights.weight);
    }
    all.into_iter().flatten().for_each(|value| *value = round(*value));
    run
}

/// A copy of a tensor in bf16.
struct Halves(Vec<bf16>);

impl Halves {
    fn of(tensor: &Tensor) -> Self {
        Halves(tensor.data.iter().map(|v| <bf16 as Element>::from_f32(*v)).collect())
    }

    fn input<'a>(&'a self, tensor: &Tensor) -> Input<'a, bf16> {
        let Input { batch, size, channels, first, count, .. } = tensor.input();
        Input { data: &self.0, batch, size, channels, first, count, top: 0 }
    }
}

/// What an op gives in f32 lies within `allowed` of the f64 loop; what it gives in bf16 is that, rounded, and the
/// channels around it are untouched.
fn check(
    what: &str,
    case: &Case,
    run: &mut Run,
    f32s: impl FnOnce(Input<bf16>, Option<Input<bf16>>, Output<f32>),
    halves: impl FnOnce(Input<bf16>, Option<Input<bf16>>, Output<bf16>),
    allowed: impl Fn(f64, f64) -> f64,
) {
    let x = Halves::of(&run.x);
    let residual = run.residual.as_ref().map(|r| (Halves::of(r), r));
    let residual = || residual.as_ref().map(|(halves, r)| halves.input(r));
    f32s(x.input(&run.x), residual(), run.y.output());
    let what = format!("{what}, {:?} of {}", case.conv, case.input);
    run.y.check(&what, |image, row, column, k| {
        let at = (image, row, column, k);
        let r = reference(&case.conv, &run.weights, &run.x, run.residual.as_ref(), at);
        let value = if case.relu { r.value.max(0.0) } else { r.value };
        (value, allowed(r.terms, r.magnitude))
    });
    let poison = bf16::from_bits(0x7fad);
    let mut y = vec![poison; run.y.data.len()];
    halves(x.input(&run.x), residual(), Output { buffer: &mut y, shape: run.y.shape });
    let shape = run.y.shape;
    for (i, (found, wide)) in y.iter().zip(&run.y.data).enumerate() {
        let inside = (shape.first..shape.first + shape.count).contains(&(i % shape.channels));
        let want = if inside { <bf16 as Element>::from_f32(*wide) } else { poison };
        assert_eq!(found.to_bits(), want.to_bits(), "{what}: element {i}");
    }
}

/// As in f32, (n + 3) u sum |x w|; VDPBF16PS flushes what lies below f32's normal range.
fn plain(terms: f64, magnitude: f64) -> f64 {
    (terms + 3.0) * (U * magnitude + f64::from(f32::MIN_POSITIVE))
}

#[test]
fn dense_convolutions() {
    if skipped() {
        return;
    }
    for (seed, case) in dense_cases().iter().enumerate() {
        if case.conv.in_channels == 1 {
            // No pair; plans pad channels to multiples of 8.
            continue;
        }
        let mut run = prepare_bf16(case, seed as u64, true);
        let pairs = Pairs::new(&run.weights);
        check(
            "pairs",
            case,
            &mut run,
            |x, residual, y| pairs.run(x, residual, case.relu, y),
            |x, residual, y| pairs.run(x, residual, case.relu, y),
            plain,
        );
    }
}

#[test]
fn depthwise_convolutions() {
    if skipped() {
        return;
    }
    for (seed, case) in depthwise_cases().iter().enumerate() {
        let mut run = prepare_bf16(case, seed as u64, false);
        let kernel = Depthwise::new(&run.weights);
        check(
            "depthwise",
            case,
            &mut run,
            |x, _, y| kernel.run_bf16(x, case.relu, y),
            |x, _, y| kernel.run_bf16(x, case.relu, y),
            plain,
        );
    }
}

/// Ratio of F(2x2)'s rms error to that of rounding one operand of the direct sum, when one operand is rounded after its
/// transform. For uncorrelated inputs and weights of variance 1: rows of B^T have squared norm 2, those of G 1, 3/4, 3/4, 1, and an
/// output sums three points of each axis, of squared norms 5/2 in all. Relative roundings of rms d give an output the
/// variance d^2 C (2 5/2)^2, the output itself has 9 C: sqrt(25 / 9).
const WINOGRAD_PAIRS: f64 = 5.0 / 3.0;

/// Tiles and weights are both rounded after their transforms, each by at most u, with an rms of at most u / sqrt(3) of a
/// value's; sums are f32, whose rounding is far below.
#[test]
fn winograd_convolutions() {
    if skipped() {
        return;
    }
    let mut cases = Vec::new();
    for (h, w) in [(1, 1), (3, 5), (4, 4), (8, 61), (13, 10)] {
        for (dilation, residual, relu) in [(1, true, true), (2, false, false), (5, true, false)] {
            let conv = dense(48, 16, 3).dilation(dilation);
            cases.push(case(conv, 2, h, w, residual, relu));
        }
    }
    // More than a panel of output channels, and weights large enough for few, long tasks.
    cases.push(case(dense(32, 80, 3), 1, 9, 14, true, false));
    cases.push(case(dense(320, 128, 3).dilation(2), 2, 11, 14, true, true));
    for (seed, case) in cases.iter().enumerate() {
        let mut run = prepare_bf16(case, seed as u64, false);
        let kernel = WinogradPairs::new(&run.weights);
        // Operands lie evenly in (-1, 1), of variance 1/3: 9 C products of variance 1/9.
        let rms = (case.conv.in_channels as f64).sqrt();
        let sigma = WINOGRAD_PAIRS * 2f64.sqrt() * U16 / 3f64.sqrt() * rms;
        check(
            "Winograd in pairs",
            case,
            &mut run,
            |x, residual, y| kernel.run(x, residual, case.relu, y),
            |x, residual, y| kernel.run(x, residual, case.relu, y),
            // About one element in 1e15 of a normal distribution.
            |_, _| 8.0 * sigma,
        );
        let error = rms_error(case, &run);
        let what = format!("{:?} of {}", case.conv, case.input);
        assert!(error <= sigma, "{what}: rms error {error:e}, allowed {sigma:e}");
    }
}

/// Whole networks: with L convolutions, activations and weights are each rounded L times, with a relative rms of
/// at most u / sqrt(3); twice sqrt(2 L) of that is the limit of the nrms of features and logits, as that of fp16 is in
/// `ddu::compare`. Far below it lies a network that ran in f32.
fn check_network(name: &str, config: Config, size: Size) {
    let model = random_model(config, 7);
    let layers = ddu::plan::Folding::new(&model).count() as f64;
    let limit = 2.0 * (2.0 * layers).sqrt() * U16 / 3f64.sqrt();
    let images = images(2, size);
    let images: Vec<_> = images.iter().collect();
    let (mut exact, mut rounded) =
        (Engine::new(model.clone()), Engine::in_bf16(model.clone()).unwrap());
    let mut passes = vec![None];
    if exact.require_dropout().is_ok() {
        passes.push(Some(Passes::new(2, 5).unwrap()));
    }
    for passes in passes {
        if let Some(passes) = passes {
            exact.sample_dropout(passes).unwrap();
            rounded.sample_dropout(passes).unwrap();
        }
        let exact = exact.run(&images).unwrap();
        let rounded = rounded.run(&images).unwrap();
        for image in 0..2 {
            for (what, want, found) in [
                ("features", exact.features(image).unwrap(), rounded.features(image).unwrap()),
                ("logits", exact.logits(image).unwrap(), rounded.logits(image).unwrap()),
            ] {
                let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
                    let pairs = want.iter().zip(found.iter());
                    pairs.map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum()
                };
                let nrms = (sum(&|a, b| (a - b).powi(2)) / sum(&|a, _| a * a)).sqrt();
                println!("{name}: {what} {nrms:.1e} of {limit:.1e}");
                assert!(nrms <= limit, "{name}: {what}: {nrms:e}, allowed {limit:e}");
                assert!(nrms >= U16 / 100.0, "{name}: {what}: {nrms:e} is no bf16");
            }
        }
        if passes.is_some() {
            let mixed = [exact.mc_dropout(0).unwrap(), rounded.mc_dropout(0).unwrap()];
            let equal = mixed[0].label.iter().zip(&mixed[1].label).filter(|(a, b)| a == b).count();
            assert!(equal * 10 > 9 * mixed[0].label.len(), "{name}: {equal} labels agree");
        }
    }
}

#[test]
fn whole_networks() {
    if skipped() {
        let refused = Engine::in_bf16(random_model(small(Backbone::Resnet18), 7)).err().unwrap();
        assert!(refused.to_string().contains("AVX512-BF16"), "{refused}");
        return;
    }
    check_network("resnet18", small(Backbone::Resnet18), Size::new(49, 35));
    let mut separable = Config {
        aspp_separable: true,
        decoder_separable: true,
        input_multiple: 16,
        ..small(Backbone::Resnet50)
    };
    separable.dilations[3] = vec![2, 2, 2];
    check_network("resnet50", separable, Size::new(41, 30));
    let mut v3 = small(Backbone::Resnet18);
    v3.dropout = vec![
        Dropout { after: "aspp.project".into(), probability: 0.5 },
        Dropout { after: "post.0".into(), probability: 0.2 },
    ];
    v3.decoder = None;
    v3.post_aspp_channels = vec![20];
    check_network("v3", v3, Size::new(33, 40));
    let mut bare = small(Backbone::Resnet18);
    bare.decoder = None;
    check_network("v3 without a convolution after the ASPP", bare, Size::new(33, 40));
}
