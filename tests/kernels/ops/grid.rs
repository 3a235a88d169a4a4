//! `kernels/label_grid.cu`, `kernels/upsample.cu`, `kernels/arg_max.cu`: what connects masks, the feature grid and
//! maps.

use ddu::device::launch::{self, label_grid};
use ddu::device::{Element, launch::LabelGrid};
use ddu::ops::{Head, LabelRule, Resize, Size};

use crate::support::*;

/// The row that a cell takes, by the rules' formulas in f64 (exact at these sizes).
fn place(i: usize, cells: usize, padded: usize, align_corners: bool) -> usize {
    let (i, h, rows) = (i as f64, cells as f64, padded as f64);
    match align_corners {
        true if cells == 1 => 0,
        true => (i * (rows - 1.0) / (h - 1.0) + 0.5).floor() as usize,
        false => ((2.0 * i + 1.0) * rows / (2.0 * h)).floor() as usize,
    }
}

#[test]
fn labels_meet_the_grid_as_the_rules_say() {
    for (batch, mask, image, padded, grid) in [
        (1, (7, 9), (7, 9), (7, 9), (3, 4)),
        (2, (11, 6), (11, 6), (16, 16), (4, 4)),
        (1, (23, 31), (46, 62), (48, 64), (12, 16)),
        (3, (5, 5), (5, 5), (5, 5), (1, 1)),
        (1, (360, 480), (360, 480), (368, 480), (92, 120)),
        (1, (3, 2), (3, 2), (4, 4), (9, 7)),
    ] {
        let size = |(h, w)| Size::new(h, w);
        let (mask, image, padded, grid) = (size(mask), size(image), size(padded), size(grid));
        let mut random = Random(mask.h as u64);
        let masks: Vec<u8> = (0..batch * mask.pixels()).map(|_| random.next() as u8).collect();
        for align_corners in [true, false] {
            let rule = LabelRule::of(align_corners);
            let op = LabelGrid { batch, mask, image, padded, grid, rule };
            for (name, device) in devices() {
                let input = upload(&*device, &masks);
                let out = output(&*device, batch * grid.pixels());
                run(&*device, &[label_grid(&op, input.all(), out.all()).unwrap()]);
                let found = download::<u8>(&*device, &out, batch * grid.pixels());
                for (cell, label) in found.into_iter().enumerate() {
                    let (n, rest) = (cell / grid.pixels(), cell % grid.pixels());
                    let y = place(rest / grid.w, grid.h, padded.h, align_corners);
                    let x = place(rest % grid.w, grid.w, padded.w, align_corners);
                    let expected = if y < image.h && x < image.w {
                        let row = (2 * y + 1) * mask.h / (2 * image.h);
                        let column = (2 * x + 1) * mask.w / (2 * image.w);
                        masks[(n * mask.h + row) * mask.w + column]
                    } else {
                        255
                    };
                    assert_eq!(label, expected, "{op:?} on {name}, cell {cell}");
                }
            }
        }
    }
}

#[test]
fn maps_are_upsampled_as_on_the_cpu_and_infinities_survive() {
    for (batch, grid, padded, crop) in [
        (1, (3, 4), (9, 13), (9, 13)),
        (2, (6, 8), (24, 32), (23, 30)),
        (1, (1, 5), (4, 20), (3, 19)),
        // No weight but 0, in each of a thread's four columns.
        (1, (9, 16), (9, 16), (9, 16)),
        // Fewer columns than a thread has, rows that skip rows of the grid.
        (2, (3, 2), (17, 3), (17, 2)),
        (1, (40, 30), (13, 9), (12, 9)),
    ] {
        let size = |(h, w)| Size::new(h, w);
        let (grid, padded, crop) = (size(grid), size(padded), size(crop));
        let mut random = Random(grid.h as u64);
        let cell = |random: &mut Random| match random.next() % 9 {
            0 => f32::NEG_INFINITY,
            _ => -300.0 + 200.0 * random.value(),
        };
        let values: Vec<f32> = (0..batch * grid.pixels()).map(|_| cell(&mut random)).collect();
        for align_corners in [true, false] {
            let op = Head { classes: 2, grid, padded, crop, resize: Resize { align_corners } };
            for (name, device) in devices() {
                let input = upload(&*device, &values);
                let out = output(&*device, batch * crop.pixels() * 4);
                run(&*device, &[launch::upsample(&op, batch, input.all(), out.all()).unwrap()]);
                let found = download::<f32>(&*device, &out, batch * crop.pixels());
                for (n, found) in found.chunks_exact(crop.pixels()).enumerate() {
                    let values = &values[n * grid.pixels()..][..grid.pixels()];
                    let expected =
                        ddu::cpu::resize::upsample(values, grid, padded, crop, align_corners);
                    for (pixel, (a, b)) in found.iter().zip(expected).enumerate() {
                        let what = format!("{op:?} on {name}, pixel {pixel}: {a}, on the CPU {b}");
                        let gone = takes_infinity(pixel, values, &op);
                        assert_eq!(*a == f32::NEG_INFINITY, gone, "{what}");
                        if gone || b == f32::NEG_INFINITY {
                            // The CPU's weights, computed as PyTorch's, may miss a zero by 2^-24 of the position.
                            assert!(*a == b || near_grid_line(pixel, &op), "{what}");
                            continue;
                        }
                        // The weights differ by 2^-24 of the position (below 8) on either axis, values by up to 400.
                        assert!((a - b).abs() <= 400.0 * 4.0 * 8.0 * 2f32.powi(-24), "{what}");
                    }
                }
            }
        }
    }
}

