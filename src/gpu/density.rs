//! A density on a device: Gaussians packed as `kernels/density.cu` reads them, uploaded once.
//!
//! Row i of W_c is scaled by 2^s_i, its greatest value then in 2^14 .. 2^15, and split in two fp16
//! terms; `bias_i` is the *stored* row times mu_c, in f64, so that rounding W shifts no mean.
//! Blocks of 64 rows up to the diagonal, row panel by row panel, each low term first, laid out as they lie
//! in shared memory. For `density.cu` they have 32 columns, a row's four chunks of 8 permuted by
//! row / 2 % 4; for `density_hopper.cu` 64 columns, eight chunks permuted by row % 8, and a panel's rows
//! in reverse, so that the remaining rows of a diagonal block start at its first row.

use std::ops::Range;

use half::f16;

use crate::density;
use crate::device::launch::density::{BLOCK, PANEL, PackedGaussians, Packing, Precision, blocks};
use crate::device::{Buffer, Device};
use crate::error::{Error, Result};

pub struct DeviceDensity {
    classes: usize,
    channels: usize,
    precision: Precision,
    packing: Packing,
    weights: Buffer,
    rows: Buffer,
    constants: Buffer,
    ids: Buffer,
}

/// Packs one Gaussian after another.
struct Packer {
    weights: Vec<f16>,
    rows: Vec<f32>,
}

impl DeviceDensity {
    /// For the fastest kernel that the device has.
    ///
    /// # Errors
    /// Channels that are no multiple of 16 or more than 512, or a W that f32 cannot scale.
    pub fn new(
        device: &dyn Device,
        gaussians: &density::Gaussians,
        precision: Precision,
    ) -> Result<Self> {
        let packing = Packing::of(device, gaussians.channels);
        Self::with_packing(device, gaussians, precision, packing)
    }

    /// As [`Self::new`], for a given kernel.
    pub fn with_packing(
        device: &dyn Device,
        gaussians: &density::Gaussians,
        precision: Precision,
        packing: Packing,
    ) -> Result<Self> {
        let channels = gaussians.channels;
        require_channels("density", channels)?;
        let mut packed = Packer { weights: Vec::new(), rows: Vec::new() };
        let (mut constants, mut ids) = (Vec::new(), Vec::new());
        for class in &gaussians.classes {
            packed.push(&class.gaussian, precision, packing)?;
            constants.push((class.log_prior + class.gaussian.log_peak()) as f32);
            ids.push(class.class as i32);
        }
        packed.push(&gaussians.background, precision, packing)?;
        constants.push(gaussians.background.log_peak() as f32);
        Ok(DeviceDensity {
            classes: ids.len(),
            channels,
            precision,
            packing,
            weights: upload(device, &packed.weights)?,
            rows: upload(device, &packed.rows)?,
            constants: upload(device, &constants)?,
            ids: upload(device, &ids)?,
        })
    }

    pub fn packing(&self) -> Packing {
        self.packing
    }

    /// Number of classes with a Gaussian.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// D
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// For the launch.
    pub fn gaussians(&self) -> PackedGaussians<'_> {
        PackedGaussians {
            classes: self.classes,
            channels: self.channels,
            precision: self.precision,
            packing: self.packing,
            weights: self.weights.all(),
            rows: self.rows.all(),
            constants: self.constants.all(),
            ids: self.ids.all(),
        }
    }
}

/// Pixels of the given ones with a feature that is not finite; `stats` as the kernel wrote them.
pub fn broken_pixels(stats: &[u8], pixels: Range<usize>) -> usize {
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(stats);
    pixels.filter(|pixel| words[pixel / 32 * 2] >> (pixel % 32) & 1 == 1).count()
}

/// The share of the blocks of W that were multiplied; the early exit skipped the others.
pub fn multiplied_share(stats: &[u8], pixels: usize, classes: usize, channels: usize) -> f64 {
    let words: Vec<u32> = bytemuck::pod_collect_to_vec(stats);
    let done: u64 = words.as_chunks::<2>().0.iter().map(|pair| u64::from(pair[1])).sum();
    let all = pixels.div_ceil(32) * classes * blocks(channels);
    done as f64 / all.max(1) as f64
}

/// What the kernels of density and moments take.
pub(super) fn require_channels(what: &str, channels: usize) -> Result<()> {
    if channels.is_multiple_of(16) && (16..=512).contains(&channels) {
        return Ok(());
    }
    let expected = "features of 16, 32, 48 .. 512 channels";
    Err(Error::invalid(format!("{what} on a device"), expected, channels)
        .fix("run it with --device cpu"))
}

fn upload<T: bytemuck::Pod>(device: &dyn Device, values: &[T]) -> Result<Buffer> {
    let bytes: &[u8] = bytemuck::cast_slice(values);
    let buffer = device.alloc(bytes.len())?;
    device.write(buffer.all(), bytes)?;
    Ok(buffer)
}

impl Packer {
    fn push(
        &mut self,
        gaussian: &density::Gaussian,
        precision: Precision,
        packing: Packing,
    ) -> Result<()> {
        let channels = gaussian.mean.len();
        let padded = channels.next_multiple_of(PANEL);
        // [row][term][column], zero past D and above the diagonal
        let mut stored = vec![[f16::ZERO; 2]; padded * padded];
        let mut rows = vec![[0f32; 2]; padded];
        for (i, row) in gaussian.whitening.chunks_exact(channels).enumerate() {
            let greatest = row[..=i].iter().fold(0f64, |largest, w| largest.max(w.abs()));
            let exponent = 14 - greatest.log2().floor() as i32;
            if !greatest.is_normal() || exponent.abs() > 100 {
                let expected = "rows of W with a greatest value between 2^-86 and 2^114";
                return Err(Error::invalid("density on a device", expected, greatest)
                    .fix("run it with --device cpu"));
            }
            let (up, down) = (2f64.powi(exponent), 2f64.powi(-exponent));
            let mut bias = 0.0;
            for (k, w) in row[..=i].iter().enumerate() {
                let high = f16::from_f64(w * up);
                let low = match precision {
                    Precision::Exact => f16::from_f64(w * up - high.to_f64()),
                    Precision::Fast => f16::ZERO,
                };
                stored[i * padded + k] = [low, high];
                bias += (high.to_f64() + low.to_f64()) * gaussian.mean[k];
            }
            rows[i] = [bias as f32, down as f32];
        }
        let terms = match precision {
            Precision::Exact => 0..2,
            Precision::Fast => 1..2,
        };
        let columns = match packing {
            Packing::Warp => BLOCK,
            Packing::Warpgroup => 2 * BLOCK,
        };
        for panel in 0..padded / PANEL {
            // Place of a panel to row of W, and chunk of a row to where it lies.
            let row_at = |place: usize| match packing {
                Packing::Warp => panel * PANEL + place,
                Packing::Warpgroup => panel * PANEL + PANEL - 1 - place,
            };
            let permuted = |place: usize, chunk: usize| match packing {
                Packing::Warp => chunk ^ (place >> 1 & 3),
                Packing::Warpgroup => chunk ^ (place & 7),
            };
            self.rows.extend((0..PANEL).flat_map(|place| rows[row_at(place)]));
            for block in 0..(panel + 1) * PANEL / columns {
                for term in terms.clone() {
                    for place in 0..PANEL {
                        for chunk in 0..columns / 8 {
                            let column = block * columns + permuted(place, chunk) * 8;
                            let at = row_at(place) * padded + column;
                            self.weights.extend(stored[at..at + 8].iter().map(|w| w[term]));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
