//! Every reader of files from outside, fed with mutations of good and of hostile files: each gives a
//! result or one line, never a panic. The numbers are drawn from a fixed seed, so that a failure comes
//! again; DDU_FUZZ_ITERATIONS sets how many inputs each reader gets (a campaign takes 1000000),
//! DDU_FUZZ_SEED another sequence.

#[path = "common/models.rs"]
mod models;

use std::collections::HashMap;
use std::path::Path;

use ddu::Error;
use ddu::data::{
    ClassMap, LabelRule, content_hash, decode_size, decode_within, read_class_names,
    read_mask_within,
};
use ddu::density::{Density, Progress};
use ddu::import::{Options, import};
use ddu::model::{Backbone, Model};
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

/// SplitMix64 (Steele et al. 2014).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let x = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }

    /// Mostly near the start, where headers are.
    fn place(&mut self, length: usize) -> usize {
        let within = if self.below(2) == 0 { length.min(600) } else { length };
        self.below(within)
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        const MAGIC: [u64; 8] = [0, 1, 0x7f, 0xff, 0x7fff_ffff, 0xffff_ffff, 1 << 62, u64::MAX];
        for _ in 0..=self.below(4) {
            let at = self.place(bytes.len());
            let end = (at + 1 + self.below(32)).min(bytes.len());
            if at >= end {
                bytes.push(self.next() as u8);
                continue;
            }
            match self.below(7) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.next() as u8,
                2 => bytes.truncate(at),
                3 => drop(bytes.drain(at..end)),
                4 => {
                    let part = bytes[at..end].to_vec();
                    let to = self.place(bytes.len());
                    bytes.splice(to..to, part);
                }
                5 => bytes.insert(at, self.next() as u8),
                _ => {
                    let magic = MAGIC[self.below(MAGIC.len())];
                    let magic =
                        if self.below(2) == 0 { magic.to_le_bytes() } else { magic.to_be_bytes() };
                    let width = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                    bytes[at..at + width].copy_from_slice(&magic[..width]);
                }
            }
        }
    }
}

/// Feeds `read` each file as it is, then mutations: a file's name in a folder of its own.
fn campaign(
    name: &str,
    corpus: &[Vec<u8>],
    default: usize,
    read: impl Fn(&Path) -> Result<(), Error>,
) {
    assert!(!corpus.is_empty());
    let number =
        |name| std::env::var(name).ok().map(|text: String| text.parse().expect("a number"));
    let iterations = number("DDU_FUZZ_ITERATIONS").unwrap_or(default as u64);
    let mut random = Random(number("DDU_FUZZ_SEED").unwrap_or(7));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(name);
    let mut accepted = 0;
    for i in 0..corpus.len() as u64 + iterations {
        let bytes = match corpus.get(i as usize) {
            Some(bytes) => bytes.clone(),
            None => {
                let mut bytes = corpus[random.below(corpus.len())].clone();
                random.mutate(&mut bytes);
                bytes
            }
        };
        std::fs::write(&path, &bytes).unwrap();
        match read(&path) {
            Ok(()) => accepted += 1,
            Err(error) => {
                let line = error.to_string();
                let control = line.contains(char::is_control);
                assert!(!control && line.len() < 4000, "input {i}: {line:?}");
                assert!(line.contains(name), "input {i} is not named: {line}");
            }
        }
    }
    println!("{name}: {iterations} mutations of {} files, {accepted} accepted", corpus.len());
}

fn golden(folder: &str, ending: &str) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(folder);
    let mut paths: Vec<_> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.sort();
    let wanted = paths.iter().filter(|path| path.to_string_lossy().ends_with(ending));
    wanted.map(|path| std::fs::read(path).unwrap()).collect()
}

fn written(write: impl Fn(&Path)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("file"));
    std::fs::read(folder.path().join("file")).unwrap()
}

fn density() -> Density {
    let classes = ["sky", "road"].map(String::from).to_vec();
    let mut density = Density::new("model".into(), classes, 4, LabelRule::HalfPixel, Some(9));
    let features: Vec<f32> = (0..30 * 4).map(|i| ((i * 37) % 101) as f32 / 7.0).collect();
    let labels: Vec<u8> = (0..30).map(|i| [0, 1, 1, 255, 9][i % 5]).collect();
    density.add(5, &features, &labels);
    density
}

