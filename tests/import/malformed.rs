//! What is refused, through the program: exit code 1, one line on stderr that names the file and
//! the fault, no panic, nothing written, and (on Linux) never more than 1 GiB of address space.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use zip::CompressionMethod;

use crate::checkpoint::{Dtype, TorchFile, safetensors, zip, zip_of_pickle};
use crate::generate::{Weight, Weights, golden, keys, small, weights};

pub struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    /// What the line must contain.
    says: &'static str,
}

/// Runs `ddu` with a bounded address space where the shell can bound it.
pub fn ddu(folder: &Path, args: &[&str]) -> Output {
    let program = env!("CARGO_BIN_EXE_ddu");
    let mut command = if cfg!(target_os = "linux") {
        let mut shell = Command::new("sh");
        shell.args(["-c", "ulimit -v 1048576; exec \"$0\" \"$@\"", program]);
        shell
    } else {
        Command::new(program)
    };
    command.current_dir(folder).args(args).output().unwrap()
}

/// What is wrong with how a case is refused.
fn faults(case: &Case) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("checkpoint.pth"), &case.bytes).unwrap();
    let output = ddu(folder.path(), &["convert", "checkpoint.pth", "-o", "model.safetensors"]);
    let error = String::from_utf8(output.stderr).unwrap();
    println!("{}: {}", case.name, error.trim_end());
    let left: Vec<_> =
        std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name()).collect();
    let held = [
        (output.status.code() == Some(1), "should exit with 1"),
        (error.trim_end().lines().count() == 1, "should say one line"),
        (error.len() < 400, "should be short"),
        (error.starts_with("error: checkpoint.pth: "), "should name the file"),
        (error.contains("expected "), "should say what was expected"),
        (error.contains(case.says), case.says),
        (output.stdout.is_empty(), "should print nothing on stdout"),
        (left == ["checkpoint.pth"], "should write nothing"),
    ];
    let fault = |what: &str| format!("{}: {what}: {}", case.name, error.trim_end());
    held.iter().filter(|(held, _)| !held).map(|(_, what)| fault(what)).collect()
}

