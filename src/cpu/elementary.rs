//! e^x and ln x without branches and calls, so that loops over them become vector code in whatever `pulp` dispatches to.

/// e^x for x <= 0, within 2 ulp of the exact value down to -87, 0 below (and for `-inf`).
///
/// x = n ln 2 + r with |r| <= ln 2 / 2, e^r by its Taylor series to r^7 (the next term is below
/// 6e-9), then n goes into the exponent. Branchless, so that a loop over it becomes vector code.
#[inline(always)]
pub fn exp(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = x.max(-87.0);
    // Adding 1.5 * 2^23 rounds to the nearest integer, which stands in the low bits.
    let shifted = clamped * std::f32::consts::LOG2_E + 12_582_912.0;
    let n = shifted - 12_582_912.0;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let scale = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.0 { 0.0 } else { p * scale }
}

/// ln x for a normal x > 0, within 2 ulp; something finite for any other x.
///
/// x = 2^n (1 + f) with 1 + f in sqrt(1/2) .. sqrt(2). With s = f / (2 + f), ln(1 + f) = 2 atanh s = f - s (f - R), where R =
/// 2 s^2 / 3 + 2 s^4 / 5 + ..: the first term left out, 2 s^12 / 13, is below 2e-10. Branchless, as [`exp`].
#[inline(always)]
pub fn ln(x: f32) -> f32 {
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    const ROOT_HALF: u32 = 0x3f35_04f3;
    let above = x.to_bits().wrapping_sub(ROOT_HALF);
    let n = ((above as i32) >> 23) as f32;
    let f = f32::from_bits((above & 0x007f_ffff) + ROOT_HALF) - 1.0;
    let s = f / (2.0 + f);
    let z = s * s;
    let mut r = 2.0 / 11.0;
    for c in [2.0 / 9.0, 2.0 / 7.0, 2.0 / 5.0, 2.0 / 3.0] {
        r = r * z + c;
    }
    let half = 0.5 * f * f;
    // s f = f^2 / 2 - s f^2 / 2: the sum's small terms first.
    n * LN2_HIGH + (f - (half - (s * (half + r * z) + n * LN2_LOW)))
}

#[cfg(test)]
mod tests {
    use super::{exp, ln};

    #[test]
    fn ln_is_within_two_ulp() {
        // Every 97th positive normal number, and all around 1, where the result is next to 0.
        let around = (0x3f7f_0000..0x3f81_0000).step_by(1);
        for bits in (0x0080_0000u32..0x7f80_0000).step_by(97).chain(around) {
            let x = f32::from_bits(bits);
            let exact = f64::from(x).ln();
            let error = (f64::from(ln(x)) - exact).abs();
            assert!(error <= 2.0 * 2f64.powi(-23) * exact.abs(), "ln({x}): {} for {exact}", ln(x));
        }
        assert_eq!(ln(1.0), 0.0);
        let others = [0.0, -1.0, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-40];
        assert!(others.into_iter().all(|x| ln(x).is_finite()));
    }

    #[test]
    fn exp_is_within_two_ulp() {
        for i in 0..1_000_000u32 {
            let x = -87.0 * (i as f32 / 1e6);
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error <= 2.0 * 2f64.powi(-23), "exp({x}): relative error {error:e}");
        }
        assert_eq!(exp(0.0), 1.0);
        assert_eq!(exp(-88.0), 0.0);
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
    }
}
