//! The pipeline of `infer`, `fit` and `eval`: other threads read the next items while the network runs on
//! this batch, and [`behind`] gives what comes of it to one more. A single thread reads where the network itself takes
//! the CPU; a device is fed by all of its cores. Channels are bounded, in items and in
//! bytes of pictures, so that memory does not grow with the list or with the batch; of a large picture the
//! size is read first, and it is decoded only if the network has room for it.
//!
//! Items come out in the order of the list, each once. Those of one size run together; what is too much
//! together is tried one by one.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::Display;
use std::ops::ControlFlow;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use ddu::data::{Image, MAX_PIXELS};
use ddu::engine::{Beside, Engine, Output};
use ddu::ops::Size;
use ddu::{Error, Result};

use super::batch::Batch;
use super::scoring::{self, Precision};
use super::{devices, interrupt};

/// Bytes of pictures that are read ahead, and again of those that wait in a batch; one picture of each reading thread
/// may have more.
const PICTURE_BYTES: u64 = 256 << 20;
/// A picture of more pixels is decoded only once its plan is known to fit.
const LARGE_PIXELS: u64 = 1 << 24;

/// How a network runs over a list of images.
#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    /// Scale the shorter side of the images to SHORT pixels first (bilinear)
    #[arg(long, value_name = "SHORT", value_parser = clap::value_parser!(u32).range(1..=65535))]
    resize: Option<u32>,
    /// auto, cpu, simt or cuda:N; an explicit device never falls back
    #[arg(long, default_value = "auto")]
    pub device: devices::Choice,
    /// exact: f32 on the CPU, covariances in two fp16 terms on a device; fast: in one there, half the work of a
    /// density; bf16: on a CPU with AVX512-BF16 the network in bf16, about half the time
    #[arg(long, default_value = "exact", value_parser = scoring::one_of(&Precision::NAMES))]
    pub precision: Precision,
    /// Run up to N consecutive images of one size together. auto, on a device: doubled from 1 while its memory
    /// suffices and the time predicted for an image falls by 2 %; on the CPU 1
    #[arg(long, value_name = "N|auto", default_value = "1")]
    pub batch: Batch,
    /// Refuse images of more than N pixels, by their headers
    #[arg(long, value_name = "N", default_value_t = MAX_PIXELS, value_parser = clap::value_parser!(u64).range(1..=u64::from(u32::MAX)))]
    pub max_pixels: u64,
}

impl Args {
    pub fn resize(&self) -> Option<usize> {
        self.resize.map(|short| short as usize)
    }
}

/// A list of images to run. `T` is what an item has in addition to its image.
pub struct List<'a, T> {
    pub len: usize,
    pub batch: Batch,
    /// The size that an item's image will have, from its header, on a reading thread.
    pub size: &'a (dyn Fn(usize) -> Result<Size> + Sync),
    /// Reads an item, on a reading thread.
    pub read: &'a (dyn Fn(usize) -> Result<(Image, T)> + Sync),
    /// Names an item in the errors of its run.
    pub name: &'a (dyn Fn(usize) -> String + Sync),
}

/// An item that was read.
pub struct Item<T> {
    pub index: usize,
    pub image: Image,
    pub data: T,
}

/// What a reading thread says of its next item.
enum Read<T> {
    Item(Result<(Image, T)>),
    /// Before it reads an image of this size: whether it may. Everything that it read before has been
    /// taken when this is.
    Ask(Size, SyncSender<bool>),
}

/// What became of items.
pub enum Event<'a, T> {
    /// They ran together, in the order of the output's images.
    Ran(&'a Output<'a>, Vec<Item<T>>),
    /// One could not be read or run.
    Failed(usize, Error),
}

/// Runs a list, with what `each` runs beside the engine; `each` may end it early, and so does a signal ([`interrupt::requested`] says so).
///
/// # Errors
/// A thread that the system refuses, before anything is read.
pub fn run<T: Send, B>(
    engine: &mut Engine,
    beside: &RefCell<impl Beside>,
    list: &List<T>,
    each: impl FnMut(Event<T>) -> ControlFlow<B>,
) -> Result<ControlFlow<B>> {
    let readers = threads(engine);
    run_with(engine, beside, readers, list, each)
}

/// Threads for work beside the network: of all cores beside a device, one where the network itself takes them.
pub fn threads(engine: &Engine) -> usize {
    if engine.device().is_some() { rayon::current_num_threads() } else { 1 }
}

