//! Which pixels are evaluated together, and their features with pixels as lanes.

use std::ops::Range;

use pulp::Simd;

use crate::density::half::{OVERFLOW, round_to_half};

/// Pixels that are evaluated together.
pub(super) const TILE: usize = 32;

/// Rows of pixels of a tile on a grid, and columns of a vector's patch.
const PATCH: usize = 4;

/// Which pixels a tile has.
#[derive(Clone, Copy)]
pub(super) struct Tiles {
    pixels: usize,
    /// Of the grid; a list is a row of them.
    columns: usize,
    /// 1 in a list.
    rows: usize,
}

impl Tiles {
    pub fn new(pixels: usize, columns: Option<usize>) -> Self {
        match columns {
            Some(columns) if 0 < columns && columns < pixels => {
                Tiles { pixels, columns, rows: PATCH }
            }
            _ => Tiles { pixels, columns: pixels, rows: 1 },
        }
    }

    /// Tiles side by side.
    fn across(&self) -> usize {
        self.columns.div_ceil(TILE / self.rows)
    }

    pub fn count(&self) -> usize {
        let rows = self.pixels.div_ceil(self.columns.max(1));
        rows.div_ceil(self.rows) * self.across()
    }

    /// Lanes of a tile, and the pixels side by side that they are; lanes beyond the grid are in none. The lanes of a tile
    /// of 4 x 8 pixels are two patches of 4 x 4, row by row, so that vectors of 8 lanes are patches as well, of 2 x 4.
    pub fn runs(self, tile: usize) -> impl Iterator<Item = (Range<usize>, Range<usize>)> {
        let wide = TILE / self.rows;
        let (top, left) = (tile / self.across() * self.rows, tile % self.across() * wide);
        let len = if self.rows == 1 { TILE } else { PATCH };
        (0..TILE).step_by(len).filter_map(move |lane| {
            let (row, column) = (lane / len % self.rows, lane / (len * self.rows) * len);
            let start = (top + row) * self.columns + left + column;
            let end = (start + len).min((top + row + 1) * self.columns).min(self.pixels);
            (start < end).then(|| (lane..lane + end - start, start..end))
        })
    }

    /// The pixel in each lane of a tile.
    pub fn pixels(self, tile: usize) -> [Option<usize>; TILE] {
        let mut pixels = [None; TILE];
        for (lanes, run) in self.runs(tile) {
            pixels[lanes].iter_mut().zip(run).for_each(|(pixel, at)| *pixel = Some(at));
        }
        pixels
    }
}

/// Pixels whose features are spread together.
pub(super) const QUAD: usize = 4;

/// Writes a tile's features, rounded to fp16, as `[group][k][lanes of the group]`, and says which
/// pixels are finite; the others, and lanes without a pixel, are zeros. `pairs` is scratch, `[2][D]`.
///
/// A quad of pixels goes through pairs of values in 64 bits: a vector's lanes can be shifted and joined, and what is then
/// scattered, one store of 16 bytes per channel, is a quarter of what single values would be.
#[inline(always)]
pub(super) fn transpose<S: Simd, const VECTORS: usize>(
    features: &[f32],
    pixels: &[Option<usize>; TILE],
    padded: usize,
    pairs: &mut [u64],
    tile: &mut [S::f32s],
) -> [bool; TILE] {
    let (channels, wide) = (pairs.len() / 2, VECTORS * S::F32_LANES);
    assert!(wide.is_multiple_of(QUAD), "a quad lies in one group");
    let tile: &mut [f32] = bytemuck::cast_slice_mut(tile);
    let mut finite = [true; TILE];
    let (low, high) = pairs.split_at_mut(channels);
    for (i, pixels) in (0..).step_by(QUAD).zip(pixels.as_chunks::<QUAD>().0) {
        // Of a lane without a pixel the first one's are read, which is as good as any.
        let z = pixels.map(|pixel| &features[pixel.unwrap_or(0) * channels..][..channels]);
        let (a, b) = join(z[0], z[1], low);
        let (c, d) = join(z[2], z[3], high);
        let lanes = &mut tile[i / wide * padded * wide + i % wide..];
        for ((low, high), lanes) in low.iter().zip(&*high).zip(lanes.chunks_mut(wide)) {
            let quad = [*low, low >> 32, *high, high >> 32].map(|bits| f32::from_bits(bits as u32));
            lanes[..QUAD].copy_from_slice(&quad);
        }
        for (lane, (pixel, is_finite)) in pixels.iter().zip([a, b, c, d]).enumerate() {
            finite[i + lane] = pixel.is_some() && is_finite;
            if !finite[i + lane] {
                let lane = lanes[lane..].iter_mut().step_by(wide);
                lane.take(channels).for_each(|lane| *lane = 0.0);
            }
        }
    }
    finite
}

/// Two pixels' values, rounded to fp16, channel by channel in one word, and whether each pixel is finite.
#[inline(always)]
fn join(low: &[f32], high: &[f32], pairs: &mut [u64]) -> (bool, bool) {
    let mut finite = (true, true);
    for ((low, high), pair) in low.iter().zip(high).zip(pairs) {
        finite.0 &= low.abs() < OVERFLOW;
        finite.1 &= high.abs() < OVERFLOW;
        let bits = [low, high].map(|z| u64::from(round_to_half(*z).to_bits()));
        *pair = bits[0] | bits[1] << 32;
    }
    finite
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pixel_is_in_one_lane() {
        let grids = [(1, None), (31, None), (64, None), (95, None), (3, Some(3)), (12, Some(1))];
        let cut = [(97, Some(13)), (120, Some(24)), (35, Some(5)), (33, Some(32)), (9, Some(4))];
        for (pixels, columns) in grids.into_iter().chain(cut) {
            let tiles = Tiles::new(pixels, columns);
            let mut found: Vec<usize> =
                (0..tiles.count()).flat_map(|tile| tiles.pixels(tile)).flatten().collect();
            found.sort_unstable();
            assert_eq!(found, (0..pixels).collect::<Vec<_>>(), "{pixels} in {columns:?}");
        }
    }
}
