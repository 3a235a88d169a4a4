//! Labelled datasets: which images go with which masks, and reading a pair.

use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::{
    Image, MAX_PIXELS, Mask, decode_size_within, decode_within, read_class_names, read_file,
    read_mask_within, resized_within, resolve,
};
use crate::error::{Error, Result};
use crate::ops::Size;

/// An image and its mask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pair {
    /// What messages call it: the id in the split, or the image's path beneath its folder.
    pub name: String,
    pub image: PathBuf,
    pub mask: PathBuf,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataset {
    /// In the order of the split, or by path.
    pub pairs: Vec<Pair>,
    /// From `classes.txt`, where there is one.
    pub classes: Option<Vec<String>>,
    /// The split's list and `classes.txt`, where they were read.
    lists: Vec<PathBuf>,
}

/// A pair, read.
pub struct Labelled {
    /// At `--resize`'s size, where that is asked for.
    pub image: Image,
    /// At the image file's own size.
    pub mask: Mask,
    /// First 64 bits of the SHA-256 of the decoded pixels, before any resize.
    pub hash: u64,
}

impl Dataset {
    /// A folder in Pascal VOC's layout: `ImageSets/Segmentation/SPLIT.txt` lists ids, one per line;
    /// `JPEGImages/ID.jpg` (or another image format) and `SegmentationClass/ID.png`; `classes.txt`, one
    /// name per line, where there is one.
    ///
    /// # Errors
    /// No such split, or one that lists nothing or an id twice.
    pub fn voc(root: &Path, split: &str) -> Result<Self> {
        let sets = root.join("ImageSets/Segmentation");
        let list = sets.join(format!("{split}.txt"));
        let text = read_file(&list, "a list of ids", 1 << 30).map_err(|e| match &e {
            Error::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                no_split(&sets, &list)
            }
            _ => e,
        })?;
        let text = String::from_utf8(text)
            .map_err(|_| Error::invalid(list.display(), "text", "bytes that are no UTF-8"))?;
        let ids: Vec<&str> = text.lines().map(str::trim).filter(|id| !id.is_empty()).collect();
        if ids.is_empty() {
            return Err(Error::invalid(list.display(), "ids, one per line", "none"));
        }
        let mut sorted = ids.clone();
        sorted.sort_unstable();
        if let Some(twice) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
            let found = format!("{} a second time", twice[0]);
            return Err(Error::invalid(list.display(), "each id once", found));
        }
        let pair = |id: &str| Pair {
            name: id.to_owned(),
            image: find_image(&root.join("JPEGImages"), id),
            mask: root.join("SegmentationClass").join(format!("{id}.png")),
        };
        let names = root.join("classes.txt");
        let classes = names.exists().then(|| read_class_names(&names)).transpose()?;
        Ok(Dataset {
            pairs: ids.into_iter().map(pair).collect(),
            classes,
            lists: vec![list, names],
        })
    }

    /// Every image beneath `images`, by path; its mask is the PNG of the same relative path and stem
    /// beneath `masks`.
    ///
    /// # Errors
    /// No image there, or two with one stem.
    pub fn folders(images: &Path, masks: &Path) -> Result<Self> {
        for folder in [images, masks] {
            if !folder.is_dir() {
                let found = if folder.exists() { "a file" } else { "nothing of that name" };
                return Err(Error::invalid(folder.display(), "a folder", found));
            }
        }
        let mut inputs = resolve(&[images.to_owned()], Path::new(""), std::io::empty())?;
        if inputs.images.is_empty() && !inputs.failed.is_empty() {
            return Err(inputs.failed.swap_remove(0).1);
        }
        let pair = |input: super::Input| Pair {
            name: input.stem.display().to_string(),
            mask: input.output(masks, ".png"),
            image: input.path,
        };
        let pairs = inputs.images.into_iter().map(pair).collect();
        Ok(Dataset { pairs, classes: None, lists: Vec::new() })
    }

    /// Pairs that were found elsewhere.
    pub fn of(pairs: Vec<Pair>) -> Self {
        Dataset { pairs, classes: None, lists: Vec::new() }
    }

    /// Every file that it reads or has read: none of them may be overwritten.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        let pairs = self.pairs.iter().flat_map(|pair| [&*pair.image, &*pair.mask]);
        pairs.chain(self.lists.iter().map(PathBuf::as_path))
    }
}

