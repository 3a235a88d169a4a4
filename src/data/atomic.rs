//! Files appear whole or not at all: written to a temporary file beside the target, then renamed.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// The existing temporary files; locked while one is created, renamed or removed.
static TEMPORARY: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

fn temporary_files() -> MutexGuard<'static, BTreeSet<PathBuf>> {
    // A panic elsewhere leaves the set as it was.
    TEMPORARY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For a process that is about to end: removes every temporary file. From then on [`write_atomic`] waits for
/// ever on other threads, so that none is made anew.
pub fn remove_temporary_files() {
    let files = temporary_files();
    for file in files.iter() {
        // One that is already gone needs no removal.
        let _ = std::fs::remove_file(file);
    }
    std::mem::forget(files);
}

/// Calls `write` on a temporary file in `path`'s folder and renames it to `path`; on an error (a
/// full disk, say) the temporary file is removed and `path` is as it was. Of a symbolic link the file
/// that it names is written, and the link stays.
///
/// # Errors
/// A target that is there and no regular file, before `write` is called: a rename would put a file in
/// the place of a device. What the system refuses.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> std::io::Result<()>,
) -> Result<()> {
    let target = regular_target(path)?;
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let fail = |e| Error::io(path, "write", e);
    let mut files = temporary_files();
    let mut temporary = tempfile::Builder::new()
        .prefix(".ddu-")
        .permissions_like_file()
        .tempfile_in(folder)
        // Its own message would name the temporary file.
        .map_err(|e| fail(e.kind().into()))?;
    let name = temporary.path().to_owned();
    files.insert(name.clone());
    drop(files);
    let mut buffer = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
    let written = write(&mut buffer).and_then(|()| buffer.flush());
    drop(buffer);
    let mut files = temporary_files();
    files.remove(&name);
    // Dropped, it is removed.
    written.and_then(|()| Ok(temporary.persist(&target)?).map(|_| ())).map_err(fail)
}

/// Where a file of this name is to be written: links followed.
///
/// # Errors
/// Something that is there and no regular file; a link to nothing.
pub fn regular_target(path: &Path) -> Result<PathBuf> {
    let refuse = |found: &str| {
        Err(Error::invalid(path.display(), "a file, or no such file yet, to write", found)
            .fix("name another output"))
    };
    let Ok(named) = path.symlink_metadata() else { return Ok(path.into()) };
    if named.is_file() {
        return Ok(path.into());
    }
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => refuse("a folder"),
        Ok(metadata) if !metadata.is_file() => refuse("a pipe, socket or device"),
        Ok(_) => path.canonicalize().map_err(|e| Error::io(path, "write", e)),
        Err(_) => refuse("a link to nothing"),
    }
}

/// Temporary files are private by default; a result should get the permissions the user's umask
/// gives any new file.
trait PermissionsLikeFile {
    fn permissions_like_file(&mut self) -> &mut Self;
}

impl PermissionsLikeFile for tempfile::Builder<'_, '_> {
    #[cfg(unix)]
    fn permissions_like_file(&mut self) -> &mut Self {
        use std::os::unix::fs::PermissionsExt;
        // The kernel takes the umask off.
        self.permissions(std::fs::Permissions::from_mode(0o666))
    }
    #[cfg(not(unix))]
    fn permissions_like_file(&mut self) -> &mut Self {
        self
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{FileTypeExt, symlink};

    use super::*;

    fn write(path: &Path) -> Result<()> {
        write_atomic(path, |file| file.write_all(b"new"))
    }

    #[test]
    fn a_link_stays_and_its_file_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir(path("sub")).unwrap();
        std::fs::write(path("sub/file"), b"old").unwrap();
        symlink("sub/file", path("link")).unwrap();
        symlink("link", path("second")).unwrap();
        write(&path("second")).unwrap();
        assert!(path("link").is_symlink() && path("second").is_symlink());
        assert!(!path("sub/file").is_symlink());
        assert_eq!(std::fs::read(path("sub/file")).unwrap(), b"new");
    }

    #[test]
    fn what_is_no_file_stays_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let pipe = std::process::Command::new("mkfifo").arg(path("pipe")).status();
        assert!(pipe.unwrap().success());
        let _listener = std::os::unix::net::UnixListener::bind(path("socket")).unwrap();
        symlink("nowhere", path("dangling")).unwrap();
        symlink("circle", path("circle")).unwrap();
        symlink("/dev/null", path("null")).unwrap();
        std::fs::create_dir(path("folder")).unwrap();
        let cases = [
            ("pipe", "a pipe, socket or device"),
            ("socket", "a pipe, socket or device"),
            ("null", "a pipe, socket or device"),
            ("dangling", "a link to nothing"),
            ("circle", "a link to nothing"),
            ("folder", "a folder"),
        ];
        for (name, found) in cases {
            let error = write(&path(name)).unwrap_err().to_string();
            assert!(error.contains(&format!("found {found}; name another output")), "{error}");
        }
        // Root could replace the node.
        assert!(write(Path::new("/dev/null")).is_err());
        assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
        assert!(path("pipe").symlink_metadata().unwrap().file_type().is_fifo());
        assert!(path("null").is_symlink() && path("dangling").is_symlink());
        assert!(!path("nowhere").exists());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 6, "a temporary file stays");
    }
}
