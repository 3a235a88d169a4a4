//! The cuda device on a stand-in for the driver (`driver.cpp`): which calls it makes, in which order, what it
//! frees, and what it says when something is wrong. What a GPU computes is the business of `tests/kernels`.
#![cfg(all(feature = "cuda", feature = "simt"))]

mod batch;
mod command;
mod first_contact;
mod libraries;
#[path = "../common/models.rs"]
mod models;
#[path = "../common/standin.rs"]
mod standin;

use ddu::Error;
use ddu::data::Image;
use ddu::device::cuda::Cuda;
use ddu::device::simt::Simt;
use ddu::device::{Buffer, Device, Element, Launch, Tensor, launch};
use ddu::engine::{Engine, Output};
use ddu::model::Backbone;
use ddu::ops::{MaxPool, Size};
use models::{Rng, random_model, small};
use standin::{calls, count, on_stand_in, open};

/// The one line that opening cuda:ordinal fails with.
fn refusal(ordinal: usize) -> String {
    let message = open(ordinal).err().expect("it is refused").to_string();
    assert_eq!(message.lines().count(), 1, "{message}");
    message
}

fn expect(message: &str, words: &[&str]) {
    for word in words {
        assert!(message.contains(word), "no \"{word}\" in: {message}");
    }
}

fn picture(size: Size, seed: u64) -> Image {
    let mut rng = Rng(seed);
    Image { size, rgb: (0..size.pixels() * 3).map(|_| rng.next() as u8).collect() }
}

#[test]
fn a_network_gives_the_bits_of_simt_and_is_replayed() {
    on_stand_in("a_network_gives_the_bits_of_simt_and_is_replayed", "", || {
        let model = || random_model(small(Backbone::Resnet18), 7);
        let mut cuda = Engine::on(model(), Box::new(open(0).unwrap())).unwrap();
        let mut simt = Engine::on(model(), Box::new(Simt::default())).unwrap();
        let size = Size::new(35, 49);
        let mut before = calls();
        for (turn, seed) in [1, 2, 3].into_iter().enumerate() {
            let image = picture(size, seed);
            let (a, b) = (cuda.run(&[&image]).unwrap(), simt.run(&[&image]).unwrap());
            let results = |output: &Output| {
                [output.logits(0), output.features(0)].map(|values| bits(&values.unwrap()))
            };
            assert_eq!(results(&a), results(&b), "logits and features, run {turn}");
            let (a, b) = (a.maps(0).unwrap(), b.maps(0).unwrap());
            assert_eq!(a.label, b.label, "labels, run {turn}");
            assert_eq!(bits(&a.entropy), bits(&b.entropy), "entropy, run {turn}");

            let now = calls();
            let new = &now[before.len()..];
            assert_eq!(count(new, "cuGraphLaunch"), 1, "run {turn}: {new:?}");
            assert_eq!(count(new, "cuLaunchKernel"), 0, "run {turn}: {new:?}");
            assert_eq!(
                count(new, "cuGraphInstantiate"),
                usize::from(turn == 0),
                "run {turn}: {new:?}"
            );
            if turn > 0 {
                for call in ["cuMemAlloc", "cuMemFree", "cuMemHostAlloc", "cuEventCreate"] {
                    assert_eq!(count(new, call), 0, "run {turn}: {new:?}");
                }
            }
            before = now;
        }
    });
}

