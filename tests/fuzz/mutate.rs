//! Mutations that know a format: those that reach behind its checksums and into its header.

use std::io::{Cursor, Read};

use ddu::data::content_hash;
use safetensors::SafeTensors;
use serde_json::{Value, json};
use zip::{CompressionMethod, ZipArchive};

use crate::checkpoint;
use crate::random::Random;

/// What `torch.save` writes, for places where it is not expected.
pub const PICKLE: &[&[u8]] = &[
    b"\x80\x02",
    b"(",
    b"t",
    b"R",
    b"Q",
    b".",
    b"]",
    b"}",
    b"u",
    b"e",
    b"s",
    b"q\0",
    b"h\0",
    b"\x94",
    b"\x93",
    b"\x85",
    b"\x86",
    b"\x89",
    b"N",
    b"0",
    b"1",
    b"2",
    b"b",
    b"\x81",
    b"\x8f",
    b"\x91",
    b"I01\n",
    b"L-9L\n",
    b"K\x07",
    b"J\xff\xff\xff\xff",
    b"\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"X\x01\0\0\0a",
    b"X\xff\xff\xff\xff",
    b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff",
    b"X\x07\0\0\0storage",
    b"X\x05\0\0\0model",
    b"X\x07\0\0\0module.",
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_tensor_v3\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch._tensor\n_rebuild_from_type_v2\n",
    b"ctorch\nHalfStorage\n",
    b"ctorch\nUntypedStorage\n",
    b"ctorch\nSize\n",
    b"cposix\nsystem\n",
];

