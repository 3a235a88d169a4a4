//! Beside other libraries of the process: what they share goes in, what they are given stays, and the thread's context is theirs.
#![allow(unsafe_code)]

use std::sync::Arc;

use cudarc::driver::sys;
use ddu::device::cuda::Cuda;
use ddu::device::dlpack::{Form, Kind, Managed};
use ddu::device::{Buffer, Device};
use ddu::engine::Engine;
use ddu::model::Backbone;
use ddu::ops::Size;
use ddu::score::Score;

use crate::models::{random_model, small};
use crate::standin::{calls, count, on_stand_in, open};
use crate::{bits, copy, expect, filled, first, picture};

/// As PyTorch hands a tensor over: a stream of its own writes it when somebody waits, and the device's inbound stream is made
/// to wait for that one.
#[test]
fn a_picture_on_the_gpu_goes_in_and_maps_come_out_there() {
    let name = "libraries::a_picture_on_the_gpu_goes_in_and_maps_come_out_there";
    on_stand_in(name, "devices=2", || {
        let (size, scores) = (Size::new(35, 49), [Score::Entropy, Score::Energy]);
        let image = picture(size, 5);
        let model = random_model(small(Backbone::Resnet18), 7);
        let mut engine = Engine::on(model, Box::new(open(0).unwrap())).unwrap();
        engine.score_logits(&scores);
        let (label, maps) = engine.run(&[&image]).unwrap().scored(0, &scores).unwrap();
        let device = engine.device().unwrap();
        let gpu = device.cuda().unwrap();

        let producer = open(0).unwrap();
        let source = filled_with(&producer, &image.rgb);
        let tensor = Arc::new(producer.alloc(image.rgb.len()).unwrap());
        let (mut stream, mut event) = (std::ptr::null_mut(), std::ptr::null_mut());
        let shape = [size.h, size.w, 3];
        let share = |form| producer.share(tensor.clone(), Kind::U8, &shape, form).unwrap();
        let [from, to] = [&source, &tensor].map(|buffer| {
            let shared = producer.share(buffer.clone(), Kind::U8, &shape, Form::Unversioned);
            let raw = shared.unwrap().into_raw();
            // SAFETY: a DLManagedTensor, which begins with its address, and is taken back.
            unsafe {
                let address = *raw.cast::<u64>();
                drop(Managed::from_raw(Form::Unversioned, raw));
                address
            }
        });
        let context = primary(0);
        // SAFETY: handles made here; both buffers have as many bytes; the inbound stream lives as long as the engine.
        unsafe {
            sys::cuCtxSetCurrent(context).result().unwrap();
            sys::cuStreamCreate(&mut stream, 1).result().unwrap();
            sys::cuEventCreate(&mut event, 2).result().unwrap();
            sys::cuMemcpyDtoDAsync_v2(to, from, image.rgb.len(), stream).result().unwrap();
            sys::cuEventRecord(event, stream).result().unwrap();
            sys::cuStreamWaitEvent(gpu.inbound() as sys::CUstream, event, 0).result().unwrap();
        }

        let before = calls().len();
        let [adopted, versioned] = [Form::Unversioned, Form::Versioned]
            .map(|form| gpu.adopt(share(form), Kind::U8).unwrap());
        drop(versioned);
        let output = engine.run_on_device(size, &[adopted.all()]).unwrap();
        let (label_there, maps_there) = output.scored_on_device(0, &scores).unwrap();
        device.synchronize().unwrap();
        let new = &calls()[before..];
        assert_eq!(count(new, "cuMemcpyDtoDAsync"), 1 + 3, "{new:?}");
        assert_eq!(count(new, "cuMemcpyHtoDAsync") + count(new, "cuMemcpyDtoHAsync"), 0, "{new:?}");
        drop(adopted);
        let later = share(Form::Versioned).into_raw();
        // SAFETY: a DLManagedTensorVersioned, which begins with its major version.
        unsafe {
            assert_eq!(*later.cast::<[u32; 2]>(), [1, 0]);
            *later.cast::<u32>() = 2;
            assert!(Managed::from_raw(Form::Versioned, later).is_none(), "another structure");
        }
        assert_eq!(Arc::strong_count(&tensor), 1, "all were given back");
        // What was given away outlives the run.
        engine.run(&[&picture(size, 6)]).unwrap();
        let mut bytes = vec![0; size.pixels()];
        device.read(label_there.all(), &mut bytes).unwrap();
        assert!(bytes == label);
        for (there, here) in maps_there.into_iter().zip(&maps) {
            let mut values = vec![0f32; size.pixels()];
            device.read(there.values.all(), bytemuck::cast_slice_mut(&mut values)).unwrap();
            assert_eq!(bits(&values), bits(&here.values));
        }

        let refused = |tensor, kind| gpu.adopt(tensor, kind).err().unwrap().to_string();
        expect(
            &refused(share(Form::Versioned), Kind::F32),
            &["dense, row-major", "F32", "[35, 49, 3]"],
        );
        let elsewhere = open(1).unwrap();
        let other = Arc::new(elsewhere.alloc(64).unwrap());
        let of_other = elsewhere.share(other.clone(), Kind::U8, &[64], Form::Versioned).unwrap();
        expect(&refused(of_other, Kind::U8), &["on cuda:0", "device 2, index 1"]);
        let no = |gpu: &Cuda, kind, len| {
            gpu.share(other.clone(), kind, &[len], Form::Versioned).is_err()
        };
        assert!(no(gpu, Kind::U8, 64), "another device's buffer");
        assert!(no(&elsewhere, Kind::F32, 17), "more than there is");
        let wrong = engine.run_on_device(Size::new(35, 50), &[tensor.all()]);
        assert!(wrong.is_err(), "memory of another device, of another size");
        let mut cpu = Engine::new(random_model(small(Backbone::Resnet18), 7));
        let message = cpu.run_on_device(size, &[tensor.all()]).err().unwrap().to_string();
        expect(&message, &["host's memory"]);
        // SAFETY: made above, used no more; the context is current on this thread.
        unsafe {
            sys::cuEventDestroy_v2(event).result().unwrap();
            sys::cuStreamDestroy_v2(stream).result().unwrap();
            sys::cuCtxSetCurrent(std::ptr::null_mut()).result().unwrap();
            sys::cuDevicePrimaryCtxRelease_v2(0).result().unwrap();
        }
    });
}

