//! Charts as SVG within the page: colours are the page's variables, so that they follow its light and
//! dark dress, and lines of one colour differ in their dashes, for print and for colour-blind eyes.

use std::fmt::Write;

use super::html::{escape, put};
use super::{Axis, Chart, Charts, Interval, Intervals, Line, Shape};
use crate::report::digits;
use crate::report::ticks::Ticks;

/// The drawing, in units of which an em of its text has [`EM`].
const WIDTH: f64 = 440.0;
const HEIGHT: f64 = 300.0;
const EM: f64 = 13.0;
/// Of the frame: left, top, right, bottom.
const FRAME: [f64; 4] = [58.0, 26.0, WIDTH - 12.0, HEIGHT - 46.0];

/// Colours of the page (`--c0` ..), and dashes; their numbers have no common factor, so that 28 lines differ.
const COLORS: usize = 7;
const DASHES: [&str; 4] = ["", "7 3", "2 3", "9 3 2 3"];

pub fn charts(out: &mut String, charts: &Charts) {
    let mut names: Vec<(&str, Shape)> = Vec::new();
    for line in charts.charts.iter().flat_map(|chart| &chart.lines) {
        if !names.iter().any(|(name, _)| *name == line.name) {
            names.push((&line.name, line.shape));
        }
    }
    // References have a dress of their own and take no place.
    let colored = |name: &str| {
        names.iter().filter(|(_, shape)| *shape != Shape::Reference).position(|(n, _)| *n == name)
    };
    put(
        out,
        format_args!(
            "<figure class=\"charts\"><figcaption>{}</figcaption>",
            escape(&charts.caption)
        ),
    );
    if names.len() > 1 {
        out.push_str("<ul class=\"legend\" aria-hidden=\"true\">\n");
        for (name, shape) in &names {
            let dress = dress(*shape, colored(name).unwrap_or(0));
            put(
                out,
                format_args!(
                    "<li><svg width=\"30\" height=\"10\" viewBox=\"0 0 30 10\"><path d=\"M1 5H29\" {dress}/></svg>{}</li>",
                    escape(name)
                ),
            );
        }
        out.push_str("</ul>\n");
    }
    out.push_str("<div class=\"grid\">\n");
    for chart in &charts.charts {
        draw(out, chart, &|name| colored(name).unwrap_or(0));
    }
    out.push_str("</div></figure>\n");
}

/// Attributes of a line.
fn dress(shape: Shape, index: usize) -> String {
    if shape == Shape::Reference {
        return "class=\"reference\"".into();
    }
    let dash = DASHES[index % DASHES.len()];
    let dash =
        if dash.is_empty() { String::new() } else { format!(" stroke-dasharray=\"{dash}\"") };
    format!("class=\"line\" style=\"stroke:var(--c{})\"{dash}", index % COLORS)
}

/// Where the values of an axis stand.
struct Place {
    values: [f64; 2],
    units: [f64; 2],
}

impl Place {
    /// The axis's own range, else that of the values.
    fn new(axis: &Axis, values: impl Iterator<Item = f64> + Clone, units: [f64; 2]) -> Self {
        let values = values.filter(|v| v.is_finite());
        let found = [
            values.clone().fold(f64::INFINITY, f64::min),
            values.fold(f64::NEG_INFINITY, f64::max),
        ];
        let [low, high] = axis.range.unwrap_or(found);
        let values = match (low <= high, low < high) {
            (true, true) => [low, high],
            (true, false) => [low - 0.5, low + 0.5],
            _ => [0.0, 1.0],
        };
        Place { values, units }
    }

    fn of(&self, value: f64) -> f64 {
        let [[low, high], [from, to]] = [self.values, self.units];
        from + ((value - low) / (high - low)).clamp(0.0, 1.0) * (to - from)
    }

    fn ticks(&self, per_em: f64) -> Ticks {
        let [from, to] = self.units;
        let length = (to - from).abs() / EM / per_em;
        Ticks::new(self.values[0] as f32, self.values[1] as f32, length as f32)
    }
}

