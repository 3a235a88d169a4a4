//! Reading whole files that somebody named.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Result};

/// The content of a regular file of at most `limit` bytes; `expected` says what it should be ("an image
/// file").
///
/// # Errors
/// A file that cannot be read, a larger one, a folder; a pipe, socket or device, which could block for
/// ever or have no end.
pub fn read_file(path: &Path, expected: &str, limit: u64) -> Result<Vec<u8>> {
    let fail = |e| Error::io(path, "read", e);
    let metadata = std::fs::metadata(path).map_err(fail)?;
    let wrong = |found: &str| Err(Error::invalid(path.display(), expected, found));
    if metadata.is_dir() {
        return wrong("a folder");
    }
    if !metadata.is_file() {
        return wrong("a pipe, socket or device");
    }
    let mut bytes = Vec::new();
    if metadata.len() <= limit {
        bytes.reserve_exact(metadata.len() as usize);
        // A file may grow while it is read, or say that it is empty (as those of /proc do).
        File::open(path).map_err(fail)?.take(limit + 1).read_to_end(&mut bytes).map_err(fail)?;
    }
    let length = metadata.len().max(bytes.len() as u64);
    if length > limit {
        let expected = format!("{expected} of at most {} MiB", limit >> 20);
        let found = format!("{} MiB", length.div_ceil(1 << 20));
        return Err(Error::invalid(path.display(), expected, found));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_regular_files_of_bounded_size_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, b"12345").unwrap();
        assert_eq!(read_file(&path, "a file", 5).unwrap(), b"12345");
        let message = |path: &Path| read_file(path, "a file", 4).unwrap_err().to_string();
        assert!(message(&path).contains("at most 0 MiB, found 1 MiB"), "{}", message(&path));
        assert!(message(folder.path()).contains("expected a file, found a folder"));
        assert!(message(&folder.path().join("none")).contains("cannot read"));
    }

    /// Each of these would block for ever, or never end.
    #[cfg(unix)]
    #[test]
    fn pipes_sockets_and_devices_are_refused_before_they_are_opened() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, socket) = (folder.path().join("pipe"), folder.path().join("socket"));
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [&pipe, &socket, Path::new("/dev/zero")] {
            let error = read_file(path, "a file", 1 << 20).unwrap_err().to_string();
            assert!(error.contains("found a pipe, socket or device"), "{error}");
        }
    }
}
