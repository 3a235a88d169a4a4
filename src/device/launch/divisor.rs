//! `kernels/common/division.cuh`: the numbers by which kernels divide without a division.

use super::{param, require};
use crate::error::Result;

nested! {
    /// n / divisor = n multiplier >> (31 + shift) for n below 2^31: shift = ceil(log2 divisor), multiplier =
    /// ceil(2^(31 + shift) / divisor), in 32 bits.
    Divisor {
        divisor: i32,
        multiplier: i32,
        shift: i32,
    }
}

impl Divisor {
    /// # Errors
    /// 0, and what 31 bits cannot hold.
    pub fn new(what: &str, divisor: usize) -> Result<Self> {
        require(what, divisor > 0, "a divisor above 0", divisor)?;
        let value = param(what, divisor)?;
        let shift = usize::BITS - (divisor - 1).leading_zeros();
        let multiplier = (1u64 << (31 + shift)).div_ceil(divisor as u64);
        // At most 2^(31 + shift) / 2^(shift - 1), rounded up where that is exact: 2^32 - 1 or less.
        let multiplier = u32::try_from(multiplier).expect("less than 2^32");
        Ok(Divisor { divisor: value, multiplier: multiplier.cast_signed(), shift: shift as i32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::splitmix64::splitmix64;

    /// As the kernels compute it.
    fn quotient(n: u32, d: &Divisor) -> u32 {
        let product = u64::from(n << 1) * u64::from(d.multiplier.cast_unsigned());
        ((product >> 32) as u32) >> d.shift
    }

    /// Around every multiple that could round the wrong way, and at random.
    #[test]
    fn every_quotient_is_the_integer_division() {
        const LAST: u32 = i32::MAX as u32;
        let mut state = 1;
        let powers = (0..31).flat_map(|bit| [(1u32 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        let random: Vec<u32> = (0..200).map(|_| splitmix64(&mut state) as u32 >> 1).collect();
        for d in (1..600).chain(powers).chain(random).chain([LAST - 1, LAST]).filter(|d| *d > 0) {
            let divisor = Divisor::new("test", d as usize).unwrap();
            let multiples = [1, 2, 3, LAST / d / 2, LAST / d].map(|k| d.saturating_mul(k));
            let near = multiples.into_iter().flat_map(|n| [n.saturating_sub(1), n, n | 1]);
            let random: Vec<u32> = (0..50).map(|_| splitmix64(&mut state) as u32 >> 1).collect();
            for n in near.chain(random).chain([0, LAST - 1, LAST]).filter(|n| *n <= LAST) {
                assert_eq!(quotient(n, &divisor), n / d, "{n} / {d}");
            }
        }
        assert!(Divisor::new("test", 0).is_err() && Divisor::new("test", 1 << 31).is_err());
    }
}
