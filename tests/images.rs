//! Decoding by content: every format and sample kind a user may bring, and damaged files.

use std::io::Cursor;
use std::path::Path;

use ddu::data::{
    Image, decode, decode_bytes, decode_size, decode_size_within, decode_within, resized_within,
};
use ddu::ops::Size;
use image::codecs::jpeg::JpegEncoder;
use image::{DynamicImage, ImageBuffer, ImageEncoder, ImageFormat, Luma, LumaA, Rgb, Rgba};
use proptest::prelude::*;

#[path = "common/shared.rs"]
mod shared;

const W: u32 = 23;
const H: u32 = 17;

fn color(x: u32, y: u32) -> [u8; 3] {
    [(x * 11) as u8, (y * 15) as u8, ((x + y) * 6) as u8]
}

fn rgb() -> DynamicImage {
    ImageBuffer::from_fn(W, H, |x, y| Rgb(color(x, y))).into()
}

fn encoded(picture: &DynamicImage, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

fn decoded(bytes: &[u8]) -> Image {
    decode_bytes("test", bytes, true).unwrap()
}

fn message(bytes: &[u8]) -> String {
    decode_bytes("picture", bytes, true).unwrap_err().to_string()
}

#[test]
fn lossless_formats_give_their_pixels() {
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
        let image = decoded(&encoded(&rgb(), format));
        assert_eq!(image.size, Size::new(H as usize, W as usize), "{format:?}");
        assert_eq!(image.rgb, rgb().into_bytes(), "{format:?}");
    }
}

#[test]
fn jpeg_is_near_its_pixels() {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 100).encode_image(&rgb()).unwrap();
    let image = decoded(&bytes);
    // Quality 100 rounds the coefficients to integers; chroma is not subsampled.
    let worst = image.rgb.iter().zip(rgb().as_bytes()).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(worst.unwrap() <= 4, "{worst:?}");
}

#[test]
fn gray_is_repeated_and_alpha_dropped() {
    let gray: DynamicImage = ImageBuffer::from_fn(W, H, |x, y| Luma([color(x, y)[2]])).into();
    let gray_alpha: DynamicImage =
        ImageBuffer::from_fn(W, H, |x, y| LumaA([color(x, y)[2], x as u8])).into();
    let rgba: DynamicImage = ImageBuffer::from_fn(W, H, |x, y| {
        let [r, g, b] = color(x, y);
        Rgba([r, g, b, x as u8])
    })
    .into();
    let repeated: Vec<u8> = gray.as_bytes().iter().flat_map(|v| [*v; 3]).collect();
    assert_eq!(decoded(&encoded(&gray, ImageFormat::Png)).rgb, repeated);
    assert_eq!(decoded(&encoded(&gray_alpha, ImageFormat::Png)).rgb, repeated);
    assert_eq!(decoded(&encoded(&rgba, ImageFormat::Png)).rgb, rgb().into_bytes());
}

#[test]
fn sixteen_bits_are_scaled_and_rounded() {
    // Half way between two 8-bit values lies k * 257 + 128.5.
    let cases = [(0, 0), (128, 0), (129, 1), (257, 1), (0x7fff, 127), (0x8080, 128), (65535, 255)];
    let wide: Vec<u16> = cases.iter().flat_map(|(v, _)| [*v; 3]).collect();
    let picture: DynamicImage =
        ImageBuffer::<Rgb<u16>, _>::from_raw(cases.len() as u32, 1, wide).unwrap().into();
    let expected: Vec<u8> = cases.iter().flat_map(|(_, v)| [*v; 3]).collect();
    for format in [ImageFormat::Png, ImageFormat::Tiff] {
        assert_eq!(decoded(&encoded(&picture, format)).rgb, expected, "{format:?}");
    }
    let gray: DynamicImage = ImageBuffer::from_pixel(2, 1, Luma([129u16])).into();
    assert_eq!(decoded(&encoded(&gray, ImageFormat::Png)).rgb, [1; 6]);
}

