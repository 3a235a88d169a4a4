//! The matrix-multiply microkernel of the CPU path, and the weights packed for it.
//!
//! `y[m, n] = sum_k a[m, k] b[k, n]`: a tile of [`ROWS`] rows of `a`, each a slice of some
//! activation (never copied: the rows of an implicit GEMM lie in the image itself), times a *panel*
//! of `b`: up to 4 vectors of columns, stored `[k][column]`. The accumulators live in registers:
//! 6 x 4 of AVX-512's 32, 6 x 2 of AVX2's 16.

use bytemuck::{Pod, Zeroable};
use pulp::Simd;

use super::simd::arch;

/// Rows of `a` of a tile.
pub const ROWS: usize = 6;

/// One cache line of f32, so that vectors loaded from packed data never straddle two.
#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct Line(pub [f32; 16]);

/// A zeroed, cache-line aligned buffer of at least `len` f32.
pub fn aligned(len: usize) -> Vec<Line> {
    vec![Line([0.0; 16]); len.div_ceil(16)]
}

/// Lanes of the vectors of the machine that runs, and the vectors of a full panel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Width {
    pub lanes: usize,
    pub vectors: usize,
}

impl Width {
    pub fn of<S: Simd>(_: S) -> Self {
        let vectors = if S::REGISTER_COUNT >= 32 { 4 } else { 2 };
        Width { lanes: S::F32_LANES, vectors }
    }

    pub fn detect() -> Self {
        struct Detect;
        impl pulp::WithSimd for Detect {
            type Output = Width;
            fn with_simd<S: Simd>(self, simd: S) -> Width {
                Width::of(simd)
            }
        }
        arch().dispatch(Detect)
    }
}

/// A `[K, N]` matrix cut in panels of columns, zero-padded to whole vectors.
pub struct Panels {
    pub depth: usize,
    pub columns: usize,
    width: Width,
    data: Vec<Line>,
}

/// One panel: columns `first..first + count`, `vectors` vectors wide, `[depth][vectors * lanes]`.
pub struct Panel<'a> {
    pub first: usize,
    pub count: usize,
    pub vectors: usize,
    pub data: &'a [f32],
}

impl Panels {
    /// A matrix of zeros.
    pub fn zeros(depth: usize, columns: usize) -> Self {
        let width = Width::detect();
        let stride = columns.next_multiple_of(width.lanes);
        Panels { depth, columns, width, data: aligned(depth * stride) }
    }

    /// Packs `value(k, n)`.
    pub fn pack(depth: usize, columns: usize, value: impl Fn(usize, usize) -> f32) -> Self {
        let mut panels = Panels::zeros(depth, columns);
        for panel in 0..panels.count() {
            let Panel { first, count, vectors, .. } = panels.get(panel);
            let wide = vectors * panels.width.lanes;
            let rows = panels.get_mut(panel).chunks_exact_mut(wide);
            for (k, row) in rows.enumerate() {
                for (n, packed) in row[..count].iter_mut().enumerate() {
                    *packed = value(k, first + n);
                }
            }
        }
        panels
    }

    /// The data of a panel, `[depth][vectors * lanes]`.
    pub fn get_mut(&mut self, index: usize) -> &mut [f32] {
        let Panel { first, data, .. } = self.get(index);
        let range = first * self.depth..first * self.depth + data.len();
        &mut bytemuck::cast_slice_mut(&mut self.data)[range]
    }

    pub fn count(&self) -> usize {
        self.columns.div_ceil(self.width.lanes * self.width.vectors)
    }

    pub fn get(&self, index: usize) -> Panel<'_> {
        let Width { lanes, vectors } = self.width;
        let first = index * lanes * vectors;
        let count = (self.columns - first).min(lanes * vectors);
        let vectors = count.div_ceil(lanes);
        let data: &[f32] = bytemuck::cast_slice(&self.data);
        let data = &data[first * self.depth..][..self.depth * vectors * lanes];
        Panel { first, count, vectors, data }
    }

    pub fn bytes(&self) -> usize {
        std::mem::size_of_val(self.data.as_slice())
    }
}

/// The accumulators of a tile.
pub type Tile<S, const V: usize> = [[<S as Simd>::f32s; V]; ROWS];

#[inline(always)]
pub fn zero<S: Simd, const V: usize>(simd: S) -> Tile<S, V> {
    [[simd.splat_f32s(0.0); V]; ROWS]
}

/// `tile[m] += sum_k rows[m][k] panel[k]` over the `panel.len()` first elements of each row.
#[inline(always)]
pub fn accumulate<S: Simd, const V: usize>(
    simd: S,
    tile: &mut Tile<S, V>,
    rows: [&[f32]; ROWS],
    panel: &[[S::f32s; V]],
) {
    let depth = panel.len();
    // Written out: `map` would be a call. An element of rows that are known to be as long is not checked.
    let rows: [&[f32]; ROWS] = [
        &rows[0][..depth],
        &rows[1][..depth],
        &rows[2][..depth],
        &rows[3][..depth],
        &rows[4][..depth],
        &rows[5][..depth],
    ];
    let mut sum = *tile;
    for k in 0..depth {
        let b = &panel[k];
        for m in 0..ROWS {
            let a = simd.splat_f32s(rows[m][k]);
            for v in 0..V {
                sum[m][v] = simd.mul_add_e_f32s(a, b[v], sum[m][v]);
            }
        }
    }
    *tile = sum;
}

/// Runs `$body` with the constant `$v` equal to the panel's vector count.
macro_rules! with_vectors {
    ($vectors:expr, $v:ident => $body:expr) => {
        match $vectors {
            1 => {
                const $v: usize = 1;
                $body
            }
            2 => {
                const $v: usize = 2;
                $body
            }
            3 => {
                const $v: usize = 3;
                $body
            }
            _ => {
                const $v: usize = 4;
                $body
            }
        }
    };
}
pub(crate) use with_vectors;
