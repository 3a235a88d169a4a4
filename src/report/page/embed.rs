//! Binary data in the text of a page: pictures as data addresses, maps in a form that a browser
//! unpacks to the same numbers everywhere.
//!
//! Maps do not go through PNG and canvas: colour management, alpha and the noise that some browsers
//! add to what is read from a canvas would change them. A map is u16 codes, row-major. From each code
//! the prediction `left + above - above left` (0 outside, modulo 2^16) is subtracted: maps are upsampled,
//! so that little is left. The rest r (as i16) is folded to `(r << 1) ^ (r >> 15)`; its low bytes follow
//! each other, then its high bytes; zlib and base64 come last. `viewer.js` undoes it.

use std::io::Write;

use flate2::Compression;
use flate2::write::ZlibEncoder;
use image::{ExtendedColorType, ImageEncoder, codecs};

use crate::data::Image;
use crate::ops::Size;

/// The code of a value that is not finite.
pub const NOT_FINITE: u16 = u16::MAX;
/// The greatest code of a finite value. 13 bits: the noise of finer ones would only take room.
pub const TOP: u16 = 8191;

/// Numbers `value = low + code * step`, each within half a step of what was packed.
#[derive(Clone, Debug, PartialEq)]
pub struct Packed {
    pub low: f32,
    pub step: f32,
    pub codes: Vec<u16>,
}

/// Values on equal steps from their least to their greatest.
pub fn quantise(values: &[f32]) -> Packed {
    let finite = || values.iter().copied().filter(|v| v.is_finite()).map(f64::from);
    let (low, high) =
        (finite().fold(f64::INFINITY, f64::min), finite().fold(f64::NEG_INFINITY, f64::max));
    let low = if low <= high { low as f32 } else { 0.0 };
    // In f64 the difference of any two f32 is finite.
    let step = ((high - f64::from(low)).max(0.0) / f64::from(TOP)) as f32;
    let code = |value: &f32| match value.is_finite() {
        // A step of 0: one value alone.
        true if step > 0.0 => {
            let place = (f64::from(*value) - f64::from(low)) / f64::from(step);
            place.round().clamp(0.0, f64::from(TOP)) as u16
        }
        true => 0,
        false => NOT_FINITE,
    };
    Packed { low, step, codes: values.iter().map(code).collect() }
}

/// Codes `[h, w]` as text.
pub fn codes(size: Size, codes: &[u16]) -> String {
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::best());
    zlib.write_all(&planes(size, codes)).expect("a Vec takes everything");
    base64(&zlib.finish().expect("a Vec takes everything"))
}

/// What is left of the codes after prediction: all low bytes, then all high bytes.
fn planes(size: Size, codes: &[u16]) -> Vec<u8> {
    let at = |row: Option<usize>, column: Option<usize>| match (row, column) {
        (Some(row), Some(column)) => codes[row * size.w + column],
        _ => 0,
    };
    let mut rest = Vec::with_capacity(codes.len());
    for row in 0..size.h {
        for column in 0..size.w {
            let (above, before) = (row.checked_sub(1), column.checked_sub(1));
            let left = at(Some(row), before);
            let predicted =
                left.wrapping_add(at(above, Some(column))).wrapping_sub(at(above, before));
            let r = codes[row * size.w + column].wrapping_sub(predicted) as i16;
            rest.push((r << 1 ^ r >> 15) as u16);
        }
    }
    let low = rest.iter().map(|r| *r as u8);
    low.chain(rest.iter().map(|r| (r >> 8) as u8)).collect()
}

/// A photo, or a map of numbers in colours.
pub fn jpeg(image: &Image) -> String {
    let mut bytes = Vec::new();
    codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 88)
        .encode(&image.rgb, image.size.w as u32, image.size.h as u32, ExtendedColorType::Rgb8)
        .expect("a picture of a page is smaller than 65536 pixels a side");
    format!("data:image/jpeg;base64,{}", base64(&bytes))
}

/// A map of classes in their colours.
pub fn png(image: &Image) -> String {
    let mut bytes = Vec::new();
    let compression = codecs::png::CompressionType::Best;
    codecs::png::PngEncoder::new_with_quality(&mut bytes, compression, codecs::png::FilterType::Up)
        .write_image(&image.rgb, image.size.w as u32, image.size.h as u32, ExtendedColorType::Rgb8)
        .expect("a Vec takes everything");
    format!("data:image/png;base64,{}", base64(&bytes))
}

/// RFC 4648, padded.
pub fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let byte = |i: usize| u32::from(chunk.get(i).copied().unwrap_or(0));
        let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
        for i in 0..4 {
            let digit = DIGITS[(bits >> (18 - 6 * i) & 63) as usize];
            text.push(if i <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_that_of_rfc_4648() {
        let vectors = ["", "f", "fo", "foo", "foob", "fooba", "foobar"];
        let expected = ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg==", "Zm9vYmE=", "Zm9vYmFy"];
        assert_eq!(vectors.map(|v| base64(v.as_bytes())), expected);
    }

    /// As `viewer.js` does.
    fn unpack(size: Size, planes: &[u8]) -> Vec<u16> {
        let mut codes = vec![0u16; size.pixels()];
        for i in 0..codes.len() {
            let folded = u16::from_le_bytes([planes[i], planes[codes.len() + i]]);
            let rest = folded >> 1 ^ (folded & 1).wrapping_neg();
            let (x, y) = (i % size.w, i / size.w);
            let left = if x > 0 { codes[i - 1] } else { 0 };
            let above = if y > 0 { codes[i - size.w] } else { 0 };
            let corner = if x > 0 && y > 0 { codes[i - size.w - 1] } else { 0 };
            codes[i] = rest.wrapping_add(left).wrapping_add(above).wrapping_sub(corner);
        }
        codes
    }

    proptest::proptest! {
        #[test]
        fn codes_come_back_exactly(h in 1usize..6, w in 1usize..6, seed: [u16; 25]) {
            let size = Size::new(h, w);
            let codes = &seed[..size.pixels()];
            proptest::prop_assert_eq!(unpack(size, &planes(size, codes)), codes);
        }

        #[test]
        fn values_come_back_within_half_a_step(values in proptest::collection::vec(proptest::num::f32::ANY, 0..40)) {
            let Packed { low, step, codes } = quantise(&values);
            for (value, code) in values.iter().zip(codes) {
                let back = f64::from(low) + f64::from(code) * f64::from(step);
                match value.is_finite() {
                    // The step is rounded to f32: 2^-24 of it, 8191 times; a subnormal one to 2^-150.
                    true => {
                        let bound = f64::from(step) * 0.501 + f64::from(TOP) * 2f64.powi(-150);
                        proptest::prop_assert!((back - f64::from(*value)).abs() <= bound);
                    }
                    false => proptest::prop_assert_eq!(code, NOT_FINITE),
                }
            }
        }
    }
}
