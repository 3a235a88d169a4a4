//! The run of `ddu infer`: decodes ahead, computes the maps, writes behind.

use std::cell::RefCell;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use ddu::baseline::{self, Ensemble};
use ddu::data::{self, Image, Input};
use ddu::density::Percentiles;
use ddu::engine::{Engine, Output, ScoreMap};
use ddu::eval::{Method, Prediction};
use ddu::ops::Size;
use ddu::score::{Needs, Score};
use ddu::{Error, Result};
use indicatif::ProgressBar;

use super::attention::{Attention, Limits};
use super::files::{Files, Segmented};
use super::page::Gallery;
use super::report::{Done, Failed, Stages, Written};
use crate::cli::batch::Batch;
use crate::cli::pipeline::{self, Event, Item, List, behind, send};
use crate::cli::{methods, warn};

/// What is run.
pub struct Task<'a> {
    pub inputs: &'a [Input],
    pub files: Files<'a>,
    pub method: Method,
    pub resize: Option<usize>,
    pub batch: Batch,
    pub max_pixels: u64,
    pub fail_fast: bool,
    /// Threads that write results.
    pub writers: usize,
    /// By what pixels are judged, where they are.
    pub limits: Option<Limits>,
    pub fitted: Option<&'a Percentiles>,
    pub bar: &'a ProgressBar,
}

/// Of an image that was decoded.
struct Decoded {
    /// Before `--resize`.
    size: Size,
    time: Duration,
}

/// Index and result of an image.
type Outcome = (usize, Result<(Segmented, Written)>);

/// `gallery` is offered what was judged.
pub fn run(
    task: &Task,
    engine: &mut Engine,
    ensemble: Option<&mut Ensemble>,
    gallery: &mut Option<Gallery>,
) -> Done {
    let name = |index: usize| task.inputs[index].path.display().to_string();
    let list = List {
        len: task.inputs.len(),
        batch: task.batch,
        size: &|index| map_size(&task.inputs[index].path, task.resize, task.max_pixels),
        read: &|index| decode(task, index),
        name: &name,
    };
    let scores: Vec<Score> = task.files.scores.iter().map(|(score, _)| *score).collect();
    let ensemble = RefCell::new(ensemble);
    let produce = |to: SyncSender<Outcome>| {
        // Broken: the writer has stopped, and says why.
        let run = pipeline::run(engine, &ensemble, &list, |event| match event {
            Event::Failed(index, error) => send(&to, (index, Err(error))),
            Event::Ran(output, items) => {
                let start = Instant::now();
                let mut ensemble = ensemble.borrow_mut();
                let members = ensemble.as_mut().map(|e| methods::together(e, output, &items));
                let mut members = members.map(Vec::into_iter);
                let time = start.elapsed() / items.len() as u32;
                items.into_iter().enumerate().try_for_each(|(at, item)| {
                    let index = item.index;
                    let members = members.as_mut().and_then(Iterator::next).transpose();
                    let gallery = gallery.as_mut();
                    let made = members.and_then(|members| {
                        segment(task, output, at, item, &scores, (members, time), gallery)
                    });
                    let made = made.map_err(|error| pipeline::of_item(name(index), error));
                    send(&to, (index, made))
                })
            }
        });
        run.map(|_| ())
    };
    let done = behind(produce, |made| write_all(task, made));
    done.unwrap_or_else(|error| Done { fatal: Some(error), ..Done::default() })
}

/// The size that an image is run at, from its header.
pub fn map_size(path: &Path, resize: Option<usize>, max_pixels: u64) -> Result<Size> {
    let size = data::decode_size_within(path, true, max_pixels)?;
    match resize {
        Some(short) => data::resized_within(&path.display().to_string(), size, short, max_pixels),
        None => Ok(size),
    }
}

fn decode(task: &Task, index: usize) -> Result<(Image, Decoded)> {
    let (path, start) = (&task.inputs[index].path, Instant::now());
    let mut image = data::decode_within(path, true, task.max_pixels)?;
    let size = image.size;
    if let Some(short) = task.resize {
        image = image.resize_short_within(&path.display().to_string(), short, task.max_pixels)?;
    }
    Ok((image, Decoded { size, time: start.elapsed() }))
}

/// The class by the method, and a map for each score.
fn maps(
    task: &Task,
    output: &Output,
    at: usize,
    scores: &[Score],
    members: Option<Prediction>,
) -> Result<(Vec<u8>, Vec<ScoreMap>)> {
    let passes = scores.iter().any(|score| score.info().needs == Needs::Passes);
    let passes = passes.then(|| baseline::mc_dropout(output, at)).transpose()?;
    let mut means: Vec<Prediction> = passes.into_iter().chain(members).collect();
    let of_mean = |score: &&Score| matches!(score.info().needs, Needs::Passes | Needs::Members);
    let rest: Vec<Score> = scores.iter().filter(|score| !of_mean(score)).copied().collect();
    let (mut label, rest) = output.scored(at, &rest)?;
    let mut rest = rest.into_iter();
    if let Some(mean) = means.iter_mut().find(|mean| mean.method == task.method) {
        label = std::mem::take(&mut mean.label);
    }
    let mut made = means.into_iter().flat_map(|mean| mean.scores);
    let map = |score: &Score| match of_mean(&score) {
        true => {
            let (_, values) = made.find(|(of, _)| of == score).expect("in the order of SCORES");
            ScoreMap { values, non_finite: 0 }
        }
        false => rest.next().expect("a map for each score"),
    };
    Ok((label, scores.iter().map(map).collect()))
}

