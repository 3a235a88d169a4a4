//! The density file: what is saved is loaded, equal content gives equal bytes, and what is not a
//! density is refused in one line that says why.

use std::collections::HashMap;
use std::path::Path;

use ddu::data::{LabelRule, content_hash};
use ddu::density::{Density, Progress};
use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

const CHANNELS: usize = 6;

fn empty(model: &str) -> Density {
    let classes = ["sky", "road", "tree"].map(String::from).to_vec();
    Density::new(model.into(), classes, CHANNELS, LabelRule::AlignCorners, None)
}

/// One image of 40 cells, a few of which are unusable.
fn add(density: &mut Density, image: u64) -> bool {
    let (features, labels) = image_of(image);
    density.add(image, &features, &labels)
}

fn image_of(image: u64) -> (Vec<f32>, Vec<u8>) {
    let value = |i: u64| {
        let x = (i ^ (image << 20)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (x >> 40) as f32 / 1e6
    };
    let features: Vec<f32> = (0..40 * CHANNELS as u64).map(value).collect();
    let labels: Vec<u8> = (0..40).map(|i| [0, 1, 2, 255, 7][i % 5]).collect();
    (features, labels)
}

fn fitted(images: impl IntoIterator<Item = u64>) -> Density {
    let mut density = empty("model a");
    for image in images {
        assert!(add(&mut density, image));
    }
    density
}

/// As [`fitted`], with weighted moments.
fn weighted(images: impl IntoIterator<Item = u64>) -> Density {
    let mut density = empty("model a").with_weights();
    images.into_iter().for_each(|image| assert!(add_weighted(&mut density, image)));
    density
}

fn add_weighted(density: &mut Density, image: u64) -> bool {
    let (features, labels) = image_of(image);
    let logits: Vec<f32> = features.chunks_exact(CHANNELS).flat_map(|z| z[..3].to_vec()).collect();
    density.add_weighted(image, &features, &logits, &labels)
}

/// Files, checkpoints and merges of weighted moments; the ordinary moments are what they are without.
#[test]
fn weighted_moments_are_kept_continued_and_merged() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.safetensors");
    let density = weighted(1..4);
    assert_eq!(density.moments, fitted(1..4).moments);
    let sure = density.weighted.as_ref().unwrap();
    assert!((0..3).all(|class| sure.effective(class) >= 2.0), "{sure:?}");
    density.save(&path).unwrap();
    assert_eq!(Density::load(&path).unwrap(), density);
    let bytes = std::fs::read(&path).unwrap();
    assert_eq!(density.to_bytes("memory").unwrap(), bytes);
    assert_eq!(Density::from_bytes("memory", &bytes).unwrap(), density);
    let error = Density::from_bytes("memory", &bytes[1..]).unwrap_err().to_string();
    assert!(error.starts_with("memory: expected a density"), "{error}");
    Density::load(&path).unwrap().save(&path).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
    let (ready, _) = density.gaussians(Default::default(), Default::default()).unwrap();
    assert!(ready.weighted.is_some());

    let progress =
        Progress { inputs: "list".into(), files: "state".into(), done: 2, skipped: Vec::new() };
    weighted(1..3).checkpoint(&path, &progress).unwrap();
    let (mut continued, _) = Density::resume(&path).unwrap();
    add_weighted(&mut continued, 3);
    assert_eq!(continued, density, "to the same bits");

    let mut merged = weighted(1..3);
    merged.merge("b", &weighted(3..4)).unwrap();
    let (ours, theirs) = (merged.weighted.as_ref().unwrap(), sure);
    assert_eq!(ours.count(), theirs.count());
    assert!((ours.weight(1) - theirs.weight(1)).abs() <= 1e-12 * theirs.weight(1));
    for (mut one, other) in [(weighted(1..3), fitted(3..4)), (fitted(1..3), weighted(3..4))] {
        let before = one.clone();
        let error = one.merge("b", &other).unwrap_err().to_string();
        assert!(error.contains("b: weight: ") && error.contains("confidence"), "{error}");
        assert_eq!(one, before);
    }

    // A network that is sure of nothing: no weighted Gaussians, and the others as ever.
    let mut unsure = empty("model a").with_weights();
    let (features, labels) = image_of(1);
    unsure.add_weighted(1, &features, &[0.0; 120], &labels);
    unsure.weighted = Some(ddu::density::Moments::weighted(3, CHANNELS));
    let (ready, warnings) = unsure.gaussians(Default::default(), Default::default()).unwrap();
    assert!(ready.weighted.is_none());
    assert_eq!(warnings.iter().filter(|w| w.message("x").contains("weighted")).count(), 3);
}