pub fn assert_all_refused(cases: Vec<Case>) {
    let faults: Vec<_> = cases.iter().flat_map(faults).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

pub fn case(name: &'static str, bytes: impl Into<Vec<u8>>, says: &'static str) -> Case {
    Case { name, bytes: bytes.into(), says }
}

#[test]
fn files_that_are_no_checkpoint() {
    let zipped = TorchFile::new(&small(), Dtype::F32).zip();
    let other = zip(&[("weights.npy".into(), vec![1, 2, 3])], CompressionMethod::Stored);
    assert_all_refused(vec![
        case("empty", "", "an empty file"),
        case("text", "lr: 0.1\n", "text: lr: 0.1"),
        case("html", "<!DOCTYPE html><html>404", "an HTML page"),
        case("lfs", "version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        case("png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "begins with 89 50 4e 47"),
        case("one byte", [0x80], "another pickle"),
        case("plain pickle", b"\x80\x04}\x94.", "another pickle"),
        case("another zip", other, "data.pkl"),
        case("start of a zip", &zipped[..40], "cut short"),
        case("zip without its end", &zipped[..zipped.len() / 2], "cut short"),
        case("control characters", "\n\rbad\nlines\t", "text"),
    ]);
}

#[test]
fn damaged_archives() {
    let file = TorchFile::new(&small(), Dtype::F32);
    let members = file.members();
    let without = |name: &str| {
        let kept: Vec<_> = members.iter().filter(|(n, _)| n != name).cloned().collect();
        zip(&kept, CompressionMethod::Stored)
    };
    let mut script = members.clone();
    script.push(("constants.pkl".into(), Vec::new()));
    let mut order = members.clone();
    order.push(("byteorder".into(), b"middle".to_vec()));
    let mut short = file.clone();
    short.storage("encoder.conv1.weight").truncate(8);
    let mut cut = members.clone();
    cut[0].1.truncate(500);
    let mut flipped = file.zip();
    let storage = file.storages[40].clone();
    let at = flipped.windows(storage.len()).position(|part| part == storage).unwrap();
    flipped[at] ^= 1;
    let bomb = vec![0; (1 << 24) + 1];
    assert_all_refused(vec![
        case("no pickle", without("data.pkl"), "data.pkl"),
        case("no storage", without("data/7"), "no member any-name/data/7"),
        case("TorchScript", zip(&script, CompressionMethod::Stored), "TorchScript"),
        case("byteorder", zip(&order, CompressionMethod::Stored), "byteorder"),
        case("short storage", short.zip(), "8 bytes in storage"),
        case("cut pickle", zip(&cut, CompressionMethod::Stored), "cut short"),
        case("flipped bit", flipped, "hecksum"),
        case("pickle bomb", zip_of_pickle(bomb), "above"),
    ]);
}

#[test]
fn damaged_legacy_files() {
    let intact = TorchFile::new(&small(), Dtype::F32).legacy();
    let mut unknown = intact.clone();
    let at = intact.windows(12).position(|part| part == b"FloatStorage").unwrap();
    unknown[at..at + 12].copy_from_slice(b"FloatStorags");
    let mut negative = intact.clone();
    let data =
        intact.len() - (TorchFile::new(&small(), Dtype::F32).storages.last().unwrap().len() + 8);
    negative[data..data + 8].copy_from_slice(&(-1i64).to_le_bytes());
    assert_all_refused(vec![
        case("only the magic number", &intact[..15], "cut short"),
        case("cut in the pickle", &intact[..3000], "cut short"),
        case("cut in the storages", &intact[..intact.len() - 1], "an end within storage"),
        case("cut in a length", &intact[..data + 3], "an end within storage"),
        case("negative length", negative, "an end within storage"),
        case("unknown storage", unknown, "an unknown element size"),
    ]);
}

#[test]
fn damaged_safetensors() {
    let intact = safetensors(&small(), Dtype::F32);
    let mut long = intact.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut wrong = small();
    wrong.get_mut("segmentation_head.0.bias").unwrap().data[2] = f32::NAN;
    assert_all_refused(vec![
        case("cut header", &intact[..1000], "cut short"),
        case("cut data", &intact[..intact.len() - 1], "cut short"),
        case("endless header", long, "cut short"),
        case("integers", safetensors(&small(), Dtype::I64), "I64"),
        case("NaN", safetensors(&wrong, Dtype::F32), "NaN at element 2"),
    ]);
}

/// The small network with one thing changed.
fn changed(change: impl FnOnce(&mut Weights)) -> Vec<u8> {
    let mut weights = small();
    change(&mut weights);
    TorchFile::new(&weights, Dtype::F32).zip()
}

fn zeros(shape: &[usize]) -> Weight {
    Weight { shape: shape.to_vec(), data: vec![0.0; shape.iter().product()] }
}

#[test]
fn wrong_tensors() {
    let set = |key: &'static str, i: usize, value: f32| {
        changed(|w| w.get_mut(key).unwrap().data[i] = value)
    };
    let put = |key: &str, shape: &[usize]| changed(|w| drop(w.insert(key.into(), zeros(shape))));
    let drop_key = |key: &str| changed(|w| drop(w.remove(key).unwrap()));
    let fill = |w: &mut Weights| w.get_mut("segmentation_head.0.weight").unwrap().data.fill(1e38);
    let mut integers = TorchFile::new(&small(), Dtype::F32);
    let item = integers.item("encoder.bn1.bias");
    item.dtype = Dtype::I64;
    integers.storage("encoder.bn1.bias").resize(32, 0);
    let mut beyond = TorchFile::new(&small(), Dtype::F64);
    beyond.storage("encoder.bn1.bias")[..8].copy_from_slice(&1e300f64.to_le_bytes());
    let bn = "encoder.layer3.1.bn2.running_var";
    assert_all_refused(vec![
        case("missing norm", drop_key(bn), "layer3.1.bn2.running_var: expected shape [16]"),
        case("missing block", drop_key("encoder.layer2.1.conv1.weight"), "no such key"),
        case("missing stem", drop_key("encoder.conv1.weight"), "encoder.conv1.weight"),
        case("missing classifier", drop_key("segmentation_head.0.weight"), "segmentation_head"),
        case("missing bias", drop_key("segmentation_head.0.bias"), "segmentation_head.0.bias"),
        case("surplus", put("encoder.extra.weight", &[3]), "surplus encoder.extra.weight"),
        case("surplus head", put("decoder.block3.0.weight", &[3]), "surplus decoder.block3"),
        case("misshaped norm", put(bn, &[17]), "expected shape [16], found [17]"),
        case("misshaped 3x3", put("encoder.layer1.0.conv2.weight", &[4, 4, 5, 5]), "[4, 4, 5, 5]"),
        case("vector for a convolution", put("encoder.conv1.weight", &[4]), "4 axes"),
        case("transposed", put("encoder.layer2.0.conv1.weight", &[4, 8, 3, 3]), "expected shape"),
        case("grouped", put("encoder.layer4.1.conv2.weight", &[32, 2, 3, 3]), "[32, 2, 3, 3]"),
        case("no channels", put("encoder.layer1.0.conv2.weight", &[0, 4, 3, 3]), "found 0"),
        case("gray input", put("encoder.conv1.weight", &[4, 1, 7, 7]), "3 input channels"),
        case("one class", put("segmentation_head.0.weight", &[1, 16, 1, 1]), "2 to 255"),
        case("300 classes", put("segmentation_head.0.weight", &[300, 16, 1, 1]), "2 to 255"),
        case("NaN", set("encoder.conv1.weight", 5, f32::NAN), "NaN at element 5"),
        case("infinity", set("encoder.bn1.bias", 1, f32::INFINITY), "inf at element 1"),
        case("beyond f32", beyond.zip(), "inf at element 0"),
        case("negative variance", set(bn, 3, -0.5), "variances of at least 0"),
        case(
            "huge scale",
            set("encoder.bn1.weight", 1, 3e38),
            "backbone.stem: expected weights that do not overflow fp32",
        ),
        case("huge shift", set("encoder.bn1.running_mean", 1, -3e38), "do not overflow fp32"),
        case("huge weight", changed(fill), "classifier: expected weights that"),
        case("integers", integers.zip(), "LongStorage"),
        case("control characters", put("a\nb\x1b[31m", &[1]), "surplus a\\nb\\u{1b}[31m"),
        case("a long key", put(&"k".repeat(1000), &[1]), "kkk..."),
    ]);
}

