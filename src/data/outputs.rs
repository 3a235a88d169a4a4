//! What a command reads is never overwritten by what it writes, whatever `--force` says and whatever
//! path leads there: links, `..`, another name of the same file.

use std::collections::HashMap;
use std::path::{Component, Path, PathBuf};

use crate::error::{Error, Result};

/// The files that a command reads, known by place and, on Unix, by device and inode.
#[derive(Debug, Default)]
pub struct Reads {
    /// Each place as its user named it.
    places: HashMap<PathBuf, PathBuf>,
    files: HashMap<(u64, u64), PathBuf>,
}

impl Reads {
    pub fn new<'a>(paths: impl IntoIterator<Item = &'a Path>) -> Self {
        let mut reads = Reads::default();
        reads.extend(paths);
        reads
    }

    /// Adds paths; one that is not there counts by its place.
    pub fn extend<'a>(&mut self, paths: impl IntoIterator<Item = &'a Path>) {
        for path in paths {
            self.places.insert(place(path), path.into());
            if let Some(file) = identity(path) {
                self.files.insert(file, path.into());
            }
        }
    }

    /// # Errors
    /// A path that is one of those that are read: writing there would destroy an input.
    pub fn refuse(&self, output: &Path) -> Result<()> {
        let same = || self.files.get(&identity(output)?);
        let Some(read) = self.places.get(&place(output)).or_else(same) else { return Ok(()) };
        let alias = match read == output {
            true => String::new(),
            false => format!(" (as {})", read.display()),
        };
        Err(Error::Usage(format!(
            "{}: is an input of this command{alias} and would be overwritten; name another output",
            output.display()
        )))
    }
}

/// The path without links and dots; of what is not there yet, beneath its folder's.
fn place(path: &Path) -> PathBuf {
    if let Ok(place) = path.canonicalize() {
        return place;
    }
    let mut parts = path.components();
    let last = parts.next_back();
    // What is not there is no link: `..` behind it leads back.
    match last {
        Some(Component::Normal(name)) => place(parts.as_path()).join(name),
        Some(Component::ParentDir) => {
            let folder = place(parts.as_path());
            folder.parent().map_or(folder.clone(), Path::to_owned)
        }
        Some(Component::CurDir) => place(parts.as_path()),
        None => Path::new(".").canonicalize().unwrap_or_default(),
        Some(Component::RootDir | Component::Prefix(_)) => path.into(),
    }
}

/// Device and inode of a file that is there: two names of one file share them.
#[cfg(unix)]
fn identity(path: &Path) -> Option<(u64, u64)> {
    use std::os::unix::fs::MetadataExt;
    let metadata = path.metadata().ok()?;
    metadata.is_file().then(|| (metadata.dev(), metadata.ino()))
}

#[cfg(not(unix))]
fn identity(_: &Path) -> Option<(u64, u64)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_input_is_found_under_all_of_its_names() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("a/b")).unwrap();
        for file in ["a/photo.png", "a/model", "a/b/free"] {
            std::fs::write(path(file), b"x").unwrap();
        }
        let reads = Reads::new([&*path("a/photo.png"), &path("a/model"), &path("a/later")]);
        let refused = |name: &str| {
            let error = reads.refuse(&path(name)).expect_err(name);
            assert!(
                matches!(&error, Error::Usage(text) if text.contains("is an input")),
                "{error}"
            );
        };
        for name in [
            "a/photo.png",
            "a/model",
            "a/b/../photo.png",
            "a/./model",
            "a/new/../later",
            "a/n/m/../../model",
        ] {
            refused(name);
        }
        for name in ["a/b/free", "a/b/photo.png", "photo.png", "none/photo.png"] {
            reads.refuse(&path(name)).expect(name);
        }
        #[cfg(unix)]
        {
            std::os::unix::fs::symlink("a", path("other")).unwrap();
            std::os::unix::fs::symlink("a/photo.png", path("link.png")).unwrap();
            std::fs::hard_link(path("a/model"), path("second name")).unwrap();
            for name in ["other/photo.png", "link.png", "second name", "other/later"] {
                refused(name);
            }
            reads.refuse(&path("other/b/new")).unwrap();
        }
    }

    #[test]
    fn a_relative_name_is_where_the_command_runs() {
        let reads = Reads::new([Path::new("Cargo.toml"), Path::new("not there yet")]);
        let here = std::env::current_dir().unwrap();
        for name in ["Cargo.toml", "not there yet"] {
            assert!(reads.refuse(&here.join(name)).is_err());
            assert!(reads.refuse(Path::new(name)).is_err());
        }
    }
}
