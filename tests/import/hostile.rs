//! Files made to be dangerous: nothing runs, nothing grows without bound, nothing panics.

use crate::checkpoint::{Dtype, Item, TorchFile, safetensors, text, zip, zip_of_pickle};
use crate::generate::{small, value};
use crate::malformed::{assert_all_refused, case};
use zip::CompressionMethod;

#[test]
fn hostile_pickles() {
    // os.system("touch owned"), as the object, under "model", and as a weight.
    let mut attack = b"cposix\nsystem\n".to_vec();
    text(&mut attack, "touch owned");
    attack.extend(b"\x85R");
    let intact = [b"\x80\x02", &*attack, b"."].concat();
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
        case("os.system", zip_of_pickle(intact), "an object of posix.system (opaque"),
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
    let change = |change: &dyn Fn(&mut Item)| {
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

/// Small files that claim much: weights without numbers of their own, archives that unpack to more.
#[test]
fn hostile_costs() {
    let key = "encoder.layer4.1.conv2.weight";
    let change = |change: &dyn Fn(&mut TorchFile)| {
        let mut file = TorchFile::new(&small(), Dtype::F32);
        change(&mut file);
        file
    };
    let expanded = change(&|file| {
        file.item(key).strides = vec![0; 4];
        file.storage(key).truncate(4);
    });
    let overlapping = change(&|file| file.item(key).strides = vec![1; 4]);
    let overlapping = TorchFile { storages: cut(&overlapping, key, 4 * 67), ..overlapping };
    let shared = change(&|file| {
        let storage = file.item(key).storage;
        file.item("encoder.layer4.1.conv1.weight").storage = storage;
    });
    // 80 MiB of zeros behind the weights, in a file of 200 KB.
    let bomb = change(&|file| file.storage(key).resize(80 << 20, 0));
    let expanded_legacy = expanded.legacy();
    assert_all_refused(vec![
        case("expanded", expanded.zip(), "36864 bytes of weights in a storage of 4"),
        case("expanded, legacy", expanded_legacy, "36864 bytes of weights in a storage of 4"),
        case("overlapping", overlapping.zip(), "36864 bytes of weights in a storage of 268"),
        case("shared", shared.zip(), "73728 bytes of weights in a storage of 36864"),
        case("a bomb", zip(&bomb.members(), CompressionMethod::Deflated), "above 6"),
    ]);
}

fn cut(file: &TorchFile, key: &str, bytes: usize) -> Vec<Vec<u8>> {
    let mut file = file.clone();
    file.storage(key).truncate(bytes);
    file.storages
}

/// Two storages whose tensors alternate are each unpacked once: 40 MiB in all, where the archive has
/// 64 MiB to spend.
#[test]
fn alternating_storages_are_unpacked_once() {
    let weights = small();
    let mut file = TorchFile::new(&weights, Dtype::F32);
    let mut flat = [Vec::new(), Vec::new()];
    for (i, item) in file.items.iter_mut().enumerate() {
        item.dtype = Dtype::F32;
        item.storage = i % 2;
        item.offset = flat[i % 2].len() as u64;
        flat[i % 2].extend(&weights[&item.key].data);
    }
    file.storages = flat.map(|values| Dtype::F32.encode(&values)).to_vec();
    file.storages.iter_mut().for_each(|storage| storage.resize(20 << 20, 0));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    std::fs::write(&path, zip(&file.members(), CompressionMethod::Deflated)).unwrap();
    ddu::import::import(&path, &Default::default()).unwrap();
}

/// Many wrappers around the network: the keys are rewritten once.
#[test]
fn many_wrappers() {
    let mut file = TorchFile::new(&small(), Dtype::F32);
    let prefix = "module.".repeat(130);
    file.items.iter_mut().for_each(|item| item.key.insert_str(0, &prefix));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    std::fs::write(&path, file.zip()).unwrap();
    let imported = ddu::import::import(&path, &Default::default()).unwrap();
    assert_eq!(imported.nested.concat(), prefix);
}

/// Bytes changed and files cut at hashed places: a model or one line, never a panic.
#[test]
fn random_damage() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("checkpoint");
    let file = TorchFile::new(&small(), Dtype::F32);
    let intact = [file.zip(), file.legacy(), safetensors(&small(), Dtype::F32)];
    let (mut refused, mut rounds) = (0, 0);
    for (format, bytes) in intact.iter().enumerate() {
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
