//! `kernels/conv2d.cu`
//!
//! The bound is that of `main.rs`: the blocks of k are filled up with zeros, whose steps change nothing.

use ddu::device::launch::conv2d::{ConvTiling, Operands, TILES, conv2d};
use ddu::device::{Device, Element};
use ddu::ops::{Conv2d, Size};

use crate::support::*;

pub struct Case {
    pub name: &'static str,
    pub conv: Conv2d,
    pub batch: usize,
    pub size: Size,
    pub splits: usize,
    pub residual: bool,
    pub relu: bool,
    pub output: Element,
    /// Channels of others beside the input's and the output's.
    pub beside: usize,
    pub multiprocessors: usize,
}

impl Case {
    /// One image, fp16 out with ReLU, nothing beside and no residual.
    pub fn new(name: &'static str, conv: Conv2d, h: usize, w: usize) -> Self {
        Case {
            name,
            conv,
            batch: 1,
            size: Size::new(h, w),
            splits: 1,
            residual: false,
            relu: true,
            output: Element::F16,
            beside: 0,
            multiprocessors: 132,
        }
    }
}

fn cases() -> Vec<Case> {
    let case = Case::new;
    let dense = Conv2d::dense;
    vec![
        case("pointwise", dense(32, 64, 1), 9, 13),
        case("one pixel, as after global pooling", dense(64, 32, 1), 1, 1),
        case("eight channels: four positions in a block of k", dense(8, 8, 3), 11, 7),
        Case { residual: true, ..case("3 x 3 with residual", dense(24, 40, 3), 17, 19) },
        case("stride 2", dense(16, 72, 3).stride(2), 21, 34),
        Case {
            relu: false,
            ..case(
                "pointwise stride 2, the downsampling shortcut",
                dense(40, 24, 1).stride(2),
                15,
                10,
            )
        },
        case(
            "dilation 36 on 23 x 30: only the centre tap or a rim",
            dense(24, 40, 3).dilation(36),
            23,
            30,
        ),
        case("dilation 6, tails in every dimension", dense(56, 136, 3).dilation(6), 13, 11),
        Case {
            batch: 3,
            beside: 8,
            residual: true,
            ..case("batch 3, channel slices", dense(16, 48, 3), 10, 9)
        },
        Case { splits: 3, ..case("split-K", dense(64, 40, 3), 9, 8) },
        Case {
            splits: 5,
            residual: true,
            beside: 16,
            ..case("split-K with an uneven last split, residual, slices", dense(88, 64, 3), 6, 7)
        },
        Case { output: Element::F32, relu: false, ..case("f32 logits", dense(256, 24, 1), 12, 11) },
        Case {
            output: Element::F32,
            relu: false,
            splits: 4,
            ..case("f32 logits, split-K", dense(256, 24, 1), 7, 9)
        },
        Case { output: Element::F32, ..case("f32 with ReLU", dense(72, 136, 1), 11, 12) },
        Case {
            output: Element::F32,
            splits: 3,
            ..case("f32 with ReLU, split-K", dense(192, 24, 1), 7, 9)
        },
        case("a long sum", dense(512, 32, 3).dilation(2), 5, 6),
        case("5 x 5, padding 0", Conv2d { padding: 0, ..dense(8, 16, 5) }, 9, 8),
        case("several tiles", dense(32, 160, 1), 20, 17),
        Case {
            residual: true,
            ..case("less than a block of k, residual", dense(24, 40, 1), 9, 15)
        },
        Case { residual: true, ..case("two blocks of k, residual", dense(72, 136, 1), 10, 13) },
        Case {
            residual: true,
            beside: 8,
            batch: 2,
            relu: false,
            ..case("five blocks of k, residual, no ReLU, slices", dense(288, 72, 1), 9, 8)
        },
        case("15 x 15", Conv2d { padding: 7, ..dense(8, 8, 15) }, 6, 9),
        case(
            "15 x 15, dilated, stride 3",
            Conv2d { padding: 5, ..dense(8, 8, 15).dilation(2).stride(3) },
            22,
            20,
        ),
    ]
}

#[test]
fn every_tile_on_every_device_against_f64() {
    let mut worst = [[0f64; 2]; 2];
    for case in cases() {
        let reference = Reference::new(&case);
        for tile in TILES {
            for (name, device) in devices() {
                let tiling = ConvTiling::new(&case.conv, tile, case.splits);
                let shares = run_case(&case, &reference, tiling, &name, &*device).shares;
                let of = &mut worst[usize::from(case.output == Element::F32)];
                *of = [of[0].max(shares[0]), of[1].max(shares[1])];
            }
        }
    }
    for (output, [bound, rms]) in ["fp16", "f32"].into_iter().zip(worst) {
        let percent = [bound, rms].map(|share| share * 100.0);
        println!(
            "conv2d to {output}: {:.0} % of the bound, {:.0} % of the rms",
            percent[0], percent[1]
        );
    }
}

