//! The stages of `ddu infer`: one thread decodes the next image and one writes the last while the
//! network runs on this one. Channels are bounded, so that memory does not grow with the list.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use ddu::data::{self, Image, Input};
use ddu::density::Score;
use ddu::engine::{Engine, Maps, ScoreMap};
use ddu::model::Config;
use ddu::ops::Size;
use ddu::report::overlay::{Scale, class_map, scalar_map};
use ddu::report::palette;
use ddu::{Error, Result};
use indicatif::ProgressBar;

use super::report::{Done, Failed, Stages, Written};
use crate::cli::warn;

/// A file that each image gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Label,
    Entropy,
    ClassPicture,
    EntropyPicture,
    Density,
    DensityPicture,
}

impl Kind {
    pub fn all(overlay: bool, density: bool) -> Vec<Kind> {
        let mut all = vec![Kind::Label, Kind::Entropy];
        all.extend(density.then_some(Kind::Density));
        all.extend(
            overlay.then_some([Kind::ClassPicture, Kind::EntropyPicture]).into_iter().flatten(),
        );
        all.extend((overlay && density).then_some(Kind::DensityPicture));
        all
    }

    pub fn suffix(self) -> &'static str {
        match self {
            Kind::Label => ".label.png",
            Kind::Entropy => ".entropy.npy",
            Kind::ClassPicture => ".overlay.png",
            Kind::EntropyPicture => ".entropy.png",
            Kind::Density => ".density.npy",
            Kind::DensityPicture => ".density.png",
        }
    }
}

pub struct Job<'a> {
    pub inputs: &'a [Input],
    pub folder: &'a Path,
    pub kinds: &'a [Kind],
    pub resize: Option<usize>,
    pub scoring: Option<Scoring>,
    pub batch: usize,
    pub fail_fast: bool,
    pub bar: &'a ProgressBar,
}

/// How features are scored.
pub struct Scoring {
    pub score: Score,
    /// Of the pictures' colours.
    pub range: [f32; 2],
}

struct Decoded {
    index: usize,
    image: Image,
    /// Before `--resize`.
    size: Size,
    time: Duration,
}

struct Computed {
    image: Image,
    maps: Maps,
    density: Option<ScoreMap>,
    record: Written,
}

type Outcome<T> = std::result::Result<T, (usize, Error)>;

pub fn run(job: &Job, engine: &mut Engine) -> Done {
    let config = engine.model().config().clone();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (send, decoded) = sync_channel(job.batch);
        scope.spawn(|| decode_all(job, send));
        let (send, computed) = sync_channel(1);
        let writer = scope.spawn(|| write_all(job, &config, computed, &stop));
        compute_all(job, engine, decoded, send, &stop);
        let mut done = writer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        done.written.sort_by_key(|written| written.index);
        done.failed.sort_by_key(|failed| failed.index);
        done
    })
}

fn decode_all(job: &Job, send: SyncSender<Outcome<Decoded>>) {
    for (index, input) in job.inputs.iter().enumerate() {
        // A closed channel: the run stops early.
        if send.send(decode(job, index, input).map_err(|error| (index, error))).is_err() {
            return;
        }
    }
}

fn decode(job: &Job, index: usize, input: &Input) -> Result<Decoded> {
    let start = Instant::now();
    let mut image = data::decode(&input.path, true)?;
    let size = image.size;
    if let Some(short) = job.resize {
        image = image.resize_short(&input.path.display().to_string(), short)?;
    }
    Ok(Decoded { index, image, size, time: start.elapsed() })
}

fn compute_all(
    job: &Job,
    engine: &mut Engine,
    decoded: Receiver<Outcome<Decoded>>,
    send: SyncSender<Outcome<Computed>>,
    stop: &AtomicBool,
) {
    let mut batch: Vec<Decoded> = Vec::with_capacity(job.batch);
    // The writer outlives this function, so that a send cannot fail.
    let emit = |outcome| drop(send.send(outcome));
    for outcome in decoded {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        match outcome {
            Ok(next) => {
                if batch.first().is_some_and(|first| first.image.size != next.image.size) {
                    compute(job, engine, &mut batch, &emit);
                }
                batch.push(next);
                if batch.len() == job.batch {
                    compute(job, engine, &mut batch, &emit);
                }
            }
            Err(failed) => emit(Err(failed)),
        }
    }
    compute(job, engine, &mut batch, &emit);
}

