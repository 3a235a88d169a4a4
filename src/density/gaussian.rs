//! Gaussians from moments: what makes a density ready to evaluate, in f64.
//!
//! `Sigma_c = S_c / (n_c - 1) + eps_c I = L_c L_c^T`, `W_c = L_c^-1` (for weighted moments n_c - 1 is what
//! [`Moments::freedom`] says, and n_c elsewhere the sum of the weights), so that
//! `ln N(z; mu_c, Sigma_c) = -(D ln 2 pi + ln|Sigma_c| + ||W_c (z - mu_c)||^2) / 2`.
//!
//! `eps_c = r tr(Sigma_c) / D` with the first r of 0, 1e-8, 1e-7 .. 1e-1, 1 that brings the condition
//! number lambda_max / lambda_min to at most [`CONDITION_CAP`]. The eigenvalues of `Sigma + eps I` are
//! `lambda + eps`, so one decomposition per class decides, and the Cholesky factorisation never has to
//! be tried twice. Features of real networks have raw condition numbers of 1e5 to 1e20 (dead
//! channels); rounding z to fp16 alone moves the exponent by 0.6 nats at 1e5.

use faer::diag::Diag;
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::{cholesky, evd, triangular_inverse};
use faer::{Mat, Par};
use rayon::prelude::*;

use super::{Moments, round_to_half};
use crate::error::{Error, Result};

/// Largest lambda_max / lambda_min of a regularised covariance.
pub const CONDITION_CAP: f64 = 1e4;

/// The r of the eps rule, tried in order.
const RATIOS: [f64; 10] = [0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0];

/// Which covariance each class gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Covariance {
    /// A covariance for each class.
    #[default]
    Full,
    /// One for all: the sum of the scatters over the sum of n_c - 1.
    Tied,
    /// The diagonal of each class's covariance, and of the background's.
    Diagonal,
}

impl Covariance {
    /// Names on the command line and in messages.
    pub const NAMES: [(&str, Self); 3] =
        [("full", Self::Full), ("tied", Self::Tied), ("diagonal", Self::Diagonal)];
}

/// The weight pi_c of each class in q(z).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Prior {
    /// n_c, or the sum of the weights, over that of all fitted classes.
    #[default]
    Empirical,
    /// No prior: pi_c = 1, as the authors' code has it. A prior of 1 / C would lower every value by ln C.
    Uniform,
}

impl Prior {
    /// Names on the command line and in messages.
    pub const NAMES: [(&str, Self); 2] =
        [("empirical", Self::Empirical), ("uniform", Self::Uniform)];
}

/// One Gaussian, ready to evaluate.
#[derive(Clone, Debug)]
pub struct Gaussian {
    /// mu `[D]`
    pub mean: Vec<f64>,
    /// W = L^-1 `[D, D]`, lower triangular, row-major.
    pub whitening: Vec<f64>,
    /// ln|Sigma|, regularised.
    pub log_determinant: f64,
    /// What was added to the diagonal.
    pub eps: f64,
    /// Of the covariance as estimated; infinite where it is singular.
    pub condition_before: f64,
    /// Of the regularised covariance.
    pub condition_after: f64,
    /// The trace was zero: every sample is the same.
    pub degenerate: bool,
}

impl Gaussian {
    /// ln N(z; mu, Sigma) without the quadratic term: -(D ln 2 pi + ln|Sigma|) / 2.
    pub fn log_peak(&self) -> f64 {
        let channels = self.mean.len() as f64;
        -0.5 * (channels * (2.0 * std::f64::consts::PI).ln() + self.log_determinant)
    }

    /// Squared Mahalanobis distance ||W (z - mu)||^2 in f64: the reference of every device.
    pub fn distance(&self, z: &[f64]) -> f64 {
        let centred: Vec<f64> = z.iter().zip(&self.mean).map(|(z, m)| z - m).collect();
        let row = |(i, row): (usize, &[f64])| -> f64 {
            let y: f64 = row[..=i].iter().zip(&centred).map(|(w, x)| w * x).sum();
            y * y
        };
        self.whitening.chunks_exact(centred.len().max(1)).enumerate().map(row).sum()
    }
}

