//! `kernels/head.cu`

use ddu::device::{Device, Element, Tensor, launch};
use ddu::ops::{Head, LogitScore, Resize, Size};

use super::resize::taps;
use crate::logits::{ALONE, NOT_FINITE};
use crate::support::*;

#[test]
fn label_and_entropy_against_f64() {
    for (batch, classes, grid, padded, crop, scale) in [
        (1, 2, (3, 4), (9, 13), (9, 13), 1.0),
        (1, 9, (6, 8), (24, 32), (23, 30), 12.0),
        (2, 21, (5, 7), (17, 25), (16, 25), 5.0),
        (1, 255, (2, 3), (8, 9), (7, 9), 30.0),
        (1, 4, (1, 1), (5, 6), (5, 6), 100.0),
        (1, 1, (2, 2), (4, 4), (4, 4), 1.0),
        // Between some rows of the grid lies no pixel.
        (2, 7, (9, 7), (4, 5), (4, 5), 3.0),
    ] {
        for align_corners in [true, false] {
            let size = |(h, w)| Size::new(h, w);
            let op = Head {
                classes,
                grid: size(grid),
                padded: size(padded),
                crop: size(crop),
                resize: Resize { align_corners },
            };
            let stride = classes.next_multiple_of(8);
            let x =
                Layout { channels: classes, stride, ..Layout::contiguous(batch, op.grid, classes) };
            let mut random = Random(classes as u64);
            let data: Vec<f32> = (0..x.elements()).map(|_| random.value() * scale).collect();
            for (name, device) in devices() {
                let device = &*device;
                let pixels = batch * op.crop.pixels();
                let input = upload(device, &data);
                let (label, entropy) = (output(device, pixels), output(device, pixels * 4));
                let logits = x.tensor(&input, Element::F32);
                let label_out = label.slice(0, pixels).unwrap();
                run(device, &[launch::head(&op, logits, label_out, entropy.all()).unwrap()]);
                let labels = download::<u8>(device, &label, pixels);
                let entropies = download::<f32>(device, &entropy, pixels);
                let maps = all_scores(device, &op, logits, &labels);
                assert_eq!(maps[3], entropies, "the same bits in company, on {name}");
                for pixel in 0..pixels {
                    let (n, rest) = (pixel / op.crop.pixels(), pixel % op.crop.pixels());
                    let (y0, y1, wy) = taps(rest / crop.1, grid.0, padded.0, align_corners);
                    let (x0, x1, wx) = taps(rest % crop.1, grid.1, padded.1, align_corners);
                    let logit = |c: usize| {
                        let at = |y: usize, x_: usize| x.at(&data, n, y as isize, x_ as isize, c);
                        let line = |y| at(y, x0) + (at(y, x1) - at(y, x0)) * wx;
                        line(y0) + (line(y1) - line(y0)) * wy
                    };
                    let logits: Vec<f64> = (0..classes).map(logit).collect();
                    let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let sum: f64 = logits.iter().map(|l| (l - max).exp()).sum();
                    let expected: f64 = logits
                        .iter()
                        .map(|l| (l - max).exp() / sum)
                        .map(|p| if p > 0.0 { -p * p.ln() } else { 0.0 })
                        .sum();
                    let what = format!("head {op:?} on {name}, pixel {pixel}");
                    // A logit errs by at most 10 roundings of twice the largest corner; |dH / dlogit| summed
                    // over the classes is below 2 (ln C + 1), and the sums add C roundings of at most ln C + 1. An exponential
                    // errs by 2^-22.5 of itself and its argument d by 2^-23 |d|, which moves H by 2^-22 p (1 + |d|) (ln C + 1)
                    // at most; p (1 + |d|) <= 1 for each class but the greatest, whose exponential is exact.
                    let logit_error = 10.0 * 2f64.powi(-23) * 2.0 * scale as f64;
                    let spread = (classes as f64).ln() + 1.0;
                    let bound = 2.0 * spread * logit_error
                        + classes as f64 * 2f64.powi(-22) * spread
                        + 1e-6;
                    let off = (f64::from(entropies[pixel]) - expected).abs();
                    assert!(
                        off <= bound,
                        "{what}: entropy {}, expected {expected} +- {bound:e}",
                        entropies[pixel]
                    );
                    // The parity test's bounds of the other scores with these errors.
                    let rounding = (classes as f64 + 8.0) * 2f64.powi(-22);
                    let half: f64 = logits.iter().map(|l| ((l - max) / 2.0).exp()).sum();
                    let p = |l: &f64| ((l - max) / 2.0).exp() / half;
                    let t2 =
                        logits.iter().map(|l| if p(l) > 0.0 { -p(l) * p(l).ln() } else { 0.0 });
                    let energy = -(max + sum.ln());
                    let others = [
                        (1.0 / sum, logit_error / 2.0 + rounding),
                        (energy, logit_error + rounding * (1.0 + energy.abs())),
                        (t2.sum(), bound),
                    ];
                    for (map, (expected, bound)) in maps.iter().zip(others) {
                        let off = (f64::from(map[pixel]) - expected).abs();
                        assert!(off <= bound, "{what}: {}, expected {expected}", map[pixel]);
                    }
                    let chosen = logits[usize::from(labels[pixel])];
                    assert!(
                        chosen >= max - 2.0 * logit_error,
                        "{what}: class {} is not the arg max",
                        labels[pixel]
                    );
                }
            }
        }
    }
}

