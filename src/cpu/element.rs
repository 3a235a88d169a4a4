//! What activations are stored as: f32, or bf16 where the network runs with `--precision bf16`.

use bytemuck::Pod;
use half::bf16;
use pulp::Simd;

use super::lanes;

/// A stored activation. Arithmetic is in f32 whatever it is.
pub trait Element: Pod + Send + Sync {
    fn to_f32(self) -> f32;

    /// To nearest, ties to even.
    fn from_f32(value: f32) -> Self;

    /// A vector from the first lanes of `from`; lanes that a shorter slice lacks are zero.
    fn load<S: Simd>(simd: S, from: &[Self]) -> S::f32s;

    /// A vector into the first lanes of `to`; lanes that a shorter slice lacks are dropped.
    fn store<S: Simd>(simd: S, to: &mut [Self], value: S::f32s);
}

impl Element for f32 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
        lanes::load_some(simd, from)
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, to: &mut [f32], value: S::f32s) {
        lanes::store_some(simd, to, value);
    }
}

impl Element for bf16 {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        let bits = value.to_bits();
        // A NaN stays one whatever its payload; the select has no branch, so loops over this are vectorised.
        let rounded = (bits.wrapping_add(0x7fff + (bits >> 16 & 1)) >> 16) as u16;
        bf16::from_bits(if value.is_nan() { (bits >> 16) as u16 | 0x40 } else { rounded })
    }

    #[inline(always)]
    fn load<S: Simd>(simd: S, from: &[bf16]) -> S::f32s {
        match from.get(..S::F32_LANES) {
            Some(all) => widen(simd, all),
            None => {
                let mut all = [bf16::ZERO; MOST];
                all[..from.len()].copy_from_slice(from);
                widen(simd, &all[..S::F32_LANES])
            }
        }
    }

    #[inline(always)]
    fn store<S: Simd>(simd: S, to: &mut [bf16], value: S::f32s) {
        match to.get_mut(..S::F32_LANES) {
            Some(all) => narrow(simd, all, value),
            None => {
                let mut all = [bf16::ZERO; MOST];
                narrow(simd, &mut all[..S::F32_LANES], value);
                to.copy_from_slice(&all[..to.len()]);
            }
        }
    }
}

/// The most lanes that a vector has.
const MOST: usize = 16;

/// Of a whole vector: a loop of known length becomes one instruction.
#[inline(always)]
fn widen<S: Simd>(simd: S, from: &[bf16]) -> S::f32s {
    let mut value = simd.splat_f32s(0.0);
    let lanes: &mut [f32] = bytemuck::cast_slice_mut(std::slice::from_mut(&mut value));
    for (lane, element) in lanes.iter_mut().zip(from) {
        *lane = Element::to_f32(*element);
    }
    value
}

#[inline(always)]
fn narrow<S: Simd>(_: S, to: &mut [bf16], value: S::f32s) {
    let lanes: &[f32] = bytemuck::cast_slice(std::slice::from_ref(&value));
    for (element, lane) in to.iter_mut().zip(lanes) {
        *element = <bf16 as Element>::from_f32(*lane);
    }
}
