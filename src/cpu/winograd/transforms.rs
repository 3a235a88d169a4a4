//! The transforms of [`super`] as vector code: of filters `[K, 3, 3, C]` in f64, of input tiles to `[point, tile, C]`, of products back
//! to output pixels.

use pulp::{Simd, WithSimd};

use super::{IN, OUT, Operands, POINTS, Strip};
use crate::cpu::gemm::{Panel, Panels};
use crate::cpu::lanes::{load, store};
use crate::plan::ConvWeights;

/// G g G^T of every filter, in f64.
pub(super) struct TransformFilters<'a> {
    pub weights: &'a ConvWeights,
    pub points: &'a mut [Panels],
}

/// Input channels whose filters are transformed together: `in_channels` is a multiple of it ([`pays`]).
const FILTERS: usize = 16;

impl WithSimd for TransformFilters<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) {
        let TransformFilters { weights: ConvWeights { conv, weight, .. }, points } = self;
        let c = conv.in_channels;
        for panel in 0..points[0].count() {
            let Panel { first, count, data, .. } = points[0].get(panel);
            let wide = data.len() / c;
            let mut data: Vec<&mut [f32]> = points.iter_mut().map(|p| p.get_mut(panel)).collect();
            for m in (0..c).step_by(FILTERS) {
                for n in 0..count {
                    let tap = |tap: usize| -> [f64; FILTERS] {
                        let run = &weight[((first + n) * 9 + tap) * c + m..][..FILTERS];
                        std::array::from_fn(|i| f64::from(run[i]))
                    };
                    // G g, [6][3], a column of g at a time.
                    let half: [[[f64; FILTERS]; IN]; 3] =
                        std::array::from_fn(|s| transform_three([tap(s), tap(3 + s), tap(6 + s)]));
                    for i in 0..IN {
                        let row = transform_three([half[0][i], half[1][i], half[2][i]]);
                        for (j, values) in row.iter().enumerate() {
                            let data = &mut data[i * IN + j][m * wide..][..FILTERS * wide];
                            for (row, value) in data.chunks_exact_mut(wide).zip(values) {
                                row[n] = *value as f32;
                            }
                        }
                    }
                }
            }
        }
    }
}

/// G g for one column of many filters.
#[inline(always)]
fn transform_three([a, b, c]: [[f64; FILTERS]; 3]) -> [[f64; FILTERS]; IN] {
    let mut out = [[0.0; FILTERS]; IN];
    for i in 0..FILTERS {
        let (a, b, c) = (a[i], b[i], c[i]);
        // (1, +-1, 1) / -6 and (1, +-2, 4) / 24
        let (sixth, wide) = ((a + c) / -6.0, (a + 4.0 * c) / 24.0);
        out[0][i] = a / 4.0;
        out[1][i] = sixth - b / 6.0;
        out[2][i] = sixth + b / 6.0;
        out[3][i] = wide + b / 12.0;
        out[4][i] = wide - b / 12.0;
        out[5][i] = c;
    }
    out
}

/// B^T d B of some tiles of an image: `[point, tile, C]`.
pub(super) struct TransformInput<'a> {
    pub operands: &'a Operands<'a>,
    pub image: usize,
    pub tiles: &'a [(usize, usize)],
    pub out: &'a mut [f32],
}

impl WithSimd for TransformInput<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Operands { weights: winograd, x, .. } = self.operands;
        let (c, count) = (winograd.conv.in_channels, self.tiles.len());
        let step = winograd.conv.dilation as isize;
        let zeros = vec![0.0; c];
        for (t, &(top, left)) in self.tiles.iter().enumerate() {
            let source: [&[f32]; POINTS] = std::array::from_fn(|p| {
                let y = top as isize + ((p / IN) as isize - 1) * step;
                let x0 = left as isize + ((p % IN) as isize - 1) * step;
                x.pixel(self.image, y, x0).unwrap_or(&zeros)
            });
            for first in (0..c).step_by(S::F32_LANES) {
                let mut d = [[simd.splat_f32s(0.0); IN]; IN];
                for (p, row) in source.iter().enumerate() {
                    d[p / IN][p % IN] = load(simd, &row[first..]);
                }
                for column in 0..IN {
                    let v = transform_six(simd, std::array::from_fn(|i| d[i][column]));
                    for i in 0..IN {
                        d[i][column] = v[i];
                    }
                }
                for (i, row) in d.iter().enumerate() {
                    for (j, v) in transform_six(simd, *row).into_iter().enumerate() {
                        let at = ((i * IN + j) * count + t) * c + first;
                        store(simd, &mut self.out[at..at + S::F32_LANES], v);
                    }
                }
            }
        }
    }
}

