//! The table that `ddu fit` ends with: what each class's Gaussian stands on.

use std::fmt::Write as _;

use ddu::density::{Covariance, Density, Gaussian, Prior};

use crate::cli::{self, warn};

/// Prints it to stdout, and the warnings of the fit to stderr.
pub fn print(density: &Density) -> anyhow::Result<()> {
    let names = &density.origin.classes;
    let (ready, warnings) = match density.gaussians(Covariance::Full, Prior::Empirical) {
        Ok(fitted) => fitted,
        // A shard may be too small to stand alone.
        Err(error) => {
            warn(error);
            return Ok(());
        }
    };
    let gaussians = ready.gaussians;
    for warning in &warnings {
        warn(warning.message(&names[warning.class()]));
    }
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(6);
    let mut text = format!(
        "{:>3}  {:width$}  {:>12}  {:>9}  {:>8}  {:>7}  {:>9}\n",
        "", "class", "pixels", "condition", "with eps", "eps", "ln|Sigma|"
    );
    if density.weighted.is_some() {
        let heading = text.trim_end().to_owned();
        text = format!("{heading}  {:>12}\n", "weighted to");
    }
    let row =
        |text: &mut String, index: &str, name: &str, pixels: i64, g: Option<&Gaussian>, sure| {
            write!(text, "{index:>3}  {name:width$}  {pixels:>12}")?;
            match g {
                Some(g) => write!(
                    text,
                    "  {:>9.1e}  {:>8.1e}  {:>7.1e}  {:>9.1}",
                    g.condition_before, g.condition_after, g.eps, g.log_determinant
                ),
                None => write!(text, "  {:39}", "left out"),
            }?;
            // How many samples of one weight the class counts for.
            match sure {
                Some(samples) => writeln!(text, "  {samples:>12.0}"),
                None => writeln!(text),
            }
        };
    for (class, name) in names.iter().enumerate() {
        let fitted = gaussians.classes.iter().find(|c| c.class == class).map(|c| &c.gaussian);
        let sure = density.weighted.as_ref().map(|weighted| weighted.effective(class));
        row(&mut text, &class.to_string(), name, density.moments.count()[class], fitted, sure)?;
    }
    let total = gaussians.classes.iter().map(|c| c.count).sum();
    row(&mut text, "", "pooled", total, Some(&gaussians.background), None::<f64>)?;
    Ok(cli::print(&text)?)
}
