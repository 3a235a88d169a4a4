//! How many pictures the CPU decodes in a second for a device, as the reading threads of `ddu infer` do (header, then picture), by
//! threads. Each file is decoded again and again, so that the disk is left out.
//!
//! `cargo bench --bench decode -- FILE ... [--resize SHORT]`

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ddu::data;

/// Of each measurement.
const TIME: Duration = Duration::from_secs(1);
const ROUNDS: usize = 3;

fn one(path: &Path, short: Option<usize>) {
    data::decode_size(path, true).unwrap();
    let image = data::decode(path, true).unwrap();
    if let Some(short) = short {
        image.resize_short("picture", short).unwrap();
    }
}

/// Pictures per second of `threads` threads together.
fn rate(path: &Path, short: Option<usize>, threads: usize) -> f64 {
    let (done, start) = (AtomicUsize::new(0), Instant::now());
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while start.elapsed() < TIME {
                    one(path, short);
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    done.into_inner() as f64 / start.elapsed().as_secs_f64()
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let mut short = None;
    if let Some(at) = arguments.iter().position(|a| a == "--resize") {
        short = Some(arguments[at + 1].parse().expect("--resize SHORT"));
        arguments.drain(at..at + 2);
    }
    let cores = thread::available_parallelism().map_or(1, usize::from);
    for path in arguments.iter().map(PathBuf::from) {
        let size = data::decode_size(&path, true).unwrap();
        let bytes = path.metadata().unwrap().len();
        print!("{} ({size}, {bytes} bytes):", path.display());
        for threads in [1, cores] {
            let mut rates: Vec<f64> = (0..ROUNDS).map(|_| rate(&path, short, threads)).collect();
            rates.sort_by(f64::total_cmp);
            print!(" {:.0} images/s by {threads} threads", rates[ROUNDS / 2]);
        }
        println!();
    }
}