/// The maps of image `at` of a run, and what the report says of it. `members`: what the ensemble said, in
/// `time`.
fn segment(
    task: &Task,
    output: &Output,
    at: usize,
    item: Item<Decoded>,
    scores: &[Score],
    (members, time): (Option<Prediction>, Duration),
    gallery: Option<&mut Gallery>,
) -> Result<(Segmented, Written)> {
    let start = Instant::now();
    let (label, maps) = maps(task, output, at, scores, members)?;
    let map = |score| {
        let found = scores.iter().zip(&maps).find(|(s, _)| **s == score);
        found.map(|(_, map)| map.values.as_slice())
    };
    let (entropy, density) = (map(Score::Entropy).unwrap_or(&[]), map(Score::Density));
    let mask = task.limits.map_or(Vec::new(), |limits| limits.mask(entropy, density));
    let attention = task.limits.map(|_| {
        let density = density.zip(task.fitted);
        Attention::of(&mask, &label, entropy, density, task.files.classes)
    });
    let share = |time: Duration| milliseconds(time) / output.batch() as f64;
    let record = Written {
        path: task.inputs[item.index].path.display().to_string(),
        outputs: Vec::new(),
        image_px: item.data.size,
        map_px: output.size,
        padded_px: output.padded,
        feature_grid: output.grid,
        batch: output.batch(),
        non_finite_pixels: scores
            .iter()
            .zip(&maps)
            .find(|(score, _)| !score.info().needs.log_density())
            .map_or(0, |(_, map)| map.values.iter().filter(|value| !value.is_finite()).count()),
        non_finite_cells: scores
            .iter()
            .zip(&maps)
            .filter(|(score, _)| score.info().needs.log_density())
            .map(|(_, map)| map.non_finite)
            .max(),
        attention,
        stages_ms: Stages {
            decode: milliseconds(item.data.time),
            preprocess: share(output.preprocess),
            network: share(output.network) + milliseconds(time),
            maps: milliseconds(start.elapsed()),
            write: 0.0,
        },
    };
    let maps = Segmented { image: item.image, size: output.size, label, scores: maps, mask };
    if let (Some(gallery), Some(attention)) = (gallery, &record.attention) {
        gallery.offer(&record.path, output, at, &maps, attention)?;
    }
    Ok((maps, record))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Writes what comes, by one thread or by several in turns; counts in the order of the inputs.
fn write_all(task: &Task, made: Receiver<Outcome>) -> Done {
    let write = |(index, outcome): Outcome| {
        let write = |(maps, mut record): (Segmented, Written)| {
            let start = Instant::now();
            record.outputs = task.files.write(&task.inputs[index], &maps)?;
            record.stages_ms.write = milliseconds(start.elapsed());
            Ok(record)
        };
        (index, outcome.and_then(write))
    };
    if task.writers == 1 {
        return count(task, made.into_iter().map(write));
    }
    let spread = thread::scope(|scope| {
        let (mut to, mut from) = (Vec::new(), Vec::new());
        for _ in 0..task.writers {
            // Each holds one image, and nothing waits for it.
            let (give, take) = sync_channel::<Outcome>(0);
            let (written, done) = sync_channel(1);
            let body = move || {
                for outcome in take {
                    // The count has ended early.
                    if written.send(write(outcome)).is_err() {
                        return;
                    }
                }
            };
            pipeline::start(scope, "one that writes results", body)?;
            to.push(give);
            from.push(done);
        }
        let in_turns = move || {
            let turns = (0..from.len()).cycle();
            count(task, turns.map_while(|turn| from[turn].recv().ok()))
        };
        let counted = pipeline::start(scope, "one that counts results", in_turns)?;
        for (turn, outcome) in made.into_iter().enumerate() {
            if to[turn % to.len()].send(outcome).is_err() {
                break;
            }
        }
        drop(to);
        Ok(counted.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    });
    spread.unwrap_or_else(|error| Done { fatal: Some(error), ..Done::default() })
}

/// What became of the images, in order; ends at the first failure that the rest would share.
fn count(task: &Task, written: impl Iterator<Item = (usize, Result<Written>)>) -> Done {
    let mut done = Done::default();
    for (index, outcome) in written {
        task.bar.inc(1);
        match outcome {
            Ok(record) => {
                if record.non_finite_pixels > 0 {
                    let (n, pixels) = (record.non_finite_pixels, record.map_px.pixels());
                    task.bar.suspend(|| {
                        warn(format_args!(
                            "{}: the network's output is not finite at {n} of {pixels} pixels: their \
                             class means nothing, their entropy is NaN",
                            record.path
                        ));
                    });
                }
                done.written.push(record);
            }
            Err(error) => {
                done.failed.push(Failed::new(&task.inputs[index].path, &error));
                if task.fail_fast || hopeless(&error) {
                    done.fatal = Some(error);
                    break;
                }
                task.bar.suspend(|| warn(format_args!("skipped: {error}")));
            }
        }
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
