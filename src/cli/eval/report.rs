//! `report.html`: the results as a page, with images to look into.

use std::path::Path;

use ddu::Result;
use ddu::baseline::Ensemble;
use ddu::data::VOID;
use ddu::density::Percentiles;
use ddu::engine::Engine;
use ddu::eval::thresholds::Target;
use ddu::eval::{Curve, Evaluation, Found, Results, ScoreResults};
use ddu::report::digits::{number, percent};
use ddu::report::page::{
    Axis, Block, Bright, Chart, Charts, Interval, Intervals, Kind, Layer, Line, Map, Matrix, Page,
    Panel, Scalar, Section, Shape, Table, Threshold, Thresholds, Viewer,
};
use ddu::report::palette;
use ddu::score::{Score, Worry};

use super::super::pipeline::Item;
use super::super::{methods, scoring};
use super::json::About;
use super::predict::{self, Seen};
use super::read::Reader;
use super::table;

pub const FILE: &str = "report.html";
/// The false alarms at which the viewer's sliders start.
const ALARMS: f64 = 0.05;
/// Classes whose densities are drawn, at most.
const CLASSES: usize = 6;

/// How an image fared: what is kept of every image, to choose those that are shown.
pub struct Fared {
    index: usize,
    accuracy: f64,
    /// The sum of the confidences of its wrong pixels, by pixel.
    confident_errors: f64,
}

impl Fared {
    /// None of an image without pixels of the model's classes.
    pub fn of(index: usize, seen: &Seen, classes: usize) -> Option<Fared> {
        let prediction = seen.predictions.first()?;
        let (mut pixels, mut right, mut confident) = (0u64, 0u64, 0f64);
        let predicted = prediction.label.iter().zip(&prediction.confidence);
        for (label, (predicted, confidence)) in seen.mask.label.iter().zip(predicted) {
            if usize::from(*label) < classes {
                pixels += 1;
                if label == predicted {
                    right += 1;
                } else if confidence.is_finite() {
                    confident += f64::from(*confidence);
                }
            }
        }
        (pixels > 0).then(|| Fared {
            index,
            accuracy: right as f64 / pixels as f64,
            confident_errors: confident / pixels as f64,
        })
    }
}

/// The best, the median, the worst image and that of the worst errors, each once, and why it is shown.
fn chosen(mut all: Vec<Fared>) -> Vec<(usize, String)> {
    all.sort_by(|a, b| b.accuracy.total_cmp(&a.accuracy));
    let mut chosen: Vec<(usize, String)> = Vec::new();
    let mut take = |image: Option<&Fared>, why: &str| {
        if let Some(Fared { index, accuracy, .. }) = image
            && chosen.iter().all(|(other, _)| other != index)
        {
            chosen.push((*index, format!("{why}: {} right", percent(*accuracy))));
        }
    };
    take(all.first(), "best image");
    take(all.get(all.len() / 2), "median image");
    take(all.last(), "worst image");
    let worst = all.iter().max_by(|a, b| a.confident_errors.total_cmp(&b.confident_errors));
    take(worst, "most confident errors");
    chosen
}

/// What the viewer is made with.
pub struct Shown<'a> {
    pub reader: &'a Reader<'a>,
    pub scores: &'a [Score],
    pub density: Option<&'a scoring::Loaded>,
    pub evaluation: &'a Evaluation,
}