/// Of `readers` threads each reads every readers-th item.
fn run_with<T: Send, B>(
    engine: &mut Engine,
    beside: &RefCell<impl Beside>,
    readers: usize,
    list: &List<T>,
    mut each: impl FnMut(Event<T>) -> ControlFlow<B>,
) -> Result<ControlFlow<B>> {
    let _watch = interrupt::Watch::new();
    let readers = readers.min(list.len);
    thread::scope(|scope| {
        let mut read = Vec::with_capacity(readers);
        for first in 0..readers {
            let (send, receive) = sync_channel(list.batch.most().div_ceil(readers));
            let body = move || read_every(list, first, readers, send);
            start(scope, "one that reads images", body)?;
            read.push(receive);
        }
        Ok(take_all(engine, beside, list, read, &mut each))
    })
}

/// As `scope.spawn`, which panics where the system refuses a thread.
///
/// # Errors
/// Just that.
pub fn start<'scope, R: Send + 'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    what: &str,
    body: impl FnOnce() -> R + Send + 'scope,
) -> Result<thread::ScopedJoinHandle<'scope, R>> {
    let started = thread::Builder::new().spawn_scoped(scope, body);
    started.map_err(|error| ddu::host::too_few_threads(what, error))
}

fn take_all<T, B>(
    engine: &mut Engine,
    beside: &RefCell<impl Beside>,
    list: &List<T>,
    read: Vec<Receiver<Read<T>>>,
    each: &mut impl FnMut(Event<T>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    let mut batch: Vec<Item<T>> = Vec::new();
    // By size.
    let mut limits: HashMap<Size, usize> = HashMap::new();
    'list: for index in 0..list.len {
        let outcome = loop {
            // A closed channel: its thread has panicked, and the scope will say so.
            let Ok(message) = read[index % read.len()].recv() else { break 'list };
            if interrupt::requested() {
                return ControlFlow::Continue(());
            }
            match message {
                Read::Item(outcome) => break outcome,
                Read::Ask(size, answer) => {
                    let plan = engine.plan(1, size);
                    let available = engine.available_memory();
                    let room = plan.and_then(|plan| engine.check_memory(&plan, available));
                    // The reading thread waits for it.
                    let _ = answer.send(room.is_ok());
                    if let Err(error) = room {
                        break Err(of_item((list.name)(index), error));
                    }
                }
            }
        };
        match outcome {
            Ok((image, data)) => {
                let size = image.size;
                let together = (batch.len() as u64 + 1) * image.rgb.len() as u64;
                let other = |first: &Item<T>| first.image.size != size;
                if together > PICTURE_BYTES || batch.first().is_some_and(other) {
                    run_batch(engine, list, std::mem::take(&mut batch), each)?;
                }
                batch.push(Item { index, image, data });
                let of = || list.batch.of(engine, &mut *beside.borrow_mut(), size, list.len);
                if batch.len() >= *limits.entry(size).or_insert_with(of) {
                    run_batch(engine, list, std::mem::take(&mut batch), each)?;
                }
            }
            Err(error) => {
                run_batch(engine, list, std::mem::take(&mut batch), each)?;
                each(Event::Failed(index, error))?;
            }
        }
    }
    run_batch(engine, list, batch, each)
}

fn read_every<T>(list: &List<T>, first: usize, readers: usize, send: SyncSender<Read<T>>) {
    let (mut ahead, limit) = (0, PICTURE_BYTES / readers as u64);
    for index in (first..list.len).step_by(readers) {
        // Where the header cannot be read, `read` says why.
        let size = (list.size)(index).unwrap_or(Size::new(0, 0));
        let pixels = (size.h as u64).saturating_mul(size.w as u64);
        ahead += 3 * pixels;
        if pixels > LARGE_PIXELS || ahead > limit {
            let (answer, may) = sync_channel(1);
            // A closed channel, here and below: the run ended early.
            if send.send(Read::Ask(size, answer)).is_err() {
                return;
            }
            match may.recv() {
                Ok(true) => ahead = 3 * pixels,
                Ok(false) => {
                    ahead = 0;
                    continue;
                }
                Err(_) => return,
            }
        }
        if send.send(Read::Item((list.read)(index))).is_err() {
            return;
        }
    }
}

fn run_batch<T, B>(
    engine: &mut Engine,
    list: &List<T>,
    batch: Vec<Item<T>>,
    each: &mut impl FnMut(Event<T>) -> ControlFlow<B>,
) -> ControlFlow<B> {
    if batch.is_empty() {
        return ControlFlow::Continue(());
    }
    let images: Vec<&Image> = batch.iter().map(|item| &item.image).collect();
    let error = match engine.run(&images) {
        Ok(output) => return each(Event::Ran(&output, batch)),
        Err(error) => error,
    };
    if let [item] = batch.as_slice() {
        let error = of_item((list.name)(item.index), error);
        return each(Event::Failed(item.index, error));
    }
    batch.into_iter().try_for_each(|item| run_batch(engine, list, vec![item], each))
}

/// The same error, with the item that it hit.
pub fn of_item(name: impl Display, error: Error) -> Error {
    match error {
        // It names a file already.
        Error::Io { .. } => error,
        Error::Invalid { what, expected, found, fix } => {
            Error::Invalid { what: format!("{name}: {what}"), expected, found, fix }
        }
        Error::Memory { what, needed, available, fix } => {
            Error::Memory { what: format!("{name}: {what}"), needed, available, fix }
        }
        Error::Kernel(text) => Error::Kernel(format!("{name}: {text}")),
        Error::Usage(text) => Error::Usage(format!("{name}: {text}")),
    }
}

/// Runs `produce` here and `consume` on a thread of its own. A consumer that returns early closes the
/// channel.
///
/// # Errors
/// A thread that the system refuses, and those of `produce`.
pub fn behind<M: Send, R: Send>(
    produce: impl FnOnce(SyncSender<M>) -> Result<()>,
    consume: impl FnOnce(Receiver<M>) -> R + Send,
) -> Result<R> {
    thread::scope(|scope| {
        let (send, made) = sync_channel(1);
        let consumer = start(scope, "one that takes results", move || consume(made))?;
        let produced = produce(send);
        let consumed = consumer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        produced.map(|()| consumed)
    })
}

/// Sends to [`behind`]'s consumer; breaks where that has ended.
pub fn send<M>(to: &SyncSender<M>, message: M) -> ControlFlow<()> {
    match to.send(message) {
        Ok(()) => ControlFlow::Continue(()),
        Err(_) => ControlFlow::Break(()),
    }
}

#[cfg(test)]
#[path = "../../tests/common/models.rs"]
mod models;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use ddu::model::Backbone;
    use ddu::ops::Size;

    use super::*;

    /// An engine refuses images of two sizes together: a stand-in for what does not fit its memory.
    #[test]
    fn what_cannot_run_together_is_tried_one_by_one() {
        let model = models::random_model(models::small(Backbone::Resnet18), 7);
        let mut engine = Engine::new(model);
        let image = |index: usize| {
            let size = Size::new(16, 16 + 8 * (index % 2));
            Image { size, rgb: vec![40 * index as u8; 3 * size.pixels()] }
        };
        let read = |index: usize| match index {
            2 => Err(Error::invalid("2.png", "an image", "none")),
            _ => Ok((image(index), ())),
        };
        let name = |index: usize| format!("{index}.png");
        let size = |index: usize| Ok(image(index).size);
        let list = List { len: 6, batch: Batch::UpTo(4), size: &size, read: &read, name: &name };
        let mut seen = Vec::new();
        let mut each = |event: Event<()>| {
            match event {
                Event::Ran(output, items) => {
                    assert!(items.iter().all(|item| item.image.size == output.size));
                    assert_eq!(items.len(), output.batch());
                    seen.push(items.iter().map(|item| item.index).collect::<Vec<_>>());
                }
                Event::Failed(index, error) => {
                    assert!(error.to_string().contains(&name(index)), "{error}");
                    seen.push(vec![index]);
                }
            }
            ControlFlow::<()>::Continue(())
        };
        let together = [0, 1, 3].map(|index| Item { index, image: image(index), data: () });
        let _ = run_batch(&mut engine, &list, together.into(), &mut each);
        // An image of no pixels fails by itself, and is named.
        let broken = Image { size: Size::new(0, 0), rgb: Vec::new() };
        let _ = run_batch(
            &mut engine,
            &list,
            vec![Item { index: 5, image: broken, data: () }],
            &mut each,
        );
        assert_eq!(seen, [vec![0], vec![1], vec![3], vec![5]]);
    }

    /// Each once and in order, what can run together does, and the run ends where it is told to.
    #[test]
    fn events_come_in_the_order_of_the_list() {
        let model = models::random_model(models::small(Backbone::Resnet18), 7);
        let mut engine = Engine::new(model);
        let widths = [16, 16, 16, 24, 24, 0, 24, 16];
        let read = |index: usize| match widths[index] {
            0 => Err(Error::invalid("5.png", "an image", "none")),
            w => Ok((Image { size: Size::new(16, w), rgb: vec![9; 48 * w] }, index)),
        };
        let size = |index: usize| Ok(Size::new(16, widths[index]));
        let name = |index: usize| format!("{index}.png");
        let list = List { len: 8, batch: Batch::UpTo(2), size: &size, read: &read, name: &name };
        let mut runs = |readers: usize, stop: usize| {
            let mut seen = Vec::new();
            let ended = run_with(&mut engine, &RefCell::new(()), readers, &list, |event| {
                seen.push(match event {
                    Event::Ran(_, items) => items.iter().map(|item| item.data).collect(),
                    Event::Failed(index, _) => vec![index],
                });
                match seen.last().is_some_and(|last| last.contains(&stop)) {
                    true => ControlFlow::Break("stopped"),
                    false => ControlFlow::Continue(()),
                }
            });
            (seen, ended.unwrap().is_break())
        };
        let all = [vec![0, 1], vec![2], vec![3, 4], vec![5], vec![6], vec![7]];
        for readers in [1, 3, 8] {
            assert_eq!(runs(readers, 99), (all.to_vec(), false));
            assert_eq!(runs(readers, 5), (all[..4].to_vec(), true));
        }
    }

    /// Two items are read at once, and no more are read than the channels hold while the network waits.
    #[test]
    fn readers_work_side_by_side_and_stop_when_the_channels_are_full() {
        const READERS: usize = 2;
        let model = models::random_model(models::small(Backbone::Resnet18), 7);
        let mut engine = Engine::new(model);
        let image = || Image { size: Size::new(16, 16), rgb: vec![9; 768] };
        let (begun, read_so_far) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let start = Instant::now();
        let read = |index: usize| {
            begun.fetch_add(1, Ordering::SeqCst);
            // Neither of the first two is done before both have begun.
            while index < READERS && begun.load(Ordering::SeqCst) < READERS {
                assert!(start.elapsed().as_secs() < 60, "one reader alone");
                thread::yield_now();
            }
            read_so_far.fetch_add(1, Ordering::SeqCst);
            Ok((image(), ()))
        };
        let name = |index: usize| format!("{index}.png");
        let list = List {
            len: 40,
            batch: Batch::UpTo(2),
            size: &|_| Ok(image().size),
            read: &read,
            name: &name,
        };
        let mut done = 0;
        let ended = run_with(&mut engine, &RefCell::new(()), READERS, &list, |event| {
            let Event::Ran(_, items) = event else { panic!("an item failed") };
            done += items.len();
            // Each thread holds one, and its channel one.
            assert!(read_so_far.load(Ordering::SeqCst) <= done + 2 * READERS);
            ControlFlow::<()>::Continue(())
        });
        assert!(ended.unwrap().is_continue());
        assert_eq!((done, read_so_far.into_inner()), (40, 40));
    }

    /// The header of an image promises more than any memory: it is not read, and the others run.
    #[test]
    fn what_cannot_fit_is_not_decoded() {
        let model = models::random_model(models::small(Backbone::Resnet18), 7);
        let mut engine = Engine::new(model);
        let size = |index: usize| {
            Ok(if index == 1 { Size::new(1 << 22, 1 << 20) } else { Size::new(16, 16) })
        };
        let read = |index: usize| {
            assert_ne!(index, 1, "it was decoded");
            Ok((Image { size: Size::new(16, 16), rgb: vec![9; 768] }, index))
        };
        let name = |index: usize| format!("{index}.png");
        let list = List { len: 3, batch: Batch::UpTo(1), size: &size, read: &read, name: &name };
        let mut seen = Vec::new();
        let ended = run(&mut engine, &RefCell::new(()), &list, |event| {
            match event {
                Event::Ran(_, items) => seen.extend(items.iter().map(|item| Ok(item.data))),
                Event::Failed(index, error) => seen.push(Err((index, error.to_string()))),
            }
            ControlFlow::<()>::Continue(())
        });
        assert!(ended.unwrap().is_continue());
        let [Ok(0), Err((1, error)), Ok(2)] = &seen[..] else { panic!("{seen:?}") };
        assert!(error.starts_with("1.png: "), "{error}");
    }

    /// A fault of a device is no wrong command line.
    #[test]
    fn an_error_of_an_item_keeps_its_kind_and_names_the_item() {
        let code = |error: Error| super::super::exit_code(&error.into());
        let kernel = of_item("a.png", Error::Kernel("conv2d: a fault".into()));
        assert_eq!(kernel.to_string(), "a.png: conv2d: a fault");
        assert_eq!(code(kernel), super::super::exit::FATAL);
        let invalid = of_item("a.png", Error::invalid("batch", "images of 3 x 4", "5 x 6"));
        assert_eq!(invalid.to_string(), "a.png: batch: expected images of 3 x 4, found 5 x 6");
        assert_eq!(code(invalid), super::super::exit::FATAL);
        let memory =
            Error::Memory { what: "1 image".into(), needed: 9, available: 1, fix: "x".into() };
        assert!(of_item("a.png", memory).to_string().starts_with("a.png: 1 image: needs"));
        assert_eq!(code(of_item("a", Error::Usage("no".into()))), super::super::exit::USAGE);
    }
}
