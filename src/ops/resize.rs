//! Bilinear resize, PyTorch's two rules. Output row i reads at source position
//! `i * (h_in - 1) / (h_out - 1)` with align_corners (0 where `h_out` is 1), else
//! `max(0, (i + 1/2) * h_in / h_out - 1/2)`; columns likewise; beyond the last row the last row
//! counts.

use super::Size;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Serialize)]
pub struct Resize {
    pub align_corners: bool,
}

/// Where one output coordinate reads: `(1 - weight) * x[low] + weight * x[high]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tap {
    pub low: usize,
    pub high: usize,
    pub weight: f32,
}

impl Resize {
    /// The taps of each output coordinate of one axis. Positions are computed as f32, as PyTorch
    /// does: the weights differ from exact ones by up to 2^-24 times the position.
    pub fn taps(&self, input: usize, output: usize) -> Vec<Tap> {
        let scale = match (self.align_corners, output) {
            (true, 0 | 1) => 0.0,
            (true, _) => (input - 1) as f32 / (output - 1) as f32,
            (false, _) => input as f32 / output as f32,
        };
        let tap = |i: usize| {
            let position = if self.align_corners {
                i as f32 * scale
            } else {
                ((i as f32 + 0.5) * scale - 0.5).max(0.0)
            };
            let low = (position as usize).min(input - 1);
            Tap { low, high: (low + 1).min(input - 1), weight: (position - low as f32).min(1.0) }
        };
        (0..output).map(tap).collect()
    }

    /// Four multiply-adds an output element, written separably as two by two.
    pub fn flops(&self, batch: usize, channels: usize, output: Size) -> u64 {
        8 * (batch * channels * output.pixels()) as u64
    }
}
