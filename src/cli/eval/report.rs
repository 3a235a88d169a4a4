//! `report.html`: the results as a page; `viewer` makes the images to look into.

use std::path::Path;

use ddu::Result;
use ddu::eval::{Curve, Found, Results, ScoreResults};
use ddu::report::digits::{number, percent};
use ddu::report::page::{
    Axis, Block, Chart, Charts, Interval, Intervals, Line, Matrix, Page, Section, Shape, Table,
    Viewer,
};
use ddu::score::Score;

use super::json::About;
use super::table;
use super::viewer::ALARMS;

pub const FILE: &str = "report.html";
/// Classes whose densities are drawn, at most.
const CLASSES: usize = 6;

pub fn write(path: &Path, about: &About, results: &Results, viewer: Option<Viewer>) -> Result<()> {
    let mut sections = vec![summary(about, results), found(about, results)];
    if let Some(viewer) = viewer {
        let says = format!(
            "The sliders start where {} of the right pixels (entropy) and of the pixels of known classes \
             (density) would be an alarm on this split.",
            percent(ALARMS)
        );
        let blocks = vec![Block::Text(says), Block::Viewer(viewer)];
        sections.push(Section { title: "Images".into(), blocks });
    }
    sections.extend([curves(results), calibration(results)]);
    sections.extend(densities(about, results));
    sections.extend([positions(about), cost(about)]);
    let images = if results.images == 1 { "image" } else { "images" };
    let lead = format!(
        "{} {images}, {} labelled pixels. Intervals are 95 % over images; docs/evaluation.md explains \
         each figure.",
        results.images, results.pixels
    );
    let command: Vec<String> =
        std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let mut notes = vec![
        format!("ddu {}: {}", env!("CARGO_PKG_VERSION"), command.join(" ")),
        format!("Model {}", about.model_sha256),
    ];
    notes.extend(about.density_sha256.map(|hash| format!("Density {hash}")));
    Page { title: "Evaluation".into(), lead, sections, notes }.write(path)
}

fn strings<const N: usize>(cells: [&str; N]) -> Vec<String> {
    cells.map(String::from).to_vec()
}

fn interval(found: Option<ddu::eval::Interval>) -> [String; 2] {
    let limits = found.and_then(|i| Some(format!("{} to {}", percent(i.low?), percent(i.high?))));
    [percent(found.map(|i| i.value)), limits.unwrap_or_else(|| number(None, 0))]
}

fn summary(about: &About, results: &Results) -> Section {
    let row = |m: &ddu::eval::MethodResults| {
        let mut row = vec![m.method.name().to_owned()];
        [m.pixel_accuracy, m.mean_iou, m.ece]
            .map(interval)
            .into_iter()
            .for_each(|cells| row.extend(cells));
        row
    };
    let header = strings([
        "method",
        "pixel accuracy",
        "95 %",
        "mean IoU",
        "95 %",
        "calibration error",
        "95 %",
    ]);
    let methods = Table {
        caption: "How good the classes are.".into(),
        header,
        rows: results.methods.iter().map(row).collect(),
    };
    let mut header = strings(["class"]);
    header.extend(results.methods.iter().map(|m| m.method.name().to_owned()));
    let class = |(c, name): (usize, &String)| {
        let of = results.methods.iter().map(|m| percent(m.iou[c]));
        std::iter::once(name.clone()).chain(of).collect()
    };
    let classes = Table {
        caption: "Intersection over union by class.".into(),
        header,
        rows: about.classes.iter().enumerate().map(class).collect(),
    };
    let mut blocks = vec![Block::Table(methods)];
    blocks.extend(comparison(results).map(Block::Table));
    blocks.push(Block::Table(classes));
    Section { title: "In short".into(), blocks }
}

/// What a score finds, and whether that is more than entropy does: a row for each score. None where nothing is to be found.
fn comparison(results: &Results) -> Option<Table> {
    type Of = fn(&ScoreResults) -> Option<&Found>;
    let columns: [(&str, Of); 2] =
        [("wrong pixels", |s| s.errors.as_ref()), ("unknown classes", |s| s.unknown.as_ref())];
    let columns =
        columns.into_iter().filter(|(_, of)| results.scores.iter().any(|s| of(s).is_some()));
    let columns: Vec<(&str, Of)> = columns.collect();
    if columns.is_empty() {
        return None;
    }
    let mut header = strings(["AUROC"]);
    columns.iter().for_each(|(what, _)| header.extend(strings([what, "beats entropy"])));
    let row = |s: &ScoreResults| {
        let mut row = strings([s.score.info().name]);
        for (_, of) in &columns {
            let found = of(s);
            row.push(number(found.map(|f| f.auroc.value), 3));
            row.push(beats_entropy(found));
        }
        row
    };
    let caption = "What each score finds; it beats entropy where the interval of the difference lies above 0.";
    let rows = results.scores.iter().map(row).collect();
    Some(Table { caption: caption.into(), header, rows })
}

fn beats_entropy(found: Option<&Found>) -> String {
    match found.and_then(Found::beats_entropy) {
        None => number(None, 0),
        Some(true) => "yes".into(),
        Some(false) => "no".into(),
    }
}

