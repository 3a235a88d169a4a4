//! The tables as CSV and LaTeX: `table2` (accuracy and cost of each method, the paper's Table 2) and `scores`.

use std::io::Write;
use std::path::Path;

use ddu::Result;
use ddu::data::write_atomic;
use ddu::eval::{Interval, Method, Results};

use super::timing::Timing;

pub const NAMES: [&str; 4] = ["table2.csv", "table2.tex", "scores.csv", "scores.tex"];

struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

pub fn write(folder: &Path, results: &Results, timings: &[Timing]) -> Result<()> {
    let tables = [table2(results, timings), scores(results)];
    for (names, table) in NAMES.chunks(2).zip(tables) {
        for (name, text) in names.iter().zip([table.csv(), table.latex()]) {
            write_atomic(&folder.join(name), |file| file.write_all(text.as_bytes()))?;
        }
    }
    Ok(())
}

/// A row for each method that was timed or made predictions; DDU's classes are those of softmax.
fn table2(results: &Results, timings: &[Timing]) -> Table {
    let of = |name: &str| results.methods.iter().find(|m| m.method.name() == name);
    let mut names: Vec<&str> = timings.iter().map(|timing| timing.method).collect();
    names.extend(
        results
            .methods
            .iter()
            .map(|m| m.method.name())
            .filter(|m| timings.iter().all(|timing| timing.method != *m)),
    );
    let base = timings.iter().find(|timing| timing.method == Method::Softmax.name());
    let row = |name: &str| {
        let accuracy = of(if name == "ddu" { Method::Softmax.name() } else { name });
        let timing = timings.iter().find(|timing| timing.method == name);
        let percent = |interval: Option<Interval>| number(interval.map(|i| 100.0 * i.value), 2);
        vec![
            name.to_owned(),
            percent(accuracy.and_then(|m| m.pixel_accuracy)),
            percent(accuracy.and_then(|m| m.mean_iou)),
            number(timing.map(|t| t.median_ms), 2),
            number(timing.map(|t| t.spread_ms), 2),
            number(timing.zip(base).map(|(t, base)| t.median_ms / base.median_ms), 2),
        ]
    };
    Table {
        head: vec![
            "method",
            "pixel_accuracy_percent",
            "mean_iou_percent",
            "median_ms",
            "spread_ms",
            "relative_to_softmax",
        ],
        rows: names.into_iter().map(row).collect(),
    }
}

/// A row for each score and what it is to find.
fn scores(results: &Results) -> Table {
    let mut rows = Vec::new();
    for score in &results.scores {
        for (what, found) in [("errors", &score.errors), ("unknown", &score.unknown)] {
            let Some(found) = found else { continue };
            let mut row = vec![score.score.info().name.to_owned(), what.to_owned()];
            for interval in [found.auroc, found.ap, found.fpr95] {
                row.extend(
                    [Some(interval.value), interval.low, interval.high].map(|v| number(v, 4)),
                );
            }
            rows.push(row);
        }
    }
    let head = vec![
        "score",
        "finds",
        "auroc",
        "auroc_low",
        "auroc_high",
        "ap",
        "ap_low",
        "ap_high",
        "fpr95",
        "fpr95_low",
        "fpr95_high",
    ];
    Table { head, rows }
}

fn number(value: Option<f64>, decimals: usize) -> String {
    value.map_or(String::new(), |value| format!("{value:.decimals$}"))
}

impl Table {
    /// No cell has a comma or a quote: names of methods and scores, and numbers.
    fn csv(&self) -> String {
        let mut text = self.head.join(",") + "\n";
        self.rows.iter().for_each(|row| text += &(row.join(",") + "\n"));
        text
    }

    /// A `tabular` with the rules of the package booktabs.
    fn latex(&self) -> String {
        let line = |cells: Vec<String>| cells.join(" & ").replace('_', "\\_") + " \\\\\n";
        let head = self.head.iter().map(|name| name.to_string()).collect();
        let mut text = format!("\\begin{{tabular}}{{l{}}}\n", "r".repeat(self.head.len() - 1));
        text += "\\toprule\n";
        text += &line(head);
        text += "\\midrule\n";
        for row in &self.rows {
            let shown = row.iter().map(|c| if c.is_empty() { "--".into() } else { c.clone() });
            text += &line(shown.collect());
        }
        text + "\\bottomrule\n\\end{tabular}\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_and_latex() {
        let table = Table {
            head: vec!["method", "median_ms"],
            rows: vec![vec!["softmax".into(), "1.50".into()], vec!["ddu".into(), String::new()]],
        };
        assert_eq!(table.csv(), "method,median_ms\nsoftmax,1.50\nddu,\n");
        let expected = "\\begin{tabular}{lr}\n\\toprule\nmethod & median\\_ms \\\\\n\\midrule\n\
                        softmax & 1.50 \\\\\nddu & -- \\\\\n\\bottomrule\n\\end{tabular}\n";
        assert_eq!(table.latex(), expected);
    }
}
