//! Vector loads and stores from slices. `pulp`'s partial loads jump through a table by length;
//! whole vectors, nearly all, take the plain instruction here.

use pulp::Simd;

/// A vector from the first lanes of `from`.
///
/// # Panics
/// If `from` is shorter than a vector.
#[inline(always)]
pub fn load<S: Simd>(_: S, from: &[f32]) -> S::f32s {
    bytemuck::pod_read_unaligned(bytemuck::cast_slice(&from[..S::F32_LANES]))
}

/// A vector into the first lanes of `to`.
///
/// # Panics
/// If `to` is shorter than a vector.
#[inline(always)]
pub fn store<S: Simd>(_: S, to: &mut [f32], value: S::f32s) {
    to[..S::F32_LANES].copy_from_slice(bytemuck::cast_slice(&[value]));
}

/// Like [`load`]; lanes that a shorter slice lacks are zero.
#[inline(always)]
pub fn load_some<S: Simd>(simd: S, from: &[f32]) -> S::f32s {
    if from.len() >= S::F32_LANES { load(simd, from) } else { simd.partial_load_f32s(from) }
}

/// Like [`store`]; lanes that a shorter slice lacks are dropped.
#[inline(always)]
pub fn store_some<S: Simd>(simd: S, to: &mut [f32], value: S::f32s) {
    if to.len() >= S::F32_LANES {
        store(simd, to, value);
    } else {
        simd.partial_store_f32s(to, value);
    }
}