/// Largest probability, energy, entropy at T = 2 and entropy of one launch, which gives these labels too; and one by itself.
fn all_scores(device: &dyn Device, op: &Head, logits: Tensor, labels: &[u8]) -> [Vec<f32>; 4] {
    let pixels = labels.len();
    let wanted =
        [LogitScore::MaxSoftmax, LogitScore::Energy, LogitScore::EntropyT2, LogitScore::Entropy];
    let buffers = wanted.map(|_| output(device, pixels * 4));
    let all: Vec<_> = wanted.iter().zip(&buffers).map(|(s, buffer)| (*s, buffer.all())).collect();
    let label = output(device, pixels);
    run(device, &[launch::logit_scores(op, logits, Some(label.all()), &all).unwrap()]);
    assert_eq!(download::<u8>(device, &label, pixels), labels, "the classes of head");
    let maps = [0, 1, 2, 3].map(|i| download::<f32>(device, &buffers[i], pixels));
    let alone = output(device, pixels * 4);
    let only = [(LogitScore::EntropyT2, alone.all())];
    run(device, &[launch::logit_scores(op, logits, None, &only).unwrap()]);
    let bits = |v: &[f32]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
    assert_eq!(bits(&download::<f32>(device, &alone, pixels)), bits(&maps[2]));
    maps
}

#[test]
fn the_first_of_equal_logits_wins() {
    let size = Size::new(2, 2);
    let op = Head {
        classes: 5,
        grid: size,
        padded: size,
        crop: size,
        resize: Resize { align_corners: true },
    };
    let x = Layout { channels: 5, ..Layout::contiguous(1, size, 8) };
    let data: Vec<f32> = (0..4).flat_map(|_| [0.5, 2.0, 2.0, -1.0, 2.0, 9.0, 9.0, 9.0]).collect();
    for (name, device) in devices() {
        let input = upload(&*device, &data);
        let (label, entropy) = (output(&*device, 4), output(&*device, 16));
        let logits = x.tensor(&input, Element::F32);
        run(&*device, &[launch::head(&op, logits, label.all(), entropy.all()).unwrap()]);
        assert_eq!(download::<u8>(&*device, &label, 4), [1; 4], "on {name}");
        all_scores(&*device, &op, logits, &[1; 4]);
    }
}

/// NaN entropy where a logit is not finite, and a defined class.
#[test]
fn logits_that_are_not_finite_give_nan_entropy_and_a_defined_class() {
    // The lower right cell holds the case, the others zeros: in the centre its infinities stay.
    let op = Head {
        classes: 4,
        grid: Size::new(2, 2),
        padded: Size::new(3, 3),
        crop: Size::new(3, 3),
        resize: Resize { align_corners: true },
    };
    let single = Head { classes: 1, grid: Size::new(1, 1), padded: Size::new(1, 1), ..op };
    let single = Head { crop: Size::new(1, 1), ..single };
    for (name, device) in devices() {
        let maps = |op: &Head, x: Layout, data: &[f32]| {
            let (input, pixels) = (upload(&*device, data), op.crop.pixels());
            let (label, entropy) = (output(&*device, pixels), output(&*device, pixels * 4));
            let label_out = label.slice(0, pixels).unwrap();
            let logits = x.tensor(&input, Element::F32);
            run(&*device, &[launch::head(op, logits, label_out, entropy.all()).unwrap()]);
            let labels = download::<u8>(&*device, &label, pixels);
            let all = all_scores(&*device, op, logits, &labels);
            let entropies = download::<f32>(&*device, &entropy, pixels);
            for (pixel, entropy) in entropies.iter().enumerate() {
                let nan = all.iter().all(|map| map[pixel].is_nan() == entropy.is_nan());
                assert!(nan, "{data:?} on {name}, pixel {pixel}: {all:?}");
            }
            (labels, download::<f32>(&*device, &entropy, pixels))
        };
        for (cell, class) in NOT_FINITE {
            let x = Layout { channels: 4, ..Layout::contiguous(1, op.grid, 8) };
            let mut data = vec![0.0; 4 * 8];
            data[3 * 8..][..4].copy_from_slice(&cell);
            let (labels, entropies) = maps(&op, x, &data);
            assert_eq!(labels[4], class, "{cell:?} on {name}");
            assert!(labels.iter().all(|label| *label < 4), "{cell:?} on {name}: {labels:?}");
            assert!(entropies.iter().all(|h| h.is_nan()), "{cell:?} on {name}: {entropies:?}");
        }
        for (logit, certain) in ALONE {
            let x = Layout { channels: 1, ..Layout::contiguous(1, single.grid, 8) };
            let (labels, entropies) = maps(&single, x, &[logit, 0., 0., 0., 0., 0., 0., 0.]);
            let found = (labels[0], entropies[0] == 0.0, entropies[0].is_nan());
            assert_eq!(found, (0, certain, !certain), "{logit} on {name}");
        }
    }
}
