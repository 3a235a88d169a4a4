//! The one place where the predictions of an image are made.

use ddu::Result;
use ddu::data::{LabelRule, Mask, label_grid};
use ddu::engine::Output;
use ddu::eval::positions::Positions;
use ddu::eval::{Method, Prediction};
use ddu::score::Score;

use super::super::pipeline::Item;
use super::read::Annotation;

/// An image through the network.
pub struct Seen {
    pub hash: u64,
    pub mask: Mask,
    pub predictions: Vec<Prediction>,
}

/// What each method says about an image of a run.
pub fn see(output: &Output, at: usize, item: Item<Annotation>, scores: &[Score]) -> Result<Seen> {
    let Annotation { mask, hash } = item.data;
    Ok(Seen { hash, mask, predictions: vec![softmax(output, at, scores)?] })
}

/// What is computed so that `scores` can be evaluated: the confidence as well.
pub fn computed(scores: &[Score]) -> Vec<Score> {
    let mut computed = scores.to_vec();
    if !computed.contains(&Score::MaxSoftmax) {
        computed.push(Score::MaxSoftmax);
    }
    computed
}

fn softmax(output: &Output, at: usize, scores: &[Score]) -> Result<Prediction> {
    let computed = computed(scores);
    let (label, maps) = output.scored(at, &computed)?;
    let maps = maps.into_iter().map(|map| map.values);
    let mut maps: Vec<(Score, Vec<f32>)> = computed.into_iter().zip(maps).collect();
    let confidence = maps.iter().find(|(score, _)| *score == Score::MaxSoftmax);
    let confidence = confidence.map(|(_, map)| map.clone()).unwrap_or_default();
    // Those that were asked for come first.
    maps.truncate(scores.len());
    Ok(Prediction { method: Method::Softmax, label, confidence, scores: maps })
}

/// Adds the features of an image, by place and class.
pub fn place(
    output: &Output,
    at: usize,
    seen: &Seen,
    rule: LabelRule,
    positions: &mut Positions,
) -> Result<()> {
    let labels = label_grid(&seen.mask, output.size, output.padded, output.grid, rule);
    positions.add(output.grid, &output.features(at)?, &labels);
    Ok(())
}