fn draw(out: &mut String, chart: &Chart, index: &dyn Fn(&str) -> usize) {
    let [left, top, right, bottom] = FRAME;
    let points = || chart.lines.iter().flat_map(|line| &line.points);
    let x = Place::new(&chart.x, points().map(|p| p[0]), [left, right]);
    let y = Place::new(&chart.y, points().map(|p| p[1]), [bottom, top]);
    let names: Vec<&str> = chart.lines.iter().map(|line| line.name.as_str()).collect();
    let spoken = format!(
        "{}: {} over {}, from {} to {}. Lines: {}.",
        chart.title,
        chart.y.label,
        chart.x.label,
        short(x.values[0]),
        short(x.values[1]),
        names.join(", ")
    );
    put(
        out,
        format_args!(
            "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" aria-label=\"{}\">",
            escape(&spoken)
        ),
    );
    let middle = (left + right) / 2.0;
    put(
        out,
        format_args!("<text class=\"title\" x=\"{left}\" y=\"15\">{}</text>", escape(&chart.title)),
    );
    grid(out, &x, &y);
    put(
        out,
        format_args!(
            "<text x=\"{middle:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            HEIGHT - 8.0,
            escape(&chart.x.label)
        ),
    );
    let center = (top + bottom) / 2.0;
    put(
        out,
        format_args!(
            "<text transform=\"translate(14 {center:.1}) rotate(-90)\" text-anchor=\"middle\">{}</text>",
            escape(&chart.y.label)
        ),
    );
    // What is compared with lies below.
    let order = |line: &&Line| line.shape != Shape::Reference;
    let mut lines: Vec<&Line> = chart.lines.iter().collect();
    lines.sort_by_key(order);
    for line in lines {
        let index = index(&line.name);
        for run in line.points.split(|p| !p.iter().all(|v| v.is_finite())).filter(|r| !r.is_empty())
        {
            let path = path(run, &x, &y);
            if line.shape == Shape::Area {
                let (first, last) = (x.of(run[0][0]), x.of(run[run.len() - 1][0]));
                let ground = y.of(0.0);
                put(
                    out,
                    format_args!(
                        "<path class=\"area\" style=\"fill:var(--c{})\" d=\"{path}L{last:.1} {ground:.1}L{first:.1} {ground:.1}Z\"/>",
                        index % COLORS
                    ),
                );
            }
            let dress = dress(line.shape, index);
            put(
                out,
                format_args!(
                    "<path {dress} d=\"{path}\"><title>{}</title></path>",
                    escape(&line.name)
                ),
            );
        }
    }
    out.push_str("</svg>\n");
}

/// Lines of the ticks, and their numbers.
fn grid(out: &mut String, x: &Place, y: &Place) {
    let [left, top, right, bottom] = FRAME;
    let (columns, rows) = (x.ticks(1.4), y.ticks(0.9));
    for tick in columns.multiples() {
        let at = x.of(tick);
        put(out, format_args!("<path class=\"grid\" d=\"M{at:.1} {top}V{bottom}\"/>"));
        put(
            out,
            format_args!(
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 17.0,
                columns.label(tick)
            ),
        );
    }
    for tick in rows.multiples() {
        let at = y.of(tick);
        put(out, format_args!("<path class=\"grid\" d=\"M{left} {at:.1}H{right}\"/>"));
        put(
            out,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 7.0,
                at + 4.5,
                rows.label(tick)
            ),
        );
    }
    put(out, format_args!("<path class=\"axis\" d=\"M{left} {top}V{bottom}H{right}\"/>"));
}

fn path(points: &[[f64; 2]], x: &Place, y: &Place) -> String {
    let mut path = String::new();
    for (i, [px, py]) in points.iter().enumerate() {
        let _ = write!(path, "{}{:.1} {:.1}", if i == 0 { 'M' } else { 'L' }, x.of(*px), y.of(*py));
    }
    // A point alone is seen by its round cap.
    if points.len() == 1 {
        path.push_str("h0.01");
    }
    path
}

