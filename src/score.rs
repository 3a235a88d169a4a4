//! The uncertainty scores: the values that a pixel can get in addition to its class. Evaluation, files, the
//! command line and the memory of devices go through [`SCORES`].
//!
//! To add a score, touch at most four files:
//! 1. this one: a variant of [`Score`], a row of [`SCORES`], its range in [`Score::colour_range`];
//! 2. `src/engine.rs`: a line of `Output::scored`, which computes it on the CPU (or a file in `src/cpu/`
//!    that this line calls);
//! 3. `src/gpu/density_scores.rs`: a line of `Grid::of`, the grid that a device computes it in;
//! 4. the test that holds both to a reference.
//!
//! A score of the logits alone is a [`LogitScore`] instead of 2 and 3: `src/cpu/head.rs`, `kernels/head.cu`.

use crate::density::{ModelGaussians, Sample, colour_range};
use crate::ops::LogitScore;

/// Names a row of [`SCORES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    Entropy,
    MaxSoftmax,
    Energy,
    EntropyT2,
    ClippedEntropy,
    Density,
    Relative,
    WeightedDensity,
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
    /// The features, and the limits that the density's moments set them.
    Limits,
    /// The features, and the Gaussians of the classes.
    Density,
    /// Those, and the one Gaussian over all classes.
    Background,
    /// The features, and the Gaussians of the weighted moments.
    Weighted,
    /// Several passes with dropout ([`crate::ops::mixture`]).
    Passes,
    /// Several networks ([`crate::ops::mixture`]).
    Members,
}

impl Needs {
    /// Whether the value is a log-density, -inf where the feature is not finite.
    pub fn log_density(self) -> bool {
        matches!(self, Needs::Density | Needs::Background | Needs::Weighted)
    }
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
pub static SCORES: [ScoreInfo; 12] = [
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
        score: Score::MaxSoftmax,
        name: "max-softmax",
        label: "Largest softmax probability",
        unit: "probability",
        equation: "max_c p_c, p = softmax(logits)",
        source: "Hendrycks and Gimpel 2017, arXiv 1610.02136",
        worry: Worry::Low,
        needs: Needs::Logits,
    },
    ScoreInfo {
        score: Score::Energy,
        name: "energy",
        label: "Energy",
        unit: "nats",
        equation: "-ln sum_c exp(logit_c)",
        source: "Liu et al. 2020, arXiv 2010.03759",
        worry: Worry::High,
        needs: Needs::Logits,
    },
    ScoreInfo {
        score: Score::EntropyT2,
        name: "entropy-t2",
        label: "Softmax entropy, T = 2",
        unit: "nats",
        equation: "-sum_c p_c ln p_c, p = softmax(logits / 2)",
        source: "the temperature of Liang et al. 2018, arXiv 1706.02690",
        worry: Worry::High,
        needs: Needs::Logits,
    },
    ScoreInfo {
        score: Score::ClippedEntropy,
        name: "clipped-entropy",
        label: "Clipped entropy",
        unit: "nats",
        equation: "entropy of softmax(l / 2), l = W z' + b, z'_k = min(z_k, m_k + s_k): m and s are mean and \
                   standard deviation of the fitted features",
        source: "ReAct, Sun et al. 2021, arXiv 2111.12797, here a limit for each channel",
        worry: Worry::High,
        needs: Needs::Limits,
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
        score: Score::WeightedDensity,
        name: "weighted-density",
        label: "Weighted log-density",
        unit: "nats",
        equation: "log q(z) from moments weighted by p_y^32, p_y the probability of the true label",
        source: "as density; the weights are ours",
        worry: Worry::Low,
        needs: Needs::Weighted,
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

    /// The score that the head computes from the logits; None where it takes more than them.
    pub fn from_logits(self) -> Option<LogitScore> {
        match self {
            Score::Entropy => Some(LogitScore::Entropy),
            Score::MaxSoftmax => Some(LogitScore::MaxSoftmax),
            Score::Energy => Some(LogitScore::Energy),
            Score::EntropyT2 => Some(LogitScore::EntropyT2),
            _ => None,
        }
    }

    /// The ends of the colour bar of pictures, the same for every picture: from the number of classes
    /// and the density alone. None if the score needs a density, or weighted moments, and there are none.
    pub fn colour_range(
        self,
        classes: usize,
        density: Option<(&Sample, &ModelGaussians)>,
    ) -> Option<[f32; 2]> {
        match self {
            Score::Entropy | Score::EntropyT2 | Score::ClippedEntropy => {
                Some([0.0, (classes as f32).ln()])
            }
            Score::MaxSoftmax => Some([1.0 / classes as f32, 1.0]),
            // It has no bounds of its own: from a sure pixel of large logits to equal logits of 0.
            Score::Energy => Some([-20.0, -(classes as f32).ln()]),
            Score::Density => density.map(|(sample, g)| colour_range(sample, &g.gaussians, false)),
            Score::Relative => density.map(|(sample, g)| colour_range(sample, &g.gaussians, true)),
            Score::WeightedDensity => {
                let (sample, weighted) =
                    density.and_then(|(sample, g)| Some((sample, g.weighted.as_ref()?)))?;
                Some(colour_range(sample, weighted, false))
            }
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
            assert!(crate::data::RESULTS.contains(&info.name), "{}", info.name);
        }
    }
}
