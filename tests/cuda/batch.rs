//! `--batch auto`: the batch that a device has room for, with what runs beside the network, and that pays at its speed.

use ddu::Error;
use ddu::baseline::Ensemble;
use ddu::data::{Image, LabelRule, Mask};
use ddu::density::Density;
use ddu::device::{Device, Speed};
use ddu::engine::{Beside, Engine};
use ddu::fit::{Annotation, Fit};
use ddu::ops::Size;
use ddu::profile::paying_batch;

use crate::models::{random_model, wide};
use crate::standin::{calls, count, on_stand_in, open};
use crate::{expect, picture};

fn engine() -> Engine {
    Engine::on(random_model(wide(32), 7), Box::new(open(0).unwrap())).unwrap()
}

fn ensemble(engine: &Engine) -> Ensemble {
    let member = |seed| (format!("{seed}"), random_model(wide(32), seed));
    Ensemble::new(engine, vec![member(8), member(9)]).unwrap()
}

fn fit(engine: &Engine) -> Fit {
    let config = engine.model().config();
    let (classes, rule) = (config.classes.clone(), LabelRule::of(config.align_corners));
    let empty = Density::new(engine.model().hash(), classes, 32, rule, None).with_weights();
    Fit::new(empty, engine).unwrap()
}

/// Buffers of the device that are alive.
fn buffers() -> usize {
    let calls = calls();
    count(&calls, "cuMemAlloc") - count(&calls, "cuMemFree")
}

const SIZE: Size = Size { h: 65, w: 97 };

/// The batch for images of that size; whether `run` can run it, and one twice as large.
fn automatic<B: Beside>(
    engine: &mut Engine,
    beside: &mut B,
    run: impl Fn(&mut Engine, &mut B, &[&Image]) -> ddu::Result<()>,
) -> (usize, [ddu::Result<()>; 2]) {
    let before = buffers();
    let batch = paying_batch(engine, beside, SIZE, 256);
    assert_eq!(buffers(), before, "buffers of batches that were tried stay");
    let image = picture(SIZE, 5);
    let ran = [batch, 2 * batch].map(|n| run(engine, beside, &vec![&image; n]));
    (batch, ran)
}

/// The largest batch that runs, by itself, in an ensemble and in a fit.
#[test]
fn the_batch_doubles_while_there_is_room() {
    on_stand_in("batch::the_batch_doubles_while_there_is_room", "memory=4194304", || {
        let largest = |(batch, [fits, twice]): (usize, [ddu::Result<()>; 2])| {
            fits.unwrap();
            assert!(matches!(twice, Err(Error::Memory { .. })), "{batch}: {twice:?}");
            batch
        };
        let alone = largest(automatic(&mut engine(), &mut (), |engine, (), images| {
            engine.run(images).map(|_| ())
        }));
        assert!((4..64).contains(&alone), "{alone}");

        let mut first = engine();
        let mut members = ensemble(&first);
        let together = largest(automatic(&mut first, &mut members, |engine, members, images| {
            let output = engine.run(images)?;
            members.predict(&output, 0, images).map(|_| ())
        }));
        drop((first, members));

        let mut first = engine();
        let mut fitted = fit(&first);
        let in_a_fit = largest(automatic(&mut first, &mut fitted, |engine, fitted, images| {
            let output = engine.run(images)?;
            let mask = Mask { size: SIZE, label: vec![1; SIZE.pixels()] };
            // Images are told apart by their hashes.
            let hash = |i: usize| (images.len() * 1000 + i) as u64;
            let annotation = |i| Some(Annotation { hash: hash(i), mask: &mask });
            let all: Vec<_> = (0..images.len()).map(annotation).collect();
            fitted.add(&output, &all).map(|_| ())
        }));
        assert!(together < alone && in_a_fit < alone, "{alone}, {together}, {in_a_fit}");
    });
}

/// Not even one image has room: its own run says so in a line.
#[test]
fn a_batch_of_one_where_nothing_fits() {
    on_stand_in("batch::a_batch_of_one_where_nothing_fits", "memory=786432", || {
        let mut engine = engine();
        let size = Size::new(193, 257);
        assert_eq!(paying_batch(&mut engine, &mut (), size, 256), 1);
        let message = engine.run(&[&picture(size, 5)]).err().unwrap().to_string();
        expect(&message, &["cuda:0, a buffer", "--resize"]);
        assert_eq!(message.lines().count(), 1);
    });
}

fn batch_where_there_is_room() -> usize {
    paying_batch(&mut engine(), &mut (), SIZE, 256)
}

/// An H200's launches weigh more, and larger batches pay.
#[test]
fn an_h200_takes_more_images_together() {
    on_stand_in("batch::an_h200_takes_more_images_together", "", || {
        let device = open(0).unwrap();
        let speed = device.speed();
        assert!((speed.clock_hz / Speed::H200.clock_hz - 1.0).abs() < 1e-12, "{speed:?}");
        assert_eq!(speed.bytes_per_s, 2.0 * 3.201e9 * 768.0);
        drop(device);
        let batch = batch_where_there_is_room();
        assert!(batch >= 64, "{batch}");
    });
}

#[test]
fn a_small_slow_gpu_takes_fewer() {
    let options = "multiprocessors=4,clock=99000,memory_clock=1000,memory_bus=64";
    on_stand_in("batch::a_small_slow_gpu_takes_fewer", options, || {
        let device = open(0).unwrap();
        assert_eq!((device.multiprocessors(), device.speed().bytes_per_s), (4, 1.6e7));
        assert!((device.speed().clock_hz / 85e6 - 1.0).abs() < 1e-12);
        drop(device);
        let batch = batch_where_there_is_room();
        assert!(batch <= 8, "{batch}");
    });
}

/// What a driver does not say is taken for an H200's.
#[test]
fn a_driver_that_does_not_know_its_clocks() {
    let options = "clock=0,memory_clock=0";
    on_stand_in("batch::a_driver_that_does_not_know_its_clocks", options, || {
        assert_eq!(open(0).unwrap().speed(), Speed::H200);
    });
}
