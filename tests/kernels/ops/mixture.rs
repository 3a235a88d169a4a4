//! `kernels/mixture.cu` against f64, and what both paths say where a logit is not finite.

use ddu::device::launch::{MixtureMaps, mixture_add, mixture_finish};
use ddu::device::{Device, Element};
use ddu::ops::{Head, Resize, Size};

use super::resize::taps;
use crate::support::*;

/// A prediction: its geometry and logits.
type Prediction = (Head, Vec<f32>);

fn layout(op: &Head, batch: usize) -> Layout {
    let stride = op.classes.next_multiple_of(8);
    Layout { stride, ..Layout::contiguous(batch, op.grid, op.classes) }
}

/// Label, confidence, entropy and mutual information.
fn mix(device: &dyn Device, batch: usize, predictions: &[Prediction]) -> (Vec<u8>, [Vec<f32>; 3]) {
    let (op, pixels) = (predictions[0].0, batch * predictions[0].0.crop.pixels());
    let sums = output(device, pixels * (op.classes + 1) * 4);
    let values = pixels * (op.classes + 1) * 4;
    for (i, (op, logits)) in predictions.iter().enumerate() {
        let input = upload(device, logits);
        let tensor = layout(op, batch).tensor(&input, Element::F32);
        run(device, &[mixture_add(op, tensor, sums.slice(0, values).unwrap(), i == 0).unwrap()]);
    }
    let label = output(device, pixels);
    let maps = [0, 1, 2].map(|_| output(device, pixels * 4));
    let [confidence, entropy, mutual_information] =
        [0, 1, 2].map(|i: usize| maps[i].slice(0, pixels * 4).unwrap());
    let to = MixtureMaps {
        label: label.slice(0, pixels).unwrap(),
        confidence,
        entropy,
        mutual_information,
    };
    let sums_of = sums.slice(0, values).unwrap();
    run(device, &[mixture_finish(&op, batch, predictions.len(), sums_of, to).unwrap()]);
    download::<f32>(device, &sums, values / 4);
    let maps = [0, 1, 2].map(|i: usize| download::<f32>(device, &maps[i], pixels));
    (download::<u8>(device, &label, pixels), maps)
}

#[test]
fn mean_predictions_against_f64() {
    for (batch, classes, padded, crop, grids, scale) in [
        (1, 2, (9, 13), (9, 13), vec![(3, 4), (5, 13)], 1.0),
        (2, 9, (24, 32), (23, 30), vec![(6, 8), (3, 4), (6, 8)], 8.0),
        (1, 21, (17, 25), (16, 25), vec![(5, 7); 5], 5.0),
        (1, 255, (8, 9), (7, 9), vec![(2, 3), (4, 5)], 10.0),
    ] {
        for align_corners in [true, false] {
            let size = |(h, w)| Size::new(h, w);
            let resize = Resize { align_corners };
            let mut random = Random(classes as u64);
            let mut prediction = |grid| {
                let (padded, crop) = (size(padded), size(crop));
                let op = Head { classes, grid: size(grid), padded, crop, resize };
                let count = layout(&op, batch).elements();
                (op, (0..count).map(|_| random.value() * scale).collect())
            };
            let predictions: Vec<Prediction> = grids.iter().map(|g| prediction(*g)).collect();
            for (name, device) in devices() {
                let (labels, maps) = mix(&*device, batch, &predictions);
                for pixel in 0..labels.len() {
                    let (n, rest) = (pixel / size(crop).pixels(), pixel % size(crop).pixels());
                    let (mut p, mut conditional) = (vec![0f64; classes], 0f64);
                    for (op, data) in &predictions {
                        let x = layout(op, batch);
                        let (y0, y1, wy) = taps(rest / crop.1, op.grid.h, padded.0, align_corners);
                        let (x0, x1, wx) = taps(rest % crop.1, op.grid.w, padded.1, align_corners);
                        let logit = |c: usize| {
                            let at = |y: usize, q: usize| x.at(data, n, y as isize, q as isize, c);
                            let line = |y| at(y, x0) + (at(y, x1) - at(y, x0)) * wx;
                            line(y0) + (line(y1) - line(y0)) * wy
                        };
                        let e: Vec<f64> = (0..classes).map(|c| logit(c).exp()).collect();
                        let total: f64 = e.iter().sum();
                        for (p, e) in p.iter_mut().zip(e) {
                            let share = e / total / predictions.len() as f64;
                            *p += share;
                            conditional -= share * (e / total).ln();
                        }
                    }
                    let entropy: f64 = p.iter().map(|p| -p * p.ln()).sum();
                    let best = p.iter().copied().fold(0.0, f64::max);
                    let what = format!("{classes} classes on {name}, pixel {pixel}");
                    // As for the head: a logit errs by 10 roundings of twice the largest corner and moves an entropy by
                    // at most 2 (ln C + 1) of that, a probability by half of it; C sums of at most ln C + 1 round.
                    let slip = 10.0 * 2f64.powi(-23) * 2.0 * f64::from(scale);
                    let spread = (classes as f64).ln() + 1.0;
                    let bound =
                        2.0 * spread * slip + classes as f64 * 2f64.powi(-22) * spread + 1e-6;
                    for ((map, expected), bound) in maps
                        .iter()
                        .zip([best, entropy, entropy - conditional])
                        .zip([slip + 1e-6, bound, 2.0 * bound])
                    {
                        let found = f64::from(map[pixel]);
                        let off = (found - expected).abs();
                        assert!(off <= bound, "{what}: {found}, expected {expected} +- {bound:e}");
                    }
                    assert!(p[usize::from(labels[pixel])] >= best - 2.0 * slip - 1e-6, "{what}");
                }
            }
        }
    }
}

