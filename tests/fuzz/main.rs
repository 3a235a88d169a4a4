//! Every reader of files from outside, fed with good files, with the attack files of
//! `tests/golden/attacks` and with mutations of both: each gives a result or one line, in bounded time
//! and memory. CONTRIBUTING.md says how to run a campaign and how to add a target.

mod attacks;
mod campaign;
#[allow(dead_code)]
#[path = "../import/checkpoint.rs"]
mod checkpoint;
#[allow(dead_code)]
#[path = "../import/generate.rs"]
mod generate;
#[path = "../common/models.rs"]
mod models;
mod mutate;
mod random;

use std::path::Path;

use campaign::{Target, files, golden};
use checkpoint::{Dtype, TorchFile};
use ddu::Error;
use ddu::data::{
    ClassMap, LabelRule, decode_size_within, decode_within, read_class_names, read_mask_within,
};
use ddu::density::{Density, Progress};
use ddu::eval::thresholds::{Achieved, Target as TargetOf, Threshold, Thresholds};
use ddu::import::{Options, import, readers};
use ddu::model::{Backbone, Config, Model};
use ddu::ops::Size;
use generate::{Weight, Weights};
use image::ImageFormat;
use random::Random;

/// Pictures and masks of more pixels are refused: their numbers of inputs would be small.
const MAX_PIXELS: u64 = 1 << 16;

fn keep(bytes: &[u8], path: &Path) {
    std::fs::write(path, bytes).unwrap();
}

fn written(write: impl Fn(&Path)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    write(&folder.path().join("file"));
    std::fs::read(folder.path().join("file")).unwrap()
}

/// Three tensors of no network.
fn tensors() -> Weights {
    let tensor = |shape: &[usize]| {
        let count: usize = shape.iter().product();
        Weight { shape: shape.to_vec(), data: (0..count).map(|i| i as f32 - 3.0).collect() }
    };
    [("module.a.weight", &[2, 3, 1, 1][..]), ("module.a.bias", &[5]), ("module.num", &[])]
        .map(|(key, shape)| (key.to_owned(), tensor(shape)))
        .into()
}

/// The forms of a torch file: nested, big-endian, one storage with views, other types.
fn torch_files() -> Vec<TorchFile> {
    let plain = |dtype| TorchFile::new(&tensors(), dtype);
    let mut views = plain(Dtype::F64);
    views.storages = vec![vec![0; 200]];
    for item in &mut views.items {
        (item.storage, item.offset) = (0, 2);
        item.strides.iter_mut().for_each(|stride| *stride *= 2);
    }
    vec![
        plain(Dtype::F32),
        views,
        TorchFile { nests: vec!["model_state", "state_dict"], ..plain(Dtype::Bf16) },
        TorchFile { big_endian: true, ..plain(Dtype::F16) },
    ]
}

#[test]
fn pickle() {
    let good = torch_files().iter().map(|file| file.pickle(false)).collect();
    let mutate = |random: &mut Random, mut bytes| {
        random.mutate(&mut bytes, mutate::PICKLE);
        bytes
    };
    Target { name: "pickle", good, mutate: &mutate }.run(|bytes, _| {
        readers::pickle(bytes).map_err(|found| {
            assert!(!found.contains(char::is_control) && found.len() < 400, "{found:?}");
            Error::invalid("pickle", "a pickle", found)
        })
    });
}

#[test]
fn torch_zip() {
    let good = torch_files().iter().map(TorchFile::zip).collect();
    Target { name: "torch_zip", good, mutate: &mutate::zip }.run(|bytes, path| {
        keep(bytes, path);
        readers::tensors(path)
    });
}

#[test]
fn torch_legacy() {
    let good = torch_files().iter().map(TorchFile::legacy).collect();
    let mutate = |random: &mut Random, mut bytes| {
        random.mutate(&mut bytes, mutate::PICKLE);
        bytes
    };
    Target { name: "torch_legacy", good, mutate: &mutate }.run(|bytes, path| {
        keep(bytes, path);
        readers::tensors(path)
    });
}

#[test]
fn safetensors_checkpoint() {
    let good = [Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F64, Dtype::I64]
        .map(|dtype| checkpoint::safetensors(&tensors(), dtype));
    let name = "safetensors_checkpoint";
    Target { name, good: good.into(), mutate: &mutate::safetensors }.run(|bytes, path| {
        keep(bytes, path);
        readers::tensors(path)
    });
}

