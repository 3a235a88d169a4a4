//! Randomness of the scenes: a generator of numbers, and noise that is a function of the place.
//!
//! Everything here is integer arithmetic or the IEEE operations + - * / and sqrt in f32, which give
//! the same bits on every platform; no `sin`, `exp` or `powf` anywhere in a scene.

use crate::splitmix64::splitmix64;

/// SplitMix64: one 64-bit state, every seed a good one.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Random(seed)
    }

    pub fn bits(&mut self) -> u64 {
        splitmix64(&mut self.0)
    }

    /// Uniform in `[0, 1)`, 24 bits.
    pub fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u32 << 24) as f32
    }

    pub fn range(&mut self, low: f32, high: f32) -> f32 {
        low + (high - low) * self.unit()
    }

    pub fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// Uniform in `0..n`; the bias of the remainder is 2^-50 for the handful of choices here.
    pub fn below(&mut self, n: usize) -> usize {
        (self.bits() >> 11) as usize % n
    }

    pub fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len())]
    }
}

/// A hash of a lattice point, uniform in `[0, 1)`.
pub fn hash(x: i32, y: i32, seed: u32) -> f32 {
    let mut h = (x as u32).wrapping_mul(0x8da6_b343) ^ (y as u32).wrapping_mul(0xd816_3841) ^ seed;
    h = (h ^ (h >> 16)).wrapping_mul(0x7feb_352d);
    h = (h ^ (h >> 15)).wrapping_mul(0x846c_a68b);
    h ^= h >> 16;
    (h >> 8) as f32 / (1u32 << 24) as f32
}

/// Value noise: the lattice's hashes, smoothly interpolated; in `[0, 1)`.
pub fn noise(x: f32, y: f32, seed: u32) -> f32 {
    let (cx, cy) = (x.floor(), y.floor());
    let (fx, fy) = (smooth(0.0, 1.0, x - cx), smooth(0.0, 1.0, y - cy));
    let (cx, cy) = (cx as i32, cy as i32);
    let row = |y| {
        let (a, b) = (hash(cx, y, seed), hash(cx.wrapping_add(1), y, seed));
        a + (b - a) * fx
    };
    let (a, b) = (row(cy), row(cy.wrapping_add(1)));
    a + (b - a) * fy
}

/// Three octaves of [`noise`], in `[0, 1)`, mean 1/2.
pub fn cloud(x: f32, y: f32, seed: u32) -> f32 {
    let octave = |k: f32, s: u32| noise(x * k, y * k, seed ^ s);
    (4.0 * octave(1.0, 0) + 2.0 * octave(2.1, 0x55) + octave(4.3, 0xaa)) / 7.0
}

/// 0 below `low`, 1 above `high`, a smooth step in between.
pub fn smooth(low: f32, high: f32, x: f32) -> f32 {
    let t = ((x - low) / (high - low)).clamp(0.0, 1.0);
    t * t * (3.0 - 2.0 * t)
}
