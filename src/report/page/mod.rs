//! The page that the reports of the project are: one HTML file that needs no other and no network.
//!
//! What it shows is plain data, made by whoever has something to report: strings that are ready to be
//! read, numbers to be drawn, maps to be looked into. The page knows neither scores nor metrics.

mod chart;
mod embed;
mod figures;
mod html;
mod viewer;

use std::io::Write;
use std::path::Path;

use crate::data::{Image, write_atomic};
use crate::error::Result;
use crate::ops::Size;
pub use viewer::MASK;

/// A report. Strings are plain text: the writer escapes them.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub title: String,
    /// What this is, below the title.
    pub lead: String,
    pub sections: Vec<Section>,
    /// At the end, in small print: versions, hashes, commands.
    pub notes: Vec<String>,
}

impl Page {
    /// # Errors
    /// What the system refuses.
    ///
    /// # Panics
    /// If a panel has other layers than its viewer, or maps of another size than its image.
    pub fn write(&self, path: &Path) -> Result<()> {
        let text = html::page(self);
        write_atomic(path, |file| file.write_all(text.as_bytes()))
    }
}

#[derive(Clone, Debug, Default)]
pub struct Section {
    pub title: String,
    pub blocks: Vec<Block>,
}

#[derive(Clone, Debug)]
pub enum Block {
    Text(String),
    List(Vec<String>),
    Table(Table),
    Charts(Charts),
    Intervals(Intervals),
    Matrix(Matrix),
    Viewer(Viewer),
}

/// Its first column heads the rows. Cells are ready to be read (see [`super::digits`]).
#[derive(Clone, Debug, Default)]
pub struct Table {
    pub caption: String,
    pub header: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

/// Line charts side by side as far as there is room, with one legend: a line of one name looks the same
/// in all of them.
#[derive(Clone, Debug, Default)]
pub struct Charts {
    pub caption: String,
    pub charts: Vec<Chart>,
}

#[derive(Clone, Debug, Default)]
pub struct Chart {
    pub title: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
}

#[derive(Clone, Debug, Default)]
pub struct Axis {
    /// Quantity and unit.
    pub label: String,
    /// Its ends; where there is none, those of the lines.
    pub range: Option<[f64; 2]>,
}

#[derive(Clone, Debug)]
pub struct Line {
    /// In the legend.
    pub name: String,
    pub shape: Shape,
    /// (x, y), by increasing x; where one is not finite the line is broken.
    pub points: Vec<[f64; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    Line,
    /// A line whose area down to 0 is tinted: histograms.
    Area,
    /// Thin and gray: what the others are compared with, as the diagonal of a reliability curve.
    Reference,
}

/// Estimates with their intervals, one below the other on one axis.
#[derive(Clone, Debug, Default)]
pub struct Intervals {
    pub caption: String,
    pub axis: Axis,
    pub rows: Vec<Interval>,
    /// A value to compare with, drawn as a line down all rows, and its name.
    pub reference: Option<(String, f64)>,
}

#[derive(Clone, Debug, Default)]
pub struct Interval {
    pub name: String,
    pub value: f64,
    /// Low and high end.
    pub interval: Option<[f64; 2]>,
}

/// A table of numbers, each on its colour: bright is high.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    pub caption: String,
    pub rows: Vec<String>,
    pub columns: Vec<String>,
    /// `[rows, columns]`, row-major; None leaves a cell empty.
    pub values: Vec<Option<f64>>,
    pub decimals: usize,
}

/// Images to look into, pixel by pixel, and to see side by side. All of them have the same layers.
#[derive(Clone, Debug, Default)]
pub struct Viewer {
    pub layers: Vec<Layer>,
    pub thresholds: Option<Thresholds>,
    pub panels: Vec<Panel>,
}

/// What a map of every panel holds.
#[derive(Clone, Debug)]
pub struct Layer {
    /// As a reader knows it: "Predicted class", "Softmax entropy".
    pub name: String,
    pub kind: Kind,
}

#[derive(Clone, Debug)]
pub enum Kind {
    /// Names and colours; an index beyond them is "no label".
    Classes(Vec<(String, [u8; 3])>),
    Scalar(Scalar),
}

/// How a map of numbers is shown: always bright where there is reason to worry.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// "nats"; empty for a number without one.
    pub unit: String,
    pub bright: Bright,
    /// Least and greatest value of the colour bar.
    pub range: [f32; 2],
    /// Of a fitted sample, where there is one: its quantiles at equal steps from 0 to 1, to say where in
    /// it a value lies.
    pub quantiles: Option<Vec<f32>>,
}

