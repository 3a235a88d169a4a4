//! Glyphs of GNU Unifont, which has every script: 16 rows of 8 or 16 pixels.

use std::sync::{LazyLock, Mutex, PoisonError};

use unifont_bitmap::Unifont;

use super::canvas::Canvas;

/// Rows of every glyph; an em.
pub const ROWS: usize = 16;
/// Of them below the baseline.
const DESCENT: usize = 2;

/// A glyph.
pub struct Bitmap {
    pub columns: usize,
    /// `[ROWS, columns]`
    ink: Vec<bool>,
}

/// The glyph of a character; None where the font has none.
pub fn of(character: char) -> Option<Bitmap> {
    static FONT: LazyLock<Mutex<Unifont>> = LazyLock::new(|| Mutex::new(Unifont::open()));
    // A glyph is loaded or it is not, whatever panicked meanwhile.
    let mut font = FONT.lock().unwrap_or_else(PoisonError::into_inner);
    let mut load = |character: char| font.load_bitmap(character.into()).get_bytes().to_vec();
    let (bytes, missing) = (load(character), load(char::REPLACEMENT_CHARACTER));
    if bytes == missing && character != char::REPLACEMENT_CHARACTER {
        return None;
    }
    let ink: Vec<bool> =
        bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> (7 - bit) & 1 == 1)).collect();
    Some(Bitmap { columns: ink.len() / ROWS, ink })
}

impl Canvas {
    /// Draws a glyph at `size` pixels an em with its left edge at `pen` and its baseline at `y`: each pixel of the canvas
    /// takes the mean of the glyph's pixels that it covers.
    pub(super) fn bitmap(&mut self, pen: f32, y: f32, bitmap: &Bitmap, size: f32, color: [u8; 3]) {
        let scale = size / ROWS as f32;
        let (left, top) = (pen, y - (ROWS - DESCENT) as f32 * scale);
        let right = left + bitmap.columns as f32 * scale;
        for row in top.floor() as i64..(top + size).ceil() as i64 {
            for column in left.floor() as i64..right.ceil() as i64 {
                let rows = overlaps(row as f32 - top, scale, ROWS);
                let mut coverage = 0.0;
                for (i, height) in rows {
                    for (j, width) in overlaps(column as f32 - left, scale, bitmap.columns) {
                        let ink = bitmap.ink[i * bitmap.columns + j];
                        coverage += if ink { height * width } else { 0.0 };
                    }
                }
                self.blend(row, column, color, coverage);
            }
        }
    }
}

/// The pixels of a glyph's axis (`count` of them, `scale` of the canvas's pixels each) that the canvas's pixel `at..at + 1`
/// covers, and how much of that pixel each takes.
fn overlaps(at: f32, scale: f32, count: usize) -> impl Iterator<Item = (usize, f32)> {
    let first = (at / scale).floor().max(0.0) as usize;
    let end = (((at + 1.0) / scale).ceil().max(0.0) as usize).min(count);
    (first..end).map(move |i| {
        let (low, high) = (i as f32 * scale, (i + 1) as f32 * scale);
        (i, (high.min(at + 1.0) - low.max(at)).max(0.0))
    })
}
