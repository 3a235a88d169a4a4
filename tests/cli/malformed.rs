//! Bad inputs: each named in one line, none of them costs another image its results.

use std::io::Cursor;

use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageBuffer, ImageFormat, Rgb};

use crate::Bench;

fn picture(format: ImageFormat) -> Vec<u8> {
    let picture: DynamicImage =
        ImageBuffer::from_fn(40, 30, |x, y| Rgb([(6 * x) as u8, (8 * y) as u8, (x * y) as u8]))
            .into();
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn jpeg() -> Vec<u8> {
    let mut bytes = Vec::new();
    let pixels: Vec<u8> = (0..40 * 30 * 3u32).map(|i| (i * i / 7) as u8).collect();
    JpegEncoder::new_with_quality(&mut bytes, 90)
        .encode(&pixels, 40, 30, image::ExtendedColorType::Rgb8)
        .unwrap();
    bytes
}

/// `bytes` up to a share of their length.
fn part(mut bytes: Vec<u8>, of: f64) -> Vec<u8> {
    bytes.truncate((bytes.len() as f64 * of) as usize);
    bytes
}

fn patched(mut bytes: Vec<u8>, at: usize, with: &[u8]) -> Vec<u8> {
    bytes[at..at + with.len()].copy_from_slice(with);
    bytes
}

fn position(bytes: &[u8], of: &[u8]) -> usize {
    bytes.windows(of.len()).position(|window| window == of).unwrap()
}

/// A PNG whose header asks for `w x h`, with a valid checksum.
pub fn png_of_size(w: u32, h: u32) -> Vec<u8> {
    let mut bytes = picture(ImageFormat::Png);
    bytes[16..20].copy_from_slice(&w.to_be_bytes());
    bytes[20..24].copy_from_slice(&h.to_be_bytes());
    let crc = !bytes[12..29].iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| {
            if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
        })
    });
    patched(bytes, 29, &crc.to_be_bytes())
}

/// Name, content, and a part of the message.
fn bad_files() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let png = picture(ImageFormat::Png);
    let tiff = picture(ImageFormat::Tiff);
    let bmp = picture(ImageFormat::Bmp);
    let webp = picture(ImageFormat::WebP);
    let (frame, scan) = (position(&jpeg(), &[0xff, 0xc0]), position(&jpeg(), &[0xff, 0xda]));
    let data = position(&png, b"IDAT");
    let float = {
        let picture: DynamicImage = ImageBuffer::from_pixel(4, 4, Rgb([0.5f32; 3])).into();
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Tiff).unwrap();
        bytes.into_inner()
    };
    vec![
        ("empty.jpg", vec![], "an empty file"),
        ("start.jpg", vec![0xff, 0xd8, 0xff], "undamaged JPEG"),
        ("half.jpg", part(jpeg(), 0.5), "undamaged JPEG"),
        ("most.jpg", part(jpeg(), 0.9), "undamaged JPEG"),
        ("marker.jpg", patched(jpeg(), scan + 60, &[0xff, 0xc4]), "undamaged JPEG"),
        ("flat.jpg", patched(jpeg(), frame + 5, &[0, 0]), "JPEG"),
        ("text.jpg", b"this is not a picture\n".to_vec(), "no such file signature"),
        ("animation.gif", b"GIF89a\x01\0\x01\0\0\0\0;".to_vec(), "found a GIF file"),
        ("half.png", part(png.clone(), 0.5), "undamaged PNG"),
        ("signature.png", patched(png.clone(), 1, b"Q"), "no such file signature"),
        ("checksum.png", patched(png.clone(), data + 10, &[1, 2, 3]), "undamaged PNG"),
        ("header.png", patched(png.clone(), 16, &[0, 0, 0, 9]), "undamaged PNG"),
        ("huge.png", png_of_size(60000, 60000), "pixels, found 60000 x 60000"),
        ("vast.png", png_of_size(i32::MAX as u32, i32::MAX as u32), "PNG"),
        ("nothing.png", png_of_size(0, 30), "PNG"),
        ("tall.png", png_of_size(40, 31), "PNG"),
        ("half.bmp", part(bmp.clone(), 0.5), "undamaged BMP"),
        ("wide.bmp", patched(bmp.clone(), 18, &[0xff, 0xff, 0xff, 0x7f]), "BMP"),
        ("depth.bmp", patched(bmp, 28, &[7, 0]), "BMP"),
        ("half.tif", part(tiff.clone(), 0.5), "undamaged TIFF"),
        ("directory.tif", patched(tiff, 4, &[0xf0, 0xff, 0xff, 0x7f]), "undamaged TIFF"),
        ("float.tif", float, "8- or 16-bit gray or RGB samples"),
        ("half.webp", part(webp.clone(), 0.5), "undamaged WEBP"),
        ("chunk.webp", patched(webp, 12, b"VP9!"), "WEBP"),
    ]
}