#[test]
fn weighted_moments_that_no_fit_gives_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.safetensors");
    weighted(1..4).save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let origin = header.metadata().clone().unwrap()["ddu.density"].clone();
    let refused = |origin: &str, edit: &dyn Fn(&mut Tensors), words: &[&str]| {
        write_of(&weighted(1..4), &path, &[("ddu.density", origin)], edit);
        let error = Density::load(&path).unwrap_err().to_string();
        assert!(words.iter().all(|word| error.contains(word)), "{words:?}: {error}");
        assert!(error.contains("d.safetensors") && !error.contains('\n'), "{error}");
    };
    for name in ["count", "sum", "squares", "mean", "scatter"] {
        let name = format!("weighted.{name}");
        refused(&origin, &|t| drop(t.remove(&name)), &[&name, "no such tensor"]);
    }
    let patch = |name: &'static str, value: f64| {
        move |t: &mut Tensors| {
            t.get_mut(name).unwrap().2[..8].copy_from_slice(&value.to_le_bytes());
        }
    };
    for value in [f64::NAN, f64::INFINITY, -1.0, 0.0, 1e9] {
        for name in ["weighted.sum", "weighted.squares"] {
            refused(&origin, &patch(name, value), &["weighted", "class 0"]);
        }
    }
    refused(&origin, &patch("weighted.mean", f64::NAN), &["weighted", "NaN"]);
    refused(&origin, &patch("weighted.scatter", -1.0), &["weighted", "diagonal"]);
    let count = |t: &mut Tensors| {
        t.get_mut("weighted.count").unwrap().2[..8].copy_from_slice(&25i64.to_le_bytes());
    };
    refused(&origin, &count, &["weighted", "of others"]);
    let other = origin.replace("\"confidence\"", "\"hope\"");
    refused(&other, &|_| (), &["weight", "hope", "confidence"]);
}

#[test]
fn what_is_saved_is_loaded_and_saved_again_to_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for density in [fitted(1..4), empty("nothing fitted")] {
        density.save(path("a")).unwrap();
        let loaded = Density::load(path("a")).unwrap();
        assert_eq!(loaded, density);
        loaded.save(path("b")).unwrap();
        fitted(1..4).save(path("c")).unwrap();
        assert_eq!(std::fs::read(path("a")).unwrap(), std::fs::read(path("b")).unwrap());
    }
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 3, "a temporary file stays");
    // Two separate fits.
    fitted(1..4).save(path("a")).unwrap();
    assert_eq!(std::fs::read(path("a")).unwrap(), std::fs::read(path("c")).unwrap());
}

#[test]
fn a_checkpoint_continues_and_is_not_a_density() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let progress = Progress {
        inputs: "list".into(),
        files: "state".into(),
        done: 3,
        skipped: vec!["x.png: cannot read".into()],
    };
    fitted(1..3).checkpoint(&path, &progress).unwrap();
    let error = Density::load(&path).unwrap_err().to_string();
    assert!(error.contains("--resume") && error.contains("3 pairs"), "{error}");
    let (mut density, found) = Density::resume(&path).unwrap();
    assert_eq!(found, progress);
    assert!(add(&mut density, 3));
    assert_eq!(density, fitted(1..4), "to the same bits");
    density.save(&path).unwrap();
    assert!(Density::resume(&path).is_err());
}

#[test]
fn an_image_counts_once() {
    let mut density = fitted(1..3);
    assert!(!add(&mut density, 2));
    assert_eq!(density, fitted(1..3));
}

