//! The uncertainty scores: the values that a pixel can get in addition to its class. Evaluation, files, the
//! command line and the memory of devices go through [`SCORES`].
//!
//! To add a score, touch at most four files:
//! 1. this one: a variant of [`Score`], a row of [`SCORES`], its range in [`Score::colour_range`];
//! 2. `src/engine.rs`: a line of `Output::score`, which computes it on the CPU (or a file in `src/cpu/`
//!    that this line calls);
//! 3. `src/gpu/density_scores.rs`: a line of `Grid::of`, the grid that a device computes it in;
//! 4. the test that holds both to a reference.

use crate::density::{Gaussians, Sample, colour_range};

/// Names a row of [`SCORES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    Entropy,
    Density,
    Relative,
    McDropoutPe,
    McDropoutMi,
    EnsemblePe,
    EnsembleMi,
}

/// Which values mean that a prediction should not be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Worry {
    High,
    Low,
}

/// What a score is computed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// The logits of the network: nothing has to be fitted.
    Logits,
    /// The features, and the Gaussians of the classes.
    Density,
    /// Those, and the one Gaussian over all classes.
    Background,
    /// Several passes with dropout ([`crate::ops::mixture`]).
    Passes,
    /// Several networks ([`crate::ops::mixture`]).
    Members,
}

/// The description of a score.
#[derive(Debug)]
pub struct ScoreInfo {
    pub score: Score,
    /// On the command line, in JSON and in file names.
    pub name: &'static str,
    /// Of pictures.
    pub label: &'static str,
    pub unit: &'static str,
    pub equation: &'static str,
    pub source: &'static str,
    pub worry: Worry,
    pub needs: Needs,
}

/// In the order of [`Score`].
pub static SCORES: [ScoreInfo; 7] = [
    ScoreInfo {
        score: Score::Entropy,
        name: "entropy",
        label: "Softmax entropy",
        unit: "nats",
        equation: "-sum_c p_c ln p_c, p = softmax(logits)",
        source: "Shannon 1948",
        worry: Worry::High,
        needs: Needs::Logits,
    },
    ScoreInfo {
        score: Score::Density,
        name: "density",
        label: "Log-density",
        unit: "nats",
        equation: "log q(z) = ln sum_c pi_c N(z; mu_c, Sigma_c)",
        source: "Mukhoti et al. 2021, arXiv 2111.00079",
        worry: Worry::Low,
        needs: Needs::Density,
    },
    ScoreInfo {
        score: Score::Relative,
        name: "relative",
        label: "Relative log-density",
        unit: "nats",
        equation: "log q(z) minus the log-density of one Gaussian over all classes",
        source: "Ren et al. 2021, arXiv 2106.09022",
        worry: Worry::Low,
        needs: Needs::Background,
    },
    ScoreInfo {
        score: Score::McDropoutPe,
        name: "mc-dropout-pe",
        label: "Predictive entropy, MC Dropout",
        unit: "nats",
        equation: "H(p) = -sum_c p_c ln p_c, p = mean over the passes of softmax(logits)",
        source: "Gal and Ghahramani 2016, arXiv 1506.02142",
        worry: Worry::High,
        needs: Needs::Passes,
    },
    ScoreInfo {
        score: Score::McDropoutMi,
        name: "mc-dropout-mi",
        label: "Mutual information, MC Dropout",
        unit: "nats",
        equation: "H(p) minus the mean over the passes of their entropies",
        source: "Smith and Gal 2018, arXiv 1803.08533",
        worry: Worry::High,
        needs: Needs::Passes,
    },
    ScoreInfo {
        score: Score::EnsemblePe,
        name: "ensemble-pe",
        label: "Predictive entropy, ensemble",
        unit: "nats",
        equation: "H(p) = -sum_c p_c ln p_c, p = mean over the members of softmax(logits)",
        source: "Lakshminarayanan et al. 2017, arXiv 1612.01474",
        worry: Worry::High,
        needs: Needs::Members,
    },
    ScoreInfo {
        score: Score::EnsembleMi,
        name: "ensemble-mi",
        label: "Mutual information, ensemble",
        unit: "nats",
        equation: "H(p) minus the mean over the members of their entropies",
        source: "Depeweg et al. 2018, arXiv 1710.07283",
        worry: Worry::High,
        needs: Needs::Members,
    },
];

impl Score {
    pub fn info(self) -> &'static ScoreInfo {
        &SCORES[self as usize]
    }

    /// The ends of the colour bar of pictures, the same for every picture: from the number of classes
    /// and the density alone. None if the score needs a density and there is none.
    pub fn colour_range(
        self,
        classes: usize,
        density: Option<(&Sample, &Gaussians)>,
    ) -> Option<[f32; 2]> {
        match self {
            Score::Entropy => Some([0.0, (classes as f32).ln()]),
            Score::Density => density.map(|(sample, g)| colour_range(sample, g, false)),
            Score::Relative => density.map(|(sample, g)| colour_range(sample, g, true)),
            Score::McDropoutPe | Score::EnsemblePe => Some([0.0, (classes as f32).ln()]),
            // ln 2: half of the networks are sure of one class, half of another. Few pixels have more.
            Score::McDropoutMi | Score::EnsembleMi => Some([0.0, std::f32::consts::LN_2]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_the_order_of_the_variants_and_named_once() {
        for (i, info) in SCORES.iter().enumerate() {
            assert_eq!(info.score as usize, i);
            assert_eq!(info.score.info().name, info.name);
            assert!(SCORES[..i].iter().all(|other| other.name != info.name));
        }
    }
}
