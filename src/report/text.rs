//! Text in pictures: an embedded atlas of glyphs, scaled to any size by averaging coverage.
//!
//! A font crate would bring a parser, a rasteriser and a font file of ten times the size; the
//! pictures need a few words. `font/make.py` draws the atlas and says how it is laid out.
//! A character outside Latin-1 is a box with its code point in it, as `U+4EBA` in two lines: names of
//! another script can be told apart, and looked up.

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

/// Index in the atlas.
fn glyph(character: char) -> Option<usize> {
    match u32::from(character) {
        code @ 0x20..0x7f => Some(code as usize - 0x20),
        code @ 0xa0..0x100 => Some(code as usize - 0xa0 + 95),
        0x2212 => Some(191),
        0x2026 => Some(192),
        0x2013 => Some(193),
        _ => None,
    }
}

/// Of the digits in a code point's box.
const SMALL: f32 = 0.5;

/// The code point in hex, in two lines of equal length.
fn code_point(character: char) -> [String; 2] {
    let code = u32::from(character);
    let digits = if code > 0xffff { 3 } else { 2 };
    let hex = format!("{code:0width$X}", width = 2 * digits);
    [hex[..digits].into(), hex[digits..].into()]
}

/// How far a character moves the pen, in atlas pixels.
fn advance(character: char) -> f32 {
    match glyph(character) {
        Some(glyph) => ATLAS.advance[glyph],
        // The digits, and an eighth of an em for the box and the space around it.
        None => {
            let line = |line: &String| line.chars().map(advance).sum::<f32>();
            SMALL * code_point(character).iter().map(line).fold(0.0, f32::max) + EM / 4.0
        }
    }
}

/// Width of `text` set at `size` pixels an em.
pub fn width(text: &str, size: f32) -> f32 {
    text.chars().map(advance).sum::<f32>() * size / EM
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
            match glyph(character) {
                Some(glyph) => self.glyph(pen, y, glyph, size / EM, color),
                None => self.code_point(pen, y, character, size, color),
            }
            pen += advance(character) * size / EM;
        }
    }

    /// A box as high as an em, its sides an em's 20th from those of its neighbours.
    fn code_point(&mut self, pen: f32, y: f32, character: char, size: f32, color: [u8; 3]) {
        let wide = advance(character) * size / EM;
        let (left, right) =
            ((pen + size / 20.0).round() as i64, (pen + wide - size / 20.0).round() as i64);
        let (top, bottom) = ((y - 0.82 * size).round() as i64, (y + 0.18 * size).round() as i64);
        for row in top..=bottom {
            for column in left..=right {
                if row == top || row == bottom || column == left || column == right {
                    self.blend(row, column, color, 1.0);
                }
            }
        }
        for (line, y) in code_point(character).iter().zip([y - 0.36 * size, y + 0.08 * size]) {
            self.text(pen + size / 8.0, y, line, SMALL * size, color);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::Size;

    #[test]
    fn characters_without_a_glyph_are_told_apart_by_their_code_points() {
        assert_eq!(code_point('人'), ["4E", "BA"]);
        assert_eq!(code_point('\u{1f697}'), ["01F", "697"]);
        let drawn = |text: &str| {
            let mut canvas = Canvas::new(Size::new(40, 80), [255; 3]);
            canvas.text(5.0, 30.0, text, 24.0, [0; 3]);
            canvas.0.rgb
        };
        for [a, b] in [["人", "車"], ["人", "?"], ["\u{1f697}", "\u{1f698}"]] {
            assert_ne!(drawn(a), drawn(b), "{a} {b}");
        }
        // It takes the room that it is said to take.
        assert_eq!(width("人人", 24.0), 2.0 * width("人", 24.0));
        let mut canvas = Canvas::new(Size::new(40, 80), [255; 3]);
        canvas.text(5.0, 30.0, "人", 24.0, [0; 3]);
        let end = (5.0 + width("人", 24.0)).ceil() as usize;
        assert!(
            canvas.0.rgb.chunks_exact(3 * 80).all(|row| row[3 * end..].iter().all(|v| *v == 255))
        );
    }
}
