//! Class and entropy of an image: `cargo run --release --example segment [MODEL [IMAGE]]`.
//!
//! MODEL is what `ddu convert` writes, IMAGE a JPEG, PNG, BMP, TIFF or WebP. Without them the network of the demo
//! sees a picture that is drawn here.

use std::path::Path;

use ddu::data::{Image, decode, write_label_png, write_npy};
use ddu::ops::Size;
use ddu::report::palette;
use ddu::{Engine, Model, Result};

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo.safetensors");
    let model = Model::load(arguments.next().unwrap_or(shipped.into()))?;
    let image = match arguments.next() {
        Some(path) => decode(Path::new(&path), true)?,
        None => drawn(),
    };
    let classes = model.config().classes.clone();
    let mut engine = Engine::new(model);
    let maps = engine.run(&[&image])?.maps(0)?;

    write_label_png(Path::new("label.png"), maps.size, &maps.label, &palette::of(&classes))?;
    write_npy(Path::new("entropy.npy"), maps.size, &maps.entropy)?;
    let mean = |values: &[f32]| values.iter().sum::<f32>() / values.len() as f32;
    println!("label.png, entropy.npy: {}, mean entropy {:.3} nats", maps.size, mean(&maps.entropy));
    for (class, name) in classes.iter().enumerate() {
        let pixels = maps.label.iter().filter(|label| usize::from(**label) == class).count();
        println!("{name:12}{pixels:>8} pixels");
    }
    Ok(())
}

/// A blue sky over a gray road that runs to the horizon between green meadows.
fn drawn() -> Image {
    let size = Size::new(192, 288);
    let color = |(row, column): (usize, usize)| match row.checked_sub(90) {
        None => [120, 170, 220],
        Some(below) if column.abs_diff(144) < 8 + below => [92, 92, 96],
        Some(_) => [70, 120, 50],
    };
    let places = (0..size.h).flat_map(|row| (0..size.w).map(move |column| (row, column)));
    Image { size, rgb: places.flat_map(color).collect() }
}