/// Whole networks: detection, shapes and names as well.
#[test]
fn whole_import() {
    let mut good = files(&golden("torch"), ".pth");
    good.extend(files(&golden("families"), "resnet18.safetensors"));
    let mut small = TorchFile::new(&generate::small(), Dtype::F16);
    small.nests = vec!["model_state"];
    good.extend([small.zip(), small.legacy()]);
    let mutate = |random: &mut Random, bytes: Vec<u8>| match bytes.first() {
        Some(b'P') => mutate::zip(random, bytes),
        Some(0x80) => {
            let mut bytes = bytes;
            random.mutate(&mut bytes, mutate::PICKLE);
            bytes
        }
        _ => mutate::safetensors(random, bytes),
    };
    Target { name: "whole_import", good, mutate: &mutate }.run(|bytes, path| {
        keep(bytes, path);
        import(path, &Options::default()).map(drop)
    });
}

/// One channel everywhere.
fn thin() -> Config {
    let mut config = models::small(Backbone::Resnet18);
    (config.stem_channels, config.aspp_channels) = (1, 1);
    (config.stage_width, config.stage_channels) = ([1; 4], [1; 4]);
    let decoder = config.decoder.as_mut().unwrap();
    (decoder.low_level_channels, decoder.refine_channels) = (1, vec![1]);
    config.classes.truncate(2);
    config
}

#[test]
fn model_file() {
    let good = written(|path| models::random_model(thin(), 3).save(path).unwrap());
    Target { name: "model_file", good: vec![good], mutate: &mutate::safetensors }
        .run(|bytes, _| Model::from_bytes("model_file", bytes).map(drop));
}

fn density() -> Density {
    let classes = ["sky", "road"].map(String::from).to_vec();
    let mut density = Density::new("model".into(), classes, 2, LabelRule::HalfPixel, Some(9));
    let features: Vec<f32> = (0..10 * 2).map(|i| ((i * 37) % 101) as f32 / 7.0).collect();
    let labels: Vec<u8> = (0..10).map(|i| [0, 1, 1, 255, 9][i % 5]).collect();
    density.add(5, &features, &labels);
    density
}

#[test]
fn density_file() {
    let mut weighted = density();
    let mut sums = ddu::density::Moments::weighted(2, 2);
    sums.add_weighted(&[1.0, 2.0, 3.0, 5.0], &[0, 1], &[0.5, 1.0]);
    weighted.weighted = Some(sums);
    let good = vec![
        written(|path| density().save(path).unwrap()),
        written(|path| weighted.save(path).unwrap()),
    ];
    let read = |bytes: &[u8], path: &Path| {
        keep(bytes, path);
        // What loads is sound enough to be saved.
        Density::load(path)?.save(path.with_extension("again"))
    };
    Target { name: "density_file", good, mutate: &mutate::safetensors }.run(read);
}

#[test]
fn fit_checkpoint() {
    let progress = Progress {
        inputs: "inputs".into(),
        files: "files".into(),
        done: 1,
        skipped: vec!["b.png: cannot read".into()],
    };
    let good = written(|path| density().checkpoint(path, &progress).unwrap());
    let read = |bytes: &[u8], path: &Path| {
        keep(bytes, path);
        let (density, progress) = Density::resume(path)?;
        density.checkpoint(path.with_extension("again"), &progress)
    };
    Target { name: "fit_checkpoint", good: vec![good], mutate: &mutate::safetensors }.run(read);
}

/// Gray, RGB and RGBA of 8 bits, and 16-bit RGB where the format has it.
fn pictures(format: ImageFormat) -> Vec<Vec<u8>> {
    let rgb = image::ImageBuffer::from_fn(19, 13, |x, y| image::Rgb([x as u8 * 9, y as u8, 77]));
    let picture = image::DynamicImage::from(rgb);
    let forms = [
        picture.clone(),
        picture.to_luma8().into(),
        picture.to_rgba8().into(),
        picture.to_rgb16().into(),
    ];
    let encode = |form: &image::DynamicImage| {
        let mut bytes = std::io::Cursor::new(Vec::new());
        form.write_to(&mut bytes, format).ok()?;
        Some(bytes.into_inner())
    };
    forms.iter().filter_map(encode).collect()
}

fn picture(name: &str, good: Vec<Vec<u8>>, mutate: &dyn Fn(&mut Random, Vec<u8>) -> Vec<u8>) {
    Target { name, good, mutate }.run(|bytes, path| {
        keep(bytes, path);
        let size = decode_size_within(path, true, MAX_PIXELS);
        let image = decode_within(path, true, MAX_PIXELS)?;
        assert_eq!(size?, image.size);
        assert_eq!(image.rgb.len(), 3 * image.size.pixels());
        Ok(())
    });
}

#[test]
fn jpeg() {
    let words: &[&[u8]] = &[
        b"\xff\xd8",
        b"\xff\xd9",
        b"\xff\xc0",
        b"\xff\xc2",
        b"\xff\xc4",
        b"\xff\xda",
        b"\xff\xdd",
    ];
    picture("jpeg", files(&golden("images"), ".jpg"), &|random, mut bytes| {
        random.mutate(&mut bytes, words);
        bytes
    });
}

