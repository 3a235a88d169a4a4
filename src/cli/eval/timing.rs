//! Milliseconds per pass of each method, on the first image of the data set.

use std::time::Instant;

use ddu::Result;
use ddu::baseline::Ensemble;
use ddu::data::Image;
use ddu::engine::Engine;
use ddu::eval::Method;
use ddu::score::Score;
use serde::Serialize;

use super::super::{interrupt, warn};

/// Passes that are not counted: they compile the plan and allocate.
const WARM_UP: usize = 2;
/// Passes that are, unless they take long.
const REPEATS: usize = 10;
/// After so many seconds no further pass begins, once there are [`LEAST`].
const ENOUGH_S: f64 = 10.0;
const LEAST: usize = 3;

/// Of one method: from the decoded image to the class and the method's uncertainty of every pixel.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Timing {
    #[serde(skip)]
    pub method: &'static str,
    pub median_ms: f64,
    /// Between the 25th and the 75th percentile.
    pub spread_ms: f64,
    pub warm_up: usize,
    pub repeats: usize,
    pub size_px: [usize; 2],
}

/// Class and entropy.
pub fn softmax(engine: &mut Engine, image: &Image) -> Option<Timing> {
    measure("softmax", image, || engine.run(&[image])?.maps(0).map(drop))
}

/// Class, entropy and density.
pub fn ddu(engine: &mut Engine, image: &Image) -> Option<Timing> {
    measure("ddu", image, || {
        let output = engine.run(&[image])?;
        output.maps(0)?;
        output.score(0, Score::Density).map(drop)
    })
}

/// Class, predictive entropy and mutual information over the passes of an engine that samples its dropout.
pub fn mc_dropout(engine: &mut Engine, image: &Image) -> Option<Timing> {
    let method = Method::McDropout.name();
    measure(method, image, || engine.mc_dropout(&[image]).map(drop))
}

/// The same over the model and the members.
pub fn ensemble(engine: &mut Engine, ensemble: &mut Ensemble, image: &Image) -> Option<Timing> {
    let method = Method::Ensemble.name();
    measure(method, image, || ensemble.predict(&engine.run(&[image])?, 0, &[image]).map(drop))
}

/// None, with a warning, where a pass fails; None where a signal ends the run.
pub fn measure(
    method: &'static str,
    image: &Image,
    mut pass: impl FnMut() -> Result<()>,
) -> Option<Timing> {
    let mut timed = || -> Result<f64> {
        let start = Instant::now();
        pass()?;
        Ok(1e3 * start.elapsed().as_secs_f64())
    };
    let mut all = || -> Result<Vec<f64>> {
        for _ in 0..WARM_UP {
            timed()?;
        }
        let (start, mut times) = (Instant::now(), Vec::new());
        while times.len() < LEAST
            || (times.len() < REPEATS && start.elapsed().as_secs_f64() < ENOUGH_S)
        {
            if interrupt::requested() {
                break;
            }
            times.push(timed()?);
        }
        Ok(times)
    };
    match all() {
        Ok(times) if times.is_empty() => None,
        Ok(times) => Some(summary(method, image, times)),
        Err(error) => {
            warn(format_args!("{method} was not timed: {error}"));
            None
        }
    }
}

fn summary(method: &'static str, image: &Image, mut times: Vec<f64>) -> Timing {
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        let place = share * (times.len() - 1) as f64;
        let (low, high) = (times[place.floor() as usize], times[place.ceil() as usize]);
        low + (high - low) * place.fract()
    };
    Timing {
        method,
        median_ms: at(0.5),
        spread_ms: at(0.75) - at(0.25),
        warm_up: WARM_UP,
        repeats: times.len(),
        size_px: [image.size.h, image.size.w],
    }
}

#[cfg(test)]
mod tests {
    use ddu::ops::Size;

    use super::*;

    #[test]
    fn median_and_spread() {
        let image = Image { size: Size::new(2, 3), rgb: vec![0; 18] };
        let found = summary("softmax", &image, vec![5.0, 1.0, 2.0, 9.0, 4.0]);
        assert_eq!((found.median_ms, found.spread_ms, found.repeats), (4.0, 3.0, 5));
        let mut passes = 0;
        let found = measure("x", &image, || {
            passes += 1;
            Ok(())
        });
        assert_eq!((passes, found.unwrap().repeats), (WARM_UP + REPEATS, REPEATS));
    }
}
