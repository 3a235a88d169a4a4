//! `index.html` of `ddu infer --page`: the images that need attention most, to look into.

use std::path::Path;

use ddu::Result;
use ddu::density::{Evaluator, Options, Percentiles};
use ddu::engine::Output;
use ddu::report::page::{
    Block, Bright, Kind, Layer, Map, Page, Panel, Scalar, Section, Table, Threshold, Thresholds,
    Viewer,
};
use ddu::score::{Score, Worry};

use super::attention::{Attention, HEADER, Limits};
use super::files::{Files, Segmented};

/// Images of a page, at most: with 480 x 360 pixels each, it stays below 15 MB.
const PANELS: usize = 12;
/// Rows of its table, at most.
const ROWS: usize = 100;

/// Collects the images of a page while they are computed.
pub struct Gallery<'a> {
    classes: Vec<(String, [u8; 3])>,
    /// And their colour ranges.
    scores: &'a [(Score, [f32; 2])],
    limits: Limits,
    fitted: Option<&'a Percentiles>,
    /// Finds the nearest class; only with a density map.
    evaluator: Option<Evaluator>,
    /// Rank and panel, the greatest rank first.
    panels: Vec<(f64, Panel)>,
}

impl<'a> Gallery<'a> {
    pub fn new(
        files: &Files<'a>,
        limits: Limits,
        fitted: Option<&'a Percentiles>,
        evaluator: Option<Evaluator>,
    ) -> Self {
        let classes = files.classes.iter().cloned().zip(files.palette.iter().copied()).collect();
        Gallery { classes, scores: files.scores, limits, fitted, evaluator, panels: Vec::new() }
    }

    /// Takes image `at` of a run in, if it needs attention more than one of those that are there.
    pub fn offer(
        &mut self,
        title: &str,
        output: &Output,
        at: usize,
        maps: &Segmented,
        attention: &Attention,
    ) -> Result<()> {
        let rank = attention.rank();
        let place = self.panels.partition_point(|(other, _)| *other >= rank);
        if place >= PANELS {
            return Ok(());
        }
        let mut layers = vec![Map::Classes(maps.label.clone())];
        layers.extend(maps.scores.iter().map(|map| Map::Scalar(map.values.clone())));
        if let Some(evaluator) = &self.evaluator {
            let options = Options { nearest: true, ..Options::default() };
            let found = evaluator.evaluate(&output.features(at)?, None, options);
            // The class of the cell that a pixel lies in: the coordinates of cells, upsampled and rounded.
            let grid = output.grid;
            let cells = |of: fn(usize, usize) -> usize| {
                let cells: Vec<f32> = (0..grid.pixels()).map(|i| of(i, grid.w) as f32).collect();
                output.upsample(&cells)
            };
            let (rows, columns) = (cells(|i, w| i / w), cells(|i, w| i % w));
            let class = |(row, column): (&f32, &f32)| {
                found.nearest[row.round() as usize * grid.w + column.round() as usize]
            };
            layers.push(Map::Classes(rows.iter().zip(&columns).map(class).collect()));
            layers.push(Map::Scalar(output.upsample(&found.distance)));
        }
        let panel = Panel::new(title.into(), attention.note(), &maps.image, layers);
        self.panels.insert(place, (rank, panel));
        self.panels.truncate(PANELS);
        Ok(())
    }

    /// Writes the page; `ranking` has a row per image.
    pub fn write(
        self,
        path: &Path,
        source: Source,
        ranking: &[[String; 7]],
        notes: Vec<String>,
    ) -> Result<()> {
        let distance = self.distance();
        let scalar = |name: &str, unit: &str, bright, range, quantiles| Layer {
            name: name.into(),
            kind: Kind::Scalar(Scalar { unit: unit.into(), bright, range, quantiles }),
        };
        let classes =
            |name: &str| Layer { name: name.into(), kind: Kind::Classes(self.classes.clone()) };
        let mut layers = vec![classes("Predicted class")];
        for (score, range) in self.scores {
            let info = score.info();
            let bright = match info.worry {
                Worry::High => Bright::High,
                Worry::Low => Bright::Low,
            };
            let quantiles = self.fitted.filter(|_| *score == Score::Density).map(|fitted| {
                (0..=1000).map(|i| fitted.at(f64::from(i) / 1000.0)).collect::<Vec<f32>>()
            });
            layers.push(scalar(info.label, info.unit, bright, *range, quantiles));
        }
        if self.evaluator.is_some() {
            layers.push(classes("Nearest class"));
            layers.push(scalar("Mahalanobis distance to it", "", Bright::High, distance, None));
        }
        // Sliders start where nothing is marked if there is no limit.
        let threshold = |score: Score, limit: Option<f32>| {
            let place = self.scores.iter().position(|(s, _)| *s == score)?;
            let [low, high] = self.scores[place].1;
            let none = if score == Score::Entropy { high } else { low };
            Some(Threshold { layer: 1 + place, value: limit.unwrap_or(none) })
        };
        let unfamiliar = threshold(Score::Density, self.limits.density);
        let thresholds = threshold(Score::Entropy, self.limits.entropy)
            .map(|ambiguous| Thresholds { ambiguous, unfamiliar });
        let shown = self.panels.len();
        let panels = self.panels.into_iter().map(|(_, panel)| panel).collect();
        let rows = ranking.iter().take(ROWS).map(|row| row.to_vec()).collect();
        let caption = match ranking.len() {
            n if n > ROWS => {
                format!("The {ROWS} of {n} images that need attention most. Entropy in nats.")
            }
            _ => "Images by need of attention. Entropy in nats.".into(),
        };
        let chosen = match ranking.len() {
            n if n > shown => {
                format!("The {shown} of {n} images with the most pixels that are not certain.")
            }
            _ => "The images, those with the most pixels that are not certain first.".into(),
        };
        let meaning = "Ambiguous: the network hesitates between classes it knows (high entropy). Unfamiliar: \
                       the features are unlike those it was fitted to (low density).";
        let source = match source {
            Source::Chosen(file) => format!("The sliders start at the thresholds of {file}."),
            Source::Default => {
                "The sliders start at half of the greatest entropy and at the 1st percentile of \
                the fitted sample's log-density: no thresholds were given."
                    .into()
            }
        };
        let table = Table { caption, header: HEADER.map(String::from).to_vec(), rows };
        let mut sections = vec![Section {
            title: "Images".into(),
            blocks: vec![
                Block::Text(format!("{chosen} {source}")),
                Block::Viewer(Viewer { layers, thresholds, panels }),
            ],
        }];
        if !ranking.is_empty() {
            let percentile = "The density percentile says where the image's median log-density lies in the \
                              fitted sample: 50 for an image like those of the fit, 0 for one below all of it.";
            sections.push(Section {
                title: "By need of attention".into(),
                blocks: vec![Block::Table(table), Block::Text(percentile.into())],
            });
        }
        let images = if ranking.len() == 1 { "image" } else { "images" };
        let title = format!("What to trust in {} {images}", ranking.len());
        Page { title, lead: meaning.into(), sections, notes }.write(path)
    }

    /// The colour bar of distances: 0 to the greatest of the panels.
    fn distance(&self) -> [f32; 2] {
        let mut greatest = 1f32;
        for (_, panel) in &self.panels {
            if let Some(Map::Scalar(values)) = panel.layers.last() {
                greatest = values.iter().filter(|v| v.is_finite()).fold(greatest, |a, v| a.max(*v));
            }
        }
        [0.0, greatest]
    }
}

/// Where the thresholds come from.
pub enum Source {
    /// This file.
    Chosen(String),
    Default,
}