#[test]
fn shards_merge_and_foreign_or_overlapping_ones_do_not() {
    let intact = fitted(1..8);
    let mut a = fitted(1..3);
    a.merge("b", &fitted(3..8)).unwrap();
    assert_eq!((&a.sample, &a.origin), (&intact.sample, &intact.origin));
    assert_eq!(a.moments.count(), intact.moments.count());

    let refused = |other: Density, word: &str| {
        let mut a = fitted(1..3);
        let error = a.merge("other.safetensors", &other).unwrap_err().to_string();
        assert!(error.starts_with("other.safetensors: ") && error.contains(word), "{error}");
        assert!(!error.contains('\n'));
        assert_eq!(a, fitted(1..3), "a refused shard leaves no trace");
    };
    refused(fitted(2..4), "overlap");
    let mut other = empty("model b");
    add(&mut other, 9);
    refused(other, "model b");
    let names = ["sky", "street", "tree"].map(String::from).to_vec();
    let rule = LabelRule::AlignCorners;
    refused(Density::new("model a".into(), names.clone(), CHANNELS, rule, None), "street");
    let names = fitted([]).origin.classes;
    let make = |channels, rule, resize| {
        Density::new("model a".into(), names.clone(), channels, rule, resize)
    };
    refused(make(7, rule, None), "channels");
    refused(make(CHANNELS, LabelRule::HalfPixel, None), "label rule");
    refused(make(CHANNELS, rule, Some(360)), "360");
}

/// Sizes are noted by a fit; in a file they are a range.
#[test]
fn the_range_of_sizes_is_kept_merged_and_checked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d");
    let sized = |images: std::ops::Range<u64>, range| {
        let mut density = fitted(images);
        density.origin.short_side = range;
        density
    };
    let mut a = sized(1..3, Some([300, 400]));
    a.save(&path).unwrap();
    assert_eq!(Density::load(&path).unwrap(), a);
    a.merge("b", &sized(3..4, Some([350, 500]))).unwrap();
    a.merge("c", &sized(4..5, None)).unwrap();
    assert_eq!(a.origin.short_side, Some([300, 500]));
    for wrong in [[0, 9], [9, 8]] {
        let error = sized(1..3, Some(wrong)).save(&path).unwrap_err().to_string();
        assert!(error.contains("short_side_px"), "{error}");
    }
}

#[test]
fn a_density_of_another_model_is_refused() {
    let density = fitted(1..2);
    density.check_model("d.safetensors", "model a").unwrap();
    let error = density.check_model("d.safetensors", "model c").unwrap_err().to_string();
    assert!(error.contains("model a") && error.contains("model c"), "{error}");
}

/// A file with this metadata and, of the tensors of a density, those that `edit` leaves; its hash is
/// right, as that of a faulty writer would be.
fn write(path: &Path, metadata: &[(&str, &str)], edit: impl Fn(&mut Tensors)) {
    write_of(&fitted(1..4), path, metadata, &edit);
}

fn write_of(
    density: &Density,
    path: &Path,
    metadata: &[(&str, &str)],
    edit: &dyn Fn(&mut Tensors),
) {
    let good = path.with_extension("good");
    density.save(&good).unwrap();
    let bytes = std::fs::read(&good).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors: Tensors = file
        .iter()
        .map(|(name, v)| (name.to_owned(), (v.dtype(), v.shape().to_vec(), v.data().to_vec())))
        .collect();
    edit(&mut tensors);
    let views: Vec<_> = tensors
        .iter()
        .map(|(name, (dtype, shape, data))| {
            (name.as_str(), TensorView::new(*dtype, shape.clone(), data).unwrap())
        })
        .collect();
    let metadata: HashMap<String, String> =
        metadata.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    std::fs::write(path, content_hash::serialize("file", &views, metadata).unwrap()).unwrap();
}

type Tensors = HashMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

