//! Writes `tests/golden/attacks/TARGET/NAME`: what was found to be dangerous, or is known to be, as
//! small as it can be. Files that a campaign found lie there besides; those this does not write.

use std::io::{Cursor, Write};

use half::f16;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use crate::campaign::{files, golden};
use crate::checkpoint::{Dtype, TorchFile, text, zip};
use crate::mutate::{checked, hashed};

#[test]
#[ignore = "a generator for people, not a check: it rewrites tests/golden/attacks, which every run replays"]
fn write_attacks() {
    let all = [
        ("pickle", pickles()),
        ("torch_zip", archives()),
        ("torch_legacy", legacy()),
        ("safetensors_checkpoint", checkpoints()),
        ("model_file", models()),
        ("density_file", densities(&density())),
        ("fit_checkpoint", densities(&fit())),
        ("jpeg", jpegs()),
        ("png", pngs()),
        ("mask", pngs()),
        ("bmp", bmps()),
        ("tiff", tiffs()),
        ("webp", webps()),
        ("class_names", names()),
        ("thresholds", thresholds()),
    ];
    for (target, attacks) in all {
        let folder = golden("attacks").join(target);
        std::fs::create_dir_all(&folder).unwrap();
        for (name, bytes) in attacks {
            std::fs::write(folder.join(name), bytes).unwrap();
        }
    }
}

