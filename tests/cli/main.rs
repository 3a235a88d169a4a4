//! The binary as users run it.

mod attention;
mod baselines;
mod commands;
mod density;
mod device;
#[cfg(unix)]
mod faults;
mod fit;
mod infer;
#[cfg(unix)]
mod interrupt;
mod kept;
mod malformed;
#[path = "../common/models.rs"]
mod models;
mod not_finite;
#[path = "../common/shared.rs"]
mod shared;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use ddu::model::Backbone;
use image::{ImageBuffer, ImageFormat, Rgb, RgbImage};

/// What a run left.
struct Outcome {
    code: i32,
    stdout: String,
    stderr: String,
}

/// A folder with a small model, and `ddu` run in it.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let bench = Bench { folder: tempfile::tempdir().unwrap() };
        models::random_model(models::small(Backbone::Resnet18), 7)
            .save(bench.path("model.safetensors"))
            .unwrap();
        bench
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a picture of smooth colours that differ with `seed`.
    fn picture(&self, name: &str, h: u32, w: u32, seed: u32) -> RgbImage {
        let picture = ImageBuffer::from_fn(w, h, |x, y| {
            let wave = |a: u32, b: u32| {
                (128.0 + 120.0 * (((a * x + b * y + seed) as f32) / 23.0).sin()) as u8
            };
            Rgb([wave(1, 2), wave(3, 1), wave(2, 5)])
        });
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let format = ImageFormat::from_path(&path).unwrap_or(ImageFormat::Png);
        picture.save_with_format(path, format).unwrap();
        picture
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    fn ddu(&self, arguments: &[&str], stdin: &str) -> Outcome {
        let mut child = Command::new(env!("CARGO_BIN_EXE_ddu"))
            .args(arguments)
            .current_dir(self.folder.path())
            .env("RAYON_NUM_THREADS", "1")
            // The CPU is what these tests expect of --device auto.
            .env("CUDA_VISIBLE_DEVICES", "")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that does not read its stdin may be gone already.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        let outcome = Outcome {
            code: output.status.code().expect("it was not killed"),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        };
        assert!(!outcome.stderr.contains("panicked"), "{arguments:?}: {}", outcome.stderr);
        outcome
    }

    /// `ddu infer --model model.safetensors ARGUMENTS`, the arguments split at spaces.
    fn infer(&self, arguments: &str) -> Outcome {
        let mut all = vec!["infer", "--model", "model.safetensors"];
        all.extend(arguments.split_whitespace());
        self.ddu(&all, "")
    }

    /// Files beneath a folder, sorted, relative to it; empty where it is not there.
    fn files(&self, folder: &str) -> Vec<String> {
        let root = self.path(folder);
        walkdir::WalkDir::new(&root)
            .sort_by_file_name()
            .into_iter()
            .filter_map(Result::ok)
            .filter(|entry| entry.file_type().is_file())
            .map(|entry| relative(entry.path(), &root))
            .collect()
    }
}

fn relative(path: &Path, root: &Path) -> String {
    path.strip_prefix(root).unwrap().to_str().unwrap().to_owned()
}

/// Values of an `.npy` file of f32, and its shape as the header says it.
fn read_npy(path: &Path) -> (Vec<u64>, Vec<f32>) {
    let npy = npyz::NpyFile::new(std::fs::File::open(path).unwrap()).unwrap();
    (npy.shape().to_vec(), npy.into_vec().unwrap())
}

/// Class indices of a label file.
fn read_label(path: &Path) -> (usize, usize, Vec<u8>) {
    let file = std::io::BufReader::new(std::fs::File::open(path).unwrap());
    let mut decoder = png::Decoder::new(file);
    decoder.set_transformations(png::Transformations::IDENTITY);
    let mut reader = decoder.read_info().unwrap();
    let mut label = vec![0; reader.output_buffer_size().unwrap()];
    let info = reader.next_frame(&mut label).unwrap();
    assert_eq!(info.color_type, png::ColorType::Indexed);
    (info.height as usize, info.width as usize, label)
}
