//! A contact sheet: one row of panels per scene, a title over each column, and below the columns what
//! explains their colours: a bar for numbers, a legend for classes.

use super::canvas::Canvas;
use super::overlay::{FAINT, INK, PAPER, Scale};
use super::text;
use super::ticks::Ticks;
use crate::data::Image;
use crate::ops::Size;

pub struct Column<'a> {
    pub title: &'a str,
    /// Of the column's numbers, and all of those; none where it shows pictures or classes.
    pub scale: Option<(&'a Scale<'a>, &'a [f32])>,
}

const EM: f32 = 15.0;
const MARGIN: usize = 18;
const GAP: usize = 8;
const BAR: usize = 14;

/// `rows` hold one panel a column, all of one size. The legend stands below the columns before the
/// first that has a scale.
pub fn contact_sheet(
    columns: &[Column],
    rows: &[Vec<Image>],
    legend: &[(String, [u8; 3])],
) -> Image {
    let panel = rows.first().and_then(|row| row.first()).map_or(Size::new(0, 0), |p| p.size);
    let left = |column: usize| MARGIN + column * (panel.w + GAP);
    let top = |row: usize| MARGIN + (1.7 * EM) as usize + row * (panel.h + GAP);
    let plain = columns.iter().position(|c| c.scale.is_some()).unwrap_or(columns.len());
    let room = (left(plain) - MARGIN).saturating_sub(GAP) as f32;
    let lines = flow(legend, room);
    let deep = lines.last().map_or(0.0, |last| (last.line + 1) as f32 * 1.6 * EM);
    let foot = top(rows.len()) + GAP;
    let height = foot + deep.max(BAR as f32 + 3.2 * EM) as usize + MARGIN;
    let mut canvas = Canvas::new(Size::new(height, left(columns.len()) - GAP + MARGIN), PAPER);

    for (i, column) in columns.iter().enumerate() {
        let title = text::shortened(column.title, EM, panel.w as f32);
        canvas.text(left(i) as f32, top(0) as f32 - 0.6 * EM, &title, EM, INK);
        if let Some((scale, values)) = column.scale {
            bar(&mut canvas, foot, left(i), panel.w, scale, values);
        }
    }
    for (r, row) in rows.iter().enumerate() {
        for (c, image) in row.iter().enumerate() {
            canvas.picture(top(r), left(c), image);
        }
    }
    for (entry, (name, color)) in lines.iter().zip(legend) {
        let y = foot as f32 + entry.line as f32 * 1.6 * EM;
        let side = EM as usize;
        canvas.rectangle(y as usize, MARGIN + entry.x as usize, Size::new(side, side), *color);
        let x = MARGIN as f32 + entry.x + 1.4 * EM;
        canvas.text(x, y + 0.85 * EM, name, EM, INK);
    }
    canvas.0
}

struct Entry {
    line: usize,
    x: f32,
}

/// Sets the legend's entries one after the other, on a new line where the width is full.
fn flow(legend: &[(String, [u8; 3])], width: f32) -> Vec<Entry> {
    let (mut line, mut x) = (0, 0.0);
    let place = |(name, _): &(String, [u8; 3])| {
        let needed = 1.4 * EM + text::width(name, EM);
        if x > 0.0 && x + needed > width {
            (line, x) = (line + 1, 0.0);
        }
        let entry = Entry { line, x };
        x += needed + 1.3 * EM;
        entry
    };
    legend.iter().map(place).collect()
}