#[test]
fn images() {
    let mut corpus = golden("images", ".jpg");
    let picture: image::DynamicImage =
        image::ImageBuffer::from_fn(19, 13, |x, y| image::Rgb([x as u8 * 9, y as u8 * 9, 77]))
            .into();
    use image::ImageFormat::{Bmp, Png, Tiff, WebP};
    for format in [Bmp, Png, Tiff, WebP] {
        let mut bytes = std::io::Cursor::new(Vec::new());
        picture.write_to(&mut bytes, format).unwrap();
        corpus.push(bytes.into_inner());
    }
    campaign("picture", &corpus, 3000, |path| {
        let size = decode_size(path, true);
        let image = decode_within(path, true, 1 << 16)?;
        assert_eq!(size?, image.size);
        assert_eq!(image.rgb.len(), 3 * image.size.pixels());
        Ok(())
    });
}

#[test]
fn masks() {
    let size = ddu::ops::Size::new(5, 7);
    let intact = written(|path| {
        ddu::data::write_label_png(path, size, &[1; 35], &[[0; 3], [9; 3]]).unwrap();
    });
    campaign("mask.png", &[intact], 2000, |path| {
        let mask = read_mask_within(path, 1 << 16)?;
        assert_eq!(mask.label.len(), mask.size.pixels());
        Ok(())
    });
}

#[test]
fn class_names_and_maps() {
    let corpus = [b"sky\nroad\ntree\n".to_vec(), "k\u{f6}ln\r\n\u{6771}=2\nvoid\n".into()];
    campaign("classes.txt", &corpus, 2000, |path| {
        let names = read_class_names(path)?;
        let entries: Vec<String> =
            names.iter().map(|name| format!("{name}={}", names.len())).collect();
        let map = ClassMap::new(Some(&names), None, 7, &entries);
        if let Ok(map) = map {
            assert!(map.table().len() == 256);
        }
        Ok(())
    });
}

#[test]
fn models() {
    let intact = written(|path| {
        models::random_model(models::small(Backbone::Resnet18), 3).save(path).unwrap();
    });
    campaign("model.safetensors", &[intact], 300, |path| Model::load(path).map(drop));
}

#[test]
fn densities_and_checkpoints() {
    let progress = Progress {
        inputs: "inputs".into(),
        files: "files".into(),
        done: 1,
        skipped: vec!["b.png: cannot read".into()],
    };
    let corpus = [
        written(|path| density().save(path).unwrap()),
        written(|path| density().checkpoint(path, &progress).unwrap()),
    ];
    let read = |path: &Path| match Density::load(path) {
        Ok(density) => density.save(path.with_extension("again")),
        Err(_) => Density::resume(path).map(drop),
    };
    campaign("density", &corpus, 2000, read);
    // A writer's faults: the hash is right, the values are not.
    let mut random = Random(11);
    let mut faulty = Vec::new();
    for _ in 0..500 {
        let bytes = &corpus[random.below(2)];
        let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
        let mut metadata: HashMap<String, String> = header.metadata().clone().unwrap();
        let file = SafeTensors::deserialize(bytes).unwrap();
        let mut data: Vec<Vec<u8>> = file.iter().map(|(_, view)| view.data().to_vec()).collect();
        if random.below(3) == 0 {
            let text = metadata.get_mut("ddu.density").unwrap();
            let mut bytes = std::mem::take(text).into_bytes();
            random.mutate(&mut bytes);
            *text = String::from_utf8_lossy(&bytes).into_owned();
        } else {
            let tensor = random.below(data.len());
            let at = random.below(data[tensor].len());
            data[tensor][at] ^= 1 << random.below(8);
        }
        let views: Vec<_> = file
            .iter()
            .zip(&data)
            .map(|((name, view), data)| {
                (name, TensorView::new(view.dtype(), view.shape().to_vec(), data).unwrap())
            })
            .collect();
        faulty.push(content_hash::serialize("density", &views, metadata).unwrap());
    }
    campaign("density", &faulty, 0, read);
}

#[test]
fn checkpoints_of_networks() {
    // Pickles, zip archives, legacy files, safetensors.
    let mut corpus = golden("torch", ".pth");
    corpus.extend(golden("families", "resnet18.safetensors"));
    campaign("weights", &corpus, 200, |path| import(path, &Options::default()).map(drop));
}
