//! Files appear whole or not at all: written to a temporary file beside the target, then renamed.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use crate::error::{Error, Result};

/// Calls `write` on a temporary file in `path`'s folder and renames it to `path`; on an error (a
/// full disk, say) the temporary file is removed and `path` is as it was.
pub fn write_atomic(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&mut File>) -> std::io::Result<()>,
) -> Result<()> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let fail = |e| Error::io(path, "write", e);
    let mut temporary = tempfile::Builder::new()
        .prefix(".ddu-")
        .permissions_like_file()
        .tempfile_in(folder)
        // Its own message would name the temporary file.
        .map_err(|e| fail(e.kind().into()))?;
    let mut buffer = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
    write(&mut buffer).and_then(|()| buffer.flush()).map_err(fail)?;
    drop(buffer);
    temporary.persist(path).map_err(|e| fail(e.error))?;
    Ok(())
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