#[test]
fn other_networks() {
    let network = |pairs: &[(&str, &[usize])]| {
        let made: BTreeMap<_, _> =
            pairs.iter().map(|(key, shape)| ((*key).to_owned(), shape.to_vec())).collect();
        TorchFile::new(&weights(&made), Dtype::F32).zip()
    };
    let classifier: &[(&str, &[usize])] = &[
        ("conv1.weight", &[8, 3, 7, 7]),
        ("layer1.0.conv1.weight", &[8, 8, 3, 3]),
        ("fc.weight", &[10, 8]),
        ("fc.bias", &[10]),
    ];
    let family = |name: &str| keys(&golden(&format!("families/{name}.safetensors")));
    let made =
        |keys: BTreeMap<String, Vec<usize>>| TorchFile::new(&weights(&keys), Dtype::F32).zip();
    // torchvision's mobilenet has other keys, a ResNet-152 more blocks, and two networks in one
    // file the keys of both.
    let mut mobilenet = family("torchvision-resnet50");
    mobilenet.retain(|key, _| !key.starts_with("backbone."));
    mobilenet.insert("backbone.0.0.weight".into(), vec![16, 3, 3, 3]);
    let mut deep = family("torchvision-resnet50");
    for i in 4..8 {
        for (key, shape) in family("torchvision-resnet50") {
            if let Some(rest) = key.strip_prefix("backbone.layer2.3.") {
                deep.insert(format!("backbone.layer2.{i}.{rest}"), shape);
            }
        }
    }
    let mut both = family("vainf-resnet50");
    both.extend(family("torchvision-resnet50"));
    let mut basic = family("smp-resnet18");
    basic.extend(family("vainf-resnet50"));
    basic.retain(|key, _| !key.starts_with("backbone.") && !key.contains("decoder."));
    let basic = basic.into_iter().filter(|(key, _)| !key.starts_with("segmentation_head."));
    let basic = basic.map(|(key, shape)| (key.replace("encoder.", "backbone."), shape)).collect();
    let mut soft = family("smp-resnet18");
    soft.insert("encoder.conv1.weight_sigma".into(), vec![1]);
    assert_all_refused(vec![
        case("classification", network(classifier), "a classification network"),
        case("bare ResNet", network(&classifier[..2]), "a bare ResNet"),
        case(
            "smp's Unet",
            network(&[("encoder.conv1.weight", &[4, 3, 7, 7]), ("segmentation_head.0.bias", &[2])]),
            "another decoder of segmentation-models-pytorch",
        ),
        case(
            "smp's DeepLabV3",
            network(&[("decoder.aspp.convs.0.0.weight", &[4, 3, 1, 1])]),
            "DeepLabV3 without the plus",
        ),
        case(
            "VainF's DeepLabV3",
            network(&[("classifier.classifier.0.convs.0.0.weight", &[4, 3, 1, 1])]),
            "DeepLab-v3 without the plus",
        ),
        case("a transformer", network(&[("blocks.0.attn.qkv.weight", &[4, 4])]), "blocks.0.attn"),
        case("mobilenet", made(mobilenet), "ResNet"),
        case("ResNet of 8 blocks", made(deep), "[3, 8, 6, 3]"),
        case("ResNet-18 in VainF's names", made(basic), "resnet50, resnet101, found resnet18"),
        case("two families", made(both), "--family"),
        case("soft spectral norm", made(soft), "save the normalised weights"),
    ]);
}