#[test]
fn what_is_no_density_is_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.safetensors");
    let origin = {
        fitted(1..4).save(&path).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
        header.metadata().clone().unwrap()["ddu.density"].clone()
    };
    let key = "ddu.density";
    let good = [(key, origin.as_str())];
    let refused = |what: &str, words: &[&str]| {
        let error = Density::load(&path).expect_err(what).to_string();
        assert!(error.contains("d.safetensors") && !error.contains('\n'), "{what}: {error}");
        assert!(words.iter().all(|w| error.contains(w)), "{what}: {error}");
        println!("{what}: {error}");
    };
    write(&path, &good, |_| ());
    let intact = std::fs::read(&path).unwrap();
    assert!(Density::load(&path).is_ok(), "the untouched file is good");

    for length in [0, 4, 8, 100, intact.len() / 2, intact.len() - 1] {
        std::fs::write(&path, &intact[..length]).unwrap();
        refused(&format!("cut to {length} bytes"), &["expected a density"]);
    }
    std::fs::write(&path, [&intact[..], b"x"].concat()).unwrap();
    refused("a byte too many", &["expected a density"]);
    std::fs::write(&path, b"\x89PNG\r\n\x1a\n and so on, long enough to hold a header").unwrap();
    refused("a picture", &["expected a density"]);
    write(&path, &[], |_| ());
    refused("no metadata", &["ddu.density"]);
    write(&path, &[("ddu.format", "ddu-model-1")], |_| ());
    refused("a model", &["a model"]);
    write(&path, &[(key, "{")], |_| ());
    refused("broken JSON", &["metadata"]);
    write(&path, &[(key, &origin.replace("ddu-density-3", "ddu-density-9"))], |_| ());
    refused("a later format", &["ddu-density-3", "ddu-density-9"]);
    write(&path, &[(key, &origin.replace("ddu-density-3", "ddu-density-1"))], |_| ());
    refused("the first format", &["ddu-density-3", "ddu-density-1", "fit again"]);
    write(&path, &[(key, &origin.replace("\"image_count\":3", "\"image_count\":4"))], |_| ());
    refused("a wrong number of images", &["images", "4"]);
    write(&path, &[(key, &origin.replace("\"fitted\":72", "\"fitted\":73"))], |_| ());
    refused("other pixels than the classes'", &["72", "73 fitted"]);
    let twice = |t: &mut Tensors| t.get_mut("images").unwrap().2[8] = 1;
    write(&path, &good, twice);
    refused("an image twice", &["each image once"]);
    let listed = |images: &str| {
        let second = origin.replace("ddu-density-3", "ddu-density-2");
        second.replacen('{', &format!("{{\"images\":[{images}],"), 1)
    };
    let three = r#""0000000000000001","0000000000000002","0000000000000003""#;
    write(&path, &[(key, &listed(three))], |t| drop(t.remove("images")));
    assert_eq!(
        Density::load(&path).unwrap(),
        fitted(1..4),
        "images in the JSON, as format 2 had them"
    );
    write(&path, &[(key, &listed(&three.replace("3", "2")))], |_| ());
    refused("an image twice in the JSON", &["each image once"]);
    write(&path, &[(key, &listed(&three.replacen('0', "z", 1)))], |_| ());
    refused("a hash that is none", &["images", "hex"]);
    write(&path, &[(key, &listed(""))], |_| ());
    refused("format 2 with its images elsewhere", &["images", "3, as image_count says, found 0"]);
    let huge = origin.replace("\"void\":24", &format!("\"void\":{}", u64::MAX));
    write(&path, &[(key, &huge)], |_| ());
    refused("more pixels than there are", &["2^53"]);
    write(&path, &[(key, &origin.replace("align-corners", "nearest"))], |_| ());
    refused("an unknown label rule", &["nearest"]);
    write(&path, &[(key, &origin.replace(r#""tree"]"#, r#""tree","x"]"#))], |_| ());
    refused("a class too many", &["[4]", "[3]"]);

    for name in ["count", "mean", "scatter", "sample", "sample_hash", "images"] {
        write(&path, &good, |t| drop(t.remove(name)));
        refused(&format!("no {name}"), &[name, "no such tensor"]);
        let other = if name == "sample" { Dtype::BF16 } else { Dtype::C64 };
        write(&path, &good, |t| t.get_mut(name).unwrap().0 = other);
        refused(&format!("{name} of another type"), &[name, &format!("{other:?}")]);
    }
    write(&path, &good, |t| t.get_mut("mean").unwrap().1 = vec![3 * CHANNELS]);
    refused("a flat mean", &["mean"]);
    let patch = |name: &'static str, at: usize, value: [u8; 8]| {
        write(&path, &good, |t| {
            t.get_mut(name).unwrap().2[8 * at..8 * at + 8].copy_from_slice(&value)
        });
    };
    patch("count", 1, (-1i64).to_le_bytes());
    refused("a negative count", &["-1"]);
    patch("count", 1, (1i64 << 62).to_le_bytes());
    refused("a count of 2^62", &["2^53", "4611686018427387952"]);
    patch("count", 1, 0i64.to_le_bytes());
    refused("moments of a class without pixels", &["no pixels"]);
    patch("count", 1, 25i64.to_le_bytes());
    refused("a count of other pixels", &["73", "72 fitted"]);
    patch("scatter", 7, (-1e-3f64).to_le_bytes());
    refused("a negative variance", &["diagonal", "class 0"]);
    patch("scatter", 36 + 1, 3.25f64.to_le_bytes());
    refused("a scatter that is not symmetric", &["[j, i]", "3.25", "class 1"]);
    patch("sample_hash", 1, u64::MAX.to_le_bytes());
    refused("hashes out of order", &["increasing hashes"]);
    patch("sample_hash", 1, 0u64.to_le_bytes());
    refused("hashes out of order", &["increasing hashes"]);
    patch("scatter", 7, f64::NAN.to_le_bytes());
    refused("NaN in the scatter", &["NaN"]);
    patch("mean", 0, f64::INFINITY.to_le_bytes());
    refused("an infinite mean", &["inf"]);
    patch("sample", 0, [0, 0x7c, 0, 0, 0, 0, 0, 0]);
    refused("an infinite sample", &["sample"]);
    assert!(Density::load(folder.path().join("missing")).is_err());
    assert!(Density::load(folder.path()).is_err());
}

/// Written before the images became a tensor.
#[test]
fn a_file_of_format_2_is_read() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/density_2.safetensors");
    let density = Density::load(&path).unwrap();
    assert_eq!((density.origin.images.as_slice(), density.origin.resize), (&[5][..], Some(9)));
    let again = density.to_bytes("again").unwrap();
    assert_eq!(Density::from_bytes("again", &again).unwrap(), density);
}

/// Ten million images: 80 MB of hashes, and a header of the size that every density has.
#[test]
fn a_file_takes_more_images_than_a_header_would() {
    let mut density = fitted(1..4);
    let of_three = density.to_bytes("three").unwrap();
    density.origin.images = (1..=10_000_000).collect();
    let bytes = density.to_bytes("many").unwrap();
    let header = |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().unwrap());
    assert!(header(&bytes) < 2 * header(&of_three), "more than the digits of offsets");
    assert_eq!(Density::from_bytes("many", &bytes).unwrap(), density);
}