/// With three significant digits or so.
fn short(value: f64) -> String {
    let decimals = (2.0 - value.abs().max(1e-9).log10().floor()).clamp(0.0, 6.0) as usize;
    let text = digits::number(value, decimals);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

const ROW: f64 = 24.0;

pub fn intervals(out: &mut String, intervals: &Intervals) {
    let rows = &intervals.rows;
    let ends = |row: &Interval| row.interval.unwrap_or([row.value; 2]);
    let reference = intervals.reference.as_ref().map(|(_, value)| *value);
    let values = rows.iter().flat_map(|r| [ends(r)[0], r.value, ends(r)[1]]).chain(reference);
    // Names left, numbers right.
    let longest = |of: fn(&Interval) -> usize| rows.iter().map(of).max().unwrap_or(0) as f64;
    let left = 14.0 + 0.56 * EM * longest(|r| r.name.chars().count());
    let right = (WIDTH + 160.0) - 0.56 * EM * longest(|r| label(r).chars().count()) - 14.0;
    let (top, bottom) = (10.0, 10.0 + ROW * rows.len() as f64);
    let x = Place::new(&intervals.axis, values, [left, right]);
    let (width, height) = (WIDTH + 160.0, bottom + 44.0);
    let spoken: Vec<String> = rows.iter().map(|r| format!("{} {}", r.name, label(r))).collect();
    put(
        out,
        format_args!(
            "<figure class=\"charts\"><figcaption>{}</figcaption>\n<div class=\"wide\" tabindex=\"0\"><svg class=\"chart intervals\" \
             viewBox=\"0 0 {width} {height}\" role=\"img\" aria-label=\"{}: {}.\">",
            escape(&intervals.caption),
            escape(&intervals.axis.label),
            escape(&spoken.join("; "))
        ),
    );
    let ticks = x.ticks(1.4);
    for tick in ticks.multiples() {
        let at = x.of(tick);
        put(out, format_args!("<path class=\"grid\" d=\"M{at:.1} {top}V{bottom}\"/>"));
        put(
            out,
            format_args!(
                "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
                bottom + 16.0,
                ticks.label(tick)
            ),
        );
    }
    if let Some(value) = reference {
        put(
            out,
            format_args!("<path class=\"reference\" d=\"M{:.1} {top}V{bottom}\"/>", x.of(value)),
        );
    }
    for (i, row) in rows.iter().enumerate() {
        let y = top + ROW * (i as f64 + 0.5);
        put(
            out,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
                left - 10.0,
                y + 4.5,
                escape(&row.name)
            ),
        );
        if let Some([low, high]) = row.interval {
            put(
                out,
                format_args!(
                    "<path class=\"whisker\" d=\"M{:.1} {y}H{:.1}\"/>",
                    x.of(low),
                    x.of(high)
                ),
            );
        }
        if row.value.is_finite() {
            put(
                out,
                format_args!(
                    "<circle class=\"dot\" cx=\"{:.1}\" cy=\"{y}\" r=\"4.5\"/>",
                    x.of(row.value)
                ),
            );
        }
        put(
            out,
            format_args!(
                "<text x=\"{:.1}\" y=\"{:.1}\">{}</text>",
                right + 10.0,
                y + 4.5,
                label(row)
            ),
        );
    }
    let axis = match &intervals.reference {
        Some((name, _)) => format!("{} (dashed line: {name})", intervals.axis.label),
        None => intervals.axis.label.clone(),
    };
    put(
        out,
        format_args!(
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>\n</svg></div></figure>",
            (left + right) / 2.0,
            bottom + 36.0,
            escape(&axis)
        ),
    );
}

/// The numbers of a row.
fn label(row: &Interval) -> String {
    let value = digits::number(row.value, 3);
    match row.interval {
        Some([low, high]) => {
            format!("{value} [{}, {}]", digits::number(low, 3), digits::number(high, 3))
        }
        None => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drawn(lines: Vec<Line>) -> String {
        let chart = Chart { title: "t".into(), lines, ..Chart::default() };
        let mut out = String::new();
        charts(&mut out, &Charts { caption: "c <&>".into(), charts: vec![chart] });
        out
    }

    #[test]
    fn lines_break_where_a_value_is_missing_and_nothing_leaves_the_frame() {
        let points = vec![[0.0, 0.0], [1.0, 4.0], [2.0, f64::NAN], [3.0, 2.0], [4.0, 1.0]];
        let line = |name: &str, shape| Line { name: name.into(), shape, points: points.clone() };
        let out = drawn(vec![
            line("a", Shape::Line),
            line("b", Shape::Area),
            line("c", Shape::Reference),
        ]);
        // Two runs for each of the line and the area's edge; the legend's path begins otherwise.
        assert_eq!(out.matches("<path class=\"line\"").count(), 2 * 2, "{out}");
        assert_eq!(out.matches("class=\"area\"").count(), 2);
        assert_eq!(out.matches("class=\"reference\"").count(), 2 + 1);
        // Ends of the values at the frame's.
        let [left, top, right, bottom] = FRAME;
        assert!(out.contains(&format!("M{left:.1} {bottom:.1}L")), "{out}");
        assert!(
            out.contains(&format!(" {top:.1}")) && out.contains(&format!("L{right:.1} ")),
            "{out}"
        );
        assert!(out.contains("c &lt;&amp;&gt;"));
    }

    #[test]
    fn nothing_to_draw_is_no_panic_and_no_nan() {
        let line = |points| Line { name: "a".into(), shape: Shape::Line, points };
        for points in [
            vec![],
            vec![[1.0, 1.0]],
            vec![[f64::NAN, 1.0]],
            vec![[0.0, 0.0], [f64::INFINITY, 1.0]],
        ] {
            let out = drawn(vec![line(points)]);
            assert!(!out.contains("NaN") && !out.contains("inf"), "{out}");
        }
        let mut out = String::new();
        intervals(&mut out, &Intervals::default());
        let row = Interval { name: "a".into(), value: f64::NAN, interval: None };
        intervals(&mut out, &Intervals { rows: vec![row], ..Intervals::default() });
        assert!(!out.contains("NaN"), "{out}");
    }

    #[test]
    fn twenty_eight_lines_differ() {
        let dresses: std::collections::BTreeSet<String> =
            (0..28).map(|i| dress(Shape::Line, i)).collect();
        assert_eq!(dresses.len(), 28);
    }
}
