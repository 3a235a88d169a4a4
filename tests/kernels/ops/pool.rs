//! `kernels/pool.cu` and the CPU path. Max pooling is exact: it only selects.

use ddu::device::{Element, launch};
use ddu::ops::{MaxPool, Size};
use half::f16;

use crate::support::*;

#[test]
fn max_pool_is_exact() {
    for (kernel, stride, padding, batch, h, w, channels, beside) in [
        (3, 2, 1, 1, 9, 14, 8, 0),
        (3, 2, 1, 2, 1, 1, 24, 8),
        (2, 2, 0, 1, 7, 6, 40, 0),
        (3, 1, 1, 3, 5, 4, 16, 16),
    ] {
        let pool = MaxPool { kernel, stride, padding };
        let x = Layout::contiguous(batch, Size::new(h, w), channels);
        let y = Layout::contiguous(batch, pool.output_size(x.size).unwrap(), channels)
            .slice(beside, beside);
        let data = Random((h * w) as u64).halves(x.elements());
        let expected = |n: usize, p: usize, q: usize, c: usize| {
            let mut max = f64::NEG_INFINITY;
            for i in 0..kernel * kernel {
                let (row, column) = (p * stride + i / kernel, q * stride + i % kernel);
                let (row, column) = (row.wrapping_sub(padding), column.wrapping_sub(padding));
                if row < h && column < w {
                    max = max.max(x.at(&data, n, row as isize, column as isize, c));
                }
            }
            Expected { value: max, bound: 0.0, plain: max }
        };
        for (name, device) in devices() {
            let device = &*device;
            let input = upload(device, &data);
            let out = output(device, y.elements() * 2);
            let (from, to) = (x.tensor(&input, Element::F16), y.tensor(&out, Element::F16));
            run(device, &[launch::max_pool(&pool, from, to).unwrap()]);
            let got = download::<f16>(device, &out, y.elements());
            check(&format!("{pool:?} of {x:?} on {name}"), &y, &got, expected);
        }
    }
}

#[test]
fn max_pool_hands_nan_on() {
    let pool = MaxPool { kernel: 3, stride: 2, padding: 1 };
    let x = Layout::contiguous(1, Size::new(4, 4), 8);
    let mut data = vec![f16::ONE; x.elements()];
    data[5 * 8 + 3] = f16::NAN; // pixel (1, 1) is in all four windows, channel 3
    for (name, device) in devices() {
        let input = upload(&*device, &data);
        let y = Layout { size: Size::new(2, 2), ..x };
        let out = output(&*device, y.elements() * 2);
        let (from, to) = (x.tensor(&input, Element::F16), y.tensor(&out, Element::F16));
        run(&*device, &[launch::max_pool(&pool, from, to).unwrap()]);
        for (i, value) in download::<f16>(&*device, &out, y.elements()).iter().enumerate() {
            assert_eq!(value.is_nan(), i % 8 == 3, "element {i} on {name}: {value}");
        }
    }
}

#[test]
fn global_average_against_f64() {
    for (batch, h, w, channels, beside) in
        [(1, 1, 1, 8, 0), (2, 23, 30, 72, 0), (1, 5, 3, 64, 8), (3, 33, 33, 136, 0)]
    {
        let x = Layout::contiguous(batch, Size::new(h, w), channels).slice(beside, 0);
        let y = Layout::contiguous(batch, Size::new(1, 1), channels);
        let data = Random((h * w) as u64).halves(x.elements());
        let pixels = h * w;
        let expected = |n: usize, _, _, c: usize| {
            let (mut sum, mut plain, mut magnitude) = (0f64, 0f32, 0f64);
            for i in 0..pixels {
                let v = x.at(&data, n, (i / w) as isize, (i % w) as isize, c);
                (sum, plain, magnitude) = (sum + v, plain + v as f32, magnitude + v.abs());
            }
            let count = pixels as f64;
            let plain = plain / pixels as f32;
            Expected::sum(sum / count, plain.into(), pixels + 1, magnitude / count, Element::F16)
        };
        for (name, device) in devices() {
            let device = &*device;
            let input = upload(device, &data);
            let out = output(device, y.elements() * 2);
            let (from, to) = (x.tensor(&input, Element::F16), y.tensor(&out, Element::F16));
            run(device, &[launch::global_average_pool(from, to).unwrap()]);
            let got = download::<f16>(device, &out, y.elements());
            check(&format!("global average of {x:?} on {name}"), &y, &got, expected);
        }
    }
}

mod on_the_cpu {
    use ddu::cpu::pool::{global_avg_pool, max_pool};
    use ddu::ops::{MaxPool, Size};

    use crate::cpu::{Rng, Tensor, U};

    #[test]
    fn max_pools() {
        let stem = MaxPool { kernel: 3, stride: 2, padding: 1 };
        let cases = [
            (stem, 1, 49, 66, 64),
            (stem, 2, 7, 4, 5),
            (stem, 1, 1, 1, 8),
            (MaxPool { kernel: 2, stride: 2, padding: 0 }, 1, 5, 9, 3),
            (MaxPool { kernel: 5, stride: 1, padding: 2 }, 1, 6, 3, 17),
        ];
        for (seed, (pool, batch, h, w, c)) in cases.into_iter().enumerate() {
            pool.validate().unwrap();
            let size = Size::new(h, w);
            let x = Tensor::random(&mut Rng(seed as u64), batch, size, c, 2);
            let mut y = Tensor::poisoned(batch, pool.output_size(size).unwrap(), c, 3);
            max_pool(&pool, x.input(), y.output());
            y.check(&format!("{pool:?} of {size}"), |image, row, column, c| {
                let window = |i: usize, n: usize| {
                    let start = (i * pool.stride) as isize - pool.padding as isize;
                    (start.max(0) as usize)..((start + pool.kernel as isize) as usize).min(n)
                };
                let mut best = f64::NEG_INFINITY;
                for r in window(row, h) {
                    for s in window(column, w) {
                        best = best.max(x.at(image, r, s, c));
                    }
                }
                (best, 0.0)
            });
        }
        assert!(MaxPool { kernel: 3, stride: 1, padding: 2 }.validate().is_err());
        assert!(MaxPool { kernel: 3, stride: 1, padding: 0 }.output_size(Size::new(2, 9)).is_err());
    }

    #[test]
    fn global_averages() {
        for (seed, (batch, h, w, c)) in
            [(1, 23, 30, 40), (3, 5, 7, 9), (1, 1, 1, 1)].iter().enumerate()
        {
            let x = Tensor::random(&mut Rng(seed as u64), *batch, Size::new(*h, *w), *c, 2);
            let mut y = Tensor::poisoned(*batch, Size::new(1, 1), *c, 1);
            global_avg_pool(x.input(), y.output());
            y.check("global average", |image, _, _, c| {
                let pixels = (0..*h).flat_map(|row| (0..*w).map(move |column| (row, column)));
                let sum: f64 = pixels.map(|(row, column)| x.at(image, row, column, c)).sum();
                let mean = sum / (h * w) as f64;
                // One rounding to f32; the sum itself is in f64.
                (mean, 1.01 * U * mean.abs() + 1e-15)
            });
        }
    }
}