/// What `ddu profile` counts: each operand once, at its own width, and the output where it is written.
#[test]
fn bytes_are_counted_once_and_at_their_width() {
    let (_, device) = devices().swap_remove(0);
    let (conv, size) = (Conv2d::dense(256, 24, 1), Size::new(7, 9));
    let (x, y) = (Layout::contiguous(1, size, 256), Layout::contiguous(1, size, 24));
    let memory = device.alloc(1 << 20).unwrap();
    let bytes = |element: Element, splits: usize, residual: bool| -> Vec<u64> {
        let operands = Operands {
            x: x.tensor(&memory, Element::F16),
            weight: memory.all(),
            bias: memory.all(),
            residual: residual.then(|| y.tensor(&memory, Element::F16)),
            relu: false,
            y: y.tensor(&memory, element),
            partial: Some(memory.all()),
            multiprocessors: 132,
        };
        let launches = conv2d(&conv, operands, ConvTiling::new(&conv, TILES[3], splits)).unwrap();
        launches.iter().map(|launch| launch.work().bytes).collect()
    };
    let (read, bias, values) = (63 * 256 * 2 + 24 * 256 * 2, 24 * 4, 63 * 24);
    assert_eq!(bytes(Element::F16, 1, false), [read + bias + values * 2]);
    assert_eq!(bytes(Element::F32, 1, false), [read + bias + values * 4]);
    assert_eq!(bytes(Element::F16, 1, true), [read + bias + values * 2 + values * 2]);
    // Four parts of f32 sums, which the second launch reads.
    let parts = 4 * values * 4;
    assert_eq!(bytes(Element::F32, 4, false), [read + parts, parts + bias + values * 4]);
    assert_eq!(
        bytes(Element::F16, 4, true),
        [read + parts, parts + bias + values * 2 + values * 2]
    );
}

pub struct Reference {
    x: (Layout, Vec<half::f16>),
    weight: Vec<half::f16>,
    bias: Vec<f32>,
    residual: Option<(Layout, Vec<half::f16>)>,
    y: Layout,
    expected: Vec<Expected>,
}

impl Reference {
    pub fn new(case: &Case) -> Self {
        let Case { conv, batch, beside, .. } = *case;
        let mut random = Random(case.name.len() as u64);
        let layout =
            |size, channels| Layout::contiguous(batch, size, channels).slice(beside, beside);
        let x = layout(case.size, conv.in_channels);
        let y = layout(conv.output_size(case.size).unwrap(), conv.out_channels);
        let data = random.halves(x.elements());
        let weight = random.halves(conv.weight_shape().iter().product());
        let bias = random.floats(conv.out_channels);
        let residual = case.residual.then(|| (y, random.halves(y.elements())));
        let mut expected = Vec::new();
        let taps = conv.kernel * conv.kernel;
        for n in 0..batch {
            for p in 0..y.size.h {
                for q in 0..y.size.w {
                    for k in 0..conv.out_channels {
                        let start = match &residual {
                            Some((layout, r)) => layout.at(r, n, p as isize, q as isize, k),
                            None => 0.0,
                        };
                        let (mut sum, mut plain) = (f64::from(bias[k]) + start, 0f32);
                        let mut magnitude = f64::from(bias[k]).abs() + start.abs();
                        for tap in 0..taps {
                            let place = |o: usize, r: usize| {
                                (o * conv.stride + r * conv.dilation) as isize
                                    - conv.padding as isize
                            };
                            let (row, column) =
                                (place(p, tap / conv.kernel), place(q, tap % conv.kernel));
                            for c in 0..conv.in_channels {
                                let w = f64::from(weight[(k * taps + tap) * conv.in_channels + c]);
                                let product = x.at(&data, n, row, column, c) * w;
                                sum += product;
                                plain += product as f32;
                                magnitude += product.abs();
                            }
                        }
                        plain = plain + bias[k] + start as f32;
                        if case.relu {
                            sum = sum.max(0.0);
                            plain = plain.max(0.0);
                        }
                        let terms = taps * conv.in_channels + 2;
                        expected.push(Expected::sum(
                            sum,
                            plain.into(),
                            terms,
                            magnitude,
                            case.output,
                        ));
                    }
                }
            }
        }
        Reference { x: (x, data), weight, bias, residual, y, expected }
    }
}

/// Of a case.
pub struct Run {
    /// Of the bound and of the rms.
    pub shares: [f64; 2],
    /// The output's.
    pub bytes: Vec<u8>,
}

pub fn run_case(
    case: &Case,
    reference: &Reference,
    tiling: ConvTiling,
    name: &str,
    device: &dyn Device,
) -> Run {
    let what = format!("conv2d \"{}\" {tiling:?} on {name}", case.name);
    let Reference { x, weight, bias, residual, y, expected } = reference;
    assert_eq!(tiling.splits, case.splits, "{what}: the case asks for splits it cannot have");
    let input = upload(device, &x.1);
    let weight = upload(device, weight);
    let bias = upload(device, bias);
    let residual = residual.as_ref().map(|(layout, data)| (layout, upload(device, data)));
    let partial = device.alloc(tiling.partial_bytes(&case.conv, y.pixels()).max(16)).unwrap();
    let out = output(device, y.elements() * case.output.bytes());
    let operands = Operands {
        x: x.0.tensor(&input, Element::F16),
        weight: weight.all(),
        bias: bias.all(),
        residual: residual.as_ref().map(|(layout, data)| layout.tensor(data, Element::F16)),
        relu: case.relu,
        y: y.tensor(&out, case.output),
        partial: Some(partial.all()),
        multiprocessors: case.multiprocessors,
    };
    run(device, &conv2d(&case.conv, operands, tiling).unwrap());
    let expected = |n, p, q, k| expected[((n * y.size.h + p) * y.size.w + q) * y.channels + k];
    let bytes = download::<u8>(device, &out, y.elements() * case.output.bytes());
    let shares = match case.output {
        Element::F16 => {
            check(&what, y, &bytemuck::pod_collect_to_vec::<u8, half::f16>(&bytes), expected)
        }
        Element::F32 => check(&what, y, &bytemuck::pod_collect_to_vec::<u8, f32>(&bytes), expected),
    };
    Run { shares, bytes }
}
