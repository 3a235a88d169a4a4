//! Fig. 1 of the paper: may the class statistics forget where in the image a pixel lies?
//!
//! The feature grid is cut into 3 x 3 regions; each has the mean feature of every class that occurs there. For
//! three pairs of distant regions, the matrix of L2 distances ||mu_c(A) - mu_k(B)||. If the features do not
//! depend on the position, the same class at two places is much nearer (diagonal) than different classes are.
//! The paper does it for three pairs of pixels; regions have enough samples for a mean of every class that is
//! ever there.

use serde::Serialize;

use crate::ops::Size;

const REGIONS: usize = 3;
/// By row and column of the region: across the image, both diagonals and the width.
const PAIRS: [[(usize, usize); 2]; 3] = [[(0, 0), (2, 2)], [(0, 2), (2, 0)], [(1, 0), (1, 2)]];

/// Sums of features by region and class, in f64.
#[derive(Clone, Debug)]
pub struct Positions {
    classes: usize,
    channels: usize,
    /// `[9, C]`
    count: Vec<u64>,
    /// `[9, C, D]`
    sum: Vec<f64>,
    /// The largest feature grid.
    grid: Size,
}

/// The distances of a pair of regions.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pair {
    /// Row and column among the 3 x 3 regions.
    pub regions: [(usize, usize); 2],
    /// `[C, C]`, the first region's class first; None where a class does not occur in its region.
    pub distance: Vec<Vec<Option<f64>>>,
}

#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PositionReport {
    pub pairs: Vec<Pair>,
    /// Mean over the pairs of the distances of a class to itself; None where no class is in both regions.
    pub same_class: Option<f64>,
    /// Mean over the pairs of the distances between different classes.
    pub different_class: Option<f64>,
    pub verdict: String,
    pub memory: MomentMemory,
}

/// What the covariances of all classes take in f32, once and for each cell of the feature grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct MomentMemory {
    pub grid: [usize; 2],
    /// C D^2 x 4
    pub independent_bytes: u64,
    /// C D^2 x 4 x cells
    pub dependent_bytes: u64,
}

impl MomentMemory {
    pub fn of(grid: Size, classes: usize, channels: usize) -> Self {
        let independent = 4 * classes as u64 * (channels as u64).pow(2);
        MomentMemory {
            grid: [grid.h, grid.w],
            independent_bytes: independent,
            dependent_bytes: independent.saturating_mul(grid.pixels() as u64),
        }
    }
}

impl Positions {
    pub fn new(classes: usize, channels: usize) -> Self {
        let cells = REGIONS * REGIONS * classes;
        Positions {
            classes,
            channels,
            count: vec![0; cells],
            sum: vec![0.0; cells * channels],
            grid: Size::new(0, 0),
        }
    }

    /// An image: features `[grid.h, grid.w, D]` and the labels of their cells. A cell without a class, or
    /// with a feature that is not finite, counts nowhere.
    pub fn add(&mut self, grid: Size, features: &[f32], labels: &[u8]) {
        if grid.pixels() > self.grid.pixels() {
            self.grid = grid;
        }
        for (cell, (feature, label)) in features.chunks_exact(self.channels).zip(labels).enumerate()
        {
            let class = usize::from(*label);
            if class >= self.classes || feature.iter().any(|value| !value.is_finite()) {
                continue;
            }
            let (row, column) = (cell / grid.w, cell % grid.w);
            let region = row * REGIONS / grid.h * REGIONS + column * REGIONS / grid.w;
            let at = region * self.classes + class;
            self.count[at] += 1;
            let sum = &mut self.sum[at * self.channels..][..self.channels];
            sum.iter_mut().zip(feature).for_each(|(sum, value)| *sum += f64::from(*value));
        }
    }

    fn mean(&self, (row, column): (usize, usize), class: usize) -> Option<Vec<f64>> {
        let at = (row * REGIONS + column) * self.classes + class;
        let count = self.count[at] as f64;
        let sum = &self.sum[at * self.channels..][..self.channels];
        (count > 0.0).then(|| sum.iter().map(|sum| sum / count).collect())
    }

