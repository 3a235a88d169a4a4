//! What the demo measures, pooled over the pixels of its unseen scenes.

use serde::Serialize;

use super::scenes::STRANGERS;
use super::{Extent, FIT_SEED, Seen, TEST_SEED};
use crate::density::Origin;
use crate::error::Result;
use crate::eval::{Confusion, Detections, Histogram, Scores};
use crate::ops::Size;
use crate::score::Score;

/// Pixels this near (in rows and columns) to another class are at a border.
const BORDER: usize = 2;

/// The result of the demo; `summary.json` is this. Entropies and log-densities are in nats.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub schema_version: u32,
    pub model_sha256: String,
    pub fit_first_seed: u64,
    pub fit_scenes: usize,
    pub fit_pixels: u64,
    pub test_first_seed: u64,
    pub test_scenes: usize,
    /// Of the pixels of known classes.
    pub pixel_accuracy: Option<f64>,
    pub mean_iou: Option<f64>,
    /// Name and intersection over union of each known class.
    pub iou: Vec<(String, Option<f64>)>,
    pub zones: Vec<Zone>,
    /// Positives: wrongly classified pixels, among those of known classes.
    pub errors: Detections,
    /// Positives: pixels of unknown classes, among all.
    pub unknown: Detections,
    pub strangers: Vec<Stranger>,
    /// What the numbers say, in words; [`super::run`] adds them.
    pub findings: Vec<String>,
}

/// The pixels of one kind of place.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Zone {
    pub name: &'static str,
    pub pixels: usize,
    /// Share classified right; none for unknown objects.
    pub accuracy: Option<f64>,
    pub entropy_mean: Option<f64>,
    pub log_density_median: Option<f32>,
}

/// An unknown class: AUROC of its pixels against all pixels of known classes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Stranger {
    pub name: &'static str,
    pub pixels: usize,
    pub entropy_auroc: Option<f64>,
    pub density_auroc: Option<f64>,
    pub relative_density_auroc: Option<f64>,
}

pub struct Measure {
    classes: Vec<String>,
    confusion: Confusion,
    /// Pixels of known classes inside an object and at a border, each classified right and wrong.
    inside: [Scores; 2],
    border: [Scores; 2],
    /// Of each unknown class.
    strange: Vec<Scores>,
}

impl Measure {
    pub fn new(classes: &[String]) -> Self {
        Measure {
            classes: classes.to_vec(),
            confusion: Confusion::new(classes.len()),
            inside: Default::default(),
            border: Default::default(),
            strange: vec![Scores::default(); STRANGERS.len()],
        }
    }

    pub fn add(&mut self, seen: &Seen) -> Result<()> {
        let label = &seen.scene.label;
        self.confusion.add(label, &seen.maps.label)?;
        let border = borders(seen.maps.size, label);
        for (pixel, &class) in label.iter().enumerate() {
            let class = usize::from(class);
            let wrong = usize::from(usize::from(seen.maps.label[pixel]) != class);
            let set = match class.checked_sub(self.classes.len()) {
                Some(stranger) => &mut self.strange[stranger],
                None if border[pixel] => &mut self.border[wrong],
                None => &mut self.inside[wrong],
            };
            set.push(Score::Entropy, seen.maps.entropy[pixel]);
            set.push(Score::Density, seen.density[pixel]);
            set.push(Score::Relative, seen.relative[pixel]);
        }
        Ok(())
    }

    pub fn summary(self, extent: Extent, fit: &Origin) -> Summary {
        let Measure { classes, confusion, inside, border, strange } = &self;
        let right = [&inside[0], &border[0]];
        let wrong = [&inside[1], &border[1]];
        let known = [&inside[0], &inside[1], &border[0], &border[1]];
        let strangers = STRANGERS.iter().zip(strange).map(|(name, scores)| {
            let found = Detections::of(&[scores], &known);
            let auroc = |score| found.get(score).map(|d| d.auroc);
            Stranger {
                name,
                pixels: count(scores),
                entropy_auroc: auroc(Score::Entropy),
                density_auroc: auroc(Score::Density),
                relative_density_auroc: auroc(Score::Relative),
            }
        });
        let unknown: Vec<&Scores> = strange.iter().collect();
        Summary {
            schema_version: 1,
            model_sha256: fit.model.clone(),
            fit_first_seed: FIT_SEED,
            fit_scenes: extent.fit,
            fit_pixels: fit.pixels.fitted,
            test_first_seed: TEST_SEED,
            test_scenes: extent.test,
            pixel_accuracy: confusion.accuracy(),
            mean_iou: confusion.mean_iou(),
            iou: classes.iter().cloned().zip(confusion.iou()).collect(),
            zones: vec![
                Zone::of("inside known objects", &[&inside[0], &inside[1]], Some(&inside[0])),
                Zone::of("at borders", &[&border[0], &border[1]], Some(&border[0])),
                Zone::of("on unknown objects", &unknown, None),
            ],
            errors: Detections::of(&wrong, &right),
            unknown: Detections::of(&unknown, &known),
            strangers: strangers.collect(),
            findings: Vec::new(),
        }
    }
}

impl Zone {
    fn of(name: &'static str, all: &[&Scores], right: Option<&Scores>) -> Zone {
        let of = |score| all.iter().map(|s| s.histogram(score)).collect::<Vec<&Histogram>>();
        let sum: f64 = of(Score::Entropy).iter().map(|entropy| entropy.sum()).sum();
        let pixels: usize = all.iter().map(|set| count(set)).sum();
        let share = |x: f64| (pixels > 0).then(|| x / pixels as f64);
        // From the least log-density, which is the greatest score.
        let median = Histogram::descending(&of(Score::Density), pixels as u64 / 2);
        Zone {
            name,
            pixels,
            accuracy: right.and_then(|right| share(count(right) as f64)),
            entropy_mean: share(sum),
            log_density_median: median.map(|score| -score),
        }
    }
}

/// Pixels of a set.
fn count(set: &Scores) -> usize {
    set.histogram(Score::Entropy).count() as usize
}

/// Whether another label is within [`BORDER`] rows and columns of a pixel.
fn borders(size: Size, label: &[u8]) -> Vec<bool> {
    let near = |at: usize, end: usize| at.saturating_sub(BORDER)..(at + BORDER + 1).min(end);
    let mut border = Vec::with_capacity(label.len());
    for row in 0..size.h {
        for column in 0..size.w {
            let class = label[row * size.w + column];
            let mut rows = near(row, size.h);
            border.push(rows.any(|r| near(column, size.w).any(|c| label[r * size.w + c] != class)));
        }
    }
    border
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn borders_reach_two_pixels() {
        let size = Size::new(3, 8);
        let label: Vec<u8> = (0..24).map(|i| u8::from(i % 8 >= 4)).collect();
        let expected: Vec<bool> = (0..24).map(|i| (2..6).contains(&(i % 8))).collect();
        assert_eq!(borders(size, &label), expected);
        assert_eq!(borders(size, &[7; 24]), [false; 24]);
        // One odd pixel, also across rows.
        let mut label = vec![0; 24];
        label[0] = 1;
        let expected: Vec<bool> = (0..24).map(|i| i % 8 <= 2).collect();
        assert_eq!(borders(size, &label), expected);
    }
}
