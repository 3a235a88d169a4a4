//! Writes scenes as a dataset in VOC layout, for `training/`.

use std::path::Path;

use rayon::prelude::*;

use super::{SIZE, class_names, draw};
use crate::data::{write_atomic, write_label_png, write_rgb_png};
use crate::error::{Error, Result};
use crate::report::palette;

/// Seeds of the splits start this far apart: no scene is in two of them.
const STRIDE: u64 = 1 << 32;

/// Writes `count` training scenes, a tenth as many validation scenes (both without strangers) and a
/// tenth as many test scenes (with) under `root`: `JPEGImages/*.png`, `SegmentationClass/*.png`
/// (palette), `ImageSets/Segmentation/{train,val,test}.txt`, `classes.txt`.
pub fn dump(root: &Path, count: usize, seed: u64) -> Result<()> {
    for folder in ["JPEGImages", "SegmentationClass", "ImageSets/Segmentation"] {
        let folder = root.join(folder);
        std::fs::create_dir_all(&folder).map_err(|e| Error::io(&folder, "create", e))?;
    }
    let text = |name: &str, lines: &[String]| {
        let body = lines.iter().map(|l| format!("{l}\n")).collect::<String>();
        write_atomic(&root.join(name), |file| std::io::Write::write_all(file, body.as_bytes()))
    };
    let names = class_names();
    let palette = palette::of(&names);
    text("classes.txt", &names)?;
    let tenth = count.div_ceil(10);
    for (k, (split, count)) in
        [("train", count), ("val", tenth), ("test", tenth)].iter().enumerate()
    {
        let stems: Vec<_> = (0..*count).map(|i| format!("{split}-{i:05}")).collect();
        stems.par_iter().enumerate().try_for_each(|(i, stem)| {
            let scene = draw(seed + k as u64 * STRIDE + i as u64, *split == "test");
            let file = |folder: &str| root.join(folder).join(format!("{stem}.png"));
            write_rgb_png(&file("JPEGImages"), &scene.image)?;
            write_label_png(&file("SegmentationClass"), SIZE, &scene.label, &palette)
        })?;
        text(&format!("ImageSets/Segmentation/{split}.txt"), &stems)?;
    }
    Ok(())
}
