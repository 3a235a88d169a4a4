//! JSON reports: where they go, the host they were made on, and summaries of timings. Units are in
//! the names of the fields.

use std::io::{ErrorKind, Write};
use std::path::Path;

use serde::Serialize;

use crate::data::write_atomic;
use crate::error::{Error, Result};
use crate::host;

/// Writes a report to a file, or to stdout where `target` is `-`; that nobody reads stdout any more is
/// no error.
pub fn write(target: &Path, report: &impl Serialize) -> Result<()> {
    let invalid = |e| Error::invalid(target.display(), "a report that JSON can hold", e);
    let mut text = serde_json::to_vec_pretty(report).map_err(invalid)?;
    text.push(b'\n');
    if target.as_os_str() == "-" {
        let mut out = std::io::stdout().lock();
        match out.write_all(&text).and_then(|()| out.flush()) {
            Err(error) if error.kind() != ErrorKind::BrokenPipe => {
                Err(Error::io("stdout", "write", error))
            }
            _ => Ok(()),
        }
    } else {
        write_atomic(target, |file| file.write_all(&text))
    }
}

#[derive(Debug, Serialize)]
pub struct Host {
    pub cpu: String,
    pub simd: &'static str,
    pub threads: usize,
    pub memory_total_bytes: Option<u64>,
    pub os: &'static str,
    pub architecture: &'static str,
}

impl Host {
    pub fn here() -> Self {
        Host {
            cpu: host::cpu_name(),
            simd: crate::cpu::simd::name(),
            threads: rayon::current_num_threads(),
            memory_total_bytes: host::memory().map(|memory| memory.total),
            os: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
        }
    }
}

/// Of a set of measurements. A percentile is the smallest value that at least that share of them
/// does not exceed (nearest rank).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub max: f64,
}

impl Summary {
    /// None for no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let rank = |percent: usize| sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1];
        Some(Summary {
            min: *sorted.first()?,
            mean: sorted.iter().sum::<f64>() / sorted.len() as f64,
            p50: rank(50),
            p90: rank(90),
            p99: rank(99),
            max: *sorted.last()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks() {
        let values: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        let summary = Summary::of(&values).unwrap();
        let expected =
            Summary { min: 1.0, mean: 100.5, p50: 100.0, p90: 180.0, p99: 198.0, max: 200.0 };
        assert_eq!(summary, expected);
        let one = Summary::of(&[3.0]).unwrap();
        assert_eq!([one.min, one.p50, one.p99, one.max], [3.0; 4]);
        assert_eq!(Summary::of(&[]), None);
    }
}
