//! Pictures: decoding by content to 8-bit RGB, and the resize that `--resize` asks for.
//!
//! A file that cannot be decoded in full is an error, never a half-grey picture: JPEG is decoded
//! strictly, since a truncated or corrupt scan would otherwise give maps that look valid.

use std::io::Cursor;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use super::read_file;
use crate::error::{Error, Result};
use crate::host;
use crate::ops::Size;

/// What `decode` takes, for messages.
pub const FORMATS: &str = "JPEG, PNG, BMP, TIFF or WebP";

/// A picture of more pixels is refused before anything is allocated for it, unless a caller of
/// [`decode_within`] says otherwise.
pub const MAX_PIXELS: u64 = 1 << 27;

/// Maximum bytes per pixel that a decoder holds in addition to the 3 of the result: 16-bit RGBA.
const DECODER_BYTES: u64 = 8;
/// A picture of fewer pixels is decoded without asking how much memory is free.
const SMALL_PIXELS: u64 = 1 << 22;
const LIMIT: &str = "--max-pixels sets the limit";
const SAMPLES: &str = "8- or 16-bit gray or RGB samples";
const MAX_FILE_BYTES: u64 = 1 << 30;

/// An 8-bit RGB picture, interleaved, row-major: `rgb` is `[h, w, 3]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    pub size: Size,
    pub rgb: Vec<u8>,
}

/// Reads a JPEG, PNG, BMP, TIFF or WebP file, told by its content, as 8-bit RGB.
///
/// Gray is repeated in the three channels; alpha is dropped, not blended, as PIL's `convert("RGB")`
/// and OpenCV do; 16-bit samples are scaled to 8 bits and rounded (`(v + 128) / 257`); CMYK JPEGs
/// are converted; of an animation or a multi-page TIFF the first frame is taken. Colour profiles
/// are ignored. `respect_orientation` turns the picture as its EXIF data says.
///
/// # Errors
/// One line for anything that is not such a picture, is damaged, holds float samples or has more
/// than [`MAX_PIXELS`].
pub fn decode(path: &Path, respect_orientation: bool) -> Result<Image> {
    decode_within(path, respect_orientation, MAX_PIXELS)
}

/// [`decode`] with a limit of the user's: `--max-pixels`.
pub fn decode_within(path: &Path, respect_orientation: bool, max_pixels: u64) -> Result<Image> {
    let bytes = read(path)?;
    let source = path.display().to_string();
    guarded(&source, || decode_all(&source, &bytes, respect_orientation, max_pixels))
}

/// A decoder's bug must cost this picture, not the run.
fn guarded<T>(source: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(damaged(source, "image", "one that breaks its decoder")))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    read_file(path, "an image file", MAX_FILE_BYTES)
}

/// The size that [`decode`] would give, from the header alone: nothing is decoded, and the rest may
/// still be damaged.
pub fn decode_size(path: &Path, respect_orientation: bool) -> Result<Size> {
    decode_size_within(path, respect_orientation, MAX_PIXELS)
}

/// [`decode_size`] with a limit of the user's: `--max-pixels`.
pub fn decode_size_within(path: &Path, respect_orientation: bool, max_pixels: u64) -> Result<Size> {
    let bytes = read(path)?;
    let source = path.display().to_string();
    guarded(&source, || {
        let (header, orientation) = match format_of(&source, &bytes)? {
            ImageFormat::Jpeg => jpeg_header(&source, &mut jpeg_decoder(&bytes), max_pixels)?,
            format => {
                let (_, size, turn) = other_header(&source, &bytes, format, max_pixels)?;
                (size, turn)
            }
        };
        use Orientation::{Rotate90, Rotate90FlipH, Rotate270, Rotate270FlipH};
        let turned = matches!(orientation, Rotate90 | Rotate90FlipH | Rotate270 | Rotate270FlipH);
        Ok(match turned && respect_orientation {
            true => Size::new(header.w, header.h),
            false => header,
        })
    })
}

/// [`decode`] for a file's content; `source` names it in messages.
pub fn decode_bytes(source: &str, bytes: &[u8], respect_orientation: bool) -> Result<Image> {
    decode_all(source, bytes, respect_orientation, MAX_PIXELS)
}

fn decode_all(
    source: &str,
    bytes: &[u8],
    respect_orientation: bool,
    max_pixels: u64,
) -> Result<Image> {
    let (picture, orientation) = match format_of(source, bytes)? {
        ImageFormat::Jpeg => decode_jpeg(source, bytes, max_pixels)?,
        format => decode_other(source, bytes, format, max_pixels)?,
    };
    let mut picture = to_rgb8(source, picture)?;
    if respect_orientation {
        picture.apply_orientation(orientation);
    }
    let size = Size::new(picture.height() as usize, picture.width() as usize);
    Ok(Image { size, rgb: picture.into_bytes() })
}

