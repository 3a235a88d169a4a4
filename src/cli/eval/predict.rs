//! The one place where the predictions of an image are made.

use ddu::Result;
use ddu::baseline;
use ddu::data::{LabelRule, Mask, label_grid};
use ddu::engine::Output;
use ddu::eval::positions::Positions;
use ddu::eval::{Method, Prediction};
use ddu::score::{Needs, Score};

use super::super::pipeline::Item;
use super::read::Annotation;

/// An image through the network.
pub struct Seen {
    pub hash: u64,
    pub mask: Mask,
    pub predictions: Vec<Prediction>,
}

/// What each method says about an image of a run; `members` is what an ensemble does.
pub fn see(
    output: &Output,
    at: usize,
    item: Item<Annotation>,
    scores: &[Score],
    members: Option<Prediction>,
) -> Result<Seen> {
    let Annotation { mask, hash } = item.data;
    let needed = |needs| scores.iter().any(|score| score.info().needs == needs);
    let mut predictions = vec![softmax(output, at, scores)?];
    if needed(Needs::Passes) {
        predictions.push(baseline::mc_dropout(output, at)?);
    }
    predictions.extend(members.filter(|_| needed(Needs::Members)));
    for prediction in &mut predictions {
        prediction.scores.retain(|(score, _)| scores.contains(score));
    }
    Ok(Seen { hash, mask, predictions })
}

/// What is computed of the deterministic pass so that `scores` can be evaluated: the confidence as well.
pub fn computed(scores: &[Score]) -> Vec<Score> {
    let of_mean = |score: &Score| matches!(score.info().needs, Needs::Passes | Needs::Members);
    let mut computed: Vec<Score> = scores.iter().copied().filter(|s| !of_mean(s)).collect();
    if !computed.contains(&Score::MaxSoftmax) {
        computed.push(Score::MaxSoftmax);
    }
    computed
}

fn softmax(output: &Output, at: usize, scores: &[Score]) -> Result<Prediction> {
    let computed = computed(scores);
    let (label, maps) = output.scored(at, &computed)?;
    let maps = maps.into_iter().map(|map| map.values);
    let maps: Vec<(Score, Vec<f32>)> = computed.into_iter().zip(maps).collect();
    let confidence = maps.iter().find(|(score, _)| *score == Score::MaxSoftmax);
    let confidence = confidence.map(|(_, map)| map.clone()).unwrap_or_default();
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