/// Flipped means, negative variances and what else a flipped bit can make: none of it loads.
#[test]
fn a_flipped_bit_anywhere_is_found() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.safetensors");
    fitted(1..4).save(&path).unwrap();
    let intact = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(intact[..8].try_into().unwrap()) as usize;
    let text = intact[..header].trim_ascii_end().len();
    for at in (0..text).chain((header..intact.len()).step_by(11)) {
        let mut bytes = intact.clone();
        bytes[at] ^= 1 << (at % 8);
        std::fs::write(&path, &bytes).unwrap();
        let error = Density::load(&path).expect_err(&format!("byte {at}")).to_string();
        assert!(error.contains("d.safetensors: ") && !error.contains('\n'), "{error}");
        if at >= header {
            assert!(error.contains("SHA-256") && error.contains("damaged"), "{error}");
        }
    }
}

#[test]
fn what_merges_to_infinity_is_refused_and_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("d.safetensors");
    fitted(1..4).save(&path).unwrap();
    let bytes = std::fs::read(&path).unwrap();
    let (_, header) = SafeTensors::read_metadata(&bytes).unwrap();
    let origin = header.metadata().clone().unwrap()["ddu.density"].clone();
    let large = |first: u64| {
        write(&path, &[("ddu.density", &origin)], |tensors| {
            tensors.get_mut("scatter").unwrap().2[..8].copy_from_slice(&1.2e308f64.to_le_bytes());
            let images = (first..first + 3).flat_map(u64::to_le_bytes).collect();
            tensors.get_mut("images").unwrap().2 = images;
        });
        Density::load(&path).unwrap()
    };
    let (mut a, b) = (large(1), large(11));
    let before = a.clone();
    let error = a.merge("b.safetensors", &b).unwrap_err().to_string();
    assert!(error.contains("b.safetensors, merged") && error.contains("inf"), "{error}");
    assert_eq!(a, before);
    // Nor is what cannot be loaded written, wherever it comes from.
    a.moments.merge(&b.moments);
    assert!(a.save(folder.path().join("e.safetensors")).is_err());
    assert!(!folder.path().join("e.safetensors").exists());
}
