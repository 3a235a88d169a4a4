//! How many images `--batch auto` runs together.

use super::working;
use crate::device::launch::conv2d::LAUNCH_SECONDS;
use crate::engine::{Beside, Engine};
use crate::error::Result;
use crate::ops::Size;

/// By how much a doubled batch must shorten the time predicted for an image.
const PAYS: f64 = 0.02;

/// The images of a size to run together, at most `most`: the batch is doubled while the device has memory for it, with what runs beside
/// the engine, and an image's time falls by 2 %, as predicted for the device's multiprocessors and [`Speed`](crate::device::Speed). 1 on
/// the CPU path, where larger batches gain nothing, and where not even one image fits, which its run will say. All buffers are freed, so
/// that the next run takes what it needs.
pub fn paying_batch(
    engine: &mut Engine,
    beside: &mut impl Beside,
    size: Size,
    most: usize,
) -> usize {
    if engine.device().is_none() {
        return 1;
    }
    let batch = doubled(most, |batch| predicted(engine, beside, size, batch));
    engine.network_mut().into_iter().for_each(|network| network.release());
    beside.release();
    batch
}

/// Seconds of a run, all of its launches; an error where it does not fit.
fn predicted(
    engine: &mut Engine,
    beside: &mut impl Beside,
    size: Size,
    batch: usize,
) -> Result<f64> {
    let plan = engine.plan(batch, size)?;
    let network = super::network(engine)?;
    network.prepare(&plan)?;
    beside.prepare(&plan)?;
    let device = network.device();
    let (multiprocessors, speed) = (device.multiprocessors(), device.speed());
    let steps = network.steps(&plan)?;
    let launches = steps.iter().flat_map(|step| &step.launches);
    Ok(launches.map(|launch| working(launch, multiprocessors, speed).0 + LAUNCH_SECONDS).sum())
}

/// The rule; `time` is that of a batch.
fn doubled(most: usize, mut time: impl FnMut(usize) -> Result<f64>) -> usize {
    let Ok(mut best) = time(1) else { return 1 };
    let mut batch = 1;
    while 2 * batch <= most {
        let Ok(both) = time(2 * batch) else { break };
        let each = both / (2 * batch) as f64;
        if each > (1.0 - PAYS) * best {
            break;
        }
        (batch, best) = (2 * batch, each);
    }
    batch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;

    /// `fixed` is shared by the images of a batch, `each` is not; more than `room` do not fit.
    fn chosen(most: usize, room: usize, fixed: f64, each: f64) -> usize {
        doubled(most, |batch| match batch <= room {
            true => Ok(fixed + each * batch as f64),
            false => Err(Error::invalid("memory", "room", "none")),
        })
    }

    #[test]
    fn it_doubles_while_it_fits_and_pays() {
        // From b to 2 b an image gains 1 / 2 b of 1 + 1 / b: 2 % or more up to b = 24.
        assert_eq!(chosen(256, 256, 1.0, 1.0), 32);
        assert_eq!(chosen(256, 9, 1.0, 1.0), 8);
        assert_eq!(chosen(31, 256, 1.0, 1.0), 16);
        assert_eq!(chosen(256, 256, 1.0, 0.0), 256);
        // Nothing is shared, or less than nothing.
        assert_eq!(chosen(256, 256, 0.0, 1.0), 1);
        assert_eq!(chosen(256, 256, -0.1, 1.0), 1);
        assert_eq!((chosen(1, 256, 1.0, 1.0), chosen(256, 0, 1.0, 1.0)), (1, 1));
    }
}
