//! Text in pictures: an embedded atlas of glyphs, scaled to any size by averaging coverage.
//!
//! `font/make.py` draws the atlas and says how it is laid out. A character outside Latin-1 is GNU Unifont's (`bitmap`),
//! 16 pixels high; one that it lacks is a box with its code point in it, as `U+4EBA` in two lines.

use std::sync::LazyLock;

use super::bitmap::{self, Bitmap};
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

/// What draws a character.
enum Shape {
    /// Its place in the atlas.
    Glyph(usize),
    Bitmap(Bitmap),
    /// Joiners and variation selectors.
    Nothing,
    CodePoint,
}

fn shape(character: char) -> Shape {
    match (glyph(character), character) {
        (Some(glyph), _) => Shape::Glyph(glyph),
        (None, '\u{200d}' | '\u{fe00}'..='\u{fe0f}') => Shape::Nothing,
        _ => bitmap::of(character).map_or(Shape::CodePoint, Shape::Bitmap),
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
    match shape(character) {
        Shape::Glyph(glyph) => ATLAS.advance[glyph],
        Shape::Bitmap(bitmap) => EM * bitmap.columns as f32 / bitmap::ROWS as f32,
        Shape::Nothing => 0.0,
        // The digits, and an eighth of an em for the box and the space around it.
        Shape::CodePoint => {
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
            match shape(character) {
                Shape::Glyph(glyph) => self.glyph(pen, y, glyph, size / EM, color),
                Shape::Bitmap(bitmap) => self.bitmap(pen, y, &bitmap, size, color),
                Shape::Nothing => {}
                Shape::CodePoint => self.code_point(pen, y, character, size, color),
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

    fn drawn(text: &str) -> Vec<u8> {
        let mut canvas = Canvas::new(Size::new(40, 80), [255; 3]);
        canvas.text(5.0, 30.0, text, 24.0, [0; 3]);
        canvas.0.rgb
    }

    fn ink(rgb: &[u8]) -> usize {
        rgb.iter().filter(|v| **v < 128).count()
    }

    #[test]
    fn every_script_is_drawn() {
        // Strokes that a person would know them by: 人 has no dot in its upper left, 一 is one bar.
        for [a, b] in [["人", "車"], ["人", "?"], ["\u{1f697}", "\u{1f698}"], ["ж", "д"]] {
            assert_ne!(drawn(a), drawn(b), "{a} {b}");
            assert!(ink(&drawn(a)) > 20 && ink(&drawn(b)) > 20, "{a} {b}");
        }
        let bar = drawn("一");
        let rows = bar.chunks_exact(3 * 80).filter(|row| row.iter().any(|v| *v < 128)).count();
        assert!((1..=4).contains(&rows), "{rows} rows of ink");
        // A variation selector changes nothing.
        assert_eq!(drawn("\u{2602}\u{fe0f}"), drawn("\u{2602}"));
    }

    #[test]
    fn a_character_takes_the_room_that_it_is_said_to_take() {
        for text in ["人", "ж", "\u{1f697}", "\u{10fffd}"] {
            assert_eq!(width(&format!("{text}{text}"), 24.0), 2.0 * width(text, 24.0));
            let end = (5.0 + width(text, 24.0)).ceil() as usize;
            assert!(
                drawn(text)
                    .chunks_exact(3 * 80)
                    .all(|row| row[3 * end..].iter().all(|v| *v == 255))
            );
        }
    }

    #[test]
    fn what_no_font_has_is_told_apart_by_its_code_point() {
        assert_eq!(code_point('人'), ["4E", "BA"]);
        assert_eq!(code_point('\u{1f697}'), ["01F", "697"]);
        assert!(matches!(shape('\u{10fffd}'), Shape::CodePoint));
        assert_ne!(drawn("\u{10fffd}"), drawn("\u{10fffc}"));
    }
}