    pub fn report(&self) -> PositionReport {
        let pairs = PAIRS.map(|regions| {
            let means = regions
                .map(|region| (0..self.classes).map(|c| self.mean(region, c)).collect::<Vec<_>>());
            let distance = |a: &Option<Vec<f64>>, b: &Option<Vec<f64>>| {
                let squares = a.as_ref()?.iter().zip(b.as_ref()?).map(|(a, b)| (a - b).powi(2));
                Some(squares.sum::<f64>().sqrt())
            };
            let row = |a| means[1].iter().map(|b| distance(a, b)).collect();
            Pair { regions, distance: means[0].iter().map(row).collect() }
        });
        let mean = |same: bool| {
            let all = pairs.iter().flat_map(|pair| {
                let rows = pair.distance.iter().enumerate();
                rows.flat_map(|(a, row)| row.iter().enumerate().map(move |(b, d)| (a == b, *d)))
            });
            let chosen: Vec<f64> = all.filter(|(s, _)| *s == same).filter_map(|(_, d)| d).collect();
            (!chosen.is_empty()).then(|| chosen.iter().sum::<f64>() / chosen.len() as f64)
        };
        let (same, different) = (mean(true), mean(false));
        PositionReport {
            same_class: same,
            different_class: different,
            verdict: verdict(same, different),
            memory: MomentMemory::of(self.grid, self.classes, self.channels),
            pairs: pairs.into(),
        }
    }
}

fn verdict(same: Option<f64>, different: Option<f64>) -> String {
    let (Some(same), Some(different)) = (same, different) else {
        return "whether features depend on the position cannot be said: too few classes occur in \
                distant regions"
            .into();
    };
    let says = if same < different / 2.0 {
        "one Gaussian per class for all positions is justified"
    } else if same < different {
        "one Gaussian per class for all positions is an approximation"
    } else {
        "one Gaussian per class for all positions is not justified"
    };
    format!(
        "{says}: means of one class at distant places are {same:.2} apart, of different classes \
         {different:.2}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pascal VOC at 513 x 513, output stride 4: the numbers of the paper's argument.
    #[test]
    fn moments_for_each_position_would_take_gigabytes() {
        let memory = MomentMemory::of(Size::new(129, 129), 21, 256);
        assert_eq!(memory.independent_bytes, 5_505_024);
        assert_eq!(memory.dependent_bytes, 91_609_104_384);
        assert_eq!(format!("{:.1} MB", memory.independent_bytes as f64 / 1e6), "5.5 MB");
        assert_eq!(format!("{:.1} GB", memory.dependent_bytes as f64 / 1e9), "91.6 GB");
    }

    /// Two classes in every region, at (0, 0) and (4, 0), the second moved by `shift` per row of regions.
    fn report(shift: f32) -> PositionReport {
        let grid = Size::new(6, 6);
        let mut positions = Positions::new(3, 2);
        let labels: Vec<u8> = (0..36).map(|i| (i % 2) as u8).collect();
        let feature = |i: usize| [4.0 * (i % 2) as f32, shift * (i / 12 * (i % 2)) as f32];
        let features: Vec<f32> = (0..36).flat_map(feature).collect();
        positions.add(grid, &features, &labels);
        positions.add(grid, &[f32::NAN; 72], &labels);
        positions.report()
    }

    #[test]
    fn distances_are_those_of_the_class_means() {
        let found = report(0.0);
        assert_eq!((found.same_class, found.different_class), (Some(0.0), Some(4.0)));
        assert!(found.verdict.starts_with("one Gaussian per class for all positions is justified"));
        assert_eq!(found.pairs[0].distance[0], [Some(0.0), Some(4.0), None]);
        assert_eq!(found.pairs[0].distance[2], [None; 3]);
        // Both diagonals of the image cross two rows of regions, the third pair none.
        let found = report(3.0);
        assert_eq!(found.pairs[0].distance[1][1], Some(6.0));
        assert_eq!(found.pairs[2].distance[1][1], Some(0.0));
        assert_eq!(found.same_class, Some((6.0 + 6.0) / 6.0));
    }

    #[test]
    fn without_features_nothing_is_said() {
        let found = Positions::new(2, 2).report();
        assert_eq!((found.same_class, found.different_class), (None, None));
        assert!(found.verdict.contains("cannot be said"));
    }
}
