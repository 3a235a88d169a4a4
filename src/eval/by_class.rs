//! Where unknown pixels lie: the density of known and unknown pixels, by the class that is predicted for them.
//! Unknown pixels that lie between the classes have the densities of known ones; outside of all they would be
//! less dense.

/// Bins of each histogram.
pub const BINS: usize = 40;

/// Counts of pixels, in bins of equal width from `low` to `high`; what lies beyond, NaN too, counts in the
/// bins at the ends.
#[derive(Clone, Debug, PartialEq)]
pub struct ByClass {
    /// Nats.
    pub low: f32,
    pub high: f32,
    /// By predicted class.
    pub known: Vec<[u64; BINS]>,
    pub unknown: Vec<[u64; BINS]>,
}

impl ByClass {
    pub fn new(classes: usize, [low, high]: [f32; 2]) -> Self {
        let none = vec![[0; BINS]; classes];
        ByClass { low, high, known: none.clone(), unknown: none }
    }

    pub fn push(&mut self, predicted: u8, unknown: bool, value: f32) {
        let place = (value - self.low) / (self.high - self.low) * BINS as f32;
        // A cast to an integer takes NaN and what is below 0 to 0.
        let bin = (place as usize).min(BINS - 1);
        let side = if unknown { &mut self.unknown } else { &mut self.known };
        side[usize::from(predicted)][bin] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_in_their_bins_and_beyond_in_the_last() {
        let mut found = ByClass::new(2, [-10.0, 30.0]);
        for value in [-10.0, -99.0, f32::NEG_INFINITY, f32::NAN, -9.5] {
            found.push(1, false, value);
        }
        for value in [29.5, 30.0, f32::INFINITY] {
            found.push(0, true, value);
        }
        found.push(0, false, 0.0);
        assert_eq!((found.known[1][0], found.unknown[0][BINS - 1], found.known[0][10]), (5, 3, 1));
    }
}