type Attacks = Vec<(&'static str, Vec<u8>)>;

fn pickles() -> Attacks {
    let proto = |ops: &[u8]| [b"\x80\x02", ops, b"."].concat();
    let mut system = b"cposix\nsystem\n".to_vec();
    text(&mut system, "touch owned");
    system.extend(b"\x85R");
    let mut cycle = b"}q\0".to_vec();
    text(&mut cycle, "model");
    cycle.extend(b"h\0s");
    // A list of pairs, copied into an OrderedDict over and over.
    let mut copies = b"](".to_vec();
    copies.extend(b"K\x01K\x02\x86".repeat(200));
    copies.extend(b"e\x85q\0ccollections\nOrderedDict\nq\x01");
    copies.extend(b"h\x01h\0R".repeat(200));
    vec![
        ("os-system", proto(&system)),
        ("cycle", proto(&cycle)),
        ("copies", proto(&copies)),
        ("deep-lists", proto(&b"]".repeat(2000))),
        ("deep-tuples", proto(&b"N\x85".repeat(1000))),
        ("deep-marks", proto(&b"(".repeat(2000))),
        ("long-string", proto(b"X\xff\xff\xff\xff")),
        ("long-bytes", proto(b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff")),
        ("long-frame", proto(b"\x95\xff\xff\xff\xff\xff\xff\xff\xffN")),
        ("far-memo", proto(b"Nr\xff\xff\xff\xffj\xff\xff\xff\xff")),
        ("own-item", proto(b"]2a")),
        ("below-the-mark", proto(b"N(0")),
        ("escapes", proto(b"c\x1b[31m\n\xe2\x80\xae\nN")),
        ("protocol-9", b"\x80\x09N.".to_vec()),
    ]
}

fn torch() -> TorchFile {
    TorchFile::new(&crate::tensors(), Dtype::F32)
}

/// Files of tensors whose descriptions lie, for both formats of PyTorch.
fn lies() -> Vec<(&'static str, TorchFile)> {
    let lie = |change: fn(&mut TorchFile)| {
        let mut file = torch();
        change(&mut file);
        file
    };
    const KEY: &str = "module.a.weight";
    vec![
        ("huge-shape", lie(|file| file.item(KEY).shape = vec![1 << 31, 1 << 31, 1 << 31, 1])),
        ("no-strides", lie(|file| file.item(KEY).strides = vec![])),
        ("stride-0", {
            lie(|file| {
                let item = file.item(KEY);
                (item.shape, item.strides) = (vec![64, 64, 1, 1], vec![0; 4]);
            })
        }),
        ("huge-stride", lie(|file| file.item(KEY).strides = vec![1 << 62, 1 << 62, 1, 1])),
        ("far-offset", lie(|file| file.item(KEY).offset = i64::MAX as u64)),
        ("empty-huge", lie(|file| file.item(KEY).shape = vec![1 << 62, 1 << 62, 0, 1])),
        ("prefixes", {
            lie(|file| {
                for item in &mut file.items {
                    item.key = "module.".repeat(120) + &item.key;
                }
            })
        }),
        ("escapes", lie(|file| file.item(KEY).key = "a.\n\u{1b}[31m\u{202e}weight".into())),
        ("not-finite", lie(|file| file.storage(KEY)[..4].copy_from_slice(b"\0\0\xc0\x7f"))),
        ("no-storage", lie(|file| drop(file.storage(KEY).drain(..)))),
    ]
}

fn archives() -> Attacks {
    let mut all: Attacks = lies().into_iter().map(|(name, file)| (name, file.zip())).collect();
    // Two storages of zeros, each asked for again after the other.
    let mut bomb = torch();
    bomb.storages = vec![vec![0; 1 << 18]; 2];
    let item = bomb.items[0].clone();
    bomb.items = (0..40)
        .map(|i| crate::checkpoint::Item { key: format!("a.{i}"), storage: i % 2, ..item.clone() })
        .collect();
    let members = torch().members();
    let mut claims = torch().zip();
    // The sizes of the last directory entry.
    let directory = claims.windows(4).rposition(|part| part == b"PK\x01\x02").unwrap();
    claims[directory + 20..directory + 28].fill(0xfe);
    let mut script = members.clone();
    script.push(("constants.pkl".into(), b"\x80\x02N.".to_vec()));
    let mut order = members.clone();
    order.push(("byteorder".into(), b"middle".to_vec()));
    let nested = |name: &str| {
        let mut archive = ZipWriter::new(Cursor::new(Vec::new()));
        archive.start_file(name, SimpleFileOptions::default()).unwrap();
        archive.write_all(&members[0].1).unwrap();
        archive.finish().unwrap().into_inner()
    };
    all.extend([
        ("alternating-bomb", zip(&bomb.members(), CompressionMethod::Deflated)),
        ("sizes-that-lie", claims),
        ("torchscript", zip(&script, CompressionMethod::Stored)),
        ("byte-order", zip(&order, CompressionMethod::Stored)),
        ("pickle-without-folder", nested("data.pkl")),
        ("path-upwards", nested("../../data.pkl")),
        ("no-members", zip(&[], CompressionMethod::Stored)),
        (
            "end-only",
            b"PK\x05\x06\0\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0".to_vec(),
        ),
    ]);
    all
}

fn legacy() -> Attacks {
    let mut all: Attacks = lies().into_iter().map(|(name, file)| (name, file.legacy())).collect();
    let good = torch().legacy();
    let keys = good.windows(5).rposition(|part| part == b"\x80\x02](X").unwrap();
    let counts = keys + good[keys..].iter().position(|byte| *byte == b'.').unwrap() + 1;
    let count = |n: i64| {
        let mut bytes = good.clone();
        bytes[counts..counts + 8].copy_from_slice(&n.to_le_bytes());
        bytes
    };
    all.extend([
        ("negative-count", count(-1)),
        ("huge-count", count(i64::MAX)),
        ("overflowing-count", count(1 << 62)),
        ("cut-in-a-count", good[..counts + 3].to_vec()),
        ("magic-only", good[..17].to_vec()),
    ]);
    all
}

/// A header before data of 64 bytes.
fn headed(header: &str) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[0; 64]].concat()
}

fn checkpoints() -> Attacks {
    let tensor = |shape: &str, offsets: &str| {
        headed(&format!(
            r#"{{"a.weight":{{"dtype":"F32","shape":{shape},"data_offsets":{offsets}}}}}"#
        ))
    };
    vec![
        ("header-of-2-64", [&[0xff; 8][..], b"{\"a\":1}"].concat()),
        ("header-of-0", [&[0; 8][..], b"{"].concat()),
        ("no-object", headed("[1,2,3]")),
        ("deep", headed(&(r#"{"a":"#.repeat(200) + "1" + &"}".repeat(200)))),
        ("overflowing-shape", tensor("[4294967296,4294967296]", "[0,64]")),
        ("wrong-size", tensor("[3]", "[0,64]")),
        ("backwards", tensor("[16]", "[64,0]")),
        ("beyond", tensor("[32]", "[0,128]")),
        ("gap", tensor("[8]", "[32,64]")),
        (
            "escapes",
            headed(
                "{\"\\n\\u001b[31m\":{\"dtype\":\"F32\",\"shape\":[16],\"data_offsets\":[0,64]}}",
            ),
        ),
        (
            "twice",
            headed(
                r#"{"a.b":{"dtype":"F32","shape":[16],"data_offsets":[0,64]},"a.b":{"dtype":"F16","shape":[32],"data_offsets":[0,64]}}"#,
            ),
        ),
        (
            "converted",
            headed(
                r#"{"__metadata__":{"ddu.format":"x"},"a":{"dtype":"F32","shape":[16],"data_offsets":[0,64]}}"#,
            ),
        ),
    ]
}

/// A file whose metadata is rewritten, with the right hash.
fn rewritten(bytes: &[u8], key: &str, from: &str, to: &str) -> Vec<u8> {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    let mut metadata = header.metadata().clone().unwrap();
    let text = metadata.get_mut(key).unwrap();
    assert!(text.contains(from), "{from} in {text}");
    *text = text.replacen(from, to, 1);
    with(bytes, metadata, |_, _| {})
}

/// A file with other metadata and changed tensors, with the right hash.
fn with(
    bytes: &[u8],
    metadata: std::collections::HashMap<String, String>,
    change: impl Fn(&str, &mut [u8]),
) -> Vec<u8> {
    let file = SafeTensors::deserialize(bytes).unwrap();
    let mut parts: Vec<_> = file.tensors();
    parts.sort_by(|a, b| a.0.cmp(&b.0));
    let mut data: Vec<Vec<u8>> = parts.iter().map(|(_, view)| view.data().to_vec()).collect();
    for ((name, _), data) in parts.iter().zip(&mut data) {
        change(name, data);
    }
    let views = parts.iter().zip(&data).map(|((name, view), data)| {
        (name.as_str(), TensorView::new(view.dtype(), view.shape().to_vec(), data).unwrap())
    });
    let views: Vec<_> = views.collect();
    ddu::data::content_hash::serialize("attack", &views, metadata).unwrap()
}

fn changed(bytes: &[u8], change: impl Fn(&str, &mut [u8])) -> Vec<u8> {
    let (_, header) = SafeTensors::read_metadata(bytes).unwrap();
    with(bytes, header.metadata().clone().unwrap(), change)
}

fn models() -> Attacks {
    let good = crate::written(|path| {
        crate::models::random_model(crate::thin(), 3).save(path).unwrap();
    });
    let config = |from: &str, to: &str| rewritten(&good, "ddu.config", from, to);
    let mut flipped = good.clone();
    *flipped.last_mut().unwrap() ^= 1;
    assert!(hashed(&good).is_some());
    vec![
        ("flipped", flipped),
        ("std-0", config("\"std\":[0.229", "\"std\":[0.0")),
        ("huge-stem", config("\"stem_channels\":1", "\"stem_channels\":9223372036854775807")),
        ("huge-rates", config("\"aspp_rates\":[6", "\"aspp_rates\":[18446744073709551615")),
        ("stride-0", config("\"output_stride\":16", "\"output_stride\":0")),
        ("dilation-0", config("\"dilations\":[[1", "\"dilations\":[[0")),
        ("multiple-0", config("\"input_multiple\":1", "\"input_multiple\":0")),
        ("escapes", config("\"class 0\"", "\"\\n\\u001b[31m\\u202e\"")),
        ("format", rewritten(&good, "ddu.format", "ddu", "a\n\u{1b}[31m")),
        (
            "not-finite",
            changed(&good, |_, data| data[..2].copy_from_slice(&f16::NAN.to_le_bytes())),
        ),
    ]
}

fn density() -> Vec<u8> {
    crate::written(|path| crate::density().save(path).unwrap())
}

fn fit() -> Vec<u8> {
    let progress = crate::Progress {
        inputs: "inputs".into(),
        files: "files".into(),
        done: 1,
        skipped: vec![],
    };
    crate::written(|path| crate::density().checkpoint(path, &progress).unwrap())
}

fn densities(good: &[u8]) -> Attacks {
    let set = |tensor: &'static str, value: [u8; 8]| {
        changed(good, move |name, data| {
            if name == tensor {
                data[..8].copy_from_slice(&value);
            }
        })
    };
    let header = |from: &str, to: &str| rewritten(good, "ddu.density", from, to);
    let mut flipped = good.to_vec();
    *flipped.last_mut().unwrap() ^= 1;
    vec![
        ("flipped", flipped),
        ("count-2-62", set("count", (1i64 << 62).to_le_bytes())),
        ("negative-count", set("count", (-1i64).to_le_bytes())),
        ("negative-variance", set("scatter", (-1f64).to_le_bytes())),
        ("infinite-scatter", set("scatter", f64::INFINITY.to_le_bytes())),
        ("huge-mean", set("mean", 1e308f64.to_le_bytes())),
        ("mean-is-nan", set("mean", f64::NAN.to_le_bytes())),
        ("hash-order", set("sample_hash", u64::MAX.to_le_bytes())),
        ("image-count", header("\"image_count\":1", "\"image_count\":18446744073709551615")),
        ("resize-0", header("\"resize\":9", "\"resize\":0")),
        ("escapes", header("\"sky\"", "\"\\n\\u001b[31m\\u202e\"")),
    ]
}

/// Place of the first marker of these.
fn marker(bytes: &[u8], codes: &[u8]) -> usize {
    bytes.windows(2).position(|part| part[0] == 0xff && codes.contains(&part[1])).unwrap()
}

fn jpegs() -> Attacks {
    let folder = golden("images");
    let [base, progressive] =
        ["baseline-420.jpg", "progressive-420.jpg"].map(|name| files(&folder, name).remove(0));
    let sized = |bytes: &[u8], h: [u8; 2], w: [u8; 2]| {
        let mut bytes = bytes.to_vec();
        let at = marker(&bytes, &[0xc0, 0xc2]) + 5;
        bytes[at..at + 4].copy_from_slice(&[h[0], h[1], w[0], w[1]]);
        bytes
    };
    let scan = marker(&base, &[0xda]);
    let half = (scan + base.len()) / 2;
    let first = marker(&progressive, &[0xda]);
    let second = first + 2 + marker(&progressive[first + 2..], &[0xda]);
    vec![
        ("half-and-end", [&base[..half], b"\xff\xd9"].concat()),
        ("height-doubled", sized(&base, [0, 90], [0, 61])),
        ("size-11585", sized(&base, [0x2d, 0x41], [0x2d, 0x41])),
        ("size-65535", sized(&base, [0xff; 2], [0xff; 2])),
        ("size-0", sized(&base, [0; 2], [0; 2])),
        ("progressive-65535", sized(&progressive, [0xff; 2], [0xff; 2])),
        ("scan-repeated", {
            let scan = progressive[first..second].repeat(40);
            [&progressive[..first], &scan, &progressive[second..]].concat()
        }),
        ("no-tables", [&base[..2], &base[marker(&base, &[0xc0])..]].concat()),
        ("start-only", b"\xff\xd8\xff".to_vec()),
    ]
}

fn pngs() -> Attacks {
    let good = crate::pictures(image::ImageFormat::Png).remove(0);
    let edited = |edit: fn(&mut Vec<u8>)| {
        let mut bytes = good.clone();
        edit(&mut bytes);
        checked(&mut bytes);
        bytes
    };
    // 1000 x 1000 zeros.
    let flat = crate::written(|path| {
        let palette = [[0; 3]];
        let size = ddu::ops::Size::new(1000, 1000);
        ddu::data::write_label_png(path, size, &vec![0; 1_000_000], &palette).unwrap();
    });
    vec![
        ("flat", flat),
        (
            "size-2-31",
            edited(|bytes| bytes[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff].repeat(2))),
        ),
        ("size-2-32", edited(|bytes| bytes[16..24].fill(0xff))),
        ("size-0", edited(|bytes| bytes[16..24].fill(0))),
        ("taller", edited(|bytes| bytes[23] += 1)),
        ("palette-without-one", edited(|bytes| bytes[25] = 3)),
        ("depth-9", edited(|bytes| bytes[24] = 9)),
        ("interlaced", edited(|bytes| bytes[28] = 1)),
        ("no-data", edited(|bytes| bytes.truncate(33))),
    ]
}

fn bmps() -> Attacks {
    // BITMAPINFOHEADER: width, height, planes, bits, compression.
    let header = |w: i32, h: i32, bits: u16, compression: u32, data: &[u8]| {
        let mut bytes = b"BM\0\0\0\0\0\0\0\0\x36\x04\0\0\x28\0\0\0".to_vec();
        bytes.extend(w.to_le_bytes());
        bytes.extend(h.to_le_bytes());
        bytes.extend([1, 0]);
        bytes.extend(bits.to_le_bytes());
        bytes.extend(compression.to_le_bytes());
        bytes.extend([0; 20 + 1024]);
        bytes.extend(data);
        bytes
    };
    vec![
        ("huge-rle", header(11500, 11500, 8, 1, &[0, 1])),
        ("rle", header(20, 20, 8, 1, &[5, 1, 0, 2, 255, 255, 0, 4, 1, 2, 3, 4, 0, 0, 0, 1])),
        ("rle4", header(20, 20, 4, 2, &[25, 0x12, 0, 9, 1, 2, 3, 4, 5, 0, 0, 1])),
        ("least-height", header(3, i32::MIN, 24, 0, &[0; 40])),
        ("negative-width", header(-3, 3, 24, 0, &[0; 40])),
        ("bitfields", header(3, 3, 16, 3, &[0xff; 40])),
        ("most", header(i32::MAX, i32::MAX, 32, 0, &[])),
    ]
}

fn tiffs() -> Attacks {
    // Entries of the directory at byte 8: tag, type, count, value.
    let file = |next: u32, entries: &[(u16, u16, u32, u32)]| {
        let mut bytes = b"II*\0\x08\0\0\0".to_vec();
        bytes.extend((entries.len() as u16).to_le_bytes());
        for (tag, kind, count, value) in entries {
            bytes.extend(tag.to_le_bytes());
            bytes.extend(kind.to_le_bytes());
            bytes.extend(count.to_le_bytes());
            bytes.extend(value.to_le_bytes());
        }
        bytes.extend(next.to_le_bytes());
        bytes.extend([0; 64]);
        bytes
    };
    let gray = |w: u32, h: u32, compression: u32, strip: (u16, u16, u32, u32), length: u32| {
        file(
            0,
            &[
                (256, 4, 1, w),
                (257, 4, 1, h),
                (258, 3, 1, 8),
                (259, 3, 1, compression),
                (262, 3, 1, 1),
                strip,
                (278, 4, 1, h),
                (279, 4, 1, length),
            ],
        )
    };
    let strip = (273, 4, 1, 8);
    vec![
        ("loop", file(8, &[(256, 4, 1, 3)])),
        ("sides-2-32", gray(u32::MAX, u32::MAX, 1, strip, 64)),
        ("strips-2-32", gray(3, 3, 1, (273, 4, u32::MAX, 8), 64)),
        ("strip-beyond", gray(3, 3, 1, (273, 4, 1, u32::MAX), 64)),
        ("bytes-2-32", gray(3, 3, 1, strip, u32::MAX)),
        ("lzw", gray(60, 60, 5, strip, 64)),
        ("packbits", gray(60, 60, 32773, strip, 64)),
        ("deflate", gray(60, 60, 8, strip, 64)),
        ("big", b"II+\0\x08\0\0\0\xff\xff\xff\xff\xff\xff\xff\xff".to_vec()),
    ]
}

fn webps() -> Attacks {
    let lossless = crate::pictures(image::ImageFormat::WebP).remove(0);
    let chunk = |name: &[u8], data: &[u8]| {
        let mut bytes = [name, &(data.len() as u32).to_le_bytes(), data].concat();
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        bytes
    };
    let riff = |parts: &[Vec<u8>]| {
        let body = parts.concat();
        [b"RIFF", &(body.len() as u32 + 4).to_le_bytes()[..], b"WEBP", &body].concat()
    };
    let extended = |flags: u8, side: u32| {
        let side = &side.to_le_bytes()[..3];
        chunk(b"VP8X", &[&[flags, 0, 0, 0], side, side].concat())
    };
    let pixels = lossless[12..].to_vec();
    // A frame header of VP8 for 16 x 16, and no data.
    let lossy =
        chunk(b"VP8 ", b"\xd0\x06\0\x9d\x01\x2a\x10\0\x10\0\x3e\x6d\x2a\x90\x46\x24\x22\x21");
    let mut long = pixels.clone();
    long[4..8].fill(0xff);
    // An alpha chunk that says that it holds 4 GB.
    let mut alpha = chunk(b"ALPH", &[0; 4]);
    alpha[4..8].copy_from_slice(&0xffff_fff0u32.to_le_bytes());
    let mut total = riff(std::slice::from_ref(&pixels));
    total[4..8].fill(0xff);
    vec![
        ("canvas-2-24", riff(&[extended(0x10, 0xff_ffff), pixels.clone()])),
        ("other-canvas", riff(&[extended(0x10, 4), pixels.clone()])),
        ("long-chunk", riff(&[long])),
        ("long-file", total),
        ("alpha-4-gb", riff(&[extended(0x10, 15), lossy.clone(), alpha])),
        ("alpha-twice", riff(&[extended(0x10, 15), chunk(b"ALPH", &[1; 9]), lossy.clone()])),
        ("no-frames", riff(&[extended(2, 15), chunk(b"ANIM", &[0; 6])])),
        (
            "empty-frame",
            riff(&[extended(2, 15), chunk(b"ANIM", &[0; 6]), chunk(b"ANMF", &[0; 16])]),
        ),
        ("lossy", riff(&[lossy])),
    ]
}

fn names() -> Attacks {
    vec![
        ("twice", b"sky\nroad\nsky\n".to_vec()),
        ("escapes", "a\u{1b}[31m\u{202e}\nb\u{0}\n".into()),
        ("blank", b"a\n\n\nb\n".to_vec()),
        ("no-utf-8", b"a\xff\xfe\n".to_vec()),
        ("mark", b"\xef\xbb\xbfa\nb\n".to_vec()),
        ("returns", b"a\rb\r\n\rc".to_vec()),
        ("map", b"=\n0=\n=0\n0=256\n0=-1\n0=0=0\nvoid=void\n255=2\n".to_vec()),
        ("many", (0..300).map(|i| format!("{i}\n")).collect::<String>().into()),
        ("long", "x".repeat(5000).into()),
    ]
}

fn thresholds() -> Attacks {
    let file = |target: &str, threshold: &str| {
        let text = format!(
            r#"{{"schema_version":1,"model_sha256":"model","target":{{{target}}},"entropy":{{"threshold":{threshold}}}}}"#
        );
        text.into_bytes()
    };
    let share = r#""p_accurate_certain":0.95"#;
    vec![
        ("beyond-f32", file(share, "1e300")),
        ("beyond-f64", file(share, "1e999")),
        ("no-number", file(share, "null")),
        ("share-7", file(r#""p_accurate_certain":7"#, "0.5")),
        ("two-targets", file(r#""p_accurate_certain":0.5,"false_alarm_rate":0.5"#, "0.5")),
        ("escapes", br#"{"schema_version":1,"model_sha256":"a\n\u001b[31m\u202e","target":{"false_alarm_rate":0.1}}"#.to_vec()),
        ("deep", [vec![b'['; 5000], vec![b']'; 5000]].concat()),
        ("no-utf-8", file(share, "\u{fffd}").into_iter().filter(|b| *b != 0xbf).collect()),
    ]
}
