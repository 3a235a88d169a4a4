//! Pictures, networks and densities for whole runs: the demo's, and CamVid's where it is there.

use ddu::data::{Dataset, Image, LabelRule, Mask, label_grid, read_class_names};
use ddu::demo::scenes;
use ddu::density::{Covariance, Density, Gaussians, Moments, Prior, round_to_half};
use ddu::engine::Engine;
use ddu::import::{Options, import};
use ddu::model::Model;
use ddu::ops::Size;

use crate::shared::shared;
use crate::support::device;

pub fn demo_model() -> Model {
    let bytes = include_bytes!("../../assets/demo.safetensors");
    Model::from_bytes("the demo's network", bytes).unwrap()
}

pub fn on_device(model: Model) -> Engine {
    Engine::on(model, device()).unwrap()
}

/// Rows and columns from `from` on of a picture and its labels.
pub fn part(image: &Image, label: &[u8], from: (usize, usize), size: Size) -> (Image, Mask) {
    let place = |y: usize| (from.0 + y) * image.size.w + from.1;
    let rgb = |y| image.rgb[place(y) * 3..][..size.w * 3].iter().copied();
    let label = |y| label[place(y)..][..size.w].iter().copied();
    let rgb = (0..size.h).flat_map(rgb).collect();
    (Image { size, rgb }, Mask { size, label: (0..size.h).flat_map(label).collect() })
}

pub fn crop(seed: u64, from: (usize, usize), size: Size) -> (Image, Mask) {
    let scene = scenes::draw(seed, true);
    part(&scene.image, &scene.label, from, size)
}

/// The network trained on CamVid and parts of its street scenes; None where the shared data is absent.
pub fn camvid(size: Size) -> Option<(Model, Vec<(Image, Mask)>)> {
    let (checkpoint, data) = (shared("models/camvid-r18-s0.pth")?, shared("data/camvid")?);
    let names = read_class_names(&checkpoint.with_file_name("camvid-r18.classes.txt")).unwrap();
    let options =
        Options { atrous_rates: Some(vec![6, 12, 18]), classes: Some(names), ..Options::default() };
    let model = import(&checkpoint, &options).unwrap().model;
    let pairs = Dataset::voc(&data, "test").unwrap().pairs;
    let pictures = [&pairs[0], &pairs[100]].map(|pair| {
        let read = pair.read(None).unwrap();
        part(&read.image, &read.mask.label, (150, 100), size)
    });
    Some((model, pictures.into()))
}

/// The demo's density, of few scenes, with weighted moments.
pub fn demo_density() -> Density {
    let mut engine = Engine::new(demo_model());
    let config = engine.model().config();
    let (classes, channels) = (config.classes.clone(), config.feature_channels());
    let rule = LabelRule::AlignCorners;
    let empty = Density::new(engine.model().hash(), classes, channels, rule, None);
    let mut density = empty.with_weights();
    for seed in 0..12 {
        let scene = scenes::draw(seed, false);
        let output = engine.run(&[&scene.image]).unwrap();
        let mask = Mask { size: scenes::SIZE, label: scene.label };
        let labels = label_grid(&mask, output.size, output.padded, output.grid, rule);
        let (features, logits) = (output.features(0).unwrap(), output.logits(0).unwrap());
        density.add_weighted(seed, &features, &logits, &labels);
    }
    density
}

pub fn gaussians(moments: &Moments) -> Gaussians {
    Gaussians::new(moments, Covariance::Full, Prior::Empirical).unwrap().0
}

/// Rounded as every device rounds features.
pub fn f64s(z: &[f32]) -> Vec<f64> {
    z.iter().map(|v| f64::from(round_to_half(*v))).collect()
}

/// One feature per cell.
pub fn rows(values: &[f32], channels: usize) -> Vec<Vec<f64>> {
    values.chunks_exact(channels).map(f64s).collect()
}
