//! NumPy's `.npy`: a map as f32 `[h, w]`.

use std::path::Path;

use npyz::WriterBuilder;

use super::write_atomic;
use crate::error::Result;
use crate::ops::Size;

/// Writes `values`, row-major `[h, w]`, as little-endian f32 where the host is.
pub fn write_npy(path: &Path, size: Size, values: &[f32]) -> Result<()> {
    assert_eq!(values.len(), size.pixels(), "a map has one value per pixel");
    write_atomic(path, |file| {
        let mut npy = npyz::WriteOptions::new()
            .default_dtype()
            .shape(&[size.h as u64, size.w as u64])
            .writer(file)
            .begin_nd()?;
        npy.extend(values.iter().copied())?;
        npy.finish()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_says_shape_and_type_and_the_values_follow() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("map.npy");
        let values: Vec<f32> = (0..15).map(|i| 0.1 * i as f32 - f32::MIN_POSITIVE).collect();
        write_npy(&path, Size::new(3, 5), &values).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let text = String::from_utf8_lossy(&bytes[10..header]);
        assert!(bytes.starts_with(b"\x93NUMPY\x01\0") && header.is_multiple_of(64), "{text}");
        for part in ["'descr': '<f4'", "'fortran_order': False", "'shape': (3, 5"] {
            assert!(text.contains(part), "{text}");
        }
        let data: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        assert_eq!(bytes[header..], data);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "a temporary file stays");
    }
}