impl Shown<'_> {
    /// The images that are worth a look; None where there is none.
    pub fn viewer(
        &self,
        about: &About,
        engine: &mut Engine,
        mut ensemble: Option<&mut Ensemble>,
        fared: Vec<Fared>,
    ) -> Result<Option<Viewer>> {
        let classes = about.classes.len();
        let parts = self.density.map(|loaded| loaded.parts());
        let range = |score: &Score| Some((*score, score.colour_range(classes, parts)?));
        let scores: Vec<(Score, [f32; 2])> = self.scores.iter().filter_map(range).collect();
        let panels = chosen(fared)
            .into_iter()
            .map(|(index, note)| {
                self.panel(engine, ensemble.as_deref_mut(), index, note, &scores, classes)
            })
            .collect::<Result<Vec<Panel>>>()?;
        if panels.is_empty() {
            return Ok(None);
        }
        let palette = palette::of(about.classes);
        let named: Vec<(String, [u8; 3])> =
            about.classes.iter().cloned().zip(palette.iter().copied()).collect();
        let layer = |name: &str, kind| Layer { name: name.into(), kind };
        // Okabe and Ito 2008: told apart by colour-blind eyes.
        let judged = [
            ("right".to_owned(), [0, 114, 178]),
            ("wrong".to_owned(), [213, 94, 0]),
            ("unknown class".to_owned(), [240, 228, 66]),
        ];
        let mut layers = vec![
            layer("Predicted class", Kind::Classes(named.clone())),
            layer("Label", Kind::Classes(named)),
            layer("Right and wrong", Kind::Classes(judged.into())),
        ];
        let fixed = layers.len();
        for (score, range) in &scores {
            layers.push(layer(score.info().label, Kind::Scalar(self.scalar(*score, *range))));
        }
        let target = Target::FalseAlarmRate(ALARMS);
        let threshold = |score| {
            let place = scores.iter().position(|(s, _)| *s == score)?;
            let value = self.evaluation.recommend(score, target)?.threshold;
            Some(Threshold { layer: fixed + place, value })
        };
        let unfamiliar = threshold(Score::Density);
        let thresholds =
            threshold(Score::Entropy).map(|ambiguous| Thresholds { ambiguous, unfamiliar });
        Ok(Some(Viewer { layers, thresholds, panels }))
    }

    fn scalar(&self, score: Score, range: [f32; 2]) -> Scalar {
        let info = score.info();
        let bright = match info.worry {
            Worry::High => Bright::High,
            Worry::Low => Bright::Low,
        };
        let quantiles = self.density.filter(|_| score == Score::Density).map(|loaded| {
            let (sample, ready) = loaded.parts();
            let fitted = Percentiles::of(sample, &ready.gaussians, false);
            (0..=1000).map(|i| fitted.at(f64::from(i) / 1000.0)).collect::<Vec<f32>>()
        });
        Scalar { unit: info.unit.into(), bright, range, quantiles }
    }

    fn panel(
        &self,
        engine: &mut Engine,
        ensemble: Option<&mut Ensemble>,
        index: usize,
        note: String,
        scores: &[(Score, [f32; 2])],
        classes: usize,
    ) -> Result<Panel> {
        let (image, data) = self.reader.read(index)?;
        let output = engine.run(&[&image])?;
        let item = Item { index, image: image.clone(), data };
        let members = ensemble.map(|e| methods::together(e, &output, std::slice::from_ref(&item)));
        let members = members.and_then(|made| made.into_iter().next()).transpose()?;
        let seen = predict::see(&output, 0, item, self.scores, members)?;
        let prediction = &seen.predictions[0];
        let judge = |(label, predicted): (&u8, &u8)| match usize::from(*label) {
            label if label >= classes => 2,
            _ => u8::from(label != predicted),
        };
        let labels = seen.mask.label.iter();
        // Void is no layer's class.
        let judged = labels.zip(&prediction.label).map(|pair| match *pair.0 {
            VOID => VOID,
            _ => judge(pair),
        });
        let mut layers = vec![
            Map::Classes(prediction.label.clone()),
            Map::Classes(seen.mask.label.clone()),
            Map::Classes(judged.collect()),
        ];
        for (score, _) in scores {
            let mut maps = seen.predictions.iter().flat_map(|made| &made.scores);
            let map = maps.find(|(s, _)| s == score);
            layers.extend(map.map(|(_, values)| Map::Scalar(values.clone())));
        }
        Ok(Panel::new(self.reader.data.pairs[index].name.clone(), note, &image, layers))
    }
}

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
    let lead = format!(
        "{} images, {} labelled pixels. Intervals are 95 % over images; docs/evaluation.md explains \
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
    let findings = table::findings(results);
    if !findings.is_empty() {
        blocks.push(Block::List(findings));
    }
    blocks.push(Block::Table(classes));
    Section { title: "In short".into(), blocks }
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
            row.push(match found.beats_entropy() {
                None => number(None, 0),
                Some(true) => "yes".into(),
                Some(false) => "no".into(),
            });
            row
        };
        blocks.push(Block::Table(Table {
            caption: format!("Finding {what}: {} of them.", all[0].1.detection.positives),
            header: strings(["score", "AUROC", "AP", "FPR95", "beats entropy"]),
            rows: all.iter().map(row).collect(),
        }));
    }
    let by_class = results.scores.iter().flat_map(|s| {
        s.unknown_by_label.iter().map(move |(label, d)| {
            let figures = [d.auroc, d.average_precision, d.fpr95].map(|figure| number(figure, 3));
            let mut row = vec![about.label(*label), s.score.info().name.into()];
            row.extend(figures);
            row
        })
    });
    let mut rows: Vec<Vec<String>> = by_class.collect();
    rows.sort_by(|a, b| a[0].cmp(&b[0]));
    rows.extend(results.scores.iter().filter_map(|s| {
        let median = s.unknown_per_image?;
        let mut row = strings(["all, median image", s.score.info().name]);
        row.extend([number(f64::from(median.auroc), 3), number(None, 0), number(None, 0)]);
        Some(row)
    }));
    if !rows.is_empty() {
        let header = strings(["unknown class", "score", "AUROC", "AP", "FPR95"]);
        let caption =
            "Each unknown class alone, and the median over images of the AUROC within an image.";
        blocks.push(Block::Table(Table { caption: caption.into(), header, rows }));
    }
    Section { title: "What the uncertainties find".into(), blocks }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_image_is_shown_once() {
        let fared = |index, accuracy, confident_errors| Fared { index, accuracy, confident_errors };
        let found = chosen(vec![fared(0, 0.5, 0.2), fared(1, 0.9, 0.1), fared(2, 0.7, 0.4)]);
        let expected = [
            (1, "best image: 90.0 % right".to_owned()),
            (2, "median image: 70.0 % right".to_owned()),
            (0, "worst image: 50.0 % right".to_owned()),
        ];
        assert_eq!(found, expected);
        assert_eq!(chosen(Vec::new()), []);
        assert_eq!(chosen(vec![fared(7, 1.0, 0.0)]).len(), 1);
    }
}