/// Which values are bright: those to worry about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bright {
    High,
    Low,
}

/// Where the viewer's sliders stand at first. A pixel is unfamiliar where that layer is beyond its
/// threshold, else ambiguous where the other one is, else certain.
#[derive(Clone, Copy, Debug)]
pub struct Thresholds {
    pub ambiguous: Threshold,
    /// None without a density.
    pub unfamiliar: Option<Threshold>,
}

#[derive(Clone, Copy, Debug)]
pub struct Threshold {
    /// Index of a scalar layer; beyond is above for [`Bright::High`], below for [`Bright::Low`].
    pub layer: usize,
    pub value: f32,
}

/// An image and its maps.
#[derive(Clone, Debug)]
pub struct Panel {
    pub title: String,
    /// Why it is here: "worst mean IoU, 0.312".
    pub note: String,
    pub image: Image,
    /// In the order of [`Viewer::layers`], each of the image's size, row-major.
    pub layers: Vec<Map>,
    /// Every how many rows and columns of the original stand here.
    pub stride: usize,
}

#[derive(Clone, Debug)]
pub enum Map {
    Classes(Vec<u8>),
    /// In the layer's unit. What is not finite counts as beyond every threshold.
    Scalar(Vec<f32>),
}

/// Pixels of a panel, at most.
const PANEL_PIXELS: usize = 480 * 360;

impl Panel {
    /// Of an image and maps of its size. Of large ones every n-th row and column is kept, n the least that
    /// leaves at most 480 x 360 pixels: values stay values of the map, and pages stay small. The picture
    /// takes the mean of the pixels between.
    pub fn new(title: String, note: String, image: &Image, layers: Vec<Map>) -> Self {
        let size = image.size;
        let shrunk = |n: usize| Size::new(size.h.div_ceil(n), size.w.div_ceil(n));
        let stride = (1..).find(|n| shrunk(*n).pixels() <= PANEL_PIXELS).unwrap_or(1);
        let (small, pixels) = (shrunk(stride), kept(size, stride));
        let layers = layers.into_iter().map(|map| match map {
            Map::Classes(classes) => Map::Classes(pixels.iter().map(|i| classes[*i]).collect()),
            Map::Scalar(values) => Map::Scalar(pixels.iter().map(|i| values[*i]).collect()),
        });
        let mean = |i: &usize| {
            let (row, column) = (i / size.w, i % size.w);
            let near = (row..(row + stride).min(size.h))
                .flat_map(|r| (column..(column + stride).min(size.w)).map(move |c| (r, c)));
            let (mut sum, mut count) = ([0usize; 3], 0);
            for (r, c) in near {
                let rgb = &image.rgb[3 * (r * size.w + c)..][..3];
                sum.iter_mut().zip(rgb).for_each(|(sum, v)| *sum += usize::from(*v));
                count += 1;
            }
            sum.map(|sum| ((sum + count / 2) / count) as u8)
        };
        let image = Image { size: small, rgb: pixels.iter().flat_map(mean).collect() };
        Panel { title, note, image, layers: layers.collect(), stride }
    }
}

/// The pixels at every `stride`-th row and column.
fn kept(size: Size, stride: usize) -> Vec<usize> {
    let rows = (0..size.h).step_by(stride);
    rows.flat_map(|r| (0..size.w).step_by(stride).map(move |c| r * size.w + c)).collect()
}
