//! The images that a command works on and the names of their results.
//!
//! An argument is a file, a folder (searched recursively), a glob or `-` (a list of files and
//! folders on stdin, one per line). The results of a file carry its stem; those of a folder or glob
//! mirror the tree beneath the folder, or beneath the part of the glob before its first wildcard.
//! A file that is named is always attempted; of what is found in a folder or by a glob, hidden
//! files and files that are no images are left out. Results of an earlier run are no inputs, even where
//! they are named (as by a shell's `photos/*`), so that a command can be repeated that writes beside its
//! inputs.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, Read};
use std::path::{Component, Path, PathBuf};

use walkdir::WalkDir;

use super::image::supported_format;
use crate::error::{Error, Result};

/// An image and what its results are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    pub path: PathBuf,
    /// Relative to the output folder, without a suffix: `sub/folder/name`.
    pub stem: PathBuf,
}

impl Input {
    /// `folder/stem` with `suffix` (".label.png") appended.
    pub fn output(&self, folder: &Path, suffix: &str) -> PathBuf {
        let mut path = folder.join(&self.stem).into_os_string();
        path.push(suffix);
        path.into()
    }
}

/// The images and failures that arguments resolve to.
#[derive(Debug, Default)]
pub struct Inputs {
    /// In the order of the arguments, folders sorted by name.
    pub images: Vec<Input>,
    /// Arguments and folder entries that are not there or cannot be looked at.
    pub failed: Vec<(PathBuf, Error)>,
    /// Found in a folder or by a glob, and no images; or results of an earlier run.
    pub left_out: Vec<PathBuf>,
}

/// Resolves `arguments`; `stdin` is read if one of them is `-`. Folders are searched except for
/// `output`: what an earlier run wrote there is no input.
///
/// # Errors
/// Two different images with the same output name; stdin that cannot be read.
pub fn resolve(arguments: &[PathBuf], output: &Path, stdin: impl BufRead) -> Result<Inputs> {
    let mut search = Search { output: output.canonicalize().ok(), ..Search::default() };
    let mut stdin = Some(stdin);
    for argument in arguments {
        if argument.as_os_str() != "-" {
            search.argument(argument);
        } else if let Some(list) = stdin.take() {
            let mut empty = true;
            for line in list.split(b'\n') {
                let line = line.map_err(|e| Error::io("stdin", "read", e))?;
                let line = line.strip_suffix(b"\r").unwrap_or(&line);
                if !line.is_empty() {
                    search.path(&path_of(line));
                    empty = false;
                }
            }
            if empty {
                let error = Error::invalid("stdin", "paths of images, one per line", "none");
                search.fail(argument, error);
            }
        }
    }
    search.inputs.images = distinct(std::mem::take(&mut search.inputs.images))?;
    Ok(search.inputs)
}

#[cfg(unix)]
fn path_of(line: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    OsStr::from_bytes(line).into()
}

#[cfg(not(unix))]
fn path_of(line: &[u8]) -> PathBuf {
    String::from_utf8_lossy(line).into_owned().into()
}

#[derive(Default)]
struct Search {
    inputs: Inputs,
    /// Canonical, where it exists.
    output: Option<PathBuf>,
}

impl Search {
    fn argument(&mut self, argument: &Path) {
        match argument.to_str() {
            // A file whose name has a wildcard is taken for itself.
            Some(pattern) if pattern.contains(['*', '?', '[']) && !present(argument) => {
                self.glob(pattern);
            }
            _ => self.path(argument),
        }
    }

    /// A file or folder given as an argument.
    fn path(&mut self, path: &Path) {
        if path.is_dir() {
            let before = self.inputs.images.len() + self.inputs.failed.len();
            self.folder(path, path);
            if self.inputs.images.len() + self.inputs.failed.len() == before {
                let expected = format!("{} files", super::FORMATS);
                self.fail(path, Error::invalid(path.display(), expected, "none in this folder"));
            }
        } else if let Err(error) = path.symlink_metadata() {
            let error = match error.kind() {
                std::io::ErrorKind::NotFound => {
                    let expected = "an image file, a folder or a glob";
                    Error::invalid(path.display(), expected, "nothing of that name")
                }
                _ => Error::io(path, "read", error),
            };
            self.fail(path, error);
        } else if lies_among_results(path) {
            self.inputs.left_out.push(path.into());
        } else {
            let stem = Path::new(path.file_name().unwrap_or(path.as_os_str())).with_extension("");
            self.inputs.images.push(Input { path: path.into(), stem });
        }
    }