/// A class that has a Gaussian.
#[derive(Clone, Debug)]
pub struct ClassGaussian {
    pub class: usize,
    pub count: i64,
    /// ln pi_c
    pub log_prior: f64,
    pub gaussian: Gaussian,
}

/// The fitted classes and the background Gaussian of all their pixels together, whose density the
/// relative score subtracts (Ren et al. 2021, arXiv 2106.09022).
#[derive(Clone, Debug)]
pub struct Gaussians {
    pub channels: usize,
    pub covariance: Covariance,
    pub classes: Vec<ClassGaussian>,
    pub background: Gaussian,
    /// m + s `[D]`: mean and standard deviation of each channel over the pixels of all fitted classes
    /// together, the sum rounded to fp16. The clipped entropy cuts features there.
    pub limits: Vec<f32>,
}

/// What is doubtful about the Gaussian of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Warning {
    /// Fewer than 2 samples: it has no covariance and is left out.
    LeftOut { class: usize, count: i64 },
    /// Fewer than D + 1 samples: its covariance is singular before eps.
    FewSamples { class: usize, count: i64, channels: usize },
    /// All samples are the same.
    Constant { class: usize },
    /// The same of a class of the weighted moments; their counts are effective ones.
    Weighted(Box<Warning>),
}

impl Warning {
    /// One line; `name` is the class's.
    pub fn message(&self, name: &str) -> String {
        match self {
            Warning::LeftOut { count, .. } => {
                format!("class {name}: {count} samples, a Gaussian needs 2: left out")
            }
            Warning::FewSamples { count, channels, .. } => format!(
                "class {name}: {count} samples for {channels} channels, a covariance of full rank \
                 needs {}: it leans on eps",
                channels + 1
            ),
            Warning::Constant { .. } => {
                format!(
                    "class {name}: all samples are the same: it gets the pooled covariance's eps"
                )
            }
            Warning::Weighted(warning) => format!("weighted density: {}", warning.message(name)),
        }
    }

    pub fn class(&self) -> usize {
        match self {
            Warning::LeftOut { class, .. }
            | Warning::FewSamples { class, .. }
            | Warning::Constant { class } => *class,
            Warning::Weighted(warning) => warning.class(),
        }
    }
}

impl Gaussians {
    /// # Errors
    /// No class has two samples, or the moments are not finite.
    pub fn new(
        moments: &Moments,
        covariance: Covariance,
        prior: Prior,
    ) -> Result<(Gaussians, Vec<Warning>)> {
        Self::with_condition(moments, covariance, prior, CONDITION_CAP)
    }

    /// As [`Self::new`], with `cap` for [`CONDITION_CAP`]: more keeps directions of less variance, down to what
    /// f32 and features rounded to fp16 can carry.
    ///
    /// # Errors
    /// As [`Self::new`], and a cap of less than 2, the most that the greatest eps (the trace) leaves.
    pub fn with_condition(
        moments: &Moments,
        covariance: Covariance,
        prior: Prior,
        cap: f64,
    ) -> Result<(Gaussians, Vec<Warning>)> {
        if cap.is_nan() || cap < 2.0 {
            return Err(Error::invalid("condition", "a number of at least 2", cap));
        }
        let channels = moments.channels();
        let fitted: Vec<usize> =
            (0..moments.classes()).filter(|c| moments.effective(*c) >= 2.0).collect();
        if fitted.is_empty() {
            return Err(Error::invalid("density", "a class with at least 2 samples", "none")
                .fix("fit more images, or check that masks and model count classes alike"));
        }
        let mut warnings = Vec::new();
        for class in 0..moments.classes() {
            let count = moments.effective(class) as i64;
            if count < 2 {
                warnings.push(Warning::LeftOut { class, count });
            } else if covariance == Covariance::Full && count < channels as i64 + 1 {
                warnings.push(Warning::FewSamples { class, count, channels });
            }
        }
        let diagonal = covariance == Covariance::Diagonal;
        let pool = moments.pooled(&fitted);
        let mean = pool.mean(0).to_vec();
        let pooled: Vec<f64> = pool.scatter(0).iter().map(|s| s / pool.freedom(0)).collect();
        let variances = pooled.iter().step_by(channels + 1);
        let limit = |(m, v): (&f64, &f64)| round_to_half((m + v.max(0.0).sqrt()) as f32);
        let limits = mean.iter().zip(variances).map(limit).collect();
        let background = gaussian(mean, pooled, diagonal, None, cap)?;
        let fallback = background.fallback_eps(cap);

        let tied = (covariance == Covariance::Tied).then(|| within(moments, &fitted));
        let make = |&class: &usize| {
            let sigma = tied.clone().unwrap_or_else(|| {
                let freedom = moments.freedom(class);
                moments.scatter(class).iter().map(|s| s / freedom).collect()
            });
            gaussian(moments.mean(class).to_vec(), sigma, diagonal, Some(fallback), cap)
        };
        let made: Vec<Spectral> = fitted.par_iter().map(make).collect::<Result<_>>()?;
        let mut classes = Vec::with_capacity(made.len());
        for (class, Spectral { gaussian, .. }) in fitted.into_iter().zip(made) {
            let count = moments.count()[class];
            if gaussian.degenerate {
                warnings.push(Warning::Constant { class });
            }
            let log_prior = match prior {
                Prior::Empirical => (moments.weight(class) / pool.weight(0)).ln(),
                Prior::Uniform => 0.0,
            };
            classes.push(ClassGaussian { class, count, log_prior, gaussian });
        }
        warnings.sort_by_key(Warning::class);
        let background = background.gaussian;
        Ok((Gaussians { channels, covariance, classes, background, limits }, warnings))
    }

