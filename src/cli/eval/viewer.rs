//! The images of `report.html` that are worth a look, and what it shows of them.

use ddu::Result;
use ddu::baseline::Ensemble;
use ddu::data::VOID;
use ddu::density::{Evaluator, Percentiles};
use ddu::engine::Engine;
use ddu::eval::Evaluation;
use ddu::eval::thresholds::Target;
use ddu::report::digits::percent;
use ddu::report::page::{Kind, Layer, Map, Panel, Threshold, Thresholds, Viewer};
use ddu::report::palette;
use ddu::score::Score;

use super::super::pipeline::Item;
use super::super::{layers as shared, methods, scoring};
use super::json::About;
use super::predict::{self, Seen};
use super::read::Reader;

/// The false alarms at which the sliders start.
pub const ALARMS: f64 = 0.05;

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
        // Finds the nearest class; only with a density map.
        let loaded = self.density.filter(|_| self.scores.contains(&Score::Density));
        let evaluator = loaded.map(|loaded| Evaluator::new(&loaded.ready.gaussians));
        let evaluator = evaluator.as_ref();
        let panels = chosen(fared)
            .into_iter()
            .map(|chosen| {
                self.panel(engine, ensemble.as_deref_mut(), evaluator, chosen, &scores, classes)
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
            layer("Label", Kind::Classes(named.clone())),
            layer("Right and wrong", Kind::Classes(judged.into())),
        ];
        let fixed = layers.len();
        let fitted = loaded.map(|loaded| {
            let (sample, ready) = loaded.parts();
            Percentiles::of(sample, &ready.gaussians, false)
        });
        layers.extend(
            scores.iter().map(|(score, range)| shared::score(*score, *range, fitted.as_ref())),
        );
        if evaluator.is_some() {
            layers.extend(shared::nearest_layers(named, panels.iter()));
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

    fn panel(
        &self,
        engine: &mut Engine,
        ensemble: Option<&mut Ensemble>,
        evaluator: Option<&Evaluator>,
        (index, note): (usize, String),
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
        if let Some(evaluator) = evaluator {
            layers.extend(shared::nearest(evaluator, &output, 0)?);
        }
        Ok(Panel::new(self.reader.data.pairs[index].name.clone(), note, &image, layers))
    }
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