    fn glob(&mut self, pattern: &str) {
        let root = glob_root(pattern);
        let options = glob::MatchOptions {
            require_literal_separator: true,
            require_literal_leading_dot: true,
            ..Default::default()
        };
        let name = Path::new(pattern);
        let found = match glob::glob_with(pattern, options) {
            Ok(found) => found,
            Err(e) => return self.fail(name, Error::invalid(pattern, "a glob", e.msg)),
        };
        let mut any = false;
        for entry in found {
            any = true;
            match entry {
                Ok(path) if path.is_dir() => self.folder(&path, &root),
                Ok(path) => self.found(&path, &root),
                Err(e) => {
                    let path = e.path().to_owned();
                    self.fail(&path, Error::io(&path, "read", e.into()));
                }
            }
        }
        if !any {
            self.fail(name, Error::invalid(pattern, "files that match", "none"));
        }
    }

    fn folder(&mut self, folder: &Path, root: &Path) {
        let walk = WalkDir::new(folder).follow_links(true).sort_by_file_name();
        let output = self.output.clone();
        let is_output = |path: &Path| output.is_some() && path.canonicalize().ok() == output;
        let wanted = walk.into_iter().filter_entry(|entry| {
            let skipped =
                hidden(entry.file_name()) || entry.file_type().is_dir() && is_output(entry.path());
            entry.depth() == 0 || !skipped
        });
        for entry in wanted {
            match entry {
                Ok(entry) if entry.file_type().is_dir() => {}
                Ok(entry) => self.found(entry.path(), root),
                Err(e) => {
                    let path = e.path().unwrap_or(folder).to_owned();
                    self.fail(&path, Error::io(&path, "read", e.into()));
                }
            }
        }
    }

    /// A file in a folder or matched by a glob.
    fn found(&mut self, path: &Path, root: &Path) {
        if self.in_output(path) && result_stem(path).is_some() || lies_among_results(path) {
            return;
        }
        if !looks_like_image(path) {
            self.inputs.left_out.push(path.into());
            return;
        }
        let name = Path::new(path.file_name().unwrap_or_default());
        let stem = path.strip_prefix(root).unwrap_or(name).with_extension("");
        self.inputs.images.push(Input { path: path.into(), stem });
    }

    fn in_output(&self, path: &Path) -> bool {
        let output = self.output.as_ref();
        output.is_some_and(|output| path.canonicalize().is_ok_and(|p| p.starts_with(output)))
    }

    fn fail(&mut self, path: &Path, error: Error) {
        self.inputs.failed.push((path.into(), error));
    }
}

/// What `ddu infer` may write of an image, as STEM.WORD.png or STEM.WORD.npy: maps of classes and the scores
/// (`crate::score` holds that none is missing).
pub(crate) const RESULTS: [&str; 15] = [
    "label",
    "overlay",
    "mask",
    "entropy",
    "max-softmax",
    "energy",
    "entropy-t2",
    "clipped-entropy",
    "density",
    "relative",
    "weighted-density",
    "mc-dropout-pe",
    "mc-dropout-mi",
    "ensemble-pe",
    "ensemble-mi",
];

/// The image's name in the name of a file that `ddu infer` may have written.
fn result_stem(path: &Path) -> Option<String> {
    let (stem, word) = path.file_stem()?.to_str()?.rsplit_once('.')?;
    let extension = path.extension()?;
    let written = RESULTS.contains(&word) && (extension == "png" || extension == "npy");
    written.then(|| stem.to_owned())
}

/// Whether the file is a result of a run: those that every image gets of its method lie beside it.
fn lies_among_results(path: &Path) -> bool {
    result_stem(path).is_some_and(|stem| {
        let exists = |suffix: &str| path.with_file_name(format!("{stem}{suffix}")).is_file();
        let first = ["entropy", "mc-dropout-pe", "ensemble-pe"];
        exists(".label.png") && first.iter().any(|score| exists(&format!(".{score}.npy")))
    })
}

/// Whether the name exists, a dangling link included.
fn present(path: &Path) -> bool {
    path.symlink_metadata().is_ok()
}

fn hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

/// By extension, so that a damaged image is reported, or else by content.
fn looks_like_image(path: &Path) -> bool {
    const EXTENSIONS: [&str; 10] =
        ["jpg", "jpeg", "jpe", "jfif", "png", "bmp", "dib", "tif", "tiff", "webp"];
    let extension = path.extension().unwrap_or_default().to_string_lossy().to_ascii_lowercase();
    if EXTENSIONS.contains(&extension.as_str()) {
        return true;
    }
    let mut head = Vec::new();
    path.is_file()
        && File::open(path).is_ok_and(|file| file.take(16).read_to_end(&mut head).is_ok())
        && supported_format(&head).is_some()
}