#[test]
fn cmyk_jpeg_shows_its_colours() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    let image = decode(&folder.join("cmyk.jpg"), true).unwrap();
    let expected = std::fs::read(folder.join("cmyk.rgb")).unwrap();
    // Two decoders may round the inverse cosine transform differently by one.
    let worst = image.rgb.iter().zip(&expected).map(|(a, b)| a.abs_diff(*b)).max();
    assert!(image.rgb.len() == expected.len() && worst.unwrap() <= 1, "{worst:?}");
}

/// EXIF with the one tag 0x112.
fn exif(orientation: u8) -> Vec<u8> {
    let mut bytes = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    bytes.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    bytes
}

#[test]
fn orientation_is_respected_on_request() {
    // 6: shown turned by a quarter, clockwise: the stored left column is the shown top row.
    for format in ["jpeg", "png"] {
        let mut bytes = Vec::new();
        let (pixels, color) = (rgb(), image::ExtendedColorType::Rgb8);
        if format == "jpeg" {
            let mut encoder = JpegEncoder::new_with_quality(&mut bytes, 100);
            encoder.set_exif_metadata(exif(6)).unwrap();
            encoder.write_image(pixels.as_bytes(), W, H, color).unwrap();
        } else {
            let mut encoder = image::codecs::png::PngEncoder::new(&mut bytes);
            encoder.set_exif_metadata(exif(6)).unwrap();
            encoder.write_image(pixels.as_bytes(), W, H, color).unwrap();
        }
        let stored = decode_bytes("test", &bytes, false).unwrap();
        let shown = decode_bytes("test", &bytes, true).unwrap();
        assert_eq!(stored.size, Size::new(H as usize, W as usize), "{format}");
        assert_eq!(shown.size, Size::new(W as usize, H as usize), "{format}");
        let at = |image: &Image, row: usize, column: usize| {
            let start = 3 * (row * image.size.w + column);
            image.rgb[start..start + 3].to_vec()
        };
        for (row, column) in [(0, 0), (3, 16), (22, 5)] {
            let source = at(&stored, H as usize - 1 - column, row);
            assert_eq!(at(&shown, row, column), source, "{format}");
        }
    }
}

#[test]
fn the_first_page_of_a_tiff_is_taken() {
    // A second page is a second directory; `image` writes one, so chain one by hand.
    let mut bytes = encoded(&rgb(), ImageFormat::Tiff);
    let ifd = u32::from_le_bytes(bytes[4..8].try_into().unwrap()) as usize;
    let entries = u16::from_le_bytes(bytes[ifd..ifd + 2].try_into().unwrap()) as usize;
    let (next, mut page) = (ifd + 2 + 12 * entries, bytes[ifd..ifd + 6 + 12 * entries].to_vec());
    // Tag 0x100, the width, sorts first: another width tells the pages apart.
    assert_eq!(page[2..4], [0, 1]);
    page[10] = 1;
    let second = bytes.len() as u32;
    bytes[next..next + 4].copy_from_slice(&second.to_le_bytes());
    bytes.extend(page);
    assert_eq!(decoded(&bytes).rgb, rgb().into_bytes());
}

#[test]
fn float_samples_are_refused() {
    let float: DynamicImage = ImageBuffer::from_pixel(3, 2, Rgb([0.5f32; 3])).into();
    let text = message(&encoded(&float, ImageFormat::Tiff));
    assert!(text.contains("8- or 16-bit gray or RGB samples, found Rgb32F"), "{text}");
}

