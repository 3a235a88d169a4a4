//! Random tensors, poisoned outputs and the comparison.

use ddu::cpu::tensor::{Input, Output, Shape};
use ddu::ops::Size;

/// Unit roundoff of f32.
pub const U: f64 = 1.0 / (1u64 << 24) as f64;

pub use crate::models::Rng;

/// A channel slice of an NHWC tensor that owns its buffer.
pub struct Tensor {
    pub data: Vec<f32>,
    pub shape: Shape,
}

/// What unwritten elements hold: no op produces this NaN.
const POISON: u32 = 0x7fc0_dead;

impl Tensor {
    /// `before` and `after` are channels of the buffer on either side of the slice.
    fn shape(batch: usize, size: Size, before: usize, count: usize, after: usize) -> Shape {
        Shape { batch, size, channels: before + count + after, first: before, count, top: 0 }
    }

    pub fn random(rng: &mut Rng, batch: usize, size: Size, count: usize, around: usize) -> Self {
        let shape = Self::shape(batch, size, around, count, around);
        Tensor { data: rng.vector(batch * size.pixels() * shape.channels), shape }
    }

    pub fn poisoned(batch: usize, size: Size, count: usize, around: usize) -> Self {
        let shape = Self::shape(batch, size, around, count, around);
        let len = batch * size.pixels() * shape.channels;
        Tensor { data: vec![f32::from_bits(POISON); len], shape }
    }

    pub fn input(&self) -> Input<'_> {
        let Shape { batch, size, channels, first, count, .. } = self.shape;
        Input { data: &self.data, batch, size, channels, first, count, top: 0 }
    }

    pub fn output(&mut self) -> Output<'_> {
        Output { buffer: &mut self.data, shape: self.shape }
    }

    /// Element `(image, y, x, c)` of the slice.
    pub fn at(&self, image: usize, y: usize, x: usize, c: usize) -> f64 {
        let Shape { size, channels, first, .. } = self.shape;
        f64::from(self.data[((image * size.h + y) * size.w + x) * channels + first + c])
    }

    /// `(image, y, x, c)` of every element of the slice.
    pub fn positions(&self) -> impl Iterator<Item = (usize, usize, usize, usize)> + use<> {
        let Shape { batch, size, count, .. } = self.shape;
        (0..batch * size.pixels() * count).map(move |i| {
            let (pixel, c) = (i / count, i % count);
            let (row, x) = (pixel / size.w, pixel % size.w);
            (row / size.h, row % size.h, x, c)
        })
    }

    /// Every element of the slice against `expected(image, y, x, c) = (value, allowed error)`, and
    /// the channels around it untouched.
    pub fn check(&self, what: &str, expected: impl Fn(usize, usize, usize, usize) -> (f64, f64)) {
        for (image, y, x, c) in self.positions() {
            let (value, allowed) = expected(image, y, x, c);
            let found = self.at(image, y, x, c);
            assert!(
                (found - value).abs() <= allowed,
                "{what}: image {image}, row {y}, column {x}, channel {c}: {found} instead of \
                 {value}, allowed {allowed:e}"
            );
        }
        self.check_guards(what);
    }

    pub fn check_guards(&self, what: &str) {
        let Shape { channels, first, count, .. } = self.shape;
        for (i, value) in self.data.iter().enumerate() {
            let inside = (first..first + count).contains(&(i % channels));
            let touched = value.to_bits() != POISON;
            assert_eq!(
                inside,
                touched,
                "{what}: element {i}, channel {} of {channels}",
                i % channels
            );
        }
    }
}
