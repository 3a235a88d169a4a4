//! What of an image deserves attention: which pixels are ambiguous or unfamiliar, and what that makes of the
//! image as a whole.

use ddu::density::Percentiles;
use ddu::report::digits::{number, percent};
use serde::Serialize;

use super::report::Written;

/// Beyond them a pixel is not to be trusted, in nats; None where there is no such limit.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Limits {
    pub entropy: Option<f32>,
    pub density: Option<f32>,
}

/// Values of the mask.
const AMBIGUOUS: u8 = 1;
const UNFAMILIAR: u8 = 2;

/// Rows of the table on the terminal name so many classes.
const CLASSES: usize = 3;

impl Limits {
    /// Per pixel 2 (unfamiliar) where the log-density is below its limit, else 1 (ambiguous) where the entropy
    /// is above its own, else 0 (certain). What is not a number is beyond.
    pub fn mask(self, entropy: &[f32], density: Option<&[f32]>) -> Vec<u8> {
        let within = |value: f32, low: f32, high: f32| value >= low && value <= high;
        let (top, bottom) =
            (self.entropy.unwrap_or(f32::INFINITY), self.density.unwrap_or(f32::NEG_INFINITY));
        let mut mask: Vec<u8> = entropy
            .iter()
            .map(|e| if within(*e, f32::NEG_INFINITY, top) { 0 } else { AMBIGUOUS })
            .collect();
        for (state, density) in mask.iter_mut().zip(density.into_iter().flatten()) {
            if !within(*density, bottom, f32::INFINITY) || *density == f32::NEG_INFINITY {
                *state = UNFAMILIAR;
            }
        }
        mask
    }
}

/// An image as a whole. Shares are of its pixels.
#[derive(Clone, Debug, Serialize)]
pub struct Attention {
    pub certain_share: f64,
    pub ambiguous_share: f64,
    pub unfamiliar_share: f64,
    /// Over the pixels where it is finite.
    pub entropy_mean_nats: Option<f64>,
    /// The log-density that half of the pixels are below.
    pub density_median_nats: Option<f32>,
    /// The percentage of the fitted sample below that: 50 for an image like those of the fit.
    pub density_percentile: Option<f64>,
    /// Classes that were predicted, the most frequent first.
    pub class_shares: Vec<ClassShare>,
}

#[derive(Clone, Debug, Serialize)]
pub struct ClassShare {
    pub class: String,
    pub share: f64,
}

impl Attention {
    /// Of the maps of an image.
    pub fn of(
        mask: &[u8],
        label: &[u8],
        entropy: &[f32],
        density: Option<(&[f32], &Percentiles)>,
        classes: &[String],
    ) -> Self {
        let pixels = mask.len().max(1) as f64;
        let count = |state: u8| mask.iter().filter(|s| **s == state).count() as f64;
        let finite = || entropy.iter().copied().filter(|e| e.is_finite()).map(f64::from);
        let entropies = finite().count();
        let median = density.and_then(|(density, _)| {
            let mut sorted: Vec<f32> = density.iter().copied().filter(|d| !d.is_nan()).collect();
            let middle = sorted.len().checked_sub(1)? / 2;
            Some(*sorted.select_nth_unstable_by(middle, f32::total_cmp).1)
        });
        let mut counts = vec![0u64; classes.len()];
        label.iter().for_each(|class| counts[usize::from(*class)] += 1);
        let mut class_shares: Vec<ClassShare> = classes
            .iter()
            .zip(counts)
            .filter(|(_, count)| *count > 0)
            .map(|(class, count)| ClassShare { class: class.clone(), share: count as f64 / pixels })
            .collect();
        class_shares.sort_by(|a, b| b.share.total_cmp(&a.share));
        Attention {
            certain_share: count(0) / pixels,
            ambiguous_share: count(AMBIGUOUS) / pixels,
            unfamiliar_share: count(UNFAMILIAR) / pixels,
            entropy_mean_nats: (entropies > 0).then(|| finite().sum::<f64>() / entropies as f64),
            // JSON has no infinity.
            density_median_nats: median.filter(|m| m.is_finite()),
            density_percentile: median.zip(density).and_then(|(m, (_, fitted))| fitted.rank(m)),
            class_shares,
        }
    }

    /// By what images are ranked: the share of pixels that are not certain.
    pub fn rank(&self) -> f64 {
        self.ambiguous_share + self.unfamiliar_share
    }

    /// "12.3 % ambiguous, 4.5 % unfamiliar"
    pub fn note(&self) -> String {
        format!(
            "{} ambiguous, {} unfamiliar",
            percent(self.ambiguous_share),
            percent(self.unfamiliar_share)
        )
    }
}

pub const HEADER: [&str; 7] = [
    "Image",
    "Not certain",
    "Ambiguous",
    "Unfamiliar",
    "Mean entropy",
    "Density percentile",
    "Classes",
];

/// A row per image, the one that needs attention most first; ties by mean entropy, then as they came.
pub fn ranking(images: &[Written]) -> Vec<[String; 7]> {
    let mut ranked: Vec<(&str, &Attention)> =
        images.iter().filter_map(|w| Some((&*w.path, w.attention.as_ref()?))).collect();
    let key = |a: &Attention| (a.rank(), a.entropy_mean_nats.unwrap_or(f64::INFINITY));
    ranked.sort_by(|(_, a), (_, b)| {
        let (a, b) = (key(a), key(b));
        b.0.total_cmp(&a.0).then(b.1.total_cmp(&a.1))
    });
    let row = |(path, a): (&str, &Attention)| {
        let classes = a.class_shares.iter().take(CLASSES);
        let classes: Vec<String> =
            classes.map(|c| format!("{} {}", c.class, percent(c.share))).collect();
        [
            path.to_owned(),
            percent(a.rank()),
            percent(a.ambiguous_share),
            percent(a.unfamiliar_share),
            number(a.entropy_mean_nats, 3),
            number(a.density_percentile, 1),
            classes.join(", "),
        ]
    };
    ranked.into_iter().map(row).collect()
}

/// The ranking for a terminal.
pub fn table(rows: &[[String; 7]]) -> String {
    let header = HEADER.map(|title| title.to_lowercase());
    let all: Vec<&[String; 7]> = std::iter::once(&header).chain(rows).collect();
    let widths: Vec<usize> =
        (0..7).map(|i| all.iter().map(|row| row[i].chars().count()).max().unwrap_or(0)).collect();
    let line = |row: &&[String; 7]| {
        let cells = row.iter().zip(&widths).enumerate().map(|(i, (cell, width))| match i {
            0 => format!("{cell:width$}"),
            6 => cell.clone(),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ") + "\n"
    };
    all.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unfamiliar_comes_before_ambiguous_and_what_is_no_number_is_beyond() {
        let limits = Limits { entropy: Some(1.0), density: Some(-5.0) };
        let entropy = [0.5, 1.0, 1.5, 1.5, f32::NAN, 0.1, 0.1];
        let density = [-5.0, -4.0, -5.0, -6.0, 0.0, f32::NEG_INFINITY, f32::NAN];
        assert_eq!(limits.mask(&entropy, Some(&density)), [0, 0, 1, 2, 1, 2, 2]);
        assert_eq!(limits.mask(&entropy, None), [0, 0, 1, 1, 1, 0, 0]);
        // Without limits only what is no number.
        let none = Limits { entropy: None, density: None };
        assert_eq!(none.mask(&entropy, Some(&density)), [0, 0, 0, 0, 1, 2, 2]);
    }
}
