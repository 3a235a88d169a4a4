//! Dropout at test time, for MC Dropout: y = x m / (1 - p), where m is 0 with probability p, else 1, for each
//! element of an activation by itself (PyTorch's `nn.Dropout`).
//!
//! The mask is a function of where an element is, so it does not depend on device, batch, threads or order:
//! Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) with the seed as its
//! key and the counter (y w + x, channel / 4, pass, place) gives the words of four channels, and m = 0 where
//! the element's word is below floor(p 2^32). Every image of one size has the same masks: nothing of the image
//! enters, and what MC Dropout needs, independence between pixels, channels and passes, does not ask for it.

use crate::error::{Error, Result};

/// A dropout of a network.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Dropout {
    /// Which of the network's dropouts it is: its index in `Config::dropout`.
    pub place: u32,
    /// p, at least 0 and below 1.
    pub probability: f32,
}

/// The passes of MC Dropout, at least 2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passes {
    count: u32,
    seed: u64,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    pub seed: u64,
    pub index: u32,
}

impl Passes {
    /// # Errors
    /// Fewer than 2 passes, whose mutual information would be 0 whatever the network.
    pub fn new(count: u32, seed: u64) -> Result<Self> {
        if count < 2 {
            return Err(Error::invalid("passes with dropout", "at least 2", count));
        }
        Ok(Passes { count, seed })
    }

    pub fn count(self) -> usize {
        self.count as usize
    }

    pub fn iter(self) -> impl Iterator<Item = Pass> {
        (0..self.count).map(move |index| Pass { seed: self.seed, index })
    }
}

impl Dropout {
    /// Words below it drop their element.
    pub fn threshold(self) -> u32 {
        (f64::from(self.probability) * 2f64.powi(32)) as u32
    }

    /// 1 / (1 - p)
    pub fn scale(self) -> f32 {
        1.0 / (1.0 - self.probability)
    }

    /// m / (1 - p) of channels `4 quad..4 quad + 4` of a pixel (`y w + x`).
    pub fn factors(self, pass: Pass, pixel: u32, quad: u32) -> [f32; 4] {
        self.factors_of::<1>(pass, pixel, quad).map(|[factor]| factor)
    }

    /// Those of N quads from `quad` on: factor `[c][q]` is that of channel `4 (quad + q) + c`.
    #[inline(always)]
    pub(crate) fn factors_of<const N: usize>(
        self,
        pass: Pass,
        pixel: u32,
        quad: u32,
    ) -> [[f32; N]; 4] {
        let (threshold, scale) = (self.threshold(), self.scale());
        let quads = std::array::from_fn(|q| quad.wrapping_add(q as u32));
        let words = philox([[pixel; N], quads, [pass.index; N], [self.place; N]], pass.seed);
        words.map(|words| words.map(|word| if word < threshold { 0.0 } else { scale }))
    }
}

/// Philox4x32-10: four words for each of N counters and a key. Lanes do the same, so that a loop over them becomes
/// vector code.
#[inline(always)]
fn philox<const N: usize>(counter: [[u32; N]; 4], key: u64) -> [[u32; N]; 4] {
    let (mut low, mut high) = (key as u32, (key >> 32) as u32);
    let [mut a, mut b, mut c, mut d] = counter;
    for _ in 0..10 {
        for i in 0..N {
            let (first, second) = (0xd251_1f53 * u64::from(a[i]), 0xcd9e_8d57 * u64::from(c[i]));
            a[i] = (second >> 32) as u32 ^ b[i] ^ low;
            b[i] = second as u32;
            c[i] = (first >> 32) as u32 ^ d[i] ^ high;
            d[i] = first as u32;
        }
        low = low.wrapping_add(0x9e37_79b9);
        high = high.wrapping_add(0xbb67_ae85);
    }
    [a, b, c, d]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The known answers of Random123, the authors' library.
    #[test]
    fn it_is_the_published_generator() {
        let cases = [
            ([0; 4], 0, [0x6627_e8d5, 0xe169_c58d, 0xbc57_ac4c, 0x9b00_dbd8]),
            ([u32::MAX; 4], u64::MAX, [0x408f_276d, 0x41c8_3b0e, 0xa20b_c7c6, 0x6d54_51fd]),
            (
                [0x243f_6a88, 0x85a3_08d3, 0x1319_8a2e, 0x0370_7344],
                0x299f_31d0_a409_3822,
                [0xd16c_fe09, 0x94fd_cceb, 0x5001_e420, 0x2412_6ea1],
            ),
        ];
        for (counter, key, expected) in cases {
            assert_eq!(philox(counter.map(|word| [word]), key), expected.map(|word| [word]));
        }
    }

    #[test]
    fn many_quads_are_those_of_one_by_one() {
        let op = Dropout { place: 1, probability: 0.3 };
        let pass = Pass { seed: 0x1234_5678_9abc, index: 3 };
        let many = op.factors_of::<16>(pass, 77, 5);
        for q in 0..16 {
            assert_eq!(many.map(|factors| factors[q]), op.factors(pass, 77, 5 + q as u32));
        }
    }

    /// Of n independent elements the share that is dropped has a standard deviation of sqrt(p (1 - p) / n), and
    /// two fields of masks that are independent a correlation of 1 / sqrt(n): five of them.
    #[test]
    fn elements_are_dropped_with_their_probability_and_independently() {
        const W: u32 = 64;
        const CHANNELS: u32 = 64;
        for (place, probability) in [(0, 0.5), (1, 0.1), (2, 0.9)] {
            let op = Dropout { place, probability };
            let p = f64::from(probability);
            let field = |op: Dropout, pass: Pass| -> Vec<f64> {
                let quads = (0..W * W).flat_map(|i| (0..CHANNELS / 4).map(move |q| (i, q)));
                let factors = quads.flat_map(|(pixel, quad)| op.factors(pass, pixel, quad));
                factors.map(|factor| f64::from(u8::from(factor == 0.0))).collect()
            };
            let pass = |index| Pass { seed: 0, index };
            let here = field(op, pass(0));
            let n = here.len() as f64;
            let share = here.iter().sum::<f64>() / n;
            let sigma = (p * (1.0 - p) / n).sqrt();
            assert!((share - p).abs() < 5.0 * sigma, "{share} of the elements for {p}");
            let kept = op.factors(pass(0), 0, 0).into_iter().chain(op.factors(pass(0), 1, 0));
            assert!(kept.into_iter().all(|f| f == 0.0 || f == 1.0 / (1.0 - probability)));

            let correlation = |a: &[f64], b: &[f64]| {
                let products = a.iter().zip(b).map(|(a, b)| (a - p) * (b - p));
                products.sum::<f64>() / (a.len() as f64 * p * (1.0 - p))
            };
            let others = [
                ("another pass", field(op, pass(1))),
                ("another place", field(Dropout { place: place + 1, ..op }, pass(0))),
                ("another seed", field(op, Pass { seed: 1, index: 0 })),
                ("a seed of other high bits", field(op, Pass { seed: 1 << 32, index: 0 })),
            ];
            let row = (W * CHANNELS) as usize;
            let lags =
                [("channel", 1), ("fourth channel", 4), ("pixel", CHANNELS as usize), ("row", row)];
            let lagged = lags
                .map(|(what, lag)| (what, correlation(&here[lag..], &here[..here.len() - lag])));
            let others = others.iter().map(|(what, there)| (*what, correlation(&here, there)));
            for (what, found) in others.chain(lagged) {
                assert!(found.abs() < 5.0 / (n - row as f64).sqrt(), "p {p}, {what}: {found}");
            }
        }
    }
}