fn found(about: &About, results: &Results) -> Section {
    let of = |errors: bool| {
        results.scores.iter().filter_map(move |s| {
            Some((s, if errors { s.errors.as_ref() } else { s.unknown.as_ref() }?))
        })
    };
    let mut blocks = Vec::new();
    for (what, errors) in [("wrong pixels", true), ("pixels of unknown classes", false)] {
        let all: Vec<(&ScoreResults, &Found)> = of(errors).collect();
        if all.is_empty() {
            continue;
        }
        let entropy = all.iter().find(|(s, _)| s.score == Score::Entropy);
        let row = |(score, found): &(&ScoreResults, &Found)| Interval {
            name: score.score.info().name.into(),
            value: found.auroc.value,
            interval: found.auroc.low.zip(found.auroc.high).map(|(low, high)| [low, high]),
        };
        blocks.push(Block::Intervals(Intervals {
            caption: format!("How well each score finds {what}: 0.5 is chance, 1 perfect."),
            axis: Axis { label: "AUROC".into(), range: None },
            rows: all.iter().map(row).collect(),
            reference: entropy.map(|(_, found)| ("entropy".into(), found.auroc.value)),
        }));
        let row = |(score, found): &(&ScoreResults, &Found)| {
            let figures = [found.auroc, found.ap, found.fpr95];
            let mut row = vec![score.score.info().name.to_owned()];
            row.extend(figures.map(|figure| number(figure.value, 3)));
            row.push(beats_entropy(Some(found)));
            row
        };
        blocks.push(Block::Table(Table {
            caption: format!("Finding {what}: {} of them.", all[0].1.detection.positives),
            header: strings(["score", "AUROC", "AP", "FPR95", "beats entropy"]),
            rows: all.iter().map(row).collect(),
        }));
    }
    blocks.extend(by_unknown_class(about, results).map(Block::Table));
    Section { title: "What the uncertainties find".into(), blocks }
}

/// AUROC of each score for each unknown class alone, and within images. None without unknown classes.
fn by_unknown_class(about: &About, results: &Results) -> Option<Table> {
    let labels = &results.unknown_labels;
    let within = results.scores.iter().any(|s| s.unknown_per_image.is_some());
    if labels.is_empty() && !within {
        return None;
    }
    let mut header = strings(["AUROC"]);
    header.extend(labels.iter().map(|label| about.label(*label)));
    header.extend(within.then(|| "median image".to_owned()));
    let row = |s: &ScoreResults| {
        let mut row = strings([s.score.info().name]);
        row.extend(labels.iter().map(|label| number(s.unknown_auroc(*label), 3)));
        let median = s.unknown_per_image.map(|median| f64::from(median.auroc));
        row.extend(within.then(|| number(median, 3)));
        row
    };
    let rows = results.scores.iter().map(row).collect();
    let caption = "Finding each unknown class alone, and the median over images of all of them within an image \
                   (average precision and FPR95 are in results.json).";
    Some(Table { caption: caption.into(), header, rows })
}

fn curves(results: &Results) -> Section {
    let draw = |caption: String, of: &dyn Fn(&ScoreResults) -> Option<&Curve>| {
        let chart = |title: &str, series: fn(&Curve) -> &Vec<Option<f64>>| {
            let line = |s: &ScoreResults| {
                let curve = of(s)?;
                let point = |(q, v): (&u8, &Option<f64>)| [f64::from(*q), v.unwrap_or(f64::NAN)];
                let points = curve.percentile.iter().zip(series(curve)).map(point).collect();
                Some(Line { name: s.score.info().name.into(), shape: Shape::Line, points })
            };
            Chart {
                title: title.into(),
                x: Axis {
                    label: "percentile of the uncertainty".into(),
                    range: Some([0.0, 100.0]),
                },
                y: Axis { label: String::new(), range: None },
                lines: results.scores.iter().filter_map(line).collect(),
            }
        };
        Block::Charts(Charts {
            caption,
            charts: vec![
                chart("p(accurate | certain)", |c| &c.p_accurate_certain),
                chart("p(uncertain | inaccurate)", |c| &c.p_uncertain_inaccurate),
                chart("PAvPU", |c| &c.pavpu),
            ],
        })
    };
    let mut blocks = vec![draw("By pixel.".into(), &|s| s.curve.as_ref())];
    let widths = results.scores.first().map(|s| &s.patch_curves);
    for (width, _) in widths.into_iter().flatten() {
        blocks.push(draw(format!("By patch of {width} x {width} pixels."), &|s| {
            s.patch_curves.iter().find(|(w, _)| w == width).map(|(_, curve)| curve)
        }));
    }
    let row = |s: &ScoreResults| {
        let (aurc, _) = s.aurc?;
        let limits = aurc.low.zip(aurc.high);
        let limits = limits.map(|(l, h)| format!("{} to {}", number(l, 4), number(h, 4)));
        let limits = limits.unwrap_or_else(|| number(None, 0));
        Some(vec![s.score.info().name.into(), number(aurc.value, 4), limits])
    };
    blocks.push(Block::Table(Table {
        caption: "Area under the risk-coverage curve: low is good.".into(),
        header: strings(["score", "AURC", "95 %"]),
        rows: results.scores.iter().filter_map(row).collect(),
    }));
    Section { title: "Certain and accurate".into(), blocks }
}