    /// ln q(z) = LSE_c [ ln pi_c + ln N(z; mu_c, Sigma_c) ] in f64, for one feature `[D]` that is
    /// already rounded to fp16; -inf for one that is not finite. The reference of every device.
    pub fn log_density(&self, z: &[f64]) -> f64 {
        if !z.iter().all(|v| v.is_finite()) {
            return f64::NEG_INFINITY;
        }
        let term =
            |c: &ClassGaussian| c.log_prior + c.gaussian.log_peak() - 0.5 * c.gaussian.distance(z);
        let terms: Vec<f64> = self.classes.iter().map(term).collect();
        let max = terms.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        max + terms.iter().map(|t| (t - max).exp()).sum::<f64>().ln()
    }

    /// ln q(z) - ln N(z; mu_0, Sigma_0) in f64; as [`Self::log_density`].
    pub fn relative_log_density(&self, z: &[f64]) -> f64 {
        if !z.iter().all(|v| v.is_finite()) {
            return f64::NEG_INFINITY;
        }
        self.log_density(z) - self.background.log_peak() + 0.5 * self.background.distance(z)
    }
}

/// The within-class covariance: sum of S_c over the sum of n_c - 1 (of what [`Moments::freedom`] says).
fn within(moments: &Moments, classes: &[usize]) -> Vec<f64> {
    let mut sigma = vec![0.0; moments.channels() * moments.channels()];
    let freedom: f64 = classes.iter().map(|c| moments.freedom(*c)).sum();
    for &class in classes {
        for (sum, s) in sigma.iter_mut().zip(moments.scatter(class)) {
            *sum += s;
        }
    }
    sigma.iter_mut().for_each(|s| *s /= freedom);
    sigma
}

/// A Gaussian and its covariance's largest eigenvalue before eps.
struct Spectral {
    gaussian: Gaussian,
    largest: f64,
}

impl Spectral {
    /// The eps of a class whose trace is zero, from the pooled Gaussian: its eps; where it needs
    /// none, the least variance that the cap allows beside its largest; 1 where it is constant too.
    fn fallback_eps(&self, cap: f64) -> f64 {
        match self.gaussian.eps {
            0.0 => self.largest / cap,
            eps => eps,
        }
    }
}