#[test]
fn png() {
    picture("png", pictures(ImageFormat::Png), &mutate::png);
}

fn bytes_of(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    random.mutate(&mut bytes, &[]);
    bytes
}

#[test]
fn bmp() {
    picture("bmp", pictures(ImageFormat::Bmp), &bytes_of);
}

#[test]
fn tiff() {
    picture("tiff", pictures(ImageFormat::Tiff), &bytes_of);
}

#[test]
fn webp() {
    picture("webp", pictures(ImageFormat::WebP), &mutate::webp);
}

#[test]
fn mask() {
    let palette = written(|path| {
        let label = [1; 35];
        ddu::data::write_label_png(path, Size::new(5, 7), &label, &[[0; 3], [9; 3]]).unwrap();
    });
    let mut good = pictures(ImageFormat::Png);
    good.push(palette);
    Target { name: "mask", good, mutate: &mutate::png }.run(|bytes, path| {
        keep(bytes, path);
        let mask = read_mask_within(path, MAX_PIXELS)?;
        assert_eq!(mask.label.len(), mask.size.pixels());
        Ok(())
    });
}

/// A file of class names; each of its lines is also taken as an entry of `--class-map`.
#[test]
fn class_names() {
    let good: [&[u8]; 3] =
        [b"sky\nroad\ntree\n", "k\u{f6}ln\r\n\u{6771}=2\nvoid\n".as_bytes(), b"0=1\n1=void\nb=0\n"];
    let words: &[&[u8]] = &[
        b"\n",
        b"\r\n",
        b"=",
        b"void",
        b"255",
        b"256",
        b"-1",
        b"\0",
        b"\xef\xbb\xbf",
        b"\x1b[31m",
    ];
    let mutate = |random: &mut Random, mut bytes| {
        random.mutate(&mut bytes, words);
        bytes
    };
    let good = good.map(<[u8]>::to_vec).into();
    Target { name: "class_names", good, mutate: &mutate }.run(|bytes, path| {
        keep(bytes, path);
        let names = read_class_names(path)?;
        let one = |entries| ClassMap::new(Some(&names), None, 3, entries);
        let entries = names.iter().map(|name| one(std::slice::from_ref(name)));
        for map in entries.chain([one(&names[..])]).flatten() {
            assert!(
                map.table()
                    .iter()
                    .enumerate()
                    .all(|(from, to)| { *to < 3 || *to == 255 || usize::from(*to) == from })
            );
        }
        Ok(())
    });
}

#[test]
fn thresholds() {
    let target = TargetOf::PAccurateCertain(0.95);
    let mut full = Thresholds::new("model".into(), Some("density".into()), target);
    let achieved = Achieved { certain_share: Some(0.25), ..Achieved::default() };
    full.entropy = Some(Threshold { threshold: 0.125, achieved });
    full.density = Some(Threshold { threshold: -40.5, achieved });
    full.split = Some("val".into());
    let none = Thresholds::new("model".into(), None, TargetOf::FalseAlarmRate(0.05));
    let good = [full, none].map(|thresholds| serde_json::to_vec_pretty(&thresholds).unwrap());
    let target = Target { name: "thresholds", good: good.into(), mutate: &mutate::json };
    target.run(|bytes, path| {
        keep(bytes, path);
        let found = Thresholds::load(path)?;
        // What loads is sound enough to be compared with and to be written and read again.
        let limits = [found.entropy, found.density].into_iter().flatten();
        assert!(limits.into_iter().all(|limit| limit.threshold.is_finite()));
        let again = path.with_extension("again");
        ddu::report::json::write(&again, &found)?;
        assert_eq!(Thresholds::load(&again)?.entropy.is_some(), found.entropy.is_some());
        found.check("thresholds", "model", Some("density"))
    });
}

/// What a campaign is for, planted: each must be told with its target, whatever it does to its process.
fn planted(name: &str, fault: fn()) {
    Target { name, good: vec![vec![0]], mutate: &bytes_of }.run(|_, _| {
        fault();
        Ok(())
    });
}

#[test]
#[should_panic(expected = "planted_panic: seed ")]
fn planted_panic() {
    planted("planted_panic", || panic!("planted"));
}

#[test]
#[should_panic(expected = "planted_abort: seed ")]
fn planted_abort() {
    planted("planted_abort", || std::process::abort());
}

#[test]
#[should_panic(expected = "planted_delay: seed ")]
fn planted_delay() {
    planted("planted_delay", || std::thread::sleep(std::time::Duration::from_millis(2100)));
}

/// 3 GiB, where the shell can bound them.
#[cfg(target_os = "linux")]
#[test]
#[should_panic(expected = "planted_allocation: seed ")]
fn planted_allocation() {
    planted("planted_allocation", || drop(std::hint::black_box(vec![1u8; 3 << 30])));
}