#[test]
fn resizing_keeps_the_ratio_and_a_plane() {
    // A linear ramp stays one under bilinear interpolation away from the border, up to rounding.
    let ramp = ImageBuffer::from_fn(120, 60, |x, _| Rgb([2 * x as u8, 7, 200]));
    let image = Image { size: Size::new(60, 120), rgb: ramp.into_raw() };
    let small = image.clone().resize_short("ramp", 30).unwrap();
    assert_eq!(small.size, Size::new(30, 60));
    for x in 2..58 {
        let pixel = &small.rgb[3 * (10 * 60 + x)..][..3];
        // Output column x has its centre at 2 x + 0.5 of the input, hence 4 x + 1.
        assert!(pixel[0].abs_diff((4 * x + 1) as u8) <= 1, "{x}: {pixel:?}");
        assert_eq!(pixel[1..], [7, 200]);
    }
    assert_eq!(image.clone().resize_short("ramp", 60).unwrap(), image);
    assert_eq!(image.clone().resize_short("ramp", 61).unwrap().size, Size::new(61, 122));
    let error = image.resize_short("ramp", 1 << 20).unwrap_err().to_string();
    assert!(error.starts_with("ramp resized: expected"), "{error}");
}

/// Its decoder would allocate what a chunk's header claims: 4 GB for a file of a few hundred bytes.
#[test]
fn a_webp_chunk_beyond_its_file_is_refused() {
    let plain = encoded(&rgb(), ImageFormat::WebP);
    let extended = |claim: u32| {
        let mut bytes = b"RIFF\0\0\0\0WEBPVP8X\x0a\0\0\0\x08\0\0\0".to_vec();
        bytes.extend([W as u8 - 1, 0, 0, H as u8 - 1, 0, 0]);
        bytes.extend(&plain[12..]);
        bytes.extend(b"EXIF");
        bytes.extend(claim.to_le_bytes());
        bytes.extend(exif(1));
        let length = bytes.len() as u32 - 8;
        bytes[4..8].copy_from_slice(&length.to_le_bytes());
        bytes
    };
    let length = exif(1).len() as u32;
    assert_eq!(decoded(&extended(length)).rgb, rgb().into_bytes());
    for claim in [0xffff_0000, 1 << 20, length + 2] {
        let text = message(&extended(claim));
        assert!(text.contains("larger than the file"), "{text}");
    }
}

#[test]
fn the_limit_of_pixels_is_the_users_and_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.png");
    std::fs::write(&path, encoded(&rgb(), ImageFormat::Png)).unwrap();
    let pixels = u64::from(W * H);
    let size = Size::new(H as usize, W as usize);
    assert_eq!(decode_size(&path, true).unwrap(), size);
    assert_eq!(decode_within(&path, true, pixels).unwrap().size, size);
    assert_eq!(decode_size_within(&path, true, pixels).unwrap(), size);
    for error in [
        decode_within(&path, true, pixels - 1).unwrap_err(),
        decode_size_within(&path, true, pixels - 1).unwrap_err(),
    ] {
        let text = error.to_string();
        let end = format!("1 to {} pixels, found 17 x 23; --max-pixels sets the limit", pixels - 1);
        assert!(text.ends_with(&end), "{text}");
    }
    // 17 x 23 resized to 34 x 46.
    assert_eq!(resized_within("p", size, 34, 4 * pixels).unwrap(), Size::new(34, 46));
    let larger = decode(&path, true).unwrap().resize_short_within("p", 34, 4 * pixels - 1);
    for error in [resized_within("p", size, 34, 4 * pixels - 1).unwrap_err(), larger.unwrap_err()] {
        let text = error.to_string();
        assert!(text.starts_with("p resized: expected 1 to 1563 pixels, found 34 x 46"), "{text}");
    }
}

#[test]
fn truncation_anywhere_is_an_error() {
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, 90).encode_image(&rgb()).unwrap();
    let mut all = vec![jpeg];
    for format in [ImageFormat::Png, ImageFormat::Bmp, ImageFormat::Tiff, ImageFormat::WebP] {
        all.push(encoded(&rgb(), format));
    }
    for bytes in all {
        // Up to two thirds: a missing end-of-image marker or final checksum loses no pixel.
        for end in 0..bytes.len() * 2 / 3 {
            let text = message(&bytes[..end]);
            assert!(text.starts_with("picture: expected") && !text.contains('\n'), "{text}");
        }
    }
}

