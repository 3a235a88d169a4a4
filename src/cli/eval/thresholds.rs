//! Thresholds that are recommended, and those that are given.

use std::path::Path;

use ddu::Result;
use ddu::eval::Evaluation;
use ddu::eval::thresholds::{Achieved, Target, Threshold, Thresholds};
use ddu::score::Score;

use super::super::warn;

pub const FILE: &str = "thresholds.json";

/// Reads `--thresholds` and checks that it is for this model and density.
pub fn load(path: Option<&Path>, model: &str, density: Option<&str>) -> Result<Option<Thresholds>> {
    let Some(path) = path else { return Ok(None) };
    let thresholds = Thresholds::load(path)?;
    thresholds.check(&path.display().to_string(), model, density)?;
    Ok(Some(thresholds))
}

pub fn values(thresholds: &Thresholds) -> Vec<(Score, f32)> {
    let of = |score, found: &Option<Threshold>| Some((score, found.as_ref()?.threshold));
    let entropy = of(Score::Entropy, &thresholds.entropy);
    entropy.into_iter().chain(of(Score::Density, &thresholds.density)).collect()
}

/// Fills in what reaches the target, and warns of what does not.
pub fn choose(thresholds: &mut Thresholds, evaluation: &Evaluation, density: bool) {
    thresholds.entropy = evaluation.recommend(Score::Entropy, thresholds.target);
    thresholds.density = evaluation.recommend(Score::Density, thresholds.target);
    for (name, found, wanted) in
        [("entropy", &thresholds.entropy, true), ("density", &thresholds.density, density)]
    {
        if wanted && found.is_none() {
            warn(format_args!("no {name} threshold reaches {}", says(thresholds.target)));
        }
    }
}

fn says(target: Target) -> String {
    match target {
        Target::PAccurateCertain(share) => format!("p(accurate|certain) >= {share}"),
        Target::FalseAlarmRate(share) => format!("a false-alarm rate <= {share}"),
    }
}

/// What was chosen, for people.
pub fn table(thresholds: &Thresholds) -> String {
    let mut out = format!("Thresholds for {}, on this split:\n", says(thresholds.target));
    for (name, sign, found) in
        [("entropy", "<=", &thresholds.entropy), ("density", ">=", &thresholds.density)]
    {
        if let Some(found) = found {
            out += &line(name, sign, found);
        }
    }
    out.push('\n');
    out
}

/// One threshold and what it achieves.
pub fn line(name: &str, sign: &str, found: &Threshold) -> String {
    let percent = |share: Option<f64>| share.map_or("-".into(), |s| format!("{:.1} %", 100.0 * s));
    let Achieved {
        certain_share,
        p_accurate_certain,
        p_uncertain_inaccurate,
        false_alarm_rate,
        unknown_found,
        ..
    } = found.achieved;
    format!(
        "  certain where {name} {sign} {:.4} nats: {} of the pixels, p(accurate|certain) {}, \
         p(uncertain|inaccurate) {}, false alarms {}, unknown pixels found {}\n",
        found.threshold,
        percent(certain_share),
        percent(p_accurate_certain),
        percent(p_uncertain_inaccurate),
        percent(false_alarm_rate),
        percent(unknown_found),
    )
}
