//! Real street scenes and a trained network, against what PyTorch computed for them (f32). Skipped
//! where the shared data is absent.

#[path = "common/shared.rs"]
mod shared;

use std::collections::HashMap;
use std::path::Path;
use std::process::Command;

use ddu::data::{decode, read_class_names};
use ddu::density::Density;
use ddu::engine::Engine;
use ddu::import::{Options, import};
use ddu::model::Model;
use safetensors::SafeTensors;
use shared::shared;

const KNOWN: usize = 9;

fn model(checkpoint: &Path) -> Model {
    let classes = checkpoint.with_file_name("camvid-r18.classes.txt");
    let options = Options {
        // Not in a state dict; smp's default is another.
        atrous_rates: Some(vec![6, 12, 18]),
        classes: Some(read_class_names(&classes).unwrap()),
        ..Options::default()
    };
    import(checkpoint, &options).unwrap().model
}

fn floats(file: &SafeTensors, name: &str) -> Vec<f32> {
    let bytes = file.tensor(name).unwrap().data().to_vec();
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
}

#[test]
fn logits_labels_and_entropy_are_those_of_pytorch() {
    let Some(golden) = shared("golden/camvid-r18") else { return };
    let Some(checkpoint) = shared("models/camvid-r18-s0.pth") else { return };
    let mut engine = Engine::new(model(&checkpoint));
    let bytes = std::fs::read(golden.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stems = std::fs::read_to_string(golden.join("maps.txt")).unwrap();
    for stem in stems.split_whitespace() {
        let stem = stem.trim_end_matches(".png");
        let image = decode(&golden.join(format!("images/{stem}.png")), false).unwrap();
        let output = engine.run(&[&image]).unwrap();

        let expected = floats(&file, &format!("{stem}.logits_grid"));
        let found = output.logits(0).unwrap();
        assert_eq!(found.len(), expected.len(), "{stem}");
        let largest = expected.iter().fold(0f32, |m, v| m.max(v.abs()));
        let worst = found.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        // Two f32 implementations that sum in different orders: a few 1e-6 are usual.
        assert!(worst / largest < 1e-4, "{stem}: logits off by {}", worst / largest);

        let maps = output.maps(0).unwrap();
        let labels = file.tensor(&format!("{stem}.label")).unwrap().data();
        let equal = maps.label.iter().zip(labels).filter(|(a, b)| a == b).count();
        let share = equal as f64 / labels.len() as f64;
        assert_eq!(maps.label.len(), labels.len(), "{stem}");
        // Pixels whose two best classes are nearer than the rounding may go either way.
        assert!(share >= 0.9999, "{stem}: {share} of the labels agree");

        let expected = floats(&file, &format!("{stem}.entropy"));
        let difference =
            maps.entropy.iter().zip(&expected).fold(0f32, |m, (a, b)| m.max((a - b).abs()));
        assert!(
            difference < 1e-3 && maps.entropy.len() == expected.len(),
            "{stem}: entropy off by {difference}"
        );
        println!(
            "{stem}: logits {:.1e}, labels {share}, entropy {difference:.1e}",
            worst / largest
        );
    }
}

/// In bf16, where this CPU has it: the nrms of the logits stays within the limit of roundings that `tests/parity/bf16.rs`
/// derives, and what that makes of labels and entropy is printed.
#[test]
fn logits_in_bf16_are_those_of_pytorch_but_for_its_rounding() {
    if !ddu::cpu::pairs::available() {
        println!("skipped: this CPU has no AVX512-BF16");
        return;
    }
    let Some(golden) = shared("golden/camvid-r18") else { return };
    let Some(checkpoint) = shared("models/camvid-r18-s0.pth") else { return };
    let model = model(&checkpoint);
    let layers = ddu::plan::Folding::new(&model).count() as f64;
    let limit = 2.0 * (2.0 * layers).sqrt() / 256.0 / 3f64.sqrt();
    let mut engine = Engine::in_bf16(model).unwrap();
    let bytes = std::fs::read(golden.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let stems = std::fs::read_to_string(golden.join("maps.txt")).unwrap();
    for stem in stems.split_whitespace() {
        let stem = stem.trim_end_matches(".png");
        let image = decode(&golden.join(format!("images/{stem}.png")), false).unwrap();
        let output = engine.run(&[&image]).unwrap();
        let expected = floats(&file, &format!("{stem}.logits_grid"));
        let found = output.logits(0).unwrap();
        let sum = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
            let pairs = expected.iter().zip(found.iter());
            pairs.map(|(a, b)| f(f64::from(*a), f64::from(*b))).sum()
        };
        let nrms = (sum(&|a, b| (a - b).powi(2)) / sum(&|a, _| a * a)).sqrt();
        assert!(nrms <= limit, "{stem}: logits off by {nrms:e}, allowed {limit:e}");
        let maps = output.maps(0).unwrap();
        let labels = file.tensor(&format!("{stem}.label")).unwrap().data();
        let equal = maps.label.iter().zip(labels).filter(|(a, b)| a == b).count();
        let share = equal as f64 / labels.len() as f64;
        let entropy = floats(&file, &format!("{stem}.entropy"));
        let differences = maps.entropy.iter().zip(&entropy).map(|(a, b)| (a - b).abs());
        let (most, mean) = differences.fold((0f32, 0f32), |(m, s), d| (m.max(d), s + d));
        let mean = mean / entropy.len() as f32;
        println!(
            "{stem}: logits {nrms:.1e} of {limit:.1e}, labels {share:.4}, entropy {mean:.1e}, at most {most:.1e}"
        );
    }
}

/// The label files that the binary writes for the test split, against the masks.
#[test]
fn mean_iou_on_the_test_split_is_that_of_pytorch() {
    let Some(camvid) = shared("data/camvid") else { return };
    let Some(checkpoint) = shared("models/camvid-r18-s0.pth") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    model(&checkpoint).save(&path).unwrap();
    let split = std::fs::read_to_string(camvid.join("ImageSets/Segmentation/test.txt")).unwrap();
    let stems: Vec<&str> = split.split_whitespace().collect();
    assert_eq!(stems.len(), 233);
    let output = folder.path().join("maps");
    let status = Command::new(env!("CARGO_BIN_EXE_ddu"))
        .args(["infer", "--quiet", "--model"])
        .arg(&path)
        .args(stems.iter().map(|stem| camvid.join(format!("JPEGImages/{stem}.jpg"))))
        .arg("--output")
        .arg(&output)
        .status()
        .unwrap();
    assert!(status.success());

    let mut counts: HashMap<(u8, u8), u64> = HashMap::new();
    for stem in stems {
        let truth = indices(&camvid.join(format!("SegmentationClass/{stem}.png")));
        let label = indices(&output.join(format!("{stem}.label.png")));
        assert_eq!(truth.len(), label.len(), "{stem}");
        for (truth, label) in truth.into_iter().zip(label) {
            // 9 and 10 were never taught, 255 is void.
            if usize::from(truth) < KNOWN {
                *counts.entry((truth, label)).or_default() += 1;
            }
        }
    }
    let sum = |keep: &dyn Fn(u8, u8) -> bool| -> f64 {
        counts.iter().filter(|((t, l), _)| keep(*t, *l)).map(|(_, n)| *n as f64).sum()
    };
    let iou = |c: u8| sum(&|t, l| t == c && l == c) / sum(&|t, l| t == c || l == c);
    let mean = 100.0 * (0..KNOWN as u8).map(iou).sum::<f64>() / KNOWN as f64;
    let accuracy = 100.0 * sum(&|t, l| t == l) / sum(&|_, _| true);
    println!("mIoU {mean:.2} %, pixel accuracy {accuracy:.2} %");
    // Measured with PyTorch and PIL: 49.89 and 83.00; another JPEG decoder moves a few pixels.
    assert!((mean - 49.89).abs() <= 0.1, "mIoU {mean} %");
    assert!((accuracy - 83.00).abs() <= 0.1, "accuracy {accuracy} %");
}

/// The moments that `ddu fit` writes for the golden images, against PyTorch's features in f64.
#[test]
fn moments_of_the_fit_are_those_of_pytorch() {
    let Some(golden) = shared("golden/camvid-r18") else { return };
    let Some(checkpoint) = shared("models/camvid-r18-s0.pth") else { return };
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    model(&checkpoint).save(path("model.safetensors")).unwrap();
    let list = std::fs::read_to_string(golden.join("fit.txt")).unwrap();
    for (from, to) in [("images", "JPEGImages"), ("masks", "SegmentationClass")] {
        std::fs::create_dir_all(path(to)).unwrap();
        for stem in list.split_whitespace() {
            let name = format!("{stem}.png");
            std::fs::copy(golden.join(from).join(&name), path(to).join(&name)).unwrap();
        }
    }
    std::fs::create_dir_all(path("ImageSets/Segmentation")).unwrap();
    std::fs::write(path("ImageSets/Segmentation/fit.txt"), list).unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_ddu"))
        .args(["fit", "--model", "model.safetensors", "--data", ".", "--split", "fit"])
        .args(["--output", "density.safetensors", "--quiet"])
        .current_dir(folder.path())
        .status()
        .unwrap();
    assert!(status.success());

    let bytes = std::fs::read(golden.join("golden.safetensors")).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let doubles = |name: &str| -> Vec<f64> {
        let bytes = file.tensor(name).unwrap().data();
        bytes.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap())).collect()
    };
    let count = file.tensor("fit.count").unwrap();
    let count: Vec<i64> =
        count.data().chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap())).collect();
    let moments = Density::load(path("density.safetensors")).unwrap().moments;
    assert_eq!(moments.count(), count);
    let (mean, scatter) = (doubles("fit.mean"), doubles("fit.scatter"));
    let (mut mean_error, mut scatter_error) = (0f64, 0f64);
    for class in 0..KNOWN {
        let mean = &mean[class * 256..][..256];
        for (found, expected) in moments.mean(class).iter().zip(mean) {
            let error = (found - expected).abs();
            // A dead channel's mean is 0 in both.
            mean_error = mean_error.max(if error > 0.0 { error / expected.abs() } else { 0.0 });
        }
        let (found, expected) = (moments.scatter(class), &scatter[class * 65536..][..65536]);
        for i in 0..256 {
            for j in 0..=i {
                let error = (found[i * 256 + j] - expected[i * 256 + j]).abs();
                let scale = (expected[i * 257] * expected[j * 257]).sqrt();
                scatter_error = scatter_error.max(if error > 0.0 { error / scale } else { 0.0 });
            }
        }
    }
    println!("mean off by {mean_error:.1e} relative, scatter by {scatter_error:.1e}");
    // Features of two f32 networks, a few of which round to neighbouring fp16 values.
    assert!(mean_error <= 1e-4, "{mean_error:e}");
    assert!(scatter_error <= 1e-4, "{scatter_error:e}");
}

/// Indices of a palette or gray PNG.
fn indices(path: &Path) -> Vec<u8> {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut decoder = png::Decoder::new(file);
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().unwrap();
    let mut indices = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut indices).unwrap();
    assert_eq!(info.line_size, info.width as usize, "one byte per pixel: {}", path.display());
    indices
}
