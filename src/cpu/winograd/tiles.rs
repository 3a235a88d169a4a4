//! How an output is cut for Winograd's transforms: tiles of `side` x `side` outputs, of each of the interleaved images that a dilation
//! splits it into, in strips of whole rows of tiles.

use crate::cpu::tensor::Shape;
use crate::ops::Conv2d;

/// Channels that the transforms take at a time.
const LANES: usize = 16;

/// A few whole tile rows of one image: a contiguous piece of the output.
pub struct Strip<'a, O> {
    pub image: usize,
    /// First output row.
    pub top: usize,
    pub out: &'a mut [O],
    /// Top left output position of each tile.
    pub tiles: Vec<(usize, usize)>,
}

/// Cuts the output into strips of at least so many tiles where the image allows.
pub fn strips<'a, O>(
    out: &'a mut [O],
    shape: Shape,
    dilation: usize,
    side: usize,
    least: usize,
) -> Vec<Strip<'a, O>> {
    let Shape { size, channels, .. } = shape;
    let columns: Vec<usize> = starts(0, size.w, size.w, dilation, side).collect();
    let tile_rows = least.div_ceil(columns.len() * dilation).max(1);
    let rows = side * dilation * tile_rows;
    let mut strips = Vec::new();
    let images = out.chunks_mut(size.pixels() * channels);
    for (image, out) in images.enumerate() {
        for (i, out) in out.chunks_mut(rows * size.w * channels).enumerate() {
            let top = shape.top + i * rows;
            let bottom = top + out.len() / (size.w * channels);
            let tiles = starts(top, bottom, size.h, dilation, side)
                .flat_map(|y| columns.iter().map(move |&x| (y, x)))
                .collect();
            strips.push(Strip { image, top, out, tiles });
        }
    }
    strips
}

/// Tiles that an output of this height and width is cut into.
pub fn tiles(conv: &Conv2d, side: usize, h: usize, w: usize) -> usize {
    let axis = |n| phases(n, conv.dilation).map(|(_, len)| len.div_ceil(side)).sum::<usize>();
    axis(h) * axis(w)
}

/// Whether F(side x side, 3x3) applies to a convolution and pays on an output of this height and width.
pub fn pays(conv: &Conv2d, side: usize, h: usize, w: usize) -> bool {
    let whole = |channels: usize| channels >= LANES && channels.is_multiple_of(LANES);
    let fits = conv.kernel == 3
        && conv.stride == 1
        && !conv.depthwise
        && conv.padding == conv.dilation
        && whole(conv.in_channels)
        && whole(conv.out_channels);
    // Products against the direct sum's 9 per pixel; the transforms cost about a third more.
    let points = (side + 2) * (side + 2);
    fits && points * tiles(conv, side, h, w) * 4 < 9 * h * w * 3
}

/// Start and length of each of the interleaved parts of an axis.
fn phases(n: usize, dilation: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..dilation.min(n)).map(move |start| (start, (n - start).div_ceil(dilation)))
}

/// First coordinates of the tiles in `from..to` of an axis of length `n`; `from` starts a row of
/// tiles of every phase.
fn starts(
    from: usize,
    to: usize,
    n: usize,
    dilation: usize,
    side: usize,
) -> impl Iterator<Item = usize> {
    phases((to - from).min(n), dilation).flat_map(move |(start, len)| {
        (0..len).step_by(side).map(move |i| from + start + i * dilation)
    })
}