/// Members of an archive, changed and packed again with the right checksums, or bytes of the archive.
pub fn zip(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    if random.below(3) > 0
        && let Some(mut members) = members(&bytes)
    {
        match random.below(8) {
            0 => drop(members.remove(random.below(members.len()))),
            _ => {
                // The pickle comes first, and is what there is most to say about.
                let which = random.below(2) * random.below(members.len());
                random.mutate(&mut members[which].1, PICKLE);
            }
        }
        let method = [CompressionMethod::Stored, CompressionMethod::Deflated][random.below(2)];
        bytes = checkpoint::zip(&members, method);
        if random.below(4) > 0 {
            return bytes;
        }
    }
    random.mutate(&mut bytes, &[b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06", b"PK\x06\x06"]);
    bytes
}

/// Bytes of the file; then, mostly, the sizes of the file and of its first chunk are set right.
pub fn webp(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    let words: &[&[u8]] =
        &[b"VP8X", b"VP8L", b"VP8 ", b"ALPH", b"ANIM", b"ANMF", b"EXIF", b"ICCP", b"RIFF"];
    random.mutate(&mut bytes, words);
    if random.below(4) > 0 && bytes.len() >= 20 {
        bytes.resize(bytes.len().next_multiple_of(2), 0);
        for at in [4, 16] {
            let size = (bytes.len() - at - 4) as u32;
            bytes[at..at + 4].copy_from_slice(&size.to_le_bytes());
        }
    }
    bytes
}

/// Names without their folder, and contents.
fn members(bytes: &[u8]) -> Option<Vec<(String, Vec<u8>)>> {
    let mut archive = ZipArchive::new(Cursor::new(bytes)).ok()?;
    let mut members: Vec<(String, Vec<u8>)> = Vec::new();
    for i in 0..archive.len().min(40) {
        let file = archive.by_index(i).ok()?;
        let name = file.name().ok()?.split_once('/')?.1.to_owned();
        let mut content = Vec::new();
        file.take(1 << 16).read_to_end(&mut content).ok()?;
        if members.iter().all(|(other, _)| *other != name) {
            members.push((name, content));
        }
    }
    (!members.is_empty()).then_some(members)
}

/// Parts of the header or bytes of the file; then, mostly, the SHA-256 is set right.
pub fn safetensors(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    if random.below(3) > 0
        && let Some(changed) = header(random, &bytes)
    {
        bytes = changed;
    }
    if random.below(2) == 0 {
        random.mutate(&mut bytes, &[b"\\u0000", b"{", b"}", b"\"F64\"", b"[0,0]", b"e999"]);
    }
    match random.below(4) {
        0 => bytes,
        _ => hashed(&bytes).unwrap_or(bytes),
    }
}

/// Parts of a JSON text, or its bytes.
pub fn json(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    if random.below(3) > 0
        && let Ok(mut value) = serde_json::from_slice(&bytes)
    {
        for _ in 0..=random.below(3) {
            edit(random, &mut value);
        }
        bytes = value.to_string().into();
    }
    if random.below(2) == 0 {
        random.mutate(&mut bytes, &[b"\\u0000", b"{", b"}", b"[", b"\"", b"null", b"1e999", b"-0"]);
    }
    bytes
}

fn header(random: &mut Random, bytes: &[u8]) -> Option<Vec<u8>> {
    let length = u64::from_le_bytes(*bytes.first_chunk()?);
    let end = usize::try_from(length).ok()?.checked_add(8)?;
    let mut header: Value = serde_json::from_slice(bytes.get(8..end)?).ok()?;
    for _ in 0..=random.below(3) {
        edit(random, &mut header);
    }
    let header = header.to_string();
    Some([&(header.len() as u64).to_le_bytes(), header.as_bytes(), &bytes[end..]].concat())
}

/// One change somewhere in a value, also within the JSON that a string holds.
fn edit(random: &mut Random, value: &mut Value) {
    let odd = |random: &mut Random| {
        let odd = [
            json!(null),
            json!(0),
            json!(-1),
            json!(1u64 << 32),
            json!(u64::MAX),
            json!(1e308),
            json!(0.5),
            json!(true),
            json!(""),
            json!("a\n\u{1b}[31m\u{202e}"),
            json!("x".repeat(5000)),
            json!([]),
            json!({}),
            json!([4294967296u64, 4294967296u64]),
        ];
        odd[random.below(odd.len())].clone()
    };
    if random.below(10) == 0 {
        *value = odd(random);
        return;
    }
    match value {
        Value::Object(map) if !map.is_empty() => {
            let at = random.below(map.len());
            let key = map.keys().nth(at).expect("a place within").clone();
            match random.below(10) {
                0 => drop(map.remove(&key)),
                1 => {
                    let copy = map[&key].clone();
                    map.insert(["x", "", "module.x", "a\nb"][random.below(4)].into(), copy);
                }
                2 => {
                    let inner = map.remove(&key).expect("a key of the map");
                    map.insert(key + "x", inner);
                }
                _ => edit(random, &mut map[&key]),
            }
        }
        Value::Array(list) if !list.is_empty() => {
            let at = random.below(list.len());
            match random.below(6) {
                0 => drop(list.remove(at)),
                1 => list.push(list[at].clone()),
                _ => edit(random, &mut list[at]),
            }
        }
        Value::String(text) => match serde_json::from_str(text) {
            Ok(mut inner @ (Value::Object(_) | Value::Array(_))) => {
                edit(random, &mut inner);
                *text = inner.to_string();
            }
            _ => *value = odd(random),
        },
        Value::Number(number) if random.below(2) == 0 => {
            let n = number.as_i64().unwrap_or(1);
            let steps = [n.wrapping_add(1), n.wrapping_sub(1), n.wrapping_mul(2), -n.max(-9)];
            *value = json!(steps[random.below(4)]);
        }
        _ => *value = odd(random),
    }
}

/// The file with the right SHA-256 of its content; None where it is no file or has none.
pub fn hashed(bytes: &[u8]) -> Option<Vec<u8>> {
    let file = SafeTensors::deserialize(bytes).ok()?;
    let (_, header) = SafeTensors::read_metadata(bytes).ok()?;
    let metadata = header.metadata().clone().filter(|data| data.contains_key(content_hash::KEY))?;
    let views = file.tensors();
    let views: Vec<_> = views.into_iter().collect();
    let views: Vec<_> = views.iter().map(|(name, view)| (name.as_str(), view.clone())).collect();
    content_hash::serialize("fuzz", &views, metadata).ok()
}

/// Bytes of a PNG; then, mostly, the checksums of its chunks are set right.
pub fn png(random: &mut Random, mut bytes: Vec<u8>) -> Vec<u8> {
    const WORDS: &[&[u8]] =
        &[b"IHDR", b"IDAT", b"PLTE", b"tRNS", b"IEND", b"acTL", b"fcTL", b"fdAT", b"eXIf", b"iCCP"];
    random.mutate(&mut bytes, WORDS);
    if random.below(4) > 0 {
        checked(&mut bytes);
    }
    bytes
}

/// Sets the CRC-32 of each PNG chunk right.
pub fn checked(bytes: &mut [u8]) {
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes(*head.first_chunk().expect("eight bytes")) as usize;
        let end = at + 8 + length;
        if bytes.len() < end + 4 {
            break;
        }
        let mut crc = !0u32;
        for byte in &bytes[at + 4..end] {
            crc ^= u32::from(*byte);
            for _ in 0..8 {
                crc = (crc >> 1) ^ (0xedb8_8320 & (crc & 1).wrapping_neg());
            }
        }
        bytes[end..end + 4].copy_from_slice(&(!crc).to_be_bytes());
        at = end + 4;
    }
}
