//! What is refused, through the program: exit code 1, one line on stderr that names the file and
//! the fault, no panic, nothing written, and (on Linux) never more than 1 GiB of address space.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};

use zip::CompressionMethod;

use crate::checkpoint::{Dtype, TorchFile, safetensors, text, zip, zip_of_pickle};
use crate::generate::{Weight, Weights, golden, keys, small, value, weights};

struct Case {
    name: &'static str,
    bytes: Vec<u8>,
    /// What the line must contain.
    says: &'static str,
}

/// Runs `ddu` with a bounded address space where the shell can bound it.
fn ddu(folder: &Path, args: &[&str]) -> Output {
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

fn assert_all_refused(cases: Vec<Case>) {
    let faults: Vec<_> = cases.iter().flat_map(faults).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

fn case(name: &'static str, bytes: impl Into<Vec<u8>>, says: &'static str) -> Case {
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
    let bomb = vec![0; (1 << 26) + 1];
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
    let whole = TorchFile::new(&small(), Dtype::F32).legacy();
    let mut unknown = whole.clone();
    let at = whole.windows(12).position(|part| part == b"FloatStorage").unwrap();
    unknown[at..at + 12].copy_from_slice(b"FloatStorags");
    let mut negative = whole.clone();
    let data =
        whole.len() - (TorchFile::new(&small(), Dtype::F32).storages.last().unwrap().len() + 8);
    negative[data..data + 8].copy_from_slice(&(-1i64).to_le_bytes());
    assert_all_refused(vec![
        case("only the magic number", &whole[..15], "cut short"),
        case("cut in the pickle", &whole[..3000], "cut short"),
        case("cut in the storages", &whole[..whole.len() - 1], "an end within storage"),
        case("cut in a length", &whole[..data + 3], "an end within storage"),
        case("negative length", negative, "an end within storage"),
        case("unknown storage", unknown, "an unknown element size"),
    ]);
}

#[test]
fn damaged_safetensors() {
    let whole = safetensors(&small(), Dtype::F32);
    let mut long = whole.clone();
    long[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let mut wrong = small();
    wrong.get_mut("segmentation_head.0.bias").unwrap().data[2] = f32::NAN;
    assert_all_refused(vec![
        case("cut header", &whole[..1000], "cut short"),
        case("cut data", &whole[..whole.len() - 1], "cut short"),
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

/// Pickles made to be dangerous: nothing runs, nothing grows without bound.
#[test]
fn hostile_pickles() {
    // os.system("touch owned"), as the object, under "model", and as a weight.
    let mut attack = b"cposix\nsystem\n".to_vec();
    text(&mut attack, "touch owned");
    attack.extend(b"\x85R");
    let whole = [b"\x80\x02", &*attack, b"."].concat();
    let mut nested = b"\x80\x02}".to_vec();
    text(&mut nested, "model");
    nested.extend(&attack);
    nested.extend(b"s.");
    let mut weight = TorchFile::new(&small(), Dtype::F32);
    weight.items.retain(|item| item.key != "encoder.bn1.bias");
    text(&mut weight.extra, "encoder.bn1.bias");
    weight.extra.extend(&attack);
    // A whole model: torch.save(model).
    let model = b"\x80\x02csegmentation_models_pytorch.decoders\nDeepLabV3Plus\n)\x81}b.";
    // d = {"model": d}
    let mut cycle = b"\x80\x02}q\0".to_vec();
    text(&mut cycle, "model");
    cycle.extend(b"h\0s.");
    let repeat = |ops: &[u8], times: usize| [b"\x80\x02", &*ops.repeat(times), b"."].concat();
    // A list of pairs, copied into an OrderedDict over and over.
    let mut copies = b"\x80\x02](".to_vec();
    copies.extend(b"K\x01K\x02\x86".repeat(100_000));
    copies.extend(b"e\x85q\0ccollections\nOrderedDict\nq\x01");
    copies.extend(b"h\x01h\0R".repeat(100_000));
    copies.push(b'.');
    let mut indices = Vec::from(b"\x80\x02N".as_slice());
    for i in 0..700_000u32 {
        indices.push(b'r');
        indices.extend((i << 8).to_le_bytes());
    }
    indices.push(b'.');
    assert_all_refused(vec![
        case("os.system", zip_of_pickle(whole), "an object of posix.system (opaque"),
        case("os.system as model", zip_of_pickle(nested), "posix.system"),
        case(
            "os.system as weight",
            weight.zip(),
            "bn1.bias: expected shape [4], found an object of posix",
        ),
        case("a whole model", zip_of_pickle(model.to_vec()), "torch.save(model.state_dict()"),
        case("a cycle", zip_of_pickle(cycle), "no weights under model.model"),
        case("deep lists", zip_of_pickle(repeat(b"]", 1_000_000)), "a list"),
        case("deep tuples", zip_of_pickle(repeat(b"N\x85", 1_000_000)), "a tuple"),
        case("endless", zip_of_pickle(repeat(b"]", 3_000_000)), "steps"),
        case("endless copies", zip_of_pickle(copies), "steps"),
        case("huge memo", zip_of_pickle(indices), "expected a state dict, found None"),
        case("long string", zip_of_pickle(b"\x80\x02X\xff\xff\xff\xff.".to_vec()), "cut short"),
        case(
            "long bytes",
            zip_of_pickle(b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\xff.".to_vec()),
            "cut short",
        ),
        case("empty stack", zip_of_pickle(b"\x80\x02R.".to_vec()), "empty stack"),
        case("no mark", zip_of_pickle(b"\x80\x02t.".to_vec()), "closes no mark"),
        case("under the mark", zip_of_pickle(b"\x80\x02N(0.".to_vec()), "empty stack"),
        case(
            "bad reference",
            zip_of_pickle(b"\x80\x02h\x07.".to_vec()),
            "a reference to no object",
        ),
        case("odd items", zip_of_pickle(b"\x80\x02}(Nu.".to_vec()), "a key without a value"),
        case("fills None", zip_of_pickle(b"\x80\x02NNa.".to_vec()), "fills what is no container"),
        case(
            "unknown opcode",
            zip_of_pickle(b"\x80\x02\xff.".to_vec()),
            "the opcode 0xff at byte 2",
        ),
        case("extension", zip_of_pickle(b"\x80\x02\x82\x01.".to_vec()), "the opcode 0x82"),
        case("protocol 9", zip_of_pickle(b"\x80\x09N.".to_vec()), "pickle protocol 9"),
        case("no dict", zip_of_pickle(b"\x80\x02K\x07.".to_vec()), "found an integer"),
        case("empty dict", zip_of_pickle(b"\x80\x02}.".to_vec()), "an empty dict"),
    ]);
}

/// Sizes that lie: they overflow, reach out of their storage, or claim more than the file holds.
#[test]
fn hostile_sizes() {
    let change = |change: &dyn Fn(&mut crate::checkpoint::Item)| {
        let mut file = TorchFile::new(&small(), Dtype::F32);
        change(file.item("encoder.conv1.weight"));
        file
    };
    let huge = i64::MAX as u64;
    let offset = change(&|item| item.offset = 1);
    let far = change(&|item| item.offset = huge);
    let strides = change(&|item| item.strides[0] = 148);
    let overflow = change(&|item| item.strides = vec![huge; 4]);
    let channels = change(&|item| (item.shape[0], item.strides[0]) = (huge, 0));
    let wide = change(&|item| (item.shape[0], item.strides[0]) = (65536, 0));
    let ranks = change(&|item| (item.shape, item.strides) = (vec![1; 60], vec![1; 60]));
    let unequal = change(&|item| item.strides.truncate(3));
    // Every convolution of the backbone expanded from one number: 2^28 weights are too many.
    let mut expanded = TorchFile::new(&small(), Dtype::F32);
    for item in &mut expanded.items {
        for (axis, n) in item.shape.clone().into_iter().enumerate() {
            if n >= 4 && n != 7 && item.key.starts_with("encoder") {
                item.shape[axis] = n * 256;
                item.strides = vec![0; item.shape.len()];
            }
        }
        if item.key.starts_with("decoder.aspp.0.convs") && item.shape.len() == 4 {
            let axis = if item.shape[1] == 32 { 1 } else { 0 };
            if item.shape[axis] == 32 {
                item.shape[axis] *= 256;
                item.strides = vec![0; 4];
            }
        }
        if item.key == "decoder.block1.0.weight" {
            item.shape[1] *= 256;
            item.strides = vec![0; 4];
        }
    }
    let zip = |file: TorchFile| file.zip();
    assert_all_refused(vec![
        case("offset", zip(offset.clone()), "2352 bytes in storage"),
        case("offset, legacy", offset.legacy(), "2352 bytes in storage"),
        case("far offset", zip(far), "an overflowing size"),
        case("stride", zip(strides), "2352 bytes in storage"),
        case("overflowing strides", zip(overflow), "an overflowing size"),
        case("channels", zip(channels), "1 to 65536 output channels"),
        case("expanded channels", zip(wide), "expected shape"),
        case("ranks", zip(ranks), "expected"),
        case("unequal ranks", zip(unequal), "expected"),
        case("too many weights", zip(expanded), "at most 268435456 weights"),
    ]);
}

/// Bytes changed and files cut at hashed places: a model or one line, never a panic.
#[test]
fn random_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let file = TorchFile::new(&small(), Dtype::F32);
    let whole = [file.zip(), file.legacy(), safetensors(&small(), Dtype::F32)];
    let (mut refused, mut rounds) = (0, 0);
    for (format, bytes) in whole.iter().enumerate() {
        for round in 0..400u64 {
            let name = format!("damage {format} {round}");
            let place = |i: u64, len: usize| (value(&name, i) * len as f64) as usize;
            let mut damaged = bytes.clone();
            // Structure lies at the start, and in a zip at the end as well.
            let len = damaged.len();
            for i in 0..=round % 4 {
                let near = place(100 + i, len.min(20_000));
                let at = if i % 2 == 0 { near } else { len - 1 - near };
                damaged[at] = place(200 + i, 256) as u8;
            }
            if round % 5 == 0 {
                damaged.truncate(place(300, len));
            }
            std::fs::write(&path, damaged).unwrap();
            rounds += 1;
            if let Err(error) = ddu::import::import(&path, &Default::default()) {
                refused += 1;
                let line = error.to_string();
                assert!(line.lines().count() == 1 && line.len() < 400, "{name}: {line}");
            }
        }
    }
    println!("{refused} of {rounds} refused");
    assert!(refused > rounds / 3);
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
        ("good.pth -o exists", 1, "or --force to overwrite"),
        ("good.pth -o good.pth --force", 2, "is the checkpoint itself"),
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
