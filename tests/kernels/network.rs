//! Whole networks on a device against the CPU path, op by op and end to end (`ddu::compare`), and
//! what a launch refuses.

mod baselines;
mod fit;
mod score;

use ddu::compare::compare;
use ddu::data::Image;
use ddu::device::kernels;
use ddu::device::launch::conv2d::{ConvTiling, Operands, TILES, conv2d};
use ddu::device::simt::{Schedule, compiled};
use ddu::device::{Element, Tensor, launch};
use ddu::engine::Engine;
use ddu::model::{Backbone, ConcatOrder, Config, Decoder, Model};
use ddu::ops::{Conv2d, MaxPool, Size};

use crate::models::{Rng, random_model, small};
use crate::pictures::camvid;
use crate::support::{device, on};

fn picture(size: Size, seed: u64) -> Image {
    let mut rng = Rng(seed);
    Image { size, rgb: (0..size.pixels() * 3).map(|_| rng.next() as u8).collect() }
}

fn check(what: &str, model: Model, schedule: Schedule, image: &Image) {
    for (name, device) in on(schedule) {
        let comparison = compare(model.clone(), device, image).unwrap();
        for op in &comparison.ops {
            assert!(op.pass, "{what} on {name}: {op:?}");
        }
        assert!(comparison.pass(), "{what} on {name}: {:?}", comparison.end_to_end);
    }
}

#[test]
fn small_networks_op_by_op_and_end_to_end() {
    let v3_plus = small(Backbone::Resnet18);
    let mut bottlenecks = Config { decoder_separable: true, ..small(Backbone::Resnet50) };
    bottlenecks.output_stride = 8;
    bottlenecks.dilations[2] = vec![1, 2, 2, 2, 2, 2];
    bottlenecks.dilations[3] = vec![2, 4, 8];
    bottlenecks.align_corners = false;
    bottlenecks.decoder = Some(Decoder {
        low_level_channels: 6,
        concat_order: ConcatOrder::LowLevelFirst,
        refine_channels: vec![20],
    });
    let v3 = Config { decoder: None, align_corners: false, ..small(Backbone::Resnet18) };
    for (what, config, size, schedule) in [
        ("v3+", v3_plus, Size::new(35, 49), Schedule::Forward),
        ("separable bottlenecks", bottlenecks, Size::new(30, 39), Schedule::Random(3)),
        ("v3", v3, Size::new(33, 40), Schedule::Reverse),
    ] {
        check(what, random_model(config, 11), schedule, &picture(size, 5));
    }
}

#[test]
fn the_shared_network_on_a_crop() {
    let Some((model, pictures)) = camvid(Size::new(96, 128)) else { return };
    check("CamVid", model, Schedule::Forward, &pictures[0].0);
}

#[test]
fn a_batch_gives_each_picture_its_own_maps() {
    let images = [picture(Size::new(17, 26), 1), picture(Size::new(17, 26), 2)];
    let model = || random_model(small(Backbone::Resnet18), 4);
    let mut device = Engine::on(model(), device()).unwrap();
    let mut cpu = Engine::new(model());
    let out = device.run(&[&images[0], &images[1]]).unwrap();
    for (i, image) in images.iter().enumerate() {
        let single = cpu.run(&[image]).unwrap();
        let (both, alone) = (out.logits(i).unwrap(), single.logits(0).unwrap());
        let error = both.iter().zip(&*alone).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
        let total = alone.iter().map(|v| v * v).sum::<f32>();
        // As in ddu::compare, with 24 convolutions: 4e-3.
        assert!((error / total).sqrt() < 4e-3, "image {i}: {}", (error / total).sqrt());
        assert_eq!(out.features(i).unwrap().len(), single.features(0).unwrap().len());
        let (both, alone) = (out.maps(i).unwrap(), single.maps(0).unwrap());
        let equal = both.label.iter().zip(&alone.label).filter(|(a, b)| a == b).count();
        assert!(
            equal as f64 >= 0.99 * image.size.pixels() as f64,
            "image {i}: {equal} labels agree"
        );
    }
}

/// The table in Rust is the one that was compiled.
#[test]
fn the_tables_of_kernels_agree() {
    let mut ours: Vec<_> =
        kernels::all().map(|k| (k.name.to_string(), k.params_bytes, k.threads)).collect();
    let mut theirs = compiled();
    ours.sort();
    theirs.sort();
    assert_eq!(ours, theirs);
}

#[test]
fn launches_that_would_leave_their_memory_are_refused() {
    let device = device();
    let buffer = |bytes| device.alloc(bytes).unwrap();
    let (x, y, weight, bias) =
        (buffer(4 * 5 * 16 * 2), buffer(4 * 5 * 8 * 2), buffer(9 * 16 * 8 * 2), buffer(32));
    let size = Size::new(4, 5);
    let of = |data, channels| Tensor::new(data, Element::F16, 1, size, channels, 0, channels);
    assert!(of(x.all(), 24).is_err(), "a tensor larger than its memory");
    assert!(
        Tensor::new(x.all(), Element::F16, 1, size, 16, 8, 16).is_err(),
        "channels outside the pixel"
    );
    assert!(Tensor::new(x.all(), Element::F16, 1, size, 16, 4, 8).is_err(), "a misaligned slice");
    assert!(x.slice(600, 41).is_err() && x.slice(usize::MAX, 2).is_err(), "a slice outside");

    let conv = Conv2d::dense(16, 8, 3);
    let operands = Operands {
        x: of(x.all(), 16).unwrap(),
        weight: weight.all(),
        bias: bias.all(),
        residual: None,
        relu: true,
        y: of(y.all(), 8).unwrap(),
        partial: None,
        multiprocessors: 132,
    };
    let tiling = ConvTiling::new(&conv, TILES[3], 1);
    assert!(conv2d(&conv, operands, tiling).is_ok());
    let refused = |what: &str, conv: Conv2d, operands: Operands, tiling: ConvTiling| {
        let message = conv2d(&conv, operands, tiling).err().map(|e| e.to_string());
        assert!(message.as_ref().is_some_and(|m| m.contains("expected")), "{what}: {message:?}");
    };
    let short = weight.slice(0, weight.all().bytes() - 2).unwrap();
    refused("short weights", conv, Operands { weight: short, ..operands }, tiling);
    refused("short bias", conv, Operands { bias: bias.slice(0, 28).unwrap(), ..operands }, tiling);
    refused("another output size", conv.stride(2), operands, tiling);
    refused("other channels", Conv2d::dense(8, 8, 3), operands, tiling);
    refused("a depthwise convolution", Conv2d::depthwise(16, 3), operands, tiling);
    refused("splits without memory", conv, operands, ConvTiling::new(&conv, TILES[3], 2));
    refused("splits that miss the end", conv, operands, ConvTiling { k_blocks: 2, ..tiling });
    let large = Conv2d { kernel: 17, padding: 8, ..conv };
    let refusal = conv2d(&large, operands, ConvTiling::new(&large, TILES[3], 1)).err().unwrap();
    assert!(refusal.to_string().contains("15 x 15 taps"), "{refusal}");
    let pool = MaxPool { kernel: 3, stride: 2, padding: 1 };
    assert!(launch::max_pool(&pool, operands.x, operands.y).is_err());
    assert!(launch::global_average_pool(operands.x, operands.y).is_err());
}
