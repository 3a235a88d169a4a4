//! The layers that the pages of `infer` and `eval` share: scores, and the nearest class with its distance.

use ddu::Result;
use ddu::density::{Evaluator, Options, Percentiles};
use ddu::engine::Output;
use ddu::report::page::{Bright, Kind, Layer, Map, Panel, Scalar};
use ddu::score::{Score, Worry};

/// A score between the ends of its colours; `fitted` gives percentiles to a density.
pub fn score(score: Score, range: [f32; 2], fitted: Option<&Percentiles>) -> Layer {
    let info = score.info();
    let bright = match info.worry {
        Worry::High => Bright::High,
        Worry::Low => Bright::Low,
    };
    let quantiles = fitted
        .filter(|_| score == Score::Density)
        .map(|fitted| (0..=1000).map(|i| fitted.at(f64::from(i) / 1000.0)).collect::<Vec<f32>>());
    let kind = Kind::Scalar(Scalar { unit: info.unit.into(), bright, range, quantiles });
    Layer { name: info.label.into(), kind }
}

/// The class whose Gaussian is nearest to each pixel's feature, and the Mahalanobis distance to it, of image `at` of a
/// run: the last two maps of a panel.
pub fn nearest(evaluator: &Evaluator, output: &Output, at: usize) -> Result<[Map; 2]> {
    let columns = Some(output.grid.w);
    let options = Options { nearest: true, columns, ..Options::default() };
    let found = evaluator.evaluate(&output.features(at)?, None, options);
    // The class of the cell that a pixel lies in: the coordinates of cells, upsampled and rounded.
    let grid = output.grid;
    let cells = |of: fn(usize, usize) -> usize| {
        let cells: Vec<f32> = (0..grid.pixels()).map(|i| of(i, grid.w) as f32).collect();
        output.upsample(&cells)
    };
    let (rows, columns) = (cells(|i, w| i / w), cells(|i, w| i % w));
    let class = |(row, column): (&f32, &f32)| {
        found.nearest[row.round() as usize * grid.w + column.round() as usize]
    };
    let classes = Map::Classes(rows.iter().zip(&columns).map(class).collect());
    Ok([classes, Map::Scalar(output.upsample(&found.distance))])
}

/// The layers of [`nearest`]: colours of distances go from 0 to the greatest of `panels`.
pub fn nearest_layers<'a>(
    classes: Vec<(String, [u8; 3])>,
    panels: impl Iterator<Item = &'a Panel>,
) -> [Layer; 2] {
    let mut greatest = 1f32;
    for panel in panels {
        if let Some(Map::Scalar(values)) = panel.layers.last() {
            greatest = values.iter().filter(|v| v.is_finite()).fold(greatest, |a, v| a.max(*v));
        }
    }
    let range = [0.0, greatest];
    let distance = Scalar { unit: String::new(), bright: Bright::High, range, quantiles: None };
    [
        Layer { name: "Nearest class".into(), kind: Kind::Classes(classes) },
        Layer { name: "Mahalanobis distance to it".into(), kind: Kind::Scalar(distance) },
    ]
}