/// The primary context of a GPU, retained once more, as another library of the process does.
fn primary(ordinal: i32) -> sys::CUcontext {
    let mut context = std::ptr::null_mut();
    // SAFETY: one handle is written through a pointer that is valid for it.
    let result = unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, ordinal) };
    result.result().unwrap();
    context
}

/// PyTorch, which shares the thread, takes the current context for the GPU that is meant where none is named.
#[test]
fn the_context_of_a_thread_stays_what_it_was() {
    on_stand_in("libraries::the_context_of_a_thread_stays_what_it_was", "devices=2", || {
        let _first = open(0).unwrap();
        let other = primary(1);
        for expected in [std::ptr::null_mut(), other] {
            // SAFETY: the context is retained; one handle is written through a pointer that is valid for it.
            let current = |at: &str| unsafe {
                let mut current = std::ptr::null_mut();
                sys::cuCtxGetCurrent(&mut current).result().unwrap();
                assert!(current == expected, "{at}");
            };
            // SAFETY: as above.
            unsafe { sys::cuCtxSetCurrent(expected).result().unwrap() };
            let device = open(0).unwrap();
            current("after it was opened");
            let [from, to] = [7, 8].map(|byte| filled(&device, byte));
            device.run(&[copy(&from, &to), copy(&to, &from)]).unwrap();
            assert_eq!(first(&device, &from), 7);
            current("after work on it");
            assert!(device.alloc(usize::MAX / 2).is_err());
            current("after an error");
            drop((from, to));
            current("after its memory was freed");
            drop(device);
            current("after it was closed");
        }
        // SAFETY: as above; it is used no more.
        unsafe {
            sys::cuCtxSetCurrent(std::ptr::null_mut()).result().unwrap();
            sys::cuDevicePrimaryCtxRelease_v2(1).result().unwrap();
        }
    });
}

fn filled_with(device: &Cuda, bytes: &[u8]) -> Arc<Buffer> {
    let buffer = device.alloc(bytes.len()).unwrap();
    device.write(buffer.all(), bytes).unwrap();
    device.synchronize().unwrap();
    Arc::new(buffer)
}