#[test]
fn wrong_spectral_norms() {
    let normalised = |u: &[f32], v: usize| {
        changed(|w| {
            let weight = w.remove("encoder.conv1.weight").unwrap();
            w.insert("encoder.conv1.weight_orig".into(), weight);
            w.insert(
                "encoder.conv1.weight_u".into(),
                Weight { shape: vec![u.len()], data: u.into() },
            );
            if v > 0 {
                w.insert(
                    "encoder.conv1.weight_v".into(),
                    Weight { shape: vec![v], data: vec![0.1; v] },
                );
            }
        })
    };
    assert_all_refused(vec![
        case("no v", normalised(&[1.0; 4], 0), "conv1.weight_v: expected shape [147]"),
        case("misshaped v", normalised(&[1.0; 4], 146), "expected shape [147], found [146]"),
        case("misshaped u", normalised(&[1.0; 5], 147), "expected shape [4], found [5]"),
        case("zero", normalised(&[0.0; 4], 147), "sigma = 0"),
        case("NaN", normalised(&[f32::NAN; 4], 147), "NaN at element 0"),
    ]);
}

#[test]
fn wrong_options_write_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("good.pth", &TorchFile::new(&small(), Dtype::F32).zip());
    write("four.txt", b"a\nb\nc\nd\n");
    write("twice.txt", b"a\nb\nc\nb\ne\n");
    write("gap.txt", b"a\n\nc\nd\ne\n");
    write("exists", b"precious");
    std::fs::create_dir(folder.path().join("empty")).unwrap();
    std::fs::create_dir(folder.path().join("hub")).unwrap();
    write("hub/model.safetensors", &safetensors(&small(), Dtype::F32));
    write("hub/config.json", br#"{"_model_class": "Unet"}"#);
    let cases: [(&str, i32, &str); 16] = [
        ("good.pth --classes four.txt -o m", 1, "expected 5 names"),
        ("good.pth --classes twice.txt -o m", 1, "b a second time on line 4"),
        ("good.pth --classes gap.txt -o m", 1, "nothing on line 2"),
        (
            "good.pth --classes none.txt -o m",
            1,
            "none.txt: cannot read: No such file or directory (os error 2)\n",
        ),
        ("good.pth --family vainf -o m", 1, "expected keys of --family vainf, found keys of smp"),
        ("good.pth --backbone resnet34 -o m", 1, "found the keys of a resnet18"),
        ("good.pth --atrous-rates 6,12 -o m", 1, "three rates from 1 to 4096"),
        ("good.pth --atrous-rates 0,6,12 -o m", 1, "three rates from 1 to 4096"),
        ("good.pth --output-stride 32 -o m", 2, "possible values: 8, 16"),
        ("good.pth -o exists", 2, "or --force to overwrite"),
        ("good.pth -o good.pth --force", 2, "is an input of this command"),
        ("good.pth -o empty", 2, "is a folder"),
        ("good.pth -o none/m", 1, "none/m: cannot write: entity not found\n"),
        ("none.pth -o m", 1, "none.pth: cannot read"),
        ("empty -o m", 1, "a folder without them"),
        ("hub -o m", 1, "expected _model_class DeepLabV3Plus, found Unet"),
    ];
    let listing = || {
        let mut names: Vec<_> =
            std::fs::read_dir(&folder).unwrap().map(|f| f.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = listing();
    for (args, code, says) in cases {
        let args: Vec<_> = ["convert"].into_iter().chain(args.split(' ')).collect();
        let output = ddu(folder.path(), &args);
        let error = String::from_utf8(output.stderr).unwrap();
        println!("{args:?}: {}", error.trim_end());
        assert_eq!(output.status.code(), Some(code), "{args:?}: {error}");
        assert!(error.contains(says), "{args:?}: {error} should say {says}");
        assert_eq!(listing(), before, "{args:?}");
    }
    assert_eq!(std::fs::read(folder.path().join("exists")).unwrap(), b"precious");

    let good = ddu(folder.path(), &["convert", "good.pth", "-o", "exists", "--force"]);
    assert_eq!(good.status.code(), Some(0));
    let model = ddu::model::Model::load(folder.path().join("exists")).unwrap();
    let summary = String::from_utf8(good.stdout).unwrap();
    assert!(summary.contains(&model.hash()), "{summary}");
    for said in ["smp DeepLab-v3+, resnet18", "output stride 16 (default", "12,24,36 (default"] {
        assert!(summary.contains(said), "{summary}");
    }
    let again = ddu(folder.path(), &["convert", "exists", "-o", "m"]);
    let error = String::from_utf8(again.stderr).unwrap();
    assert!(error.contains("a model that is converted already"), "{error}");
}
