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

fn softmax(output: &Output, at: usize, scores: &[Score]) -> Result<Prediction> {
    let of_mean = |score: &Score| matches!(score.info().needs, Needs::Passes | Needs::Members);
    let scores: Vec<Score> = scores.iter().copied().filter(|score| !of_mean(score)).collect();
    let (label, maps) = output.scored(at, &scores)?;
    let maps = maps.into_iter().map(|map| map.values);
    Ok(Prediction {
        method: Method::Softmax,
        label,
        confidence: confidence(output, at)?,
        scores: scores.into_iter().zip(maps).collect(),
    })
}

/// The probability of the predicted class, max_c p_c = 1 / sum_c exp(l_c - max l), p = softmax(l) of the
/// upsampled logits; NaN where one is not finite.
fn confidence(output: &Output, at: usize) -> Result<Vec<f32>> {
    let logits = output.logits(at)?;
    let pixels = output.size.pixels();
    let (mut greatest, mut sum) = (vec![f32::NEG_INFINITY; pixels], vec![0f32; pixels]);
    for class in 0..output.classes {
        let plane: Vec<f32> = logits.iter().skip(class).step_by(output.classes).copied().collect();
        for (i, logit) in output.upsample(&plane).into_iter().enumerate() {
            if logit > greatest[i] {
                sum[i] = sum[i] * (greatest[i] - logit).exp() + 1.0;
                greatest[i] = logit;
            } else {
                sum[i] += (logit - greatest[i]).exp();
            }
        }
    }
    Ok(sum.into_iter().map(|sum| 1.0 / sum).collect())
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