/// A horizontal colour bar with ticks and its label below; an arrow at an end beyond which `values` lie, and how
/// far they go.
fn bar(canvas: &mut Canvas, top: usize, left: usize, width: usize, scale: &Scale, values: &[f32]) {
    let [first, last] = scale.range;
    let beyond = scale.beyond(values);
    let arrow = |end: &Option<String>| if end.is_some() { BAR.min(width / 4) } else { 0 };
    let [before, after] = [arrow(&beyond[0]), arrow(&beyond[1])];
    let mut column = |at: usize, high: usize, color| {
        canvas.rectangle(top + (BAR - high) / 2, at, Size::new(high, 1), color);
    };
    for i in 1..before {
        column(left + i, BAR * i / before, scale.color(first));
    }
    for i in 1..=after {
        column(left + width - i, BAR * i / after, scale.color(last));
    }
    let (start, length) = (left + before, width - before - after);
    for i in 0..length {
        let value = first + (i as f32 + 0.5) / length as f32 * (last - first);
        column(start + i, BAR, scale.color(value));
    }
    let ticks = Ticks::new(first.min(last), first.max(last), length as f32 / EM / 1.4);
    let mut taken: Vec<[f32; 2]> = Vec::new();
    // The ends with values beyond them come first: ticks give way.
    for ((beyond, end), at) in beyond.iter().zip(scale.range).zip([0.0, 1.0]) {
        let Some(beyond) = beyond else { continue };
        let text = format!("{} {beyond}", ticks.label(f64::from(end)));
        let wide = text::width(&text, EM);
        let x = left as f32 + at * (width as f32 - wide);
        taken.push([x - 0.4 * EM, x + wide + 0.4 * EM]);
        canvas.text(x, (top + BAR) as f32 + 4.0 + 0.95 * EM, &text, EM, INK);
    }
    for tick in &ticks.at {
        let at = start as f32 + scale.place(*tick as f32) * length.saturating_sub(1) as f32;
        let label = ticks.label(*tick);
        let half = text::width(&label, EM) / 2.0;
        let x = at.clamp(left as f32 + half, (left + width) as f32 - half);
        let span = [x - half - 0.4 * EM, x + half + 0.4 * EM];
        // The ends of the range come last: they give way to round numbers.
        if taken.iter().any(|[from, to]| span[0] < *to && *from < span[1]) {
            continue;
        }
        taken.push(span);
        canvas.rectangle(top + BAR, at as usize, Size::new(4, 1), INK);
        canvas.text(x - half, (top + BAR) as f32 + 4.0 + 0.95 * EM, &label, EM, INK);
    }
    let y = (top + BAR) as f32 + 4.0 + 2.3 * EM;
    canvas.text(left as f32, y, &text::shortened(scale.label, EM, width as f32), EM, FAINT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panels_stand_in_their_place_and_bars_below() {
        let size = Size::new(20, 90);
        let panel = |v| Image { size, rgb: vec![v; 3 * size.pixels()] };
        let scale =
            Scale { range: [0.0, 2.0], gradient: colorous::INFERNO, label: "a label too long" };
        let values = [0.0, 2.0];
        let columns = [
            Column { title: "scene", scale: None },
            Column { title: "map", scale: Some((&scale, &values)) },
        ];
        let names = ["road", "vegetation", "sky", "building"];
        let legend: Vec<_> = names.iter().map(|n| (n.to_string(), [9, 200, 30])).collect();
        let rows = vec![vec![panel(10), panel(20)], vec![panel(30), panel(40)]];
        let sheet = contact_sheet(&columns, &rows, &legend);
        let count = |color: [u8; 3]| sheet.rgb.chunks_exact(3).filter(|p| *p == color).count();
        for v in [10, 20, 30, 40] {
            assert!(count([v; 3]) >= size.pixels(), "panel {v}");
        }
        // Legend entries that do not fit one line take several.
        assert_eq!(count([9, 200, 30]), names.len() * 15 * 15);
        assert!(count(scale.color(45.5 / 90.0 * 2.0)) >= BAR, "the bar");
    }

    #[test]
    fn nothing_to_show_is_no_panic() {
        let sheet = contact_sheet(&[], &[], &[]);
        assert_eq!(sheet.rgb.len(), 3 * sheet.size.pixels());
    }
}