/// Refuses a large picture that does not fit the memory that is free.
fn check_memory(source: &str, size: Size) -> Result<()> {
    let pixels = size.pixels() as u64;
    let Some(memory) = host::memory().filter(|_| pixels > SMALL_PIXELS) else { return Ok(()) };
    let needed = (3 + DECODER_BYTES) * pixels;
    if needed <= memory.available {
        return Ok(());
    }
    Err(Error::Memory {
        what: format!("{source}: decoding {size}"),
        needed,
        available: memory.available,
        fix: "scale the file down, or free memory".into(),
    })
}

fn format_of(source: &str, bytes: &[u8]) -> Result<ImageFormat> {
    if bytes.is_empty() {
        return Err(Error::invalid(source, format!("a {FORMATS} image"), "an empty file"));
    }
    supported_format(bytes).ok_or_else(|| {
        let found = match image::guess_format(bytes) {
            Ok(other) => format!("a {} file", format!("{other:?}").to_uppercase()),
            Err(_) => "no such file signature".into(),
        };
        Error::invalid(source, format!("a {FORMATS} image"), found)
    })
}

/// The format of the picture that starts with `head` (16 bytes suffice), where `decode` takes it.
pub(super) fn supported_format(head: &[u8]) -> Option<ImageFormat> {
    use ImageFormat::{Bmp, Jpeg, Png, Tiff, WebP};
    image::guess_format(head).ok().filter(|f| matches!(f, Jpeg | Png | Bmp | Tiff | WebP))
}

/// Decodes strictly, which the `image` crate does not offer: it fills what is missing with gray. What
/// even a strict decoder lets pass, `jpeg::damage` finds.
fn decode_jpeg(source: &str, bytes: &[u8], max_pixels: u64) -> Result<(DynamicImage, Orientation)> {
    let mut decoder = jpeg_decoder(bytes);
    let (size, orientation) = jpeg_header(source, &mut decoder, max_pixels)?;
    check_memory(source, size)?;
    if let Some(found) = super::jpeg::damage(bytes) {
        return Err(damaged(source, "JPEG", found));
    }
    let pixels = decoder.decode().map_err(|e| damaged(source, "JPEG", format!("{e:?}")))?;
    let picture = RgbImage::from_raw(size.w as u32, size.h as u32, pixels)
        .ok_or_else(|| damaged(source, "JPEG", "other than three channels"))?;
    Ok((picture.into(), orientation))
}

fn jpeg_decoder(bytes: &[u8]) -> JpegDecoder<ZCursor<&[u8]>> {
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::MAX)
        .set_max_height(usize::MAX)
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    JpegDecoder::new_with_options(ZCursor::new(bytes), options)
}

fn jpeg_header(
    source: &str,
    decoder: &mut JpegDecoder<ZCursor<&[u8]>>,
    max_pixels: u64,
) -> Result<(Size, Orientation)> {
    decoder.decode_headers().map_err(|e| damaged(source, "JPEG", format!("{e:?}")))?;
    let (w, h) = decoder.dimensions().unwrap_or_default();
    let size = check_dimensions(source, h as u64, w as u64, max_pixels, LIMIT)?;
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    Ok((size, orientation.unwrap_or(Orientation::NoTransforms)))
}

fn decode_other(
    source: &str,
    bytes: &[u8],
    format: ImageFormat,
    max_pixels: u64,
) -> Result<(DynamicImage, Orientation)> {
    let (decoder, size, orientation) = other_header(source, bytes, format, max_pixels)?;
    check_memory(source, size)?;
    let picture =
        DynamicImage::from_decoder(decoder).map_err(|e| other_error(source, format, e))?;
    Ok((picture, orientation))
}

fn other_header(
    source: &str,
    bytes: &[u8],
    format: ImageFormat,
    max_pixels: u64,
) -> Result<(impl ImageDecoder, Size, Orientation)> {
    if format == ImageFormat::WebP && !webp_chunks_fit(bytes) {
        return Err(damaged(source, "WEBP", "a part that is larger than the file"));
    }
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(DECODER_BYTES.saturating_mul(max_pixels));
    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    reader.limits(limits);
    let mut decoder = reader.into_decoder().map_err(|e| other_error(source, format, e))?;
    let (w, h) = decoder.dimensions();
    let size = check_dimensions(source, h.into(), w.into(), max_pixels, LIMIT)?;
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok((decoder, size, orientation))
}

/// Whether each chunk lies within the file: the decoder allocates what a chunk's header says.
fn webp_chunks_fit(bytes: &[u8]) -> bool {
    let mut rest = bytes.get(12..).unwrap_or_default();
    while let Some((&[_, _, _, _, a, b, c, d], after)) = rest.split_first_chunk::<8>() {
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > after.len() {
            return false;
        }
        rest = after.get(length + length % 2..).unwrap_or_default();
    }
    true
}

