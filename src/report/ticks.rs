//! Round numbers along an axis or a colour bar.

pub struct Ticks {
    /// The multiples, then the ends.
    pub at: Vec<f64>,
    multiples: usize,
    decimals: usize,
}

impl Ticks {
    /// Multiples of 1, 2 or 5 times a power of ten about 3 em apart on a bar of `length` em, and
    /// the ends of the range where there is room for them.
    pub fn new(low: f32, high: f32, length: f32) -> Self {
        let (low, high) = (f64::from(low), f64::from(high));
        let raw = (high - low) / f64::from((length / 3.0).clamp(2.0, 10.0));
        if !(raw > 0.0 && raw.is_finite()) {
            return Ticks { at: Vec::new(), multiples: 0, decimals: 0 };
        }
        let power = 10f64.powi(raw.log10().floor() as i32);
        let steps = [1.0, 2.0, 5.0].map(|m| m * power);
        let step = steps.into_iter().find(|s| *s >= raw * 0.999).unwrap_or(10.0 * power);
        let first = (low / step - 1e-9).ceil() as i64;
        let last = (high / step + 1e-9).floor() as i64;
        let mut at: Vec<f64> = (first..=last).map(|i| i as f64 * step).collect();
        let multiples = at.len();
        let room = 1.3 * (high - low) / f64::from(length);
        for end in [low, high] {
            if at.iter().all(|tick| (tick - end).abs() >= room) {
                at.push(end);
            }
        }
        let decimals = (-(step * 1.001).log10().floor()).max(0.0) as usize;
        Ticks { at, multiples, decimals }
    }

    /// Without the ends of the range, which are no round numbers.
    pub fn multiples(&self) -> impl Iterator<Item = f64> {
        self.at[..self.multiples].iter().copied()
    }

    pub fn label(&self, tick: f64) -> String {
        // An end of the range needs a digit more than the multiples.
        let exact = 10f64.powi(self.decimals as i32) * tick;
        let more = usize::from((exact - exact.round()).abs() > 1e-3 && self.decimals > 0);
        format!("{:.*}", self.decimals + more, tick + 0.0).replace('-', "\u{2212}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        let cases: [(f32, f32, f32, &[&str]); 5] = [
            (0.0, 2.1972, 26.0, &["0.0", "0.5", "1.0", "1.5", "2.0", "2.20"]),
            (0.0, 3.0445, 8.0, &["0", "2", "3"]),
            (-812.4, -35.0, 20.0, &["−800", "−600", "−400", "−200", "−35"]),
            (-0.3, 0.3, 9.0, &["−0.2", "0.0", "0.2", "−0.3", "0.3"]),
            (1.0, 1.0, 9.0, &[]),
        ];
        for (low, high, length, expected) in cases {
            let ticks = Ticks::new(low, high, length);
            let labels: Vec<String> = ticks.at.iter().map(|t| ticks.label(*t)).collect();
            assert_eq!(labels, expected, "{low} {high} {length}");
        }
    }
}
