//! A density of features that lie on a device and came from any network: what `density::Evaluator` is for the CPU.

use super::density::DeviceDensity;
use crate::density::{Gaussians, TAU};
use crate::device::launch::density::{DensityTiling, Outputs, Precision, squares_bytes};
use crate::device::{Buffer, Device, Element, Slice, Tensor, grow, launch};
use crate::error::{Error, Result};
use crate::ops::Size;

/// Pixels that are evaluated together: their squared distances are kept, (C + 1) f32 each. A multiple of 32, so that every output's part
/// is aligned.
const STRIP: usize = 1 << 16;

pub struct Evaluator {
    density: DeviceDensity,
    /// Squared distances and counters of a strip.
    scratch: Vec<Buffer>,
}

/// A value for each pixel, in buffers of their own.
pub struct Scores {
    /// f32: log q(z) in nats; -inf for a feature that is not finite.
    pub density: Buffer,
    /// f32: the relative log-density, where it was asked for.
    pub relative: Option<Buffer>,
    /// u8 and f32: the class of the least Mahalanobis distance (255 for a feature that is not finite), and that distance.
    pub nearest: Option<(Buffer, Buffer)>,
}

impl Evaluator {
    /// # Errors
    /// As [`DeviceDensity::new`].
    pub fn new(device: &dyn Device, gaussians: &Gaussians, precision: Precision) -> Result<Self> {
        let density = DeviceDensity::new(device, gaussians, precision)?;
        Ok(Evaluator { density, scratch: Vec::new() })
    }

    /// D
    pub fn channels(&self) -> usize {
        self.density.channels()
    }

    /// Scores of `pixels` features, fp16 `[pixels, D]`. What is launched may still be under way ([`Device::synchronize`]).
    ///
    /// # Errors
    /// No pixels, or fewer features than they are; the device's.
    pub fn evaluate(
        &mut self,
        device: &dyn Device,
        features: Slice,
        pixels: usize,
        relative: bool,
        nearest: bool,
    ) -> Result<Scores> {
        let channels = self.channels();
        let needed = pixels.checked_mul(channels * 2).filter(|needed| *needed > 0);
        if needed.is_none_or(|needed| needed > features.bytes()) {
            let expected = format!("fp16 features of {pixels} pixels, at least one");
            return Err(Error::invalid(
                "features",
                expected,
                format!("{} bytes", features.bytes()),
            ));
        }
        let of = |bytes: usize| device.alloc(pixels * bytes);
        let density = of(4)?;
        let relative = if relative { Some(of(4)?) } else { None };
        let nearest = if nearest { Some((of(1)?, of(4)?)) } else { None };
        for first in (0..pixels).step_by(STRIP) {
            let strip = STRIP.min(pixels - first);
            let tiling = DensityTiling::choose(
                strip,
                channels,
                self.density.classes(),
                self.density.packing(),
                device.multiprocessors(),
                device.shared_bytes(),
            )?;
            let squares = squares_bytes(strip, self.density.classes());
            grow(device, &mut self.scratch, &[squares, tiling.stats_bytes(strip)])?;
            let data = features.part(first * channels * 2, strip * channels * 2)?;
            let size = Size::new(1, strip);
            let features = Tensor::new(data, Element::F16, 1, size, channels, 0, channels)?;
            let (at, bytes) = (first * 4, strip * 4);
            let out = Outputs {
                density: density.slice(at, bytes)?,
                relative: relative.as_ref().map(|values| values.slice(at, bytes)).transpose()?,
                nearest: match &nearest {
                    Some((class, distance)) => {
                        Some((class.slice(first, strip)?, distance.slice(at, bytes)?))
                    }
                    None => None,
                },
                squares: self.scratch[0].all(),
                stats: self.scratch[1].all(),
            };
            let gaussians = self.density.gaussians();
            // Not as a run: the addresses are new each time, so that a graph of them would be made for one use.
            for launch in launch::density(gaussians, features, None, TAU, out, tiling)? {
                device.launch(&launch)?;
            }
        }
        Ok(Scores { density, relative, nearest })
    }
}
