//! `thresholds.json`: the entropy and the log-density beyond which a pixel is not to be trusted, as `ddu eval
//! --target` recommends them on one split, and what they achieved there.

use std::path::Path;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::data::read_file;
use crate::error::{Error, Result};

const SCHEMA_VERSION: u32 = 1;
const EXPECTED: &str = "thresholds written by `ddu eval --target`";
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a threshold is to achieve.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// At least this share of the pixels that count as certain is classified right; as many as possible
    /// count as certain.
    PAccurateCertain(f64),
    /// At most this share of the pixels that deserve no alarm gets one: for the entropy those that are
    /// classified right, for the density all pixels of the model's classes. As few pixels as possible count
    /// as certain.
    FalseAlarmRate(f64),
}

/// `p-accurate-certain=0.95` or `false-alarm-rate=0.05`.
impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let expected = || "expected p-accurate-certain=SHARE or false-alarm-rate=SHARE".to_owned();
        let (name, share) = text.split_once('=').ok_or_else(expected)?;
        let share: f64 = share.parse().map_err(|_| expected())?;
        if !(share > 0.0 && share < 1.0) {
            return Err(format!("expected a share between 0 and 1, found {share}"));
        }
        match name {
            "p-accurate-certain" => Ok(Target::PAccurateCertain(share)),
            "false-alarm-rate" => Ok(Target::FalseAlarmRate(share)),
            _ => Err(expected()),
        }
    }
}

/// What a threshold achieves on a split, over its pixels of the model's classes (but for `unknown_found`).
/// None where the denominator is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Achieved {
    /// Share of pixels that count as certain.
    pub certain_share: Option<f64>,
    /// p(accurate | certain)
    pub p_accurate_certain: Option<f64>,
    /// p(uncertain | inaccurate)
    pub p_uncertain_inaccurate: Option<f64>,
    /// (accurate and certain + inaccurate and uncertain) / all
    pub pavpu: Option<f64>,
    /// Share of uncertain pixels among those that deserve no alarm: see [`Target::FalseAlarmRate`].
    pub false_alarm_rate: Option<f64>,
    /// Share of uncertain pixels among those of unknown classes.
    pub unknown_found: Option<f64>,
}

/// A threshold, in nats, and what it achieved on the split that it was chosen on.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    /// A pixel is certain where its entropy is at most this, or its log-density at least this.
    pub threshold: f32,
    #[serde(flatten)]
    pub achieved: Achieved,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thresholds {
    pub schema_version: u32,
    /// [`crate::Model::hash`]
    pub model_sha256: String,
    /// The SHA-256 in the density file's metadata; None without a density.
    pub density_sha256: Option<String>,
    /// The list that they were chosen on; None for a folder of images.
    pub split: Option<String>,
    pub target: Target,
    /// None where no threshold reaches the target.
    pub entropy: Option<Threshold>,
    /// Likewise; None as well without a density.
    pub density: Option<Threshold>,
}

impl Thresholds {
    pub fn new(model_sha256: String, density_sha256: Option<String>, target: Target) -> Self {
        Thresholds {
            schema_version: SCHEMA_VERSION,
            model_sha256,
            density_sha256,
            split: None,
            target,
            entropy: None,
            density: None,
        }
    }

    /// # Errors
    /// A file that cannot be read or holds something else.
    pub fn load(path: &Path) -> Result<Thresholds> {
        let source = path.display();
        let bytes = read_file(path, EXPECTED, MAX_FILE_BYTES)?;
        let thresholds: Thresholds = serde_json::from_slice(&bytes)
            .map_err(|error| Error::invalid(&source, EXPECTED, error))?;
        if thresholds.schema_version != SCHEMA_VERSION {
            let expected = format!("schema_version {SCHEMA_VERSION}");
            return Err(Error::invalid(&source, expected, thresholds.schema_version));
        }
        let (Target::PAccurateCertain(share) | Target::FalseAlarmRate(share)) = thresholds.target;
        if !(share > 0.0 && share < 1.0) {
            return Err(Error::invalid(&source, "a target between 0 and 1", share));
        }
        let mut limits = [thresholds.entropy, thresholds.density].into_iter().flatten();
        if let Some(limit) = limits.find(|limit| !limit.threshold.is_finite()) {
            return Err(Error::invalid(&source, "finite thresholds", limit.threshold));
        }
        Ok(thresholds)
    }

    /// # Errors
    /// Thresholds that were chosen for another model or density.
    pub fn check(&self, source: &str, model: &str, density: Option<&str>) -> Result<()> {
        let refuse = |of: &str, now: &str, found: &str| {
            Err(Error::invalid(source, format!("thresholds for this {of} ({now:.12})"), found)
                .fix("choose them anew: ddu eval --target"))
        };
        if self.model_sha256 != model {
            return refuse("model", model, &format!("those for {:.12}", self.model_sha256));
        }
        match (&self.density_sha256, density) {
            (Some(chosen), Some(now)) if chosen != now => {
                refuse("density", now, &format!("those for {chosen:.12}"))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn targets_are_a_name_and_a_share() {
        assert_eq!("p-accurate-certain=0.95".parse(), Ok(Target::PAccurateCertain(0.95)));
        assert_eq!("false-alarm-rate=0.05".parse(), Ok(Target::FalseAlarmRate(0.05)));
        for wrong in ["", "0.95", "p-accurate-certain=", "recall=0.9", "false-alarm-rate=1.5"] {
            assert!(wrong.parse::<Target>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn files_come_back_and_others_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("thresholds.json");
        let mut written =
            Thresholds::new("aa".into(), Some("bb".into()), Target::PAccurateCertain(0.95));
        let achieved = Achieved { certain_share: Some(0.25), ..Achieved::default() };
        written.entropy = Some(Threshold { threshold: 0.1, achieved });
        let text = serde_json::to_string(&written).unwrap();
        assert!(text.contains(r#""target":{"p_accurate_certain":0.95}"#), "{text}");
        std::fs::write(&path, &text).unwrap();
        assert_eq!(Thresholds::load(&path).unwrap(), written);
        written.check("t.json", "aa", Some("bb")).unwrap();
        written.check("t.json", "aa", None).unwrap();
        for (model, density) in [("ab", "bb"), ("aa", "bc")] {
            let error = written.check("t.json", model, Some(density)).unwrap_err().to_string();
            assert!(error.starts_with("t.json: expected thresholds for this"), "{error}");
        }
        let wrong = [(":1,", ":2,"), (":0.1,", ":1e300,"), (":0.95}", ":7}")];
        let wrong = wrong.map(|(from, to)| {
            assert!(text.contains(from), "{text}");
            text.replace(from, to)
        });
        for wrong in ["", "{}"].into_iter().chain(wrong.iter().map(String::as_str)) {
            std::fs::write(&path, wrong).unwrap();
            let error = Thresholds::load(&path).unwrap_err().to_string();
            assert!(error.contains("thresholds.json") && !error.contains('\n'), "{error}");
        }
    }
}
