//! Running labelled pairs through a network, for `fit` and `eval`: one thread reads the next pairs
//! while the network works on these. What comes out comes in the order of the list.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use ddu::Result;
use ddu::data::{Image, Labelled, Pair};
use ddu::engine::{Engine, Output};

pub struct Job<'a> {
    pub pairs: &'a [Pair],
    pub resize: Option<usize>,
    /// Most images of one size that run together.
    pub batch: usize,
}

/// A pair that went through the network: image `at` of `output`, a run of `batch` images.
pub struct Computed<'a> {
    pub labelled: Labelled,
    pub output: &'a Output<'a>,
    pub at: usize,
    pub batch: usize,
}

/// Calls `each` with the index of every pair, in order, and what came of it. An error of `each` ends
/// the run.
pub fn run(
    job: &Job,
    engine: &mut Engine,
    mut each: impl FnMut(usize, Result<Computed>) -> Result<()>,
) -> Result<()> {
    thread::scope(|scope| {
        let (send, read) = sync_channel(job.batch);
        scope.spawn(|| read_all(job, send));
        let mut batch: Vec<(usize, Labelled)> = Vec::with_capacity(job.batch);
        for (index, outcome) in read {
            match outcome {
                Ok(next) => {
                    let size = |pair: &(usize, Labelled)| pair.1.image.size;
                    if batch.first().is_some_and(|first| size(first) != next.image.size) {
                        compute(engine, &mut batch, &mut each)?;
                    }
                    batch.push((index, next));
                    if batch.len() == job.batch {
                        compute(engine, &mut batch, &mut each)?;
                    }
                }
                Err(error) => {
                    compute(engine, &mut batch, &mut each)?;
                    each(index, Err(error))?;
                }
            }
        }
        compute(engine, &mut batch, &mut each)
    })
}

fn read_all(job: &Job, send: SyncSender<(usize, Result<Labelled>)>) {
    for (index, pair) in job.pairs.iter().enumerate() {
        // A closed channel: the run ended early.
        if send.send((index, pair.read(job.resize))).is_err() {
            return;
        }
    }
}

/// Runs a batch and empties it.
fn compute(
    engine: &mut Engine,
    batch: &mut Vec<(usize, Labelled)>,
    each: &mut impl FnMut(usize, Result<Computed>) -> Result<()>,
) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let images: Vec<&Image> = batch.iter().map(|(_, labelled)| &labelled.image).collect();
    match engine.run(&images) {
        Ok(output) => {
            let count = batch.len();
            for (at, (index, labelled)) in batch.drain(..).enumerate() {
                each(index, Ok(Computed { labelled, output: &output, at, batch: count }))?;
            }
        }
        Err(error) if batch.len() == 1 => each(batch.remove(0).0, Err(error))?,
        // What is too much together may fit one by one.
        Err(_) => {
            for pair in batch.drain(..) {
                compute(engine, &mut vec![pair], each)?;
            }
        }
    }
    Ok(())
}
