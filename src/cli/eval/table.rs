//! The figures as a table for people, and in sentences.

use std::fmt::Write as _;

use ddu::eval::{Found, Interval, Results};
use ddu::score::Score;

use super::json::About;
use super::thresholds;

pub fn table(about: &About, results: &Results) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    for method in &results.methods {
        writeln!(
            out,
            "{}: {} images, {} labelled pixels: pixel accuracy {}, mIoU {}, ECE {}",
            method.method.name(),
            results.images,
            results.pixels,
            percent(method.pixel_accuracy),
            percent(method.mean_iou),
            percent(method.ece)
        )?;
    }
    for method in results.methods.iter().take(1) {
        for (name, iou) in about.classes.iter().zip(&method.iou) {
            let iou = iou.map_or("-".to_owned(), |v| format!("{:.2} %", 100.0 * v));
            writeln!(out, "  {name:20} IoU {iou:>8}")?;
        }
    }
    detections(&mut out, about, results)?;
    let achieved: Vec<_> =
        results.scores.iter().filter_map(|s| Some((s.score, s.achieved?))).collect();
    if !achieved.is_empty() {
        writeln!(out, "\nAt the given thresholds:")?;
        for (score, found) in achieved {
            let sign = if score == Score::Entropy { "<=" } else { ">=" };
            out += &thresholds::line(score.info().name, sign, &found);
        }
    }
    if !about.timings.is_empty() {
        writeln!(out, "\n{:20}{:>12}{:>12}{:>12}", "", "ms a pass", "spread", "relative")?;
        let base = about.timings[0].median_ms;
        for t in about.timings {
            let relative = t.median_ms / base;
            writeln!(
                out,
                "{:20}{:>12.2}{:>12.2}{relative:>12.2}   {} passes of {} x {} after {} to warm up",
                t.method,
                t.median_ms,
                t.spread_ms,
                t.repeats,
                t.size_px[0],
                t.size_px[1],
                t.warm_up
            )?;
        }
    }
    let memory = &about.positions.memory;
    writeln!(
        out,
        "\nPosition: {}. Covariances in f32: {}, for each of {} x {} positions {}",
        about.positions.verdict,
        bytes(memory.independent_bytes),
        memory.grid[0],
        memory.grid[1],
        bytes(memory.dependent_bytes)
    )?;
    for finding in findings(results) {
        writeln!(out, "{finding}")?;
    }
    Ok(out)
}

fn detections(out: &mut String, about: &About, results: &Results) -> std::fmt::Result {
    let head = ["positives", "AUROC", "95 %", "AP", "FPR95"];
    let [positives, auroc, interval, ap, fpr95] = head;
    writeln!(out, "\n{:32}{positives:>12}{auroc:>9}{interval:>17}{ap:>9}{fpr95:>9}", "")?;
    let row = |out: &mut String, name: String, found: &Found| {
        writeln!(
            out,
            "{name:32}{:>12}{:>9.4}{:>17}{:>9.4}{:>9.4}",
            found.detection.positives,
            found.auroc.value,
            limits(found.auroc),
            found.ap.value,
            found.fpr95.value
        )
    };
    for (what, of) in [("errors", true), ("unknown", false)] {
        for score in &results.scores {
            let by = score.score.info().name;
            let Some(found) = (if of { &score.errors } else { &score.unknown }) else { continue };
            row(out, format!("{what} by {by}"), found)?;
        }
    }
    by_unknown_class(out, about, results)
}

/// AUROC of each score for each unknown class alone, and the median within an image.
fn by_unknown_class(out: &mut String, about: &About, results: &Results) -> std::fmt::Result {
    let labels = &results.unknown_labels;
    let within = results.scores.iter().find_map(|s| s.unknown_per_image);
    if labels.len() < 2 && within.is_none() {
        return Ok(());
    }
    let mut header: Vec<String> = labels.iter().map(|label| about.label(*label)).collect();
    header.extend(within.map(|within| format!("median of {} images", within.images)));
    let widths: Vec<usize> = header.iter().map(|name| name.chars().count().max(7) + 3).collect();
    let line = |out: &mut String, name: &str, cells: &[String]| {
        write!(out, "{name:32}")?;
        for (cell, width) in cells.iter().zip(&widths) {
            write!(out, "{cell:>width$}")?;
        }
        writeln!(out)
    };
    out.push('\n');
    line(out, "AUROC for unknown classes", &header)?;
    for score in &results.scores {
        let number = |auroc: Option<f64>| auroc.map_or("-".to_owned(), |v| format!("{v:.4}"));
        let mut cells: Vec<String> =
            labels.iter().map(|label| number(score.unknown_auroc(*label))).collect();
        let median = score.unknown_per_image.map(|median| f64::from(median.auroc));
        cells.extend(within.map(|_| number(median)));
        line(out, score.score.info().name, &cells)?;
    }
    Ok(())
}

/// Which scores are no better than the entropy, and where the density's case stands.
pub fn findings(results: &Results) -> Vec<String> {
    let mut findings = Vec::new();
    let entropy = results.scores.iter().find(|s| s.score == Score::Entropy);
    for score in &results.scores {
        let name = score.score.info().name;
        for (what, found, base) in [
            ("errors", &score.errors, entropy.and_then(|s| s.errors)),
            ("unknown classes", &score.unknown, entropy.and_then(|s| s.unknown)),
        ] {
            let (Some(found), Some(base)) = (found, base) else { continue };
            let (auroc, by_entropy) = (found.auroc.value, base.auroc.value);
            match found.beats_entropy() {
                None => (),
                Some(true) => findings.push(format!(
                    "{name} finds {what} better than entropy: AUROC {auroc:.3} against {by_entropy:.3}"
                )),
                Some(false) => findings.push(format!(
                    "{name} does not beat entropy at finding {what}: AUROC {auroc:.3} against {by_entropy:.3}"
                )),
            }
        }
    }
    findings
}

fn percent(interval: Option<Interval>) -> String {
    let Some(Interval { value, low, high }) = interval else { return "-".into() };
    match (low, high) {
        (Some(low), Some(high)) => {
            format!("{:.2} % ({:.2} to {:.2})", 100.0 * value, 100.0 * low, 100.0 * high)
        }
        _ => format!("{:.2} %", 100.0 * value),
    }
}

fn limits(interval: Interval) -> String {
    match (interval.low, interval.high) {
        (Some(low), Some(high)) => format!("{low:.3} to {high:.3}"),
        _ => "-".into(),
    }
}

pub fn bytes(bytes: u64) -> String {
    match bytes as f64 {
        b if b < 1e6 => format!("{:.1} kB", b / 1e3),
        b if b < 1e9 => format!("{:.1} MB", b / 1e6),
        b => format!("{:.1} GB", b / 1e9),
    }
}
