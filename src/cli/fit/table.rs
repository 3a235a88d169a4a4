//! The table that `ddu fit` ends with: what each class's Gaussian stands on.

use std::fmt::Write as _;

use ddu::density::{Covariance, Density, Gaussian, Gaussians, Prior};

use crate::cli::{self, warn};

/// Prints it to stdout, and the warnings of the fit to stderr.
pub fn print(density: &Density) -> anyhow::Result<()> {
    let names = &density.origin.classes;
    let (gaussians, warnings) =
        match Gaussians::new(&density.moments, Covariance::Full, Prior::Empirical) {
            Ok(fitted) => fitted,
            // A shard may be too small to stand alone.
            Err(error) => {
                warn(error);
                return Ok(());
            }
        };
    for warning in &warnings {
        warn(warning.message(&names[warning.class()]));
    }
    let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(6);
    let mut text = format!(
        "{:>3}  {:width$}  {:>12}  {:>9}  {:>8}  {:>7}  {:>9}\n",
        "", "class", "pixels", "condition", "with eps", "eps", "ln|Sigma|"
    );
    let row = |text: &mut String, index: &str, name: &str, pixels: i64, g: Option<&Gaussian>| {
        write!(text, "{index:>3}  {name:width$}  {pixels:>12}")?;
        match g {
            Some(g) => writeln!(
                text,
                "  {:>9.1e}  {:>8.1e}  {:>7.1e}  {:>9.1}",
                g.condition_before, g.condition_after, g.eps, g.log_determinant
            ),
            None => writeln!(text, "  left out"),
        }
    };
    for (class, name) in names.iter().enumerate() {
        let fitted = gaussians.classes.iter().find(|c| c.class == class).map(|c| &c.gaussian);
        row(&mut text, &class.to_string(), name, density.moments.count()[class], fitted)?;
    }
    let total = gaussians.classes.iter().map(|c| c.count).sum();
    row(&mut text, "", "pooled", total, Some(&gaussians.background))?;
    Ok(cli::print(&text)?)
}
