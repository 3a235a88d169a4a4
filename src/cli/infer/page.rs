//! `index.html` of `ddu infer --page`: the images that need attention most, to look into.

use std::path::Path;

use ddu::Result;
use ddu::density::{Evaluator, Percentiles};
use ddu::engine::Output;
use ddu::report::page::{
    Block, Kind, Layer, Map, Page, Panel, Section, Table, Threshold, Thresholds, Viewer,
};
use ddu::score::Score;

use super::attention::{Attention, HEADER, Limits};
use super::files::{Files, Segmented};
use crate::cli::layers;

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
        let mut maps_shown = vec![Map::Classes(maps.label.clone())];
        maps_shown.extend(maps.scores.iter().map(|map| Map::Scalar(map.values.clone())));
        if let Some(evaluator) = &self.evaluator {
            maps_shown.extend(layers::nearest(evaluator, output, at)?);
        }
        let panel = Panel::new(title.into(), attention.note(), &maps.image, maps_shown);
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
        let classes = || self.classes.clone();
        let mut shown =
            vec![Layer { name: "Predicted class".into(), kind: Kind::Classes(classes()) }];
        let scores = self.scores.iter();
        shown.extend(scores.map(|(score, range)| layers::score(*score, *range, self.fitted)));
        if self.evaluator.is_some() {
            let panels = self.panels.iter().map(|(_, panel)| panel);
            shown.extend(layers::nearest_layers(classes(), panels));
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
        let images = self.panels.len();
        let panels = self.panels.into_iter().map(|(_, panel)| panel).collect();
        let rows = ranking.iter().take(ROWS).map(|row| row.to_vec()).collect();
        let caption = match ranking.len() {
            n if n > ROWS => {
                format!("The {ROWS} of {n} images that need attention most. Entropy in nats.")
            }
            _ => "Images by need of attention. Entropy in nats.".into(),
        };
        let chosen = match ranking.len() {
            n if n > images => {
                format!("The {images} of {n} images with the most pixels that are not certain.")
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
                Block::Viewer(Viewer { layers: shown, thresholds, panels }),
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
}

/// Where the thresholds come from.
pub enum Source {
    /// This file.
    Chosen(String),
    Default,
}
