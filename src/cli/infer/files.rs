//! The files that each image gets from `ddu infer`.

use std::path::{Path, PathBuf};

use ddu::data::{self, Image, Input};
use ddu::engine::ScoreMap;
use ddu::ops::Size;
use ddu::report::overlay::{Scale, class_map, scalar_map};
use ddu::report::page::MASK;
use ddu::score::{Score, Worry};
use ddu::{Error, Result};

/// A file of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Label,
    Map(Score),
    /// Certain, ambiguous, unfamiliar.
    Mask,
    ClassPicture,
    Picture(Score),
}

impl Kind {
    pub fn all(overlay: bool, mask: bool, scores: &[Score]) -> Vec<Kind> {
        let mut all = vec![Kind::Label];
        all.extend(scores.iter().map(|score| Kind::Map(*score)));
        all.extend(mask.then_some(Kind::Mask));
        if overlay {
            all.push(Kind::ClassPicture);
            all.extend(scores.iter().map(|score| Kind::Picture(*score)));
        }
        all
    }

    pub fn suffix(self) -> String {
        match self {
            Kind::Label => ".label.png".into(),
            Kind::Map(score) => format!(".{}.npy", score.info().name),
            Kind::Mask => ".mask.png".into(),
            Kind::ClassPicture => ".overlay.png".into(),
            Kind::Picture(score) => format!(".{}.png", score.info().name),
        }
    }
}

/// The maps of an image.
pub struct Segmented {
    pub image: Image,
    pub size: Size,
    pub label: Vec<u8>,
    /// In the order of [`Files::scores`].
    pub scores: Vec<ScoreMap>,
    /// [`Limits::mask`](super::attention::Limits::mask); empty without limits.
    pub mask: Vec<u8>,
}

/// Which files, where, and how their pictures look.
pub struct Files<'a> {
    pub folder: &'a Path,
    pub kinds: &'a [Kind],
    /// And the ends of their colour bars.
    pub scores: &'a [(Score, [f32; 2])],
    pub classes: &'a [String],
    /// A colour for each class.
    pub palette: &'a [[u8; 3]],
}

impl Files<'_> {
    /// Writes the files of one image; if one fails, those written before it are removed.
    pub fn write(&self, input: &Input, maps: &Segmented) -> Result<Vec<String>> {
        let mut written: Vec<PathBuf> = Vec::with_capacity(self.kinds.len());
        for kind in self.kinds {
            let path = input.output(self.folder, &kind.suffix());
            if let Err(error) = self.write_one(*kind, &path, input, maps) {
                for path in written {
                    let _ = std::fs::remove_file(path);
                }
                return Err(error);
            }
            written.push(path);
        }
        Ok(written.iter().map(|path| path.display().to_string()).collect())
    }

    fn write_one(&self, kind: Kind, path: &Path, input: &Input, maps: &Segmented) -> Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
        }
        let Files { classes, palette, .. } = *self;
        let title = input.path.file_name().unwrap_or_default().to_string_lossy();
        match kind {
            Kind::Label => data::write_label_png(path, maps.size, &maps.label, palette),
            Kind::Map(score) => match self.find(score, maps) {
                Some((_, values)) => data::write_npy(path, maps.size, values),
                None => Ok(()),
            },
            Kind::Mask => {
                data::write_label_png(path, maps.size, &maps.mask, &MASK.map(|(_, color)| color))
            }
            Kind::ClassPicture => {
                let picture = class_map(&title, &maps.image, &maps.label, classes, palette);
                data::write_rgb_png(path, &picture)
            }
            Kind::Picture(score) => {
                let Some((range, values)) = self.find(score, maps) else { return Ok(()) };
                let info = score.info();
                // Bright is what to worry about, whichever side of the scale that is.
                let [low, high] = range;
                let (range, gradient, label) = match info.worry {
                    Worry::High => {
                        ([low, high], colorous::INFERNO, format!("{} ({})", info.label, info.unit))
                    }
                    Worry::Low => {
                        let label = info.label.to_lowercase();
                        let label = format!("Unfamiliar = low {label} ({})", info.unit);
                        ([high, low], colorous::VIRIDIS, label)
                    }
                };
                let scale = Scale { range, gradient, label: &label };
                data::write_rgb_png(path, &scalar_map(&title, &maps.image, values, &scale))
            }
        }
    }

    /// The colour range and the map of a score.
    fn find<'m>(&self, score: Score, maps: &'m Segmented) -> Option<([f32; 2], &'m [f32])> {
        let found = self.scores.iter().zip(&maps.scores).find(|((s, _), _)| *s == score);
        found.map(|((_, range), map)| (*range, map.values.as_slice()))
    }
}