/// Overflow in one prediction is not hidden by the others.
#[test]
fn logits_that_are_not_finite_are_nan_and_class_0() {
    let size = Size::new(1, 1);
    let resize = Resize { align_corners: true };
    let op = Head { classes: 3, grid: size, padded: size, crop: size, resize };
    let logits = |bad: f32| vec![0.0, 5.0, bad, 0.0, 0.0, 0.0, 0.0, 0.0];
    for (name, device) in devices() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for predictions in [[1.0, bad], [bad, 1.0]] {
                let predictions = predictions.map(|last| (op, logits(last)));
                let (label, maps) = mix(&*device, 1, &predictions);
                assert_eq!(label, [0], "{bad} on {name}");
                assert!(maps.iter().all(|map| map[0].is_nan()), "{bad} on {name}: {maps:?}");
            }
        }
        // Equal and sure predictions: no uncertainty (e^-98 of it), not a hair below it.
        let predictions = [1.0, 1.0].map(|_| (op, vec![0.0, 99.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]));
        let (label, [confidence, entropy, information]) = mix(&*device, 1, &predictions);
        assert_eq!((label[0], confidence[0]), (1, 1.0), "on {name}");
        assert!((0.0..1e-40).contains(&entropy[0]) && (0.0..1e-40).contains(&information[0]));
    }
}

/// Of classes with the same mean probability the first, on every device.
#[test]
fn of_equal_means_the_first_class() {
    let size = Size::new(1, 1);
    let resize = Resize { align_corners: true };
    let op = Head { classes: 4, grid: size, padded: size, crop: size, resize };
    let logits = |x: [f32; 4]| (op, [&x[..], &[0.0; 4]].concat());
    for (name, device) in devices() {
        let middle = [logits([0.0, 3.0, 3.0, 1.0]), logits([2.0, 5.0, 5.0, 0.0])];
        let all = [logits([2.0; 4]), logits([-7.0; 4])];
        for (predictions, first) in [(middle, 1), (all, 0)] {
            let (label, [confidence, ..]) = mix(&*device, 1, &predictions);
            assert_eq!(label, [first], "on {name}");
            assert!(confidence[0] > 0.0, "on {name}");
        }
    }
}

/// e^120 is no f32 and e^-120 is 0: the greatest logit, whichever it is, is subtracted first, and 0 ln 0 is 0.
#[test]
fn sure_predictions_of_each_class_have_no_entropy() {
    let size = Size::new(1, 1);
    let resize = Resize { align_corners: true };
    let op = Head { classes: 9, grid: size, padded: size, crop: size, resize };
    for (name, device) in devices() {
        for sure in 0..op.classes {
            let logits = |n: usize| (0..n).map(|c| if c == sure { 120.0 } else { 0.0 }).collect();
            let predictions = [(); 2].map(|()| (op, logits(16)));
            let (label, maps) = mix(&*device, 1, &predictions);
            assert_eq!(usize::from(label[0]), sure, "on {name}");
            assert_eq!(maps.map(|map| map[0]), [1.0, 0.0, 0.0], "class {sure} on {name}");
        }
    }
}