/// Inputs that are no bad files but no files at all.
#[cfg(unix)]
fn bad_places(bench: &Bench) -> Vec<(&'static str, &'static str)> {
    use std::os::unix::fs::{PermissionsExt, symlink};
    std::fs::create_dir(bench.path("folder.png")).unwrap();
    symlink("nowhere.png", bench.path("dangling.png")).unwrap();
    symlink("circle.png", bench.path("circle.png")).unwrap();
    let pipe = std::process::Command::new("mkfifo").arg(bench.path("pipe.png")).status();
    assert!(pipe.unwrap().success());
    let mut places = vec![
        ("folder.png", "none in this folder"),
        ("dangling.png", "No such file"),
        ("circle.png", "symbolic link"),
        ("pipe.png", "a pipe"),
        ("missing.png", "a folder or a glob, found nothing of that name"),
        ("missing/*.png", "files that match, found none"),
    ];
    bench.picture("secret.png", 16, 16, 0);
    let closed = std::fs::Permissions::from_mode(0o000);
    std::fs::set_permissions(bench.path("secret.png"), closed).unwrap();
    // Root reads everything.
    if std::fs::File::open(bench.path("secret.png")).is_err() {
        places.push(("secret.png", "ermission denied"));
    }
    places
}

#[cfg(not(unix))]
fn bad_places(_: &Bench) -> Vec<(&'static str, &'static str)> {
    vec![("missing.png", "nothing of that name"), ("missing/*.png", "files that match, found none")]
}

#[test]
fn each_bad_input_is_one_line_and_the_good_ones_get_their_maps() {
    let bench = Bench::new();
    let mut expected = bad_places(&bench);
    for (name, bytes, message) in bad_files() {
        bench.write(name, &bytes);
        expected.push((name, message));
    }
    assert!(expected.len() >= 26);
    // Two bad files may share a stem, which would be refused: each format by itself.
    let mut groups: Vec<Vec<(&str, &str)>> = Vec::new();
    for bad in expected {
        let stem =
            |(name, _): &(&str, &str)| name.rsplit_once('.').map(|(stem, _)| stem.to_owned());
        match groups.iter_mut().find(|group| group.iter().all(|other| stem(other) != stem(&bad))) {
            Some(group) => group.push(bad),
            None => groups.push(vec![bad]),
        }
    }
    bench.picture("first.png", 16, 24, 1);
    bench.picture("last.png", 16, 24, 2);
    for group in groups {
        let mut arguments =
            vec!["infer", "-m", "model.safetensors", "-o", "out", "--force", "--json", "-"];
        arguments.push("first.png");
        arguments.extend(group.iter().map(|(name, _)| *name));
        arguments.push("last.png");
        let outcome = bench.ddu(&arguments, "");
        assert_eq!(outcome.code, 3, "{}", outcome.stderr);
        let report: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
        assert_eq!(report["images"].as_array().unwrap().len(), 2);
        assert_eq!(report["failed"].as_array().unwrap().len(), group.len());
        for (name, message) in &group {
            let lines: Vec<&str> =
                outcome.stderr.lines().filter(|line| line.contains(&format!(" {name}:"))).collect();
            assert_eq!(lines.len(), 1, "{name}: {}", outcome.stderr);
            assert!(lines[0].starts_with("warning: skipped: "), "{}", lines[0]);
            assert!(lines[0].contains(message), "{}", lines[0]);
            let failed = report["failed"].as_array().unwrap();
            let listed = failed.iter().find(|failed| failed["path"] == *name).unwrap();
            assert!(lines[0].ends_with(listed["error"].as_str().unwrap()));
        }
        // The device, one line each, the closing line.
        assert_eq!(outcome.stderr.lines().count(), group.len() + 2, "{}", outcome.stderr);
        let expected =
            ["first.entropy.npy", "first.label.png", "last.entropy.npy", "last.label.png"];
        assert_eq!(bench.files("out"), expected);
    }
}

#[test]
fn fail_fast_stops_and_keeps_what_is_written() {
    let bench = Bench::new();
    bench.picture("in/1.png", 16, 24, 1);
    bench.write("in/2.png", b"");
    for i in 3..40 {
        bench.picture(&format!("in/{i:02}.png"), 16, 24, i);
    }
    let outcome = bench.infer("in -o out --fail-fast --json report.json");
    assert_eq!(outcome.code, 1);
    let line = outcome.stderr.lines().last().unwrap();
    assert!(line.starts_with("error: in/2.png: expected"), "{}", outcome.stderr);
    let files = bench.files("out");
    assert!(files.contains(&"1.label.png".to_owned()) || files.len() < 2 * 38, "{files:?}");
    let report = std::fs::read(bench.path("report.json")).unwrap();
    let report: serde_json::Value = serde_json::from_slice(&report).unwrap();
    assert_eq!(report["failed"][0]["path"], "in/2.png");
    assert_eq!(report["images"].as_array().unwrap().len() * 2, files.len());
    // Known before anything runs.
    let outcome = bench.infer("in/1.png missing.png -o other --fail-fast");
    assert_eq!(outcome.code, 1);
    assert!(
        outcome.stderr.starts_with("error: missing.png: expected an image file"),
        "{}",
        outcome.stderr
    );
    assert!(!bench.path("other").exists());
}
