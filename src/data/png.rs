//! PNG files: label maps (8-bit palette) and RGB pictures.

use std::io::{self, Write};
use std::path::Path;

use super::{Image, write_atomic};
use crate::error::Result;
use crate::ops::Size;

/// Writes class indices as an 8-bit palette PNG, so that viewers show colours and
/// `PIL.Image.open` gives the indices; `palette` holds one RGB colour a class.
pub fn write_label_png(path: &Path, size: Size, label: &[u8], palette: &[[u8; 3]]) -> Result<()> {
    write_atomic(path, |file| {
        encode(file, size, png::ColorType::Indexed, Some(palette.as_flattened()), label)
    })
}

pub fn write_rgb_png(path: &Path, image: &Image) -> Result<()> {
    write_atomic(path, |file| encode(file, image.size, png::ColorType::Rgb, None, &image.rgb))
}

fn encode(
    file: impl Write,
    size: Size,
    color: png::ColorType,
    palette: Option<&[u8]>,
    pixels: &[u8],
) -> io::Result<()> {
    let side = |n: usize| u32::try_from(n).map_err(io::Error::other);
    let mut encoder = png::Encoder::new(file, side(size.w)?, side(size.h)?);
    encoder.set_color(color);
    encoder.set_depth(png::BitDepth::Eight);
    encoder.set_compression(png::Compression::Fast);
    if let Some(palette) = palette {
        encoder.set_palette(palette.to_vec());
    }
    let mut writer = encoder.write_header()?;
    writer.write_image_data(pixels)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_label_png_holds_indices_and_colours() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("label.png");
        let (label, palette) = ([0u8, 2, 1, 1, 0, 2], [[1, 2, 3], [40, 50, 60], [255, 0, 9]]);
        write_label_png(&path, Size::new(2, 3), &label, &palette).unwrap();
        let mut decoder = png::Decoder::new(std::io::Cursor::new(std::fs::read(&path).unwrap()));
        decoder.set_transformations(png::Transformations::IDENTITY);
        let mut reader = decoder.read_info().unwrap();
        let mut indices = vec![0; reader.output_buffer_size().unwrap()];
        let info = reader.next_frame(&mut indices).unwrap();
        assert_eq!((info.width, info.height), (3, 2));
        assert_eq!((info.color_type, info.bit_depth as u8), (png::ColorType::Indexed, 8));
        assert_eq!(reader.info().palette.as_deref(), Some(palette.as_flattened()));
        assert_eq!(indices, label);
        // Colours for whoever does not read indices.
        let image = crate::data::decode(&path, false).unwrap();
        assert_eq!(image.rgb[3..6], palette[2]);
    }
}
