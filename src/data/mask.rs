//! Masks: PNG files whose pixels are class indices. The indices are kept as stored; a palette is
//! never expanded to its colours.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use png::{ColorType, Decoder, DecodingError, Limits, Transformations};

use super::image::MAX_PIXELS;
use super::read_file;
use crate::error::{Error, Result};
use crate::ops::Size;

const MAX_FILE_BYTES: u64 = 1 << 30;

/// The label of "no class", and of padding.
pub const VOID: u8 = 255;

/// A class index per pixel, row-major; [`VOID`] has no class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mask {
    pub size: Size,
    pub label: Vec<u8>,
}

/// Reads a palette or gray PNG of at most 8 bits per pixel.
///
/// # Errors
/// One line for a file that is no PNG, is damaged, or holds colours or 16-bit samples.
pub fn read_mask(path: &Path) -> Result<Mask> {
    read_mask_within(path, MAX_PIXELS)
}

/// [`read_mask`] with a limit of the user's: `--max-pixels`.
pub fn read_mask_within(path: &Path, max_pixels: u64) -> Result<Mask> {
    let bytes = read_file(path, "a mask: a PNG file", MAX_FILE_BYTES)?;
    // A decoder's bug must cost this mask, not the run.
    catch_unwind(AssertUnwindSafe(|| read(path, &bytes, max_pixels))).unwrap_or_else(|_| {
        Err(Error::invalid(path.display(), "an undamaged PNG", "one that breaks its decoder"))
    })
}

fn read(path: &Path, bytes: &[u8], max_pixels: u64) -> Result<Mask> {
    let expected = "a palette or 8-bit gray PNG";
    let fail = |error: DecodingError| {
        Error::invalid(path.display(), "an undamaged PNG, palette or 8-bit gray", error)
    };
    let limits =
        Limits { bytes: usize::try_from(max_pixels.saturating_mul(8)).unwrap_or(usize::MAX) };
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), limits);
    decoder.set_transformations(Transformations::IDENTITY);
    let mut reader = decoder.read_info().map_err(fail)?;
    let info = reader.info();
    let (w, h, bits) = (info.width, info.height, info.bit_depth as usize);
    if !matches!(info.color_type, ColorType::Indexed | ColorType::Grayscale) || bits > 8 {
        let found = format!("{:?} of {bits} bits a sample", info.color_type);
        return Err(
            Error::invalid(path.display(), expected, found).fix("store class indices, not colours")
        );
    }
    if u64::from(w) * u64::from(h) > max_pixels {
        let expected = format!("at most {max_pixels} pixels");
        return Err(Error::invalid(path.display(), expected, format!("{h} x {w}"))
            .fix("--max-pixels sets the limit"));
    }
    let size = Size::new(h as usize, w as usize);
    let len = reader.output_buffer_size().unwrap_or(size.pixels());
    let mut packed = vec![0; len];
    reader.next_frame(&mut packed).map_err(fail)?;
    if bits == 8 {
        packed.truncate(size.pixels());
        return Ok(Mask { size, label: packed });
    }
    // Rows of less than 8 bits start on a byte, the first pixel in the highest bits.
    let per_byte = 8 / bits;
    let mut label = Vec::with_capacity(size.pixels());
    for row in packed.chunks_exact(size.w.div_ceil(per_byte)).take(size.h) {
        label.extend((0..size.w).map(|x| {
            let shift = 8 - bits * (x % per_byte + 1);
            (row[x / per_byte] >> shift) & ((1 << bits) - 1)
        }));
    }
    Ok(Mask { size, label })
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn write(path: &Path, color: ColorType, depth: png::BitDepth, size: Size, data: &[u8]) {
        let file = File::create(path).unwrap();
        let mut encoder = png::Encoder::new(file, size.w as u32, size.h as u32);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            // Colours that are no indices.
            encoder.set_palette((0..48).map(|i| 200 - i).collect::<Vec<u8>>());
        }
        encoder.write_header().unwrap().write_image_data(data).unwrap();
    }

    #[test]
    fn indices_come_back_as_stored_at_every_depth() {
        use png::BitDepth::{Eight, Four, One, Two};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.png");
        let size = Size::new(2, 5);
        for color in [ColorType::Indexed, ColorType::Grayscale] {
            write(&path, color, Eight, size, &[0, 1, 2, 3, 4, 5, 6, 7, 8, 15]);
            assert_eq!(read_mask(&path).unwrap().label, [0, 1, 2, 3, 4, 5, 6, 7, 8, 15]);
            write(&path, color, Four, size, &[0x12, 0x34, 0x50, 0xfe, 0xdc, 0xb0]);
            assert_eq!(read_mask(&path).unwrap().label, [1, 2, 3, 4, 5, 15, 14, 13, 12, 11]);
            write(&path, color, Two, size, &[0b00_01_10_11, 0b01_000000, 0b11_10_01_00, 0]);
            assert_eq!(read_mask(&path).unwrap().label, [0, 1, 2, 3, 1, 3, 2, 1, 0, 0]);
            write(&path, color, One, size, &[0b1010_1000, 0b0101_0000]);
            assert_eq!(read_mask(&path).unwrap().label, [1, 0, 1, 0, 1, 0, 1, 0, 1, 0]);
        }
        write(&path, ColorType::Grayscale, Eight, Size::new(1, 2), &[255, 200]);
        let mask = Mask { size: Size::new(1, 2), label: vec![255, 200] };
        assert_eq!(read_mask(&path).unwrap(), mask);
    }

    #[test]
    fn colours_wide_samples_and_damage_are_refused_in_one_line() {
        use png::BitDepth::{Eight, Sixteen};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m.png");
        let refused = |words: &str| {
            let error = read_mask(&path).unwrap_err().to_string();
            assert!(error.contains("m.png") && error.contains(words), "{error}");
            assert!(!error.contains('\n'), "{error}");
        };
        let size = Size::new(1, 2);
        write(&path, ColorType::Rgb, Eight, size, &[0; 6]);
        refused("Rgb of 8 bits");
        write(&path, ColorType::GrayscaleAlpha, Eight, size, &[0; 4]);
        refused("GrayscaleAlpha");
        write(&path, ColorType::Grayscale, Sixteen, size, &[0; 4]);
        refused("16 bits");
        write(&path, ColorType::Indexed, Eight, Size::new(30, 30), &[1; 900]);
        let intact = std::fs::read(&path).unwrap();
        for length in [0, 7, 20, intact.len() / 2, intact.len() - 20] {
            std::fs::write(&path, &intact[..length]).unwrap();
            refused("undamaged");
        }
        std::fs::write(&path, b"P5 2 1 255\n\0\0").unwrap();
        refused("undamaged");
        std::fs::remove_file(&path).unwrap();
        refused("cannot read");
    }
}