/// A JPEG of the golden folder, as some encoder writes it.
fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/images");
    std::fs::read(folder.join(name)).unwrap()
}

const JPEGS: [&str; 6] = [
    "baseline-420.jpg",
    "progressive-420.jpg",
    "restart-422.jpg",
    "progressive-restart-444.jpg",
    "gray-progressive.jpg",
    "cmyk.jpg",
];

/// Where the next marker of this code lies, from `start` on.
fn marker(bytes: &[u8], start: usize, codes: std::ops::RangeInclusive<u8>) -> Option<usize> {
    let found = |pair: &[u8]| pair[0] == 0xff && codes.contains(&pair[1]);
    bytes[start..].windows(2).position(found).map(|at| start + at)
}

fn refused(name: &str, bytes: &[u8]) {
    let decoded = decode_bytes("picture", bytes, true).map(|image| image.size);
    let text = decoded.expect_err(name).to_string();
    assert!(text.starts_with("picture: expected an undamaged JPEG, found"), "{name}: {text}");
}

#[test]
fn a_jpeg_cut_short_is_refused_though_an_end_marker_follows() {
    for name in JPEGS {
        let intact = golden(name);
        decoded(&intact);
        let scan = marker(&intact, 0, 0xda..=0xda).unwrap();
        // The last byte before the end marker may hold nothing but padding.
        for end in scan..intact.len() - 3 {
            let cut = [&intact[..end], &[0xff, 0xd9]].concat();
            refused(&format!("{name} cut to {end}"), &cut);
        }
        // Without its end marker a picture is whole; the decoder takes that of sequential ones.
        if !name.contains("progressive") {
            decoded(&intact[..intact.len() - 2]);
        }
    }
}

#[test]
fn a_jpeg_of_another_size_than_its_data_is_refused() {
    for name in JPEGS {
        let intact = golden(name);
        let frame = marker(&intact, 0, 0xc0..=0xc2).unwrap();
        for (side, at) in [("height", frame + 5), ("width", frame + 7)] {
            let size = u16::from_be_bytes([intact[at], intact[at + 1]]);
            for other in [2 * size, size + 16, size - 16] {
                let mut bytes = intact.clone();
                bytes[at..at + 2].copy_from_slice(&other.to_be_bytes());
                refused(&format!("{name}, {side} {other}"), &bytes);
            }
        }
    }
}

#[test]
fn a_jpeg_without_some_of_its_blocks_is_refused() {
    for name in ["restart-422.jpg", "progressive-restart-444.jpg"] {
        let intact = golden(name);
        let first = marker(&intact, 0, 0xd0..=0xd7).unwrap();
        let second = marker(&intact, first + 2, 0xd0..=0xd7).unwrap();
        refused(name, &[&intact[..first], &intact[second..]].concat());
        refused(name, &[&intact[..second], &intact[first..]].concat());
        // The markers count up again, a blocks' interval is gone.
        let emptied = [&intact[..first + 2], &intact[second..]].concat();
        refused(name, &emptied);
    }
}

#[test]
fn no_photograph_of_a_real_dataset_is_refused() {
    let Some(folder) = shared::shared("data/camvid/JPEGImages") else { return };
    for file in std::fs::read_dir(folder).unwrap() {
        decode(&file.unwrap().path(), true).unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    /// Any damage gives a picture or one line, never a panic.
    #[test]
    fn damage_never_panics(
        format in 0usize..5,
        hits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        use ImageFormat::{Bmp, Jpeg, Png, Tiff, WebP};
        let mut bytes = encoded(&rgb(), [Jpeg, Png, Bmp, Tiff, WebP][format]);
        for (index, value) in hits {
            let at = index.index(bytes.len());
            bytes[at] = value;
        }
        if let Err(error) = decode_bytes("picture", &bytes, true) {
            prop_assert!(!error.to_string().contains('\n'));
        }
    }
}