/// Runs a batch and empties it.
fn compute(
    job: &Job,
    engine: &mut Engine,
    batch: &mut Vec<Decoded>,
    emit: &impl Fn(Outcome<Computed>),
) {
    if batch.is_empty() {
        return;
    }
    let count = batch.len();
    let images: Vec<&Image> = batch.iter().map(|decoded| &decoded.image).collect();
    let output = match engine.run(&images) {
        Ok(output) => output,
        Err(error) => {
            let name = |index: usize| job.inputs[index].path.display();
            for decoded in batch.drain(..) {
                emit(Err((decoded.index, named(name(decoded.index), &error))));
            }
            return;
        }
    };
    let share = |time: Duration| milliseconds(time) / count as f64;
    for (i, decoded) in batch.drain(..).enumerate() {
        let start = Instant::now();
        let density = job.scoring.as_ref().map(|s| output.density(i, s.score));
        let (maps, density) = match output.maps(i).and_then(|m| Ok((m, density.transpose()?))) {
            Ok(made) => made,
            Err(error) => {
                let name = job.inputs[decoded.index].path.display();
                emit(Err((decoded.index, named(name, &error))));
                continue;
            }
        };
        let stages_ms = Stages {
            decode: milliseconds(decoded.time),
            preprocess: share(output.preprocess),
            network: share(output.network),
            maps: milliseconds(start.elapsed()),
            write: 0.0,
        };
        let record = Written {
            index: decoded.index,
            path: job.inputs[decoded.index].path.display().to_string(),
            outputs: Vec::new(),
            image_px: decoded.size,
            map_px: output.size,
            padded_px: output.padded,
            feature_grid: output.grid,
            batch: count,
            non_finite_cells: density.as_ref().map(|map| map.non_finite),
            stages_ms,
        };
        emit(Ok(Computed { image: decoded.image, maps, density, record }));
    }
}

/// The same error for one image of the batch that it hit.
fn named(name: impl std::fmt::Display, error: &Error) -> Error {
    match error {
        Error::Memory { what, needed, available, fix } => Error::Memory {
            what: format!("{name}: {what}"),
            needed: *needed,
            available: *available,
            fix: fix.clone(),
        },
        other => Error::Usage(format!("{name}: {other}")),
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

fn write_all(
    job: &Job,
    config: &Config,
    computed: Receiver<Outcome<Computed>>,
    stop: &AtomicBool,
) -> Done {
    let palette = palette::of(&config.classes);
    let mut done = Done::default();
    for outcome in computed {
        let outcome = outcome.and_then(|mut computed| {
            let (index, start) = (computed.record.index, Instant::now());
            computed.record.outputs = write(job, &job.inputs[index], config, &palette, &computed)
                .map_err(|error| (index, error))?;
            computed.record.stages_ms.write = milliseconds(start.elapsed());
            Ok(computed.record)
        });
        match outcome {
            Ok(record) => done.written.push(record),
            Err((index, error)) => {
                done.failed.push(Failed { index, ..Failed::new(&job.inputs[index].path, &error) });
                if job.fail_fast || hopeless(&error) {
                    stop.store(true, Ordering::Relaxed);
                    done.fatal.get_or_insert(error);
                } else {
                    job.bar.suspend(|| warn(format_args!("skipped: {error}")));
                }
            }
        }
        job.bar.inc(1);
    }
    done
}

/// Whether every later image would fail in the same way.
fn hopeless(error: &Error) -> bool {
    use ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    let kind = match error {
        Error::Io { action: "write" | "create", source, .. } => source.kind(),
        _ => return false,
    };
    matches!(kind, StorageFull | QuotaExceeded | ReadOnlyFilesystem)
}

/// Writes the files of one image; if one fails, those written before it are removed.
fn write(
    job: &Job,
    input: &Input,
    config: &Config,
    palette: &[[u8; 3]],
    computed: &Computed,
) -> Result<Vec<String>> {
    let mut written: Vec<PathBuf> = Vec::with_capacity(job.kinds.len());
    for kind in job.kinds {
        let path = input.output(job.folder, kind.suffix());
        if let Err(error) = write_one(job, *kind, &path, input, config, palette, computed) {
            for path in written {
                let _ = std::fs::remove_file(path);
            }
            return Err(error);
        }
        written.push(path);
    }
    Ok(written.iter().map(|path| path.display().to_string()).collect())
}

fn write_one(
    job: &Job,
    kind: Kind,
    path: &Path,
    input: &Input,
    config: &Config,
    palette: &[[u8; 3]],
    computed: &Computed,
) -> Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder).map_err(|e| Error::io(folder, "create", e))?;
    }
    let Computed { image, maps, density, .. } = computed;
    let density = density.as_ref().map_or(&[][..], |map| &map.values);
    let title = input.path.file_name().unwrap_or_default().to_string_lossy();
    match kind {
        Kind::Label => data::write_label_png(path, maps.size, &maps.label, palette),
        Kind::Entropy => data::write_npy(path, maps.size, &maps.entropy),
        Kind::ClassPicture => {
            let picture = class_map(&title, image, &maps.label, &config.classes, palette);
            data::write_rgb_png(path, &picture)
        }
        Kind::Density => data::write_npy(path, maps.size, density),
        Kind::DensityPicture => {
            let scoring = job.scoring.as_ref().filter(|_| !density.is_empty());
            let Some(scoring) = scoring else { return Ok(()) };
            let label = match scoring.score {
                Score::Density => "Unfamiliar = low log-density (nats)",
                Score::Relative => "Unfamiliar = low relative log-density (nats)",
            };
            let [low, high] = scoring.range;
            let scale = Scale { range: [high, low], gradient: colorous::VIRIDIS, label };
            data::write_rgb_png(path, &scalar_map(&title, image, density, &scale))
        }
        Kind::EntropyPicture => {
            let scale = Scale {
                range: [0.0, (config.classes.len() as f32).ln()],
                gradient: colorous::INFERNO,
                label: "Softmax entropy (nats)",
            };
            data::write_rgb_png(path, &scalar_map(&title, image, &maps.entropy, &scale))
        }
    }
}
