//! Max pooling (exact: it only selects) and the global average.

use ddu::cpu::pool::{global_avg_pool, max_pool};
use ddu::ops::{MaxPool, Size};

use crate::common::{Rng, Tensor, U};

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
    for (seed, (batch, h, w, c)) in [(1, 23, 30, 40), (3, 5, 7, 9), (1, 1, 1, 1)].iter().enumerate()
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