fn calibration(results: &Results) -> Section {
    let line = |m: &ddu::eval::MethodResults| Line {
        name: m.method.name().into(),
        shape: Shape::Line,
        points: m.reliability.iter().filter_map(|b| Some([b.confidence?, b.accuracy?])).collect(),
    };
    let diagonal = Line {
        name: "perfect".into(),
        shape: Shape::Reference,
        points: vec![[0.0, 0.0], [1.0, 1.0]],
    };
    let mut lines: Vec<Line> = results.methods.iter().map(line).collect();
    lines.push(diagonal);
    let axis = |label: &str| Axis { label: label.into(), range: Some([0.0, 1.0]) };
    let (x, y) = (axis("probability of the predicted class"), axis("share that is right"));
    let chart = Chart { title: "Reliability".into(), x, y, lines };
    let caption = "Below the diagonal the network is surer than it should be.".into();
    let blocks = vec![Block::Charts(Charts { caption, charts: vec![chart] })];
    Section { title: "Calibration".into(), blocks }
}

/// The densities of known and unknown pixels by predicted class, for the classes that most unknown pixels are
/// taken for.
fn densities(about: &About, results: &Results) -> Option<Section> {
    let by_class = results.by_class.as_ref()?;
    let mut classes: Vec<(usize, u64)> =
        by_class.unknown.iter().map(|bins| bins.iter().sum()).enumerate().collect();
    classes.retain(|(_, unknown)| *unknown > 0);
    classes.sort_by_key(|(_, unknown)| std::cmp::Reverse(*unknown));
    classes.truncate(CLASSES);
    if classes.is_empty() {
        return None;
    }
    let (low, high) = (f64::from(by_class.low), f64::from(by_class.high));
    let line = |name: &str, bins: &[u64]| {
        let (all, width) = (bins.iter().sum::<u64>().max(1) as f64, bins.len() as f64);
        let place = |i: usize| low + (high - low) * (i as f64 + 0.5) / width;
        let points = bins.iter().enumerate().map(|(i, n)| [place(i), *n as f64 / all]).collect();
        Line { name: name.into(), shape: Shape::Area, points }
    };
    let chart = |(class, _): &(usize, u64)| Chart {
        title: format!("taken for {}", about.classes[*class]),
        x: Axis { label: "log-density (nats)".into(), range: Some([low, high]) },
        y: Axis { label: "share of pixels".into(), range: None },
        lines: vec![
            line("known", &by_class.known[*class]),
            line("unknown", &by_class.unknown[*class]),
        ],
    };
    let caption = "Log-densities of known and unknown pixels by the class they are taken for. Unknown pixels \
                   as dense as known ones lie between the classes, not outside of them. The bins at the ends \
                   have what lies beyond.";
    let charts = Charts { caption: caption.into(), charts: classes.iter().map(chart).collect() };
    Some(Section { title: "Where unknown pixels lie".into(), blocks: vec![Block::Charts(charts)] })
}

fn positions(about: &About) -> Section {
    let report = about.positions;
    let memory = &report.memory;
    let mut blocks = vec![Block::Text(format!(
        "{}. The covariances take {} in f32, one set for each of the {} x {} cells of the feature grid would \
         take {}.",
        report.verdict,
        table::bytes(memory.independent_bytes),
        memory.grid[0],
        memory.grid[1],
        table::bytes(memory.dependent_bytes)
    ))];
    for pair in &report.pairs {
        let name = |(row, column): (usize, usize)| {
            format!("{} {}", ["top", "middle", "bottom"][row], ["left", "middle", "right"][column])
        };
        let [a, b] = pair.regions;
        blocks.push(Block::Matrix(Matrix {
            caption: format!(
                "Distances between class means: rows at the {} of the image, columns at the {}.",
                name(a),
                name(b)
            ),
            rows: about.classes.to_vec(),
            columns: about.classes.to_vec(),
            values: pair.distance.iter().flatten().copied().collect(),
            decimals: 1,
        }));
    }
    Section { title: "Do class means depend on the position?".into(), blocks }
}

fn cost(about: &About) -> Section {
    let base = about.timings.first().map(|t| t.median_ms);
    let row = |t: &super::timing::Timing| {
        vec![
            t.method.to_owned(),
            number(t.median_ms, 2),
            number(t.spread_ms, 2),
            number(base.map(|base| t.median_ms / base), 2),
            format!("{} after {} to warm up", t.repeats, t.warm_up),
            format!("{} x {}", t.size_px[0], t.size_px[1]),
        ]
    };
    let table = Table {
        caption: format!("Milliseconds from the decoded image to the maps, on {}.", about.device),
        header: strings(["method", "median ms", "spread ms", "relative", "passes", "size"]),
        rows: about.timings.iter().map(row).collect(),
    };
    Section { title: "What a pass costs".into(), blocks: vec![Block::Table(table)] }
}
