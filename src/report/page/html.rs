//! A page as HTML: its frame, text and tables.

use std::fmt::Write;

use super::{Block, Matrix, Page, Section, Table, chart, viewer};
use crate::report::digits;

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("viewer.js");

/// Nothing is loaded, wherever the page lies: the browser itself refuses.
const POLICY: &str =
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'";

pub fn page(page: &Page) -> String {
    let title = escape(&page.title);
    let mut out = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"{POLICY}\">\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n"
    );
    if !page.lead.is_empty() {
        put(&mut out, format_args!("<p class=\"lead\">{}</p>", escape(&page.lead)));
    }
    out.push_str("</header>\n<main>\n");
    let mut viewers = 0;
    for section in &page.sections {
        write_section(&mut out, section, &mut viewers);
    }
    out.push_str("</main>\n");
    if !page.notes.is_empty() {
        out.push_str("<footer>\n");
        page.notes.iter().for_each(|note| put(&mut out, format_args!("<p>{}</p>", escape(note))));
        out.push_str("</footer>\n");
    }
    if viewers > 0 {
        put(&mut out, format_args!("<script>\n{SCRIPT}</script>"));
    }
    out.push_str("</body>\n</html>\n");
    out
}

fn write_section(out: &mut String, section: &Section, viewers: &mut usize) {
    out.push_str("<section>\n");
    if !section.title.is_empty() {
        put(out, format_args!("<h2>{}</h2>", escape(&section.title)));
    }
    for block in &section.blocks {
        match block {
            Block::Text(text) => put(out, format_args!("<p>{}</p>", escape(text))),
            Block::List(items) => {
                out.push_str("<ul>\n");
                items.iter().for_each(|item| put(out, format_args!("<li>{}</li>", escape(item))));
                out.push_str("</ul>\n");
            }
            Block::Table(table) => write_table(out, table),
            Block::Matrix(matrix) => write_matrix(out, matrix),
            Block::Charts(charts) => chart::charts(out, charts),
            Block::Intervals(intervals) => chart::intervals(out, intervals),
            Block::Viewer(viewer) => {
                viewer::viewer(out, viewer, *viewers);
                *viewers += 1;
            }
        }
    }
    out.push_str("</section>\n");
}

fn write_table(out: &mut String, table: &Table) {
    put(
        out,
        format_args!(
            "<div class=\"wide\" tabindex=\"0\"><table><caption><span>{}</span></caption>",
            escape(&table.caption)
        ),
    );
    out.push_str("<thead><tr>");
    for cell in &table.header {
        let _ = write!(out, "<th scope=\"col\">{}</th>", escape(cell));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    for row in &table.rows {
        let Some((name, cells)) = row.split_first() else { continue };
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(name));
        for cell in cells {
            let _ = write!(out, "<td>{}</td>", escape(cell));
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

/// The paper is dark where a value is low: viridis, with ink that is read on it.
fn write_matrix(out: &mut String, matrix: &Matrix) {
    let finite = || matrix.values.iter().flatten().copied().filter(|v| v.is_finite());
    let (low, high) =
        (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let caption = format!(
        "{} Colours from {} (dark) to {} (bright).",
        escape(&matrix.caption),
        digits::number(low, matrix.decimals),
        digits::number(high, matrix.decimals)
    );
    put(
        out,
        format_args!(
            "<div class=\"wide\" tabindex=\"0\"><table class=\"matrix\"><caption><span>{caption}</span></caption>"
        ),
    );
    out.push_str("<thead><tr><td></td>");
    for name in &matrix.columns {
        let _ = write!(out, "<th scope=\"col\"><span>{}</span></th>", escape(name));
    }
    out.push_str("</tr></thead>\n<tbody>\n");
    let columns = matrix.columns.len();
    for (name, values) in matrix.rows.iter().zip(matrix.values.chunks(columns.max(1))) {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", escape(name));
        for value in values {
            let Some(value) = value else {
                out.push_str("<td></td>");
                continue;
            };
            let place = if high > low { (value - low) / (high - low) } else { 1.0 };
            let [r, g, b] = colorous::VIRIDIS.eval_continuous(place.clamp(0.0, 1.0)).into_array();
            let ink = if place < 0.55 { "#fff" } else { "#000" };
            let text = digits::number(*value, matrix.decimals);
            let _ = write!(
                out,
                "<td style=\"background:#{r:02x}{g:02x}{b:02x};color:{ink}\">{text}</td>"
            );
        }
        out.push_str("</tr>\n");
    }
    out.push_str("</tbody></table></div>\n");
}

/// A line.
pub fn put(out: &mut String, line: std::fmt::Arguments) {
    out.write_fmt(line).expect("a String takes everything");
    out.push('\n');
}

/// Text for content and for attributes in double quotes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}