/// Regularises and factorises a covariance, of which the lower triangle is read. `fallback` is the
/// eps of a trace of zero.
fn gaussian(
    mean: Vec<f64>,
    sigma: Vec<f64>,
    diagonal: bool,
    fallback: Option<f64>,
    cap: f64,
) -> Result<Spectral> {
    let n = mean.len();
    if !mean.iter().chain(&sigma).all(|v| v.is_finite()) {
        return Err(Error::invalid("density", "finite moments", "an infinity or a NaN"));
    }
    let entry = |i: usize, j: usize| match i == j {
        true => sigma[i * n + i],
        false if diagonal => 0.0,
        false => sigma[i.max(j) * n + i.min(j)],
    };
    let sigma = Mat::from_fn(n, n, entry);
    let variances = (0..n).map(|i| sigma[(i, i)]);
    let (least, largest) = match diagonal {
        true => {
            (variances.clone().fold(f64::INFINITY, f64::min), variances.clone().fold(0.0, f64::max))
        }
        false => extreme_eigenvalues(&sigma)?,
    };
    let trace: f64 = variances.sum();
    let eps = if trace > 0.0 {
        let candidates = RATIOS.iter().map(|r| r * trace / n as f64);
        let capped = |eps: &f64| condition(least + eps, largest + eps) <= cap;
        // r = 1 gives at most 1 + D: only a cap of less is left over, and the trace gives at most 2.
        candidates.clone().find(capped).unwrap_or(trace)
    } else {
        fallback.filter(|eps| *eps > 0.0).unwrap_or(1.0)
    };
    let (lower, log_determinant) = factorise(&sigma, eps)?;
    Ok(Spectral {
        gaussian: Gaussian {
            mean,
            whitening: invert(&lower),
            log_determinant,
            eps,
            condition_before: condition(least, largest),
            condition_after: condition(least + eps, largest + eps),
            degenerate: trace <= 0.0,
        },
        largest,
    })
}

/// lambda_max / lambda_min; infinite where the least is not positive (rounding can take the zero of
/// a singular covariance to either side).
fn condition(least: f64, largest: f64) -> f64 {
    if least > 0.0 { largest / least } else { f64::INFINITY }
}

fn extreme_eigenvalues(sigma: &Mat<f64>) -> Result<(f64, f64)> {
    let n = sigma.nrows();
    let mut values = Diag::<f64>::zeros(n);
    let need = evd::self_adjoint_evd_scratch::<f64>(
        n,
        evd::ComputeEigenvectors::No,
        Par::Seq,
        Default::default(),
    );
    evd::self_adjoint_evd(
        sigma.as_ref(),
        values.as_mut(),
        None,
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(need)),
        Default::default(),
    )
    .map_err(|e| Error::invalid("density", "eigenvalues of a covariance", format!("{e:?}")))?;
    let values = values.column_vector();
    let all = (0..n).map(|i| values[i]);
    Ok((all.clone().fold(f64::INFINITY, f64::min), all.fold(0.0, f64::max)))
}

/// L of `sigma + eps I = L L^T` and the log-determinant.
fn factorise(sigma: &Mat<f64>, eps: f64) -> Result<(Mat<f64>, f64)> {
    let n = sigma.nrows();
    let mut lower = sigma.clone();
    for i in 0..n {
        lower[(i, i)] += eps;
    }
    let need =
        cholesky::llt::factor::cholesky_in_place_scratch::<f64>(n, Par::Seq, Default::default());
    cholesky::llt::factor::cholesky_in_place(
        lower.as_mut(),
        Default::default(),
        Par::Seq,
        MemStack::new(&mut MemBuffer::new(need)),
        Default::default(),
    )
    .map_err(|e| Error::invalid("density", "a positive definite covariance", format!("{e:?}")))?;
    let log_determinant = 2.0 * (0..n).map(|i| lower[(i, i)].ln()).sum::<f64>();
    Ok((lower, log_determinant))
}

/// L^-1, row-major, zeros above the diagonal.
fn invert(lower: &Mat<f64>) -> Vec<f64> {
    let n = lower.nrows();
    let mut inverse = Mat::zeros(n, n);
    triangular_inverse::invert_lower_triangular(inverse.as_mut(), lower.as_ref(), Par::Seq);
    let mut rows = vec![0.0; n * n];
    for (i, row) in rows.chunks_exact_mut(n.max(1)).enumerate() {
        for (j, w) in row[..=i].iter_mut().enumerate() {
            *w = inverse[(i, j)];
        }
    }
    rows
}