/// B^T d for one column.
#[inline(always)]
fn transform_six<S: Simd>(s: S, d: [S::f32s; IN]) -> [S::f32s; IN] {
    let (two, four, five) = (s.splat_f32s(2.0), s.splat_f32s(4.0), s.splat_f32s(5.0));
    // 4 d0 - 5 d2 + d4
    let even = s.negate_mul_add_e_f32s(five, d[2], s.mul_add_e_f32s(four, d[0], d[4]));
    let odd = s.negate_mul_add_e_f32s(five, d[3], s.mul_add_e_f32s(four, d[1], d[5]));
    // (d4 - 4 d2) +- (d3 - 4 d1)
    let a = s.negate_mul_add_e_f32s(four, d[2], d[4]);
    let b = s.negate_mul_add_e_f32s(four, d[1], d[3]);
    // (d4 - d2) +- 2 (d3 - d1)
    let e = s.sub_f32s(d[4], d[2]);
    let f = s.mul_f32s(two, s.sub_f32s(d[3], d[1]));
    [even, s.add_f32s(a, b), s.sub_f32s(a, b), s.add_f32s(e, f), s.sub_f32s(e, f), odd]
}

/// A^T m A of some tiles of a strip, then bias, residual and ReLU, into the output.
pub(super) struct TransformOutput<'a, 'b, Product> {
    pub operands: &'a Operands<'a>,
    pub strip: &'a mut Strip<'b, f32>,
    pub tiles: &'a [(usize, usize)],
    pub product: Product,
}

impl<'r, Product> WithSimd for TransformOutput<'_, '_, Product>
where
    Product: Fn(usize, usize) -> &'r [f32],
{
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Operands { weights: winograd, residual, relu, y, .. } = self.operands;
        let step = winograd.conv.dilation;
        let floor = simd.splat_f32s(if *relu { 0.0 } else { f32::NEG_INFINITY });
        let bottom = self.strip.top + self.strip.out.len() / (y.size.w * y.channels);
        for (t, &(top, left)) in self.tiles.iter().enumerate() {
            let source: [&[f32]; POINTS] = std::array::from_fn(|p| (self.product)(p, t));
            for first in (0..winograd.conv.out_channels).step_by(S::F32_LANES) {
                let mut half = [[simd.splat_f32s(0.0); IN]; OUT];
                for column in 0..IN {
                    let m = std::array::from_fn(|i| load(simd, &source[i * IN + column][first..]));
                    let v = transform_four(simd, m);
                    for i in 0..OUT {
                        half[i][column] = v[i];
                    }
                }
                let bias = load(simd, &winograd.bias[first..]);
                for (i, row) in half.iter().enumerate() {
                    let out_y = top + i * step;
                    if out_y >= bottom {
                        break;
                    }
                    for (j, mut v) in transform_four(simd, *row).into_iter().enumerate() {
                        let out_x = left + j * step;
                        if out_x >= y.size.w {
                            break;
                        }
                        v = simd.add_f32s(v, bias);
                        if let Some(residual) = residual {
                            let at = (self.strip.image * y.size.h + out_y) * y.size.w + out_x;
                            v = simd.add_f32s(v, load(simd, &residual.row(at)[first..]));
                        }
                        let pixel = (out_y - self.strip.top) * y.size.w + out_x;
                        let at = pixel * y.channels + y.first + first;
                        let out = &mut self.strip.out[at..at + S::F32_LANES];
                        store(simd, out, simd.max_f32s(floor, v));
                    }
                }
            }
        }
    }
}

/// A^T m for one column.
#[inline(always)]
fn transform_four<S: Simd>(s: S, m: [S::f32s; IN]) -> [S::f32s; OUT] {
    let (two, four, eight) = (s.splat_f32s(2.0), s.splat_f32s(4.0), s.splat_f32s(8.0));
    let (a, b) = (s.add_f32s(m[1], m[2]), s.sub_f32s(m[1], m[2]));
    let (c, d) = (s.add_f32s(m[3], m[4]), s.sub_f32s(m[3], m[4]));
    [
        s.add_f32s(m[0], s.add_f32s(a, c)),
        s.mul_add_e_f32s(two, d, b),
        s.mul_add_e_f32s(four, c, a),
        s.add_f32s(m[5], s.mul_add_e_f32s(eight, d, b)),
    ]
}
