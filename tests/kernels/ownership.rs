//! Memory and launches belong to one device, and every other refuses them: no safe call reaches an address that
//! another device handed out.

use ddu::density::Moments;
use ddu::device::launch::conv2d::{ConvTiling, Operands, TILES, conv2d};
use ddu::device::simt::{Schedule, Simt};
use ddu::device::{Buffer, Device, Element, Tensor, launch};
use ddu::gpu::moments::DeviceMoments;
use ddu::ops::{Conv2d, MaxPool, Size};

use crate::support::{POISON, upload};

const SIZE: Size = Size { h: 4, w: 4 };
/// Of 8 channels in fp16.
const BYTES: usize = 4 * 4 * 8 * 2;

fn two() -> [Simt; 2] {
    [Simt::new(Schedule::Forward, 1), Simt::new(Schedule::Forward, 1)]
}

fn filled(device: &dyn Device) -> Buffer {
    upload(device, &[POISON; BYTES])
}

fn tensor(buffer: &Buffer) -> Tensor<'_> {
    Tensor::new(buffer.all(), Element::F16, 1, SIZE, 8, 0, 8).unwrap()
}

fn bytes(device: &dyn Device, buffer: &Buffer) -> Vec<u8> {
    let mut bytes = vec![0; BYTES];
    device.read(buffer.all(), &mut bytes).unwrap();
    bytes
}

fn refused<T>(what: &str, result: ddu::Result<T>) {
    let message = result.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(message.contains("memory of another device"), "{what}: {message:?}");
    assert_eq!(message.lines().count(), 1, "{what}: {message}");
}

const COPY: MaxPool = MaxPool { kernel: 1, stride: 1, padding: 0 };

#[test]
fn another_device_neither_copies_nor_launches() {
    let [a, b] = two();
    assert_ne!(a.id(), b.id());
    let (x, y) = (filled(&a), filled(&a));
    let part = std::sync::Arc::new(filled(&a));
    let inside = Buffer::inside(part, 16, 32).unwrap();
    refused("write", b.write(x.all(), &[1; BYTES]));
    refused("write of a part", b.write(x.slice(16, 32).unwrap(), &[1; 32]));
    refused("write inside", b.write(inside.all(), &[1; 32]));
    refused("read", b.read(x.all(), &mut [0; BYTES]));

    let launch = launch::max_pool(&COPY, tensor(&x), tensor(&y)).unwrap();
    a.write(x.all(), &[0; BYTES]).unwrap();
    refused("launch", b.launch(&launch));
    refused("run", b.run(&[launch.clone(), launch.clone()]));
    refused("measure", b.measure(&[], std::slice::from_ref(&launch)));
    assert_eq!(bytes(&a, &y), [POISON; BYTES], "nothing was written");
    a.launch(&launch).unwrap();
    assert_eq!(bytes(&a, &y), [0; BYTES]);
}

#[test]
fn a_launch_takes_memory_of_one_device() {
    let [a, b] = two();
    let (x, y, theirs) = (filled(&a), filled(&a), filled(&b));
    refused("output", launch::max_pool(&COPY, tensor(&x), tensor(&theirs)));
    refused("input", launch::max_pool(&COPY, tensor(&theirs), tensor(&y)));
    let logits = |buffer| Tensor::new(buffer, Element::F32, 1, Size::new(2, 2), 8, 0, 8).unwrap();
    refused("labels", launch::arg_max(8, logits(x.all()), theirs.all()));

    let conv = Conv2d::dense(8, 8, 1);
    let tiling = ConvTiling::new(&conv, TILES[3], 1);
    let operands = Operands {
        x: tensor(&x),
        weight: y.all(),
        bias: y.all(),
        residual: None,
        relu: false,
        y: tensor(&y),
        partial: None,
        multiprocessors: 132,
    };
    assert!(conv2d(&conv, operands, tiling).is_ok());
    for (what, operands) in [
        ("input", Operands { x: tensor(&theirs), ..operands }),
        ("weight", Operands { weight: theirs.all(), ..operands }),
        ("bias", Operands { bias: theirs.all(), ..operands }),
        ("residual", Operands { residual: Some(tensor(&theirs)), ..operands }),
        ("output", Operands { y: tensor(&theirs), ..operands }),
        ("partial sums", Operands { partial: Some(theirs.all()), ..operands }),
    ] {
        refused(what, conv2d(&conv, operands, tiling));
    }
}

#[test]
fn moments_stay_on_their_device() {
    let [a, b] = two();
    let mut moments = DeviceMoments::new(&a, &Moments::new(2, 16)).unwrap();
    refused("read", moments.read(&b));
    let features = upload(&b, &[0u8; BYTES]);
    let labels = upload(&b, &[0u8; 16]);
    let of = |buffer| Tensor::new(buffer, Element::F16, 1, Size::new(2, 4), 16, 0, 16).unwrap();
    refused("add", moments.add(&b, of(features.all()), labels.all(), None));
}

#[test]
fn copies_are_of_equal_length() {
    let [a, _] = two();
    let x = filled(&a);
    for host in [0, BYTES - 1, BYTES + 1] {
        assert!(a.write(x.all(), &vec![1; host]).is_err(), "{host}");
        assert!(a.read(x.all(), &mut vec![1; host]).is_err(), "{host}");
    }
    assert_eq!(bytes(&a, &x), [POISON; BYTES]);
}

/// Threads that share a device take turns: a copy never meets a launch half way.
#[test]
fn threads_take_turns() {
    let [a, _] = two();
    let (x, y) = (filled(&a), filled(&a));
    std::thread::scope(|scope| {
        for byte in [1u8, 2] {
            let (a, x, y) = (&a, &x, &y);
            scope.spawn(move || {
                for _ in 0..20 {
                    a.write(x.all(), &[byte; BYTES]).unwrap();
                    a.launch(&launch::max_pool(&COPY, tensor(x), tensor(y)).unwrap()).unwrap();
                    let got = bytes(a, y);
                    assert!(
                        [1, 2].contains(&got[0]) && got.iter().all(|b| *b == got[0]),
                        "{got:?}"
                    );
                }
            });
        }
    });
}

/// A tile is one of the list: a changed one would leave pixels out or write outside.
#[test]
fn a_changed_tile_is_refused() {
    let [a, _] = two();
    let (x, y) = (filled(&a), filled(&a));
    let conv = Conv2d::dense(8, 8, 1);
    let mut tiling = ConvTiling::new(&conv, TILES[3], 1);
    tiling.tile.pixels = 1;
    let operands = Operands {
        x: tensor(&x),
        weight: y.all(),
        bias: y.all(),
        residual: None,
        relu: false,
        y: tensor(&y),
        partial: None,
        multiprocessors: 132,
    };
    let message = conv2d(&conv, operands, tiling).err().unwrap().to_string();
    assert!(message.contains("a tile of the list"), "{message}");
}
