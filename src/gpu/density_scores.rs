//! The density behind a network: the predicted classes, log q(z) on the feature grid and its maps at
//! image size, launched in one list with the network's own kernels. Only maps and counters come back.

use std::ops::Range;

use super::density::{DeviceDensity, broken_pixels, multiplied_share};
use super::map_of;
use super::step::Step;
use crate::density::{Gaussians, TAU};
use crate::device::launch::density::{DensityTiling, Outputs, Precision, squares_bytes};
use crate::device::{Buffer, Device, Slice, Tensor, grow, launch};
use crate::error::Result;
use crate::ops::Head;
use crate::score::{Needs, Score};

pub struct DensityScores {
    density: DeviceDensity,
    /// Name of the step that evaluates it.
    step: &'static str,
    /// Those that the density's kernel computes; each has a map.
    scores: Vec<Score>,
    /// Predicted classes, squared distances, counters, a grid for each [`Grid`], then a map for each score; each as
    /// large as the largest run so far.
    buffers: Vec<Buffer>,
}

/// Buffers before the grids, and before the maps.
const GRIDS: usize = 3;
const MAPS: usize = GRIDS + 2;

/// A grid that the density's kernel writes: its place after [`GRIDS`], and the name of the step that
/// upsamples it.
struct Grid {
    index: usize,
    step: &'static str,
}

impl Grid {
    const LOG_Q: Grid = Grid { index: 0, step: "density map" };
    const RELATIVE: Grid = Grid { index: 1, step: "relative map" };
    /// log q(z) of the weighted moments' Gaussians, which are a density of their own.
    const WEIGHTED: Grid = Grid { index: 0, step: "weighted map" };

    /// None for a score that is no output of the density's kernel.
    fn of(score: Score) -> Option<Grid> {
        match score {
            Score::Density => Some(Grid::LOG_Q),
            Score::Relative => Some(Grid::RELATIVE),
            Score::WeightedDensity => Some(Grid::WEIGHTED),
            _ => None,
        }
    }
}

impl DensityScores {
    /// The scores of a density's Gaussians, or of its weighted moments' (`weighted`).
    ///
    /// # Errors
    /// As [`DeviceDensity::new`].
    pub fn new(
        device: &dyn Device,
        gaussians: &Gaussians,
        weighted: bool,
        scores: &[Score],
        precision: Precision,
    ) -> Result<Self> {
        let density = DeviceDensity::new(device, gaussians, precision)?;
        let ours = |score: &Score| {
            Grid::of(*score).is_some() && weighted == (score.info().needs == Needs::Weighted)
        };
        let scores = scores.iter().copied().filter(ours).collect();
        let step = if weighted { "weighted density" } else { "density" };
        Ok(DensityScores { density, step, scores, buffers: Vec::new() })
    }

    /// Whether the kernel evaluates the one Gaussian over all classes too.
    pub fn relative(&self) -> bool {
        self.scores.iter().any(|score| score.info().needs == Needs::Background)
    }

    /// How the kernel divides a batch of this geometry.
    ///
    /// # Errors
    /// As [`DensityTiling::choose`].
    pub fn tiling(&self, device: &dyn Device, batch: usize, op: &Head) -> Result<DensityTiling> {
        DensityTiling::choose(
            batch * op.grid.pixels(),
            self.density.channels(),
            self.density.classes(),
            self.density.packing(),
            device.multiprocessors(),
            device.shared_bytes(),
        )
    }

    /// Makes the buffers large enough for a batch.
    pub fn prepare(&mut self, device: &dyn Device, batch: usize, op: &Head) -> Result<()> {
        let cells = batch * op.grid.pixels();
        let tiling = self.tiling(device, batch, op)?;
        let relative = if self.relative() { cells * 4 } else { 0 };
        let mut needed = vec![
            cells,
            squares_bytes(cells, self.density.classes()),
            tiling.stats_bytes(cells),
            cells * 4,
            relative,
        ];
        needed.extend(self.scores.iter().map(|_| batch * op.crop.pixels() * 4));
        grow(device, &mut self.buffers, &needed)
    }

    /// Frees the buffers: a batch is to be prepared anew.
    pub fn release(&mut self) {
        self.buffers.clear();
    }

    /// The launches for a prepared batch, after the network's.
    pub fn steps<'a>(
        &'a self,
        device: &dyn Device,
        op: &Head,
        logits: Tensor<'a>,
        features: Tensor<'a>,
    ) -> Result<Vec<Step<'a>>> {
        let tiling = self.tiling(device, logits.batch, op)?;
        let buffer = |i: usize| self.buffers[i].all();
        let [predicted, squares, stats] = [0, 1, 2].map(buffer);
        let slice = |grid: Grid| buffer(GRIDS + grid.index);
        let relative = self.relative().then(|| slice(Grid::RELATIVE));
        let out = Outputs { density: slice(Grid::LOG_Q), relative, nearest: None, squares, stats };
        let gaussians = self.density.gaussians();
        let mut steps = vec![
            Step {
                name: "predicted",
                launches: vec![launch::arg_max(op.classes, logits, predicted)?],
            },
            Step {
                name: self.step,
                launches: launch::density(gaussians, features, Some(predicted), TAU, out, tiling)?,
            },
        ];
        for (i, score) in self.scores.iter().enumerate() {
            let Some(grid) = Grid::of(*score) else { continue };
            let name = grid.step;
            let launch = launch::upsample(op, logits.batch, slice(grid), buffer(MAPS + i))?;
            steps.push(Step { name, launches: vec![launch] });
        }
        Ok(steps)
    }

    /// After a run: where one image's map of a score lies, None where it was not asked for, and how many cells of
    /// its grid have a feature that is not finite.
    pub fn map(
        &self,
        device: &dyn Device,
        op: &Head,
        image: usize,
        score: Score,
    ) -> Result<Option<(Slice<'_>, usize)>> {
        let Some(at) = self.scores.iter().position(|s| *s == score) else { return Ok(None) };
        let map = map_of(&self.buffers[MAPS + at], op.crop, image)?;
        let cells = op.grid.pixels();
        let cells = image * cells..(image + 1) * cells;
        // Two words for 32 cells.
        let words = cells.start / 32..cells.end.div_ceil(32);
        let stats = self.read_stats(device, words.clone())?;
        let first = words.start * 32;
        Ok(Some((map, broken_pixels(&stats, cells.start - first..cells.end - first))))
    }

    /// After a run: the share of the blocks of W that were multiplied; the early exit skipped the rest.
    pub fn multiplied_share(&self, device: &dyn Device, batch: usize, op: &Head) -> Result<f64> {
        let cells = batch * op.grid.pixels();
        let tiling = self.tiling(device, batch, op)?;
        let stats = self.read_stats(device, 0..tiling.stats_bytes(cells) / 8)?;
        Ok(multiplied_share(&stats, cells, self.density.classes(), self.density.channels()))
    }

    fn read_stats(&self, device: &dyn Device, words: Range<usize>) -> Result<Vec<u8>> {
        let stats: Slice = self.buffers[2].slice(words.start * 8, words.len() * 8)?;
        let mut bytes = vec![0; stats.bytes()];
        device.read(stats, &mut bytes)?;
        Ok(bytes)
    }
}