/// The folders of a glob before its first wildcard; `glob` drops a leading `./` from what it finds.
fn glob_root(pattern: &str) -> PathBuf {
    let wild = |part: &Component| part.as_os_str().to_string_lossy().contains(['*', '?', '[']);
    let parts = Path::new(pattern).components();
    parts.skip_while(|part| *part == Component::CurDir).take_while(|part| !wild(part)).collect()
}

/// Drops repetitions of a file under one name; two files under one name are an error.
fn distinct(images: Vec<Input>) -> Result<Vec<Input>> {
    let mut by_stem: HashMap<PathBuf, PathBuf> = HashMap::with_capacity(images.len());
    let mut kept = Vec::with_capacity(images.len());
    for input in images {
        match by_stem.get(&input.stem) {
            None => {
                by_stem.insert(input.stem.clone(), input.path.clone());
                kept.push(input);
            }
            Some(first) if same_file(first, &input.path) => {}
            Some(first) => {
                return Err(Error::Usage(format!(
                    "{} and {} would both be written to {}.label.png; give the folder above them, \
                     whose tree the output mirrors, or run them separately",
                    first.display(),
                    input.path.display(),
                    input.stem.display()
                )));
            }
        }
    }
    Ok(kept)
}

fn same_file(a: &Path, b: &Path) -> bool {
    a == b || matches!((a.canonicalize(), b.canonicalize()), (Ok(a), Ok(b)) if a == b)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of empty files.
    fn tree(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for file in files {
            let path = folder.path().join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            File::create(path).unwrap();
        }
        folder
    }

    fn stems(inputs: &Inputs) -> Vec<&str> {
        inputs.images.iter().map(|input| input.stem.to_str().unwrap()).collect()
    }

    #[test]
    fn folders_are_mirrored_and_what_is_no_image_is_left_out() {
        let folder =
            tree(&["b/2.JPG", "b/c/1.tiff", "a.x.png", "note.txt", ".hidden.png", "._a/1.png"]);
        std::fs::write(folder.path().join("photo"), b"\xff\xd8\xff\xe0").unwrap();
        let inputs = resolve(&[folder.path().into()], Path::new("none"), &b""[..]).unwrap();
        assert_eq!(stems(&inputs), ["a.x", "b/2", "b/c/1", "photo"]);
        assert_eq!(inputs.left_out, [folder.path().join("note.txt")]);
        assert!(inputs.failed.is_empty());
    }

    /// Of another folder's results too: those of each method, and pictures of every score.
    #[test]
    fn results_are_no_images() {
        let results = |first: &str| {
            tree(&["1.png", "1.label.png", first, "1.clipped-entropy.png", "1.mask.png"])
        };
        for first in ["1.entropy.npy", "1.mc-dropout-pe.npy", "1.ensemble-pe.npy"] {
            let folder = results(first);
            let inputs = resolve(&[folder.path().into()], Path::new("none"), &b""[..]).unwrap();
            assert_eq!(stems(&inputs), ["1"], "{first}");
        }
        // Without the map that every image gets they are images.
        let inputs =
            resolve(&[results("1.txt").path().into()], Path::new("none"), &b""[..]).unwrap();
        assert_eq!(inputs.images.len(), 4);
    }

    #[test]
    fn the_output_folder_is_no_input() {
        let folder = tree(&["a.png", "out/a.label.png", "a.label.png"]);
        let inputs =
            resolve(&[folder.path().into()], &folder.path().join("out"), &b""[..]).unwrap();
        assert_eq!(stems(&inputs), ["a.label", "a"]);
        // The folder itself as the output: only its results are skipped.
        std::fs::remove_dir_all(folder.path().join("out")).unwrap();
        let inputs = resolve(&[folder.path().into()], folder.path(), &b""[..]).unwrap();
        assert_eq!(stems(&inputs), ["a"]);
    }

    #[test]
    fn a_repeated_run_does_not_read_its_results() {
        let results = ["a.label.png", "a.entropy.npy", "a.overlay.png", "a.entropy.png"];
        let folder = tree(&[&["a.png", "b.label.png"], &results[..]].concat());
        let path = |name: &str| folder.path().join(name);
        // The folder, a glob, and what a shell makes of one; into the folder or elsewhere.
        let shell: Vec<PathBuf> =
            results.iter().chain(&["a.png", "b.label.png"]).map(|name| path(name)).collect();
        for output in [folder.path(), Path::new("elsewhere")] {
            for arguments in [&[folder.path().to_owned()][..], &[path("*.png")], &shell] {
                let inputs = resolve(arguments, output, &b""[..]).unwrap();
                let mut found = stems(&inputs);
                // Alone it is a result only where it is found in the output folder.
                found.retain(|stem| *stem != "b.label");
                assert_eq!(found, ["a"], "{arguments:?}");
                let output_alone = output == folder.path() && arguments.len() == 1;
                assert_eq!(inputs.images.len(), if output_alone { 1 } else { 2 });
                assert!(inputs.failed.is_empty(), "{:?}", inputs.failed);
            }
        }
    }

    #[test]
    fn what_is_not_there_and_empty_lists_say_what_was_expected() {
        let folder = tree(&["photos/1.png", "empty/note.txt"]);
        let message = |argument: PathBuf, stdin: &str| {
            let inputs = resolve(&[argument], Path::new("none"), stdin.as_bytes()).unwrap();
            assert_eq!((inputs.images.len(), inputs.failed.len()), (0, 1));
            inputs.failed[0].1.to_string()
        };
        let typo = message(folder.path().join("fotos"), "");
        assert!(typo.ends_with(
            "fotos: expected an image file, a folder or a glob, found nothing of that name"
        ));
        assert!(message(folder.path().join("empty"), "").ends_with("found none in this folder"));
        for list in ["", "\n\r\n"] {
            let empty = message("-".into(), list);
            assert_eq!(empty, "stdin: expected paths of images, one per line, found none");
        }
    }

    #[test]
    fn globs_mirror_the_tree_beneath_their_fixed_part() {
        let folder = tree(&["x/a/1.png", "x/b/1.png", "x/b/2.bmp", "x/b/3.txt", "[odd].png"]);
        let pattern = folder.path().join("x/*/*");
        let odd = folder.path().join("[odd].png");
        let inputs = resolve(&[pattern, odd], Path::new("none"), &b""[..]).unwrap();
        assert_eq!(stems(&inputs), ["a/1", "b/1", "b/2", "[odd]"]);
        assert_eq!(inputs.left_out.len(), 1);
        for (pattern, root) in [("./a/*.png", "a"), ("*/b.png", ""), ("a/../b/?.png", "a/../b")] {
            assert_eq!(glob_root(pattern), Path::new(root));
        }
        let nothing = folder.path().join("y/*.png");
        let inputs = resolve(&[nothing], Path::new("none"), &b""[..]).unwrap();
        assert_eq!(inputs.failed.len(), 1);
    }

    #[test]
    fn a_list_on_stdin_names_files_and_folders() {
        let folder = tree(&["x/1.png", "y/2.png"]);
        let root = folder.path().display();
        let list = format!("{root}/x/1.png\r\n\n{root}/y\n{root}/missing.png");
        let inputs = resolve(&["-".into()], Path::new("none"), list.as_bytes()).unwrap();
        assert_eq!(stems(&inputs), ["1", "2"]);
        assert_eq!(inputs.failed[0].0, folder.path().join("missing.png"));
    }

    #[test]
    fn one_output_name_for_two_images_is_refused_and_for_one_image_merged() {
        let folder = tree(&["x/1.png", "y/1.png", "x/1.jpg"]);
        let path = |name: &str| folder.path().join(name);
        for pair in [["x/1.png", "y/1.png"], ["x/1.png", "x/1.jpg"]] {
            let error = resolve(&pair.map(path), Path::new("none"), &b""[..]).unwrap_err();
            assert!(
                matches!(&error, Error::Usage(text) if text.contains("1.label.png")),
                "{error}"
            );
        }
        assert!(resolve(&[path("x")], Path::new("none"), &b""[..]).is_err());
        let twice = [path("x/1.png"), path("x/../x/1.png"), path("y/../x/1.png")];
        assert_eq!(resolve(&twice, Path::new("none"), &b""[..]).unwrap().images.len(), 1);
    }

    #[cfg(unix)]
    #[test]
    fn dangling_links_and_link_loops_fail_alone() {
        let folder = tree(&["1.png"]);
        std::os::unix::fs::symlink("nowhere", folder.path().join("2.png")).unwrap();
        std::os::unix::fs::symlink(".", folder.path().join("loop")).unwrap();
        let inputs = resolve(&[folder.path().into()], Path::new("none"), &b""[..]).unwrap();
        assert_eq!(stems(&inputs), ["1"]);
        assert_eq!(inputs.failed.len(), 2, "{:?}", inputs.failed);
    }
}