impl Pair {
    /// Reads and checks both files; `resize` is `--resize`'s shorter side.
    ///
    /// # Errors
    /// A file that cannot be read, or a mask of another size than its image.
    pub fn read(&self, resize: Option<usize>) -> Result<Labelled> {
        self.read_within(resize, MAX_PIXELS)
    }

    /// The size that [`Self::read_within`] would give its image, from the header alone.
    pub fn size_within(&self, resize: Option<usize>, max_pixels: u64) -> Result<Size> {
        let size = decode_size_within(&self.image, false, max_pixels)?;
        match resize {
            Some(short) => {
                resized_within(&self.image.display().to_string(), size, short, max_pixels)
            }
            None => Ok(size),
        }
    }

    /// [`Self::read`] with a limit of the user's: `--max-pixels`.
    pub fn read_within(&self, resize: Option<usize>, max_pixels: u64) -> Result<Labelled> {
        // Masks know no EXIF orientation, so the image's is left alone.
        let image = decode_within(&self.image, false, max_pixels)?;
        let mask = read_mask_within(&self.mask, max_pixels)?;
        if mask.size != image.size {
            let expected = format!("{} as its image", image.size);
            return Err(Error::invalid(self.mask.display(), expected, mask.size));
        }
        let hash = image_hash(&image);
        let image = match resize {
            Some(short) => {
                let source = self.image.display().to_string();
                image.resize_short_within(&source, short, max_pixels)?
            }
            None => image,
        };
        Ok(Labelled { image, mask, hash })
    }
}

/// A running hash over the sizes and modification times of the files of pairs: whether labels or images
/// changed since a checkpoint took them in.
#[derive(Clone, Default)]
pub struct FileState(Sha256);

impl FileState {
    /// Of the first pairs of a list, in order.
    pub fn of(pairs: &[Pair]) -> Self {
        let mut state = FileState::default();
        pairs.iter().for_each(|pair| state.add(pair));
        state
    }

    /// Takes in the next pair, as its files are now.
    pub fn add(&mut self, pair: &Pair) {
        for path in [&pair.image, &pair.mask] {
            // A file that is not there is a state too: the pair was skipped.
            let metadata = path.metadata().ok();
            let modified = metadata.as_ref().and_then(|metadata| metadata.modified().ok());
            let since = modified.map(|time| time.duration_since(std::time::UNIX_EPOCH));
            let text = format!("{:?} {since:?}\0", metadata.map(|metadata| metadata.len()));
            self.0.update(text);
        }
    }

    /// In hex.
    pub fn hash(&self) -> String {
        self.0.clone().finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// First 64 bits of the SHA-256 of height, width (u64, little-endian) and pixels.
pub fn image_hash(image: &Image) -> u64 {
    let mut hasher = Sha256::new();
    hasher.update((image.size.h as u64).to_le_bytes());
    hasher.update((image.size.w as u64).to_le_bytes());
    hasher.update(&image.rgb);
    hasher.finalize().iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

/// The image of an id; `ID.jpg` where none of the formats is there, so that reading it tells.
fn find_image(folder: &Path, id: &str) -> PathBuf {
    let endings = ["jpg", "png", "jpeg", "JPG", "PNG", "JPEG", "bmp", "tif", "tiff", "webp"];
    let candidates = endings.map(|ending| folder.join(format!("{id}.{ending}")));
    candidates.iter().find(|path| path.is_file()).unwrap_or(&candidates[0]).clone()
}

fn no_split(sets: &Path, list: &Path) -> Error {
    let mut there: Vec<String> = std::fs::read_dir(sets)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".txt")?.to_owned()))
        .collect();
    there.sort();
    let found = match there.is_empty() {
        true => format!("no {}", sets.display()),
        false => format!("the splits {}", there.join(", ")),
    };
    Error::invalid(list.display(), "a list of ids", found)
        .fix("--data takes a folder in VOC layout, --split one of its lists")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::{write_label_png, write_rgb_png};
    use crate::ops::Size;

