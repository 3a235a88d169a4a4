//! Text in pictures: an embedded atlas of glyphs, scaled to any size by averaging coverage.
//!
//! A font crate would bring a parser, a rasteriser and a font file of ten times the size; the
//! pictures need a few words. `font/make.py` draws the atlas and says how it is laid out.
//! Characters outside Latin-1 are shown as `?`.

use std::sync::LazyLock;

use super::canvas::Canvas;

/// Pixels an em in the atlas.
const EM: f32 = 40.0;
const CELL: usize = 56;
const PEN: f32 = 8.0;
const BASELINE: f32 = 40.0;
const COLUMNS: usize = 16;

struct Atlas {
    /// Row-major, `COLUMNS * CELL` wide.
    coverage: Vec<u8>,
    /// Of each glyph, in atlas pixels.
    advance: Vec<f32>,
}

static ATLAS: LazyLock<Atlas> = LazyLock::new(|| {
    let png = std::io::Cursor::new(include_bytes!("font/sans.png"));
    let mut reader = png::Decoder::new(png).read_info().expect("the embedded atlas is a PNG");
    let mut coverage = vec![0; reader.output_buffer_size().expect("it is small")];
    reader.next_frame(&mut coverage).expect("it is whole");
    let glyphs = coverage.len() / (CELL * CELL);
    let advance = (0..glyphs)
        .map(|glyph| {
            let row = &coverage[corner(glyph) + (CELL - 1) * COLUMNS * CELL..][..CELL];
            row.iter().take_while(|v| **v > 0).count() as f32
        })
        .collect();
    Atlas { coverage, advance }
});

/// Offset of a glyph's cell in the atlas.
fn corner(glyph: usize) -> usize {
    (glyph / COLUMNS * CELL * COLUMNS + glyph % COLUMNS) * CELL
}

fn glyph(character: char) -> usize {
    match u32::from(character) {
        code @ 0x20..0x7f => code as usize - 0x20,
        code @ 0xa0..0x100 => code as usize - 0xa0 + 95,
        0x2212 => 191,
        0x2026 => 192,
        0x2013 => 193,
        _ => '?' as usize - 0x20,
    }
}

/// Width of `text` set at `size` pixels an em.
pub fn width(text: &str, size: f32) -> f32 {
    text.chars().map(|c| ATLAS.advance[glyph(c)]).sum::<f32>() * size / EM
}

/// `text`, or as much of its start as fits `limit` pixels with an ellipsis.
pub fn shortened(text: &str, size: f32, limit: f32) -> String {
    let mut kept: String = text.into();
    if width(text, size) <= limit {
        return kept;
    }
    while kept.pop().is_some() {
        let candidate = format!("{}…", kept.trim_end());
        if width(&candidate, size) <= limit {
            return candidate;
        }
    }
    String::new()
}

impl Canvas {
    /// Draws `text` at `size` pixels an em with its pen starting at `x` and its baseline at `y`.
    pub fn text(&mut self, x: f32, y: f32, text: &str, size: f32, color: [u8; 3]) {
        let mut pen = x;
        for character in text.chars() {
            let glyph = glyph(character);
            self.glyph(pen, y, glyph, size / EM, color);
            pen += ATLAS.advance[glyph] * size / EM;
        }
    }

    fn glyph(&mut self, pen: f32, y: f32, glyph: usize, scale: f32, color: [u8; 3]) {
        let (left, top) = (pen - PEN * scale, y - BASELINE * scale);
        let side = CELL as f32 * scale;
        for row in top.floor() as i64..=(top + side).floor() as i64 {
            let (y0, y1) = ((row as f32 - top) / scale, (row as f32 + 1.0 - top) / scale);
            for column in left.floor() as i64..=(left + side).floor() as i64 {
                let (x0, x1) =
                    ((column as f32 - left) / scale, (column as f32 + 1.0 - left) / scale);
                let coverage = mean_coverage(glyph, [y0, y1], [x0, x1]);
                self.blend(row, column, color, coverage);
            }
        }
    }
}

/// Mean of a glyph's coverage, 0 to 1, over a rectangle in cell coordinates (0 outside the cell).
fn mean_coverage(glyph: usize, y: [f32; 2], x: [f32; 2]) -> f32 {
    // The last row holds the advance.
    let overlap = |i: usize, [a, b]: [f32; 2]| (b.min(i as f32 + 1.0) - a.max(i as f32)).max(0.0);
    let range =
        |[a, b]: [f32; 2], end: usize| a.max(0.0) as usize..(b.max(0.0).ceil() as usize).min(end);
    let mut sum = 0.0;
    for row in range(y, CELL - 1) {
        let weight = overlap(row, y);
        let line = &ATLAS.coverage[corner(glyph) + row * COLUMNS * CELL..][..CELL];
        for column in range(x, CELL) {
            sum += weight * overlap(column, x) * f32::from(line[column]);
        }
    }
    sum / (255.0 * (y[1] - y[0]) * (x[1] - x[0]))
}