/// The stand-in runs what a graph leaves open in orders of its own: without a join it computes something else.
#[test]
fn a_missing_join_of_branches_shows() {
    on_stand_in("a_missing_join_of_branches_shows", "forget=1", || {
        let model = || random_model(small(Backbone::Resnet18), 7);
        let mut cuda = Engine::on(model(), Box::new(open(0).unwrap())).unwrap();
        let mut simt = Engine::on(model(), Box::new(Simt::default())).unwrap();
        let image = picture(Size::new(35, 49), 1);
        let [a, b] = [cuda.run(&[&image]), simt.run(&[&image])]
            .map(|output| bits(&output.unwrap().logits(0).unwrap()));
        assert_ne!(a, b);
    });
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// Copies of all sizes around that of the staging buffers, none of them waited for until the last is read.
#[test]
fn copies_are_in_order_and_whole() {
    on_stand_in("copies_are_in_order_and_whole", "", || {
        let device = open(0).unwrap();
        let mut rng = Rng(3);
        let mebi = 1 << 20;
        let sizes = [1, 3, 4096, 4 * mebi - 1, 4 * mebi, 4 * mebi + 1, 13 * mebi + 5];
        let held: Vec<(Vec<u8>, Buffer)> = sizes
            .map(|bytes| {
                let data: Vec<u8> = (0..bytes).map(|_| rng.next() as u8).collect();
                let buffer = device.alloc(bytes).unwrap();
                device.write(buffer.all(), &vec![0xee; bytes]).unwrap();
                device.write(buffer.all(), &data).unwrap();
                (data, buffer)
            })
            .into();
        assert_eq!(count(&calls(), "cuStreamSynchronize"), 0, "an upload waited for the stream");
        for (data, buffer) in &held {
            let mut back = vec![0; data.len()];
            device.read(buffer.all(), &mut back).unwrap();
            assert!(back == *data, "{} bytes", data.len());
        }
        let (data, buffer) = &held[6];
        let (from, bytes) = (4 * mebi - 7, 4 * mebi + 9);
        let mut back = vec![0; bytes];
        device.read(buffer.slice(from, bytes).unwrap(), &mut back).unwrap();
        assert!(back == data[from..from + bytes]);
        assert!(
            device.read(buffer.all(), &mut back).is_err()
                && device.write(buffer.all(), &[]).is_err()
        );
        let empty = device.alloc(0).unwrap();
        device.write(empty.all(), &[]).unwrap();
    });
}

/// A max pool of 1 x 1 between buffers: a copy of `SIDE` x `SIDE` pixels of 8 channels.
const SIDE: usize = 4;
const BYTES: usize = SIDE * SIDE * 8 * 2;

fn copy<'a>(from: &'a Buffer, to: &'a Buffer) -> Launch<'a> {
    let tensor = |buffer: &'a Buffer| {
        Tensor::new(buffer.all(), Element::F16, 1, Size::new(SIDE, SIDE), 8, 0, 8).unwrap()
    };
    let pool = MaxPool { kernel: 1, stride: 1, padding: 0 };
    launch::max_pool(&pool, tensor(from), tensor(to)).unwrap()
}

fn filled(device: &Cuda, byte: u8) -> Buffer {
    let buffer = device.alloc(BYTES).unwrap();
    device.write(buffer.all(), &[byte; BYTES]).unwrap();
    buffer
}

fn first(device: &Cuda, buffer: &Buffer) -> u8 {
    let mut bytes = [0; BYTES];
    device.read(buffer.all(), &mut bytes).unwrap();
    assert!(bytes.iter().all(|&b| b == bytes[0]), "{bytes:?}");
    bytes[0]
}

#[test]
fn graphs_are_kept_for_the_lists_that_come_again() {
    on_stand_in("graphs_are_kept_for_the_lists_that_come_again", "", || {
        let device = open(0).unwrap();
        let buffers: Vec<Buffer> = (0..20).map(|i| filled(&device, i)).collect();
        let [y, z] = [filled(&device, 99), filled(&device, 99)];
        let run = |i: usize| {
            let made = count(&calls(), "cuGraphInstantiate");
            device.run(&[copy(&buffers[i], &y), copy(&y, &z)]).unwrap();
            assert_eq!(first(&device, &z), i as u8);
            count(&calls(), "cuGraphInstantiate") > made
        };
        assert!(run(0) && !run(0), "the second time it is replayed");
        assert!((1..16).all(run), "other addresses are other lists");
        assert!(!run(0) && !run(1), "16 are kept");
        assert_eq!(count(&calls(), "cuGraphExecDestroy"), 0);
        assert!(run(16), "a 17th");
        assert_eq!(count(&calls(), "cuGraphExecDestroy"), 1);
        assert!(!run(0) && !run(1) && run(2), "for it the one goes that was not used for longest");

        let replays = count(&calls(), "cuGraphLaunch");
        device.run(&[]).unwrap();
        device.run(&[copy(&buffers[19], &z)]).unwrap();
        assert_eq!(first(&device, &z), 19);
        assert_eq!(count(&calls(), "cuGraphLaunch"), replays, "one launch needs no graph");
        assert!(device.measure(&[], &[copy(&buffers[18], &z)]).unwrap().counts.is_none());
        assert_eq!(first(&device, &z), 18);
    });
}