    fn write(root: &Path, images: &str, masks: &str, id: &str, size: Size) {
        let image = root.join(images).join(format!("{id}.png"));
        let mask = root.join(masks).join(format!("{id}.png"));
        for path in [&image, &mask] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        }
        let rgb = (0..3 * size.pixels()).map(|i| (i * id.len()) as u8).collect();
        write_rgb_png(&image, &Image { size, rgb }).unwrap();
        write_label_png(&mask, size, &vec![1; size.pixels()], &[[0; 3], [9; 3]]).unwrap();
    }

    #[test]
    fn a_voc_folder_lists_its_splits() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let sets = root.join("ImageSets/Segmentation");
        std::fs::create_dir_all(&sets).unwrap();
        std::fs::write(sets.join("train.txt"), "b \r\n\na\nmissing").unwrap();
        for id in ["a", "b"] {
            write(root, "JPEGImages", "SegmentationClass", id, Size::new(2, 3));
        }
        let data = Dataset::voc(root, "train").unwrap();
        let names: Vec<&str> = data.pairs.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["b", "a", "missing"]);
        assert_eq!(data.classes, None);
        assert_eq!(data.pairs[0].read(None).unwrap().mask.label, [1; 6]);
        assert!(data.pairs[2].read(None).is_err());
        std::fs::write(root.join("classes.txt"), "sky\nroad\n").unwrap();
        assert_eq!(Dataset::voc(root, "train").unwrap().classes.unwrap(), ["sky", "road"]);

        let error = Dataset::voc(root, "val").unwrap_err().to_string();
        assert!(error.contains("val.txt") && error.contains("train"), "{error}");
        std::fs::write(sets.join("twice.txt"), "a\nb\na\n").unwrap();
        assert!(Dataset::voc(root, "twice").is_err());
        std::fs::write(sets.join("empty.txt"), "\n").unwrap();
        assert!(Dataset::voc(root, "empty").is_err());
        assert!(Dataset::voc(&root.join("nowhere"), "train").is_err());
    }

    #[test]
    fn folders_pair_by_relative_path() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for id in ["x/1", "x/2", "3"] {
            write(root, "images", "masks", id, Size::new(4, 2));
        }
        let data = Dataset::folders(&root.join("images"), &root.join("masks")).unwrap();
        let names: Vec<&str> = data.pairs.iter().map(|p| p.name.as_str()).collect();
        assert_eq!(names, ["3", "x/1", "x/2"]);
        assert_eq!(data.pairs[1].mask, root.join("masks/x/1.png"));
        assert!(Dataset::folders(&root.join("images"), &root.join("none")).is_err());
        assert!(Dataset::folders(&root.join("none"), &root.join("masks")).is_err());
    }

    #[test]
    fn the_hash_is_of_the_content() {
        let image = |h, w, value| Image { size: Size::new(h, w), rgb: vec![value; 3 * h * w] };
        let hash = image_hash(&image(2, 3, 5));
        assert_eq!(hash, image_hash(&image(2, 3, 5)));
        assert_ne!(hash, image_hash(&image(3, 2, 5)));
        assert_ne!(hash, image_hash(&image(2, 3, 6)));
    }

    #[test]
    fn changed_files_show_in_the_state_of_the_pairs() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        for id in ["a", "b", "c"] {
            write(root, "i", "m", id, Size::new(4, 2));
        }
        let data = Dataset::folders(&root.join("i"), &root.join("m")).unwrap();
        let before = FileState::of(&data.pairs[..2]);
        let mut again = FileState::of(&data.pairs[..1]);
        again.add(&data.pairs[1]);
        assert_eq!(again.hash(), before.hash());
        // What comes later does not count.
        std::fs::remove_file(root.join("m/c.png")).unwrap();
        assert_eq!(FileState::of(&data.pairs[..2]).hash(), before.hash());
        let touched = std::fs::File::options().append(true).open(root.join("m/b.png")).unwrap();
        touched.set_modified(std::time::UNIX_EPOCH).unwrap();
        let other = FileState::of(&data.pairs[..2]).hash();
        assert_ne!(other, before.hash());
        std::fs::remove_file(root.join("i/a.png")).unwrap();
        assert_ne!(FileState::of(&data.pairs[..2]).hash(), other);
    }

    #[test]
    fn a_mask_of_another_size_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        write(root, "i", "m", "a", Size::new(4, 2));
        write(root, "i", "m", "b", Size::new(2, 4));
        std::fs::copy(root.join("m/b.png"), root.join("m/a.png")).unwrap();
        let data = Dataset::folders(&root.join("i"), &root.join("m")).unwrap();
        let error = data.pairs[0].read(None).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("a.png") && error.contains("4 x 2"), "{error}");
    }
}
