//! Sentences that say whether the numbers of a summary support the paper's claims.

use super::measure::Summary;
use crate::score::Score;

/// Two AUROCs nearer than this are called equal.
const EQUAL: f64 = 0.01;

pub fn of(summary: &Summary) -> Vec<String> {
    [borders(summary), unknown(summary), errors(summary), relative(summary), extremes(summary)]
        .into_iter()
        .flatten()
        .collect()
}

/// Claim: aleatoric uncertainty is high where a border is ambiguous.
fn borders(summary: &Summary) -> Option<String> {
    let [inside, border, ..] = summary.zones.as_slice() else { return None };
    let (i, b) = (inside.entropy_mean?, border.entropy_mean?);
    let verdict = if b > i { "as claimed" } else { "against the claim" };
    Some(format!(
        "Entropy is {b:.2} nats at borders and {i:.2} inside objects ({:.1} x), {verdict}.",
        b / i
    ))
}

/// Claim: epistemic uncertainty, and not the entropy, tells what was never taught.
fn unknown(summary: &Summary) -> Option<String> {
    let (density, entropy) =
        (summary.unknown.get(Score::Density)?, summary.unknown.get(Score::Entropy)?);
    let verdict = compare(density.auroc, entropy.auroc, "density", "entropy", "density");
    Some(format!(
        "Unknown objects: one of their pixels has a lower log-density than a known one in {:.1} % of \
         pairs, a higher entropy in {:.1} %; {verdict}.",
        100.0 * density.auroc,
        100.0 * entropy.auroc
    ))
}

/// Claim: errors on known classes are mostly ambiguity, so the entropy finds them.
fn errors(summary: &Summary) -> Option<String> {
    let (density, entropy) =
        (summary.errors.get(Score::Density)?, summary.errors.get(Score::Entropy)?);
    let verdict = compare(entropy.auroc, density.auroc, "entropy", "density", "entropy");
    Some(format!(
        "Errors on known classes: AUROC {:.3} by entropy, {:.3} by density; {verdict}.",
        entropy.auroc, density.auroc
    ))
}

fn relative(summary: &Summary) -> Option<String> {
    let (density, relative) =
        (summary.unknown.get(Score::Density)?, summary.unknown.get(Score::Relative)?);
    let verdict = match relative.auroc - density.auroc {
        d if d > EQUAL => "better than",
        d if d < -EQUAL => "worse than",
        _ => "about as well as",
    };
    Some(format!(
        "The relative density finds unknown objects {verdict} the density (AUROC {:.3} and {:.3}).",
        relative.auroc, density.auroc
    ))
}

/// The mean hides which objects are missed.
fn extremes(summary: &Summary) -> Option<String> {
    let measured = || summary.strangers.iter().filter_map(|s| Some((s.name, s.density_auroc?)));
    let by_auroc = |a: &(&str, f64), b: &(&str, f64)| a.1.total_cmp(&b.1);
    let (hardest, easiest) = (measured().min_by(by_auroc)?, measured().max_by(by_auroc)?);
    let missed: Vec<&str> = summary
        .strangers
        .iter()
        .filter(
            |s| matches!((s.density_auroc, s.entropy_auroc), (Some(d), Some(e)) if e > d + EQUAL),
        )
        .map(|s| s.name)
        .collect();
    let missed = match missed.as_slice() {
        [] => "for none is entropy the better detector".into(),
        names => format!("entropy is the better detector for: {}", names.join(", ")),
    };
    Some(format!(
        "Of the unknown classes, density finds {} best ({:.3}) and {} worst ({:.3}); {missed}.",
        easiest.0, easiest.1, hardest.0, hardest.1
    ))
}

/// A verdict on the claim that `expected` is the better of two detectors.
fn compare(first: f64, second: f64, first_name: &str, second_name: &str, expected: &str) -> String {
    if (first - second).abs() <= EQUAL {
        return "no clear winner here, against the claim".into();
    }
    let winner = if first > second { first_name } else { second_name };
    let verdict = if winner == expected { "as claimed" } else { "against the claim" };
    format!("{winner} is the better detector, {verdict}")
}