/// The stand-in objects to a free that comes while work is under way, or with another context current.
#[test]
fn memory_is_freed_from_any_thread_after_what_uses_it() {
    on_stand_in("memory_is_freed_from_any_thread_after_what_uses_it", "devices=2", || {
        let (device, other) = (open(0).unwrap(), open(1).unwrap());
        assert_eq!((device.name().as_str(), other.name().as_str()), ("cuda:0", "cuda:1"));
        let x = filled(&device, 5);
        let y = filled(&device, 6);
        device.launch(&copy(&x, &y)).unwrap();
        drop(x);
        std::thread::spawn(move || drop(y)).join().unwrap();
        let theirs = filled(&other, 7);
        let kept = filled(&device, 8);
        std::thread::scope(|scope| {
            for (device, byte) in [(&device, 1), (&other, 2), (&device, 3), (&other, 4)] {
                scope.spawn(move || {
                    for _ in 0..10 {
                        let (x, y, z) =
                            (filled(device, byte), filled(device, 0), filled(device, 0));
                        device.run(&[copy(&x, &y), copy(&y, &z)]).unwrap();
                        assert_eq!(first(device, &z), byte);
                    }
                });
            }
        });
        assert_eq!((first(&other, &theirs), first(&device, &kept)), (7, 8));
        // A buffer outlives its device.
        drop(device);
        std::thread::spawn(move || drop((kept, theirs))).join().unwrap();
    });
}

#[test]
fn shared_memory_is_what_the_gpu_gives() {
    on_stand_in("shared_memory_is_what_the_gpu_gives", "shared=101376,capability=86", || {
        let device = open(0).unwrap();
        assert_eq!((device.shared_bytes(), device.multiprocessors()), (99 << 10, 132));
    });
}

#[test]
fn no_driver() {
    if ddu::device::gpus::driver_present() {
        return standin::skipped("there is a driver");
    }
    expect(&refusal(0), &["cuda:0", "libcuda", "install the driver", "--device cpu"]);
}

#[test]
fn no_gpu() {
    on_stand_in("no_gpu", "devices=0", || {
        expect(&refusal(0), &["cuda:0", "lists no GPU", "nvidia-smi", "--device cpu"]);
    });
}

#[test]
fn no_such_gpu() {
    on_stand_in("no_such_gpu", "devices=2", || {
        expect(&refusal(2), &["cuda:2", "N below 2", "ddu devices"]);
    });
}

#[test]
fn an_old_driver() {
    on_stand_in("an_old_driver", "version=12020", || {
        expect(&refusal(0), &["takes CUDA 12.8", "up to 12.2", "update the driver"]);
    });
}

#[test]
fn an_old_gpu() {
    on_stand_in("an_old_gpu", "capability=75", || {
        expect(&refusal(0), &["compute capability 8.0", "7.5 (stand-in GPU)", "--device cpu"]);
    });
}

#[test]
fn a_driver_that_does_not_start() {
    on_stand_in("a_driver_that_does_not_start", "init=803", || {
        expect(&refusal(0), &["CUDA_ERROR_SYSTEM_DRIVER_MISMATCH (system has", "nvidia-smi"]);
    });
}

#[test]
fn kernels_that_the_driver_does_not_take() {
    on_stand_in("kernels_that_the_driver_does_not_take", "image=209", || {
        let message = refusal(0);
        expect(&message, &["kernels/arg_max.cu to load", "CUDA_ERROR_NO_BINARY_FOR_GPU", "driver"]);
    });
}

#[test]
fn a_gpu_without_room_for_a_context() {
    on_stand_in("a_gpu_without_room_for_a_context", "retain=2", || {
        expect(&refusal(0), &["room for a context", "CUDA_ERROR_OUT_OF_MEMORY", "nvidia-smi"]);
    });
}

#[test]
fn a_gpu_without_room_for_a_buffer() {
    on_stand_in("a_gpu_without_room_for_a_buffer", "memory=33554432", || {
        let device = open(0).unwrap();
        let held = device.alloc(8 << 20).unwrap();
        let Err(Error::Memory { needed, available, .. }) = device.alloc(25 << 20) else {
            panic!("25 of 24 MiB");
        };
        assert_eq!((needed, available), (25 << 20, 24 << 20));
        drop(held);
        device.alloc(25 << 20).unwrap();
    });
}

#[test]
fn a_kernel_that_fails_is_told_where_somebody_waits() {
    let name = "a_kernel_that_fails_is_told_where_somebody_waits";
    on_stand_in(name, "fail=max_pool", || {
        let device = open(0).unwrap();
        let (x, y) = (filled(&device, 1), filled(&device, 2));
        device.launch(&copy(&x, &y)).unwrap();
        let mut bytes = [0; BYTES];
        for _ in 0..2 {
            let message = device.read(y.all(), &mut bytes).unwrap_err().to_string();
            expect(
                &message,
                &["cuda:0, download", "CUDA_ERROR_ILLEGAL_ADDRESS", "compute-sanitizer"],
            );
            assert_eq!(message.lines().count(), 1);
        }
    });
}
