//! The uncertainty scores of sets of pixels, and how well each finds one set among another.

use serde::{Serialize, Serializer};

use super::{Detection, Histogram};
use crate::score::{SCORES, Score, Worry};

/// Scores of a set of pixels, each so turned that a higher value is more uncertain. Memory does not
/// grow with the set.
#[derive(Clone, Debug, Default)]
pub struct Scores {
    /// In the order of [`SCORES`]; those that are not computed stay empty.
    of: [Histogram; SCORES.len()],
}

impl Scores {
    /// A score of one pixel, as it is computed.
    pub fn push(&mut self, score: Score, value: f32) {
        let uncertainty = match score.info().worry {
            Worry::High => value,
            Worry::Low => -value,
        };
        self.of[score as usize].push(uncertainty);
    }

    /// The values of a score, negated where a low one is uncertain.
    pub fn histogram(&self, score: Score) -> &Histogram {
        &self.of[score as usize]
    }
}

/// How well each score finds the positives, in the order of [`SCORES`]: None where the score was not
/// computed, or one side is empty. In JSON an object with the scores' names.
#[derive(Clone, Debug, PartialEq)]
pub struct Detections([Option<Detection>; SCORES.len()]);

impl Detections {
    pub fn of(positives: &[&Scores], negatives: &[&Scores]) -> Detections {
        Detections(std::array::from_fn(|i| {
            let [positives, negatives] = [positives, negatives]
                .map(|sets| sets.iter().map(|set| &set.of[i]).collect::<Vec<_>>());
            Detection::of(&positives, &negatives)
        }))
    }

    pub fn get(&self, score: Score) -> Option<Detection> {
        self.0[score as usize]
    }

    /// Name and result of each score that has values of both sets.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, Detection)> {
        SCORES.iter().filter_map(|info| Some((info.name, self.get(info.score)?)))
    }
}

impl Serialize for Detections {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.rows())
    }
}