fn other_error(source: &str, format: ImageFormat, error: image::ImageError) -> Error {
    let name = format!("{format:?}").to_uppercase();
    match error {
        image::ImageError::IoError(_) => damaged(source, &name, "a file that ends too early"),
        image::ImageError::Unsupported(e) => {
            Error::invalid(source, format!("{name} with {SAMPLES}"), one_line(e))
                .fix("save it as 8-bit RGB first")
        }
        other => damaged(source, &name, other),
    }
}

/// `fix` says how a larger picture can be had.
fn check_dimensions(source: &str, h: u64, w: u64, max_pixels: u64, fix: &str) -> Result<Size> {
    let pixels = w.saturating_mul(h);
    if pixels == 0 || pixels > max_pixels {
        let expected = format!("1 to {max_pixels} pixels");
        let error = Error::invalid(source, expected, format!("{h} x {w}"));
        return Err(if pixels == 0 { error } else { error.fix(fix) });
    }
    // Headers hold sides of at most 32 bits.
    Ok(Size::new(h as usize, w as usize))
}

fn to_rgb8(source: &str, picture: DynamicImage) -> Result<DynamicImage> {
    let (w, h) = (picture.width(), picture.height());
    let channels = usize::from(picture.color().channel_count());
    let narrow = |wide: &[u16]| wide.iter().map(|v| ((u32::from(*v) + 128) / 257) as u8).collect();
    use DynamicImage::*;
    let samples: Vec<u8> = match picture {
        ImageRgb8(_) => return Ok(picture),
        ImageLuma8(_) | ImageLumaA8(_) | ImageRgba8(_) => picture.into_bytes(),
        ImageLuma16(p) => narrow(&p),
        ImageLumaA16(p) => narrow(&p),
        ImageRgb16(p) => narrow(&p),
        ImageRgba16(p) => narrow(&p),
        other => {
            let found = format!("{:?}", other.color());
            return Err(Error::invalid(source, SAMPLES, found).fix("save it as 8-bit RGB first"));
        }
    };
    let rgb = match channels {
        3 => samples,
        4 => samples.chunks_exact(4).flat_map(|p| [p[0], p[1], p[2]]).collect(),
        _ => samples.chunks_exact(channels).flat_map(|p| [p[0]; 3]).collect(),
    };
    let picture = RgbImage::from_raw(w, h, rgb)
        .ok_or_else(|| damaged(source, "image", "fewer pixels than its header says"))?;
    Ok(picture.into())
}

fn damaged(source: &str, format: impl std::fmt::Display, found: impl ToString) -> Error {
    Error::invalid(source, format!("an undamaged {format}"), one_line(found))
}

/// Decoders' messages may span lines.
fn one_line(message: impl ToString) -> String {
    message.to_string().split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The size whose shorter side is `short` and whose longer is `round(long short / old)`.
///
/// # Errors
/// A result of more than `max_pixels` (`--max-pixels`); `source` names the picture in the message.
pub fn resized_within(source: &str, size: Size, short: usize, max_pixels: u64) -> Result<Size> {
    let old = size.h.min(size.w).max(1) as u64;
    let scale = |n: usize| (n as u64).saturating_mul(short as u64).saturating_add(old / 2) / old;
    let (source, fix) = (format!("{source} resized"), "--resize to a shorter side");
    check_dimensions(&source, scale(size.h), scale(size.w), max_pixels, fix)
}

impl Image {
    /// Scales to the size that [`resized_within`] gives: bilinear, with the triangle widened by the factor
    /// when shrinking (PIL's `BILINEAR`, torchvision's antialiased `Resize`).
    pub fn resize_short(self, source: &str, short: usize) -> Result<Image> {
        self.resize_short_within(source, short, MAX_PIXELS)
    }

    /// [`Self::resize_short`] with a limit of the user's: `--max-pixels`.
    pub fn resize_short_within(self, source: &str, short: usize, max_pixels: u64) -> Result<Image> {
        let size = resized_within(source, self.size, short, max_pixels)?;
        if size == self.size {
            return Ok(self);
        }
        // Sides are u32 to the crate; a limit of the user's may lie beyond them.
        let side = |n: usize| {
            u32::try_from(n).map_err(|_| Error::invalid(source, "sides below 2^32", size))
        };
        let picture = RgbImage::from_raw(side(self.size.w)?, side(self.size.h)?, self.rgb)
            .ok_or_else(|| Error::invalid(source, format!("{} pixels", self.size), "others"))?;
        let filter = image::imageops::FilterType::Triangle;
        let picture = image::imageops::resize(&picture, side(size.w)?, side(size.h)?, filter);
        Ok(Image { size, rgb: picture.into_raw() })
    }
}
