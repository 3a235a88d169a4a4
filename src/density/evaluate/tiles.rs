//! Which pixels are evaluated together, and their features with pixels as lanes.

use std::ops::Range;

use pulp::Simd;

use crate::density::half::{finite_in_half, round_to_half};

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

/// Writes a tile's features, rounded to fp16, as `[group][k][lanes of the group]`, and says which
/// pixels are finite; the others, and lanes without a pixel, are zeros. `row` is scratch for a pixel.
#[inline(always)]
pub(super) fn transpose<S: Simd, const VECTORS: usize>(
    features: &[f32],
    pixels: &[Option<usize>; TILE],
    padded: usize,
    row: &mut [f32],
    tile: &mut [S::f32s],
) -> [bool; TILE] {
    let (channels, wide) = (row.len(), VECTORS * S::F32_LANES);
    let tile: &mut [f32] = bytemuck::cast_slice_mut(tile);
    let mut finite = [true; TILE];
    for (i, (pixel, finite)) in pixels.iter().zip(&mut finite).enumerate() {
        let lane = &mut tile[i / wide * padded * wide + i % wide..];
        let lane = lane.iter_mut().step_by(wide);
        match pixel.map(|pixel| &features[pixel * channels..(pixel + 1) * channels]) {
            Some(z) if finite_in_half(z) => {
                // Rounded in vectors before they are spread.
                row.iter_mut().zip(z).for_each(|(row, z)| *row = round_to_half(*z));
                lane.zip(&*row).for_each(|(lane, z)| *lane = *z);
            }
            _ => {
                *finite = false;
                lane.take(channels).for_each(|lane| *lane = 0.0);
            }
        }
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