/// Whether a cell of -inf has any weight in a pixel, in exact arithmetic.
fn takes_infinity(pixel: usize, values: &[f32], op: &Head) -> bool {
    // The rows (or columns) that have some.
    let taken = |i: usize, from: usize, to: usize| {
        let (numerator, denominator) = match op.resize.align_corners {
            true => (i * (from - 1), (to - 1).max(1)),
            false => (((2 * i + 1) * from).saturating_sub(to), 2 * to),
        };
        let low = numerator / denominator;
        let second = (!numerator.is_multiple_of(denominator) && low + 1 < from).then_some(low + 1);
        std::iter::once(low).chain(second)
    };
    let (y, x) = (pixel / op.crop.w, pixel % op.crop.w);
    taken(y, op.grid.h, op.padded.h).any(|row| {
        taken(x, op.grid.w, op.padded.w)
            .any(|column| values[row * op.grid.w + column] == f32::NEG_INFINITY)
    })
}

/// Whether a pixel lies on a row or column of the grid, in exact arithmetic.
fn near_grid_line(pixel: usize, op: &Head) -> bool {
    let on = |i: usize, from: usize, to: usize| match op.resize.align_corners {
        true => to == 1 || (i * (from - 1)).is_multiple_of(to - 1),
        false => ((2 * i + 1) * from).saturating_sub(to).is_multiple_of(2 * to),
    };
    on(pixel / op.crop.w, op.grid.h, op.padded.h) || on(pixel % op.crop.w, op.grid.w, op.padded.w)
}

#[test]
fn the_predicted_class_is_the_first_arg_max() {
    // One vector of four and more, a last one that is full or has one class, as many classes as a label can name.
    for (classes, stride) in
        [(1, 8), (7, 8), (12, 16), (13, 16), (16, 24), (21, 24), (40, 40), (255, 256)]
    {
        first_arg_max(classes, stride);
    }
}

fn first_arg_max(classes: usize, stride: usize) {
    let pixels = 333;
    let mut random = Random(3);
    let layout =
        Layout { channels: classes, stride, ..Layout::contiguous(1, Size::new(9, 37), stride) };
    assert_eq!(layout.pixels(), pixels);
    // Few distinct values: many ties; the padding would win.
    let value = |i: usize, random: &mut Random| match i % stride {
        channel if channel >= classes => 100.0,
        _ => (random.next() % 5) as f32,
    };
    let logits: Vec<f32> = (0..layout.elements()).map(|i| value(i, &mut random)).collect();
    for (name, device) in devices() {
        let input = upload(&*device, &logits);
        let out = output(&*device, pixels);
        let logits_in = layout.tensor(&input, Element::F32);
        run(&*device, &[launch::arg_max(classes, logits_in, out.all()).unwrap()]);
        let found = download::<u8>(&*device, &out, pixels);
        for (pixel, found) in found.into_iter().enumerate() {
            let z = &logits[pixel * stride..][..classes];
            let max = z.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let expected = z.iter().position(|v| *v == max).unwrap();
            assert_eq!(usize::from(found), expected, "{name}, {classes} classes, pixel {pixel}");
        }
    }
}
