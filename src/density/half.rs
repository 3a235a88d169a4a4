//! Rounding to fp16 without leaving f32: features are rounded on every device before they are
//! fitted or evaluated, so that a density means the same everywhere.

/// Least magnitude that rounds to an fp16 infinity: halfway between 65504, fp16's largest, and 65536.
pub const OVERFLOW: f32 = 65520.0;

/// `x` rounded to the nearest fp16 value, ties to even; needs |x| < `OVERFLOW`.
///
/// Free of branches, so that loops over it vectorise.
#[inline(always)]
pub fn round_to_half(x: f32) -> f32 {
    let bits = x.to_bits();
    let sign = bits & 0x8000_0000;
    let magnitude = bits & 0x7fff_ffff;
    // Normal fp16 numbers keep 10 of f32's 23 fraction bits: add just under half a unit, or exactly
    // half where the kept part is odd, and cut.
    let normal = f32::from_bits((magnitude + 0xfff + ((magnitude >> 13) & 1)) & !0x1fff);
    // Below 2^-14 fp16 has the fixed unit 2^-24, which is f32's unit in [0.5, 1): adding 0.5 rounds.
    let subnormal = (f32::from_bits(magnitude) + 0.5) - 0.5;
    let rounded = if magnitude < 0x3880_0000 { subnormal } else { normal };
    f32::from_bits(rounded.to_bits() | sign)
}

/// Whether every value stays finite in fp16 (false for NaN).
#[inline(always)]
pub fn finite_in_half(values: &[f32]) -> bool {
    // A fold without early exit vectorises; features are almost always finite.
    values.iter().fold(true, |all, v| all & (v.abs() < OVERFLOW))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::f16;

    /// Every fp16 value, the values one f32 unit around it, and the midpoints to its neighbour with
    /// the f32 units around them: all the places where rounding can go wrong.
    #[test]
    fn agrees_with_the_half_crate_everywhere() {
        let mut checked = 0;
        for bits in 0..0x7c00u16 {
            let value = f16::from_bits(bits).to_f32();
            let next = f16::from_bits(bits + 1).to_f32();
            let middle = if next.is_finite() { (value + next) / 2.0 } else { OVERFLOW };
            for x in [value, middle] {
                let near = [x.to_bits().saturating_sub(1), x.to_bits(), x.to_bits() + 1];
                for x in near.map(f32::from_bits).into_iter().filter(|x| *x < OVERFLOW) {
                    for x in [x, -x] {
                        let expected = f16::from_f32(x).to_f32();
                        assert_eq!(round_to_half(x).to_bits(), expected.to_bits(), "{x:e}");
                        checked += 1;
                    }
                }
            }
        }
        assert!(checked > 300_000);
    }

    #[test]
    fn what_overflows_or_is_no_number_is_not_finite() {
        for x in [f32::NAN, f32::INFINITY, -f32::INFINITY, OVERFLOW, -OVERFLOW, 1e30] {
            assert!(!finite_in_half(&[1.0, x]), "{x}");
            assert!(!f16::from_f32(x).is_finite());
        }
        assert!(finite_in_half(&[65519.996, -65504.0, 0.0]));
    }
}
