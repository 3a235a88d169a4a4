//! `kernels/depthwise.cu`

use ddu::device::{Element, launch};
use ddu::ops::{Conv2d, Size};
use half::f16;

use crate::support::*;

#[test]
fn strides_dilations_and_slices_against_f64() {
    let depthwise = Conv2d::depthwise;
    for (conv, batch, h, w, relu, beside) in [
        (depthwise(8, 3), 1, 5, 7, true, 0),
        (depthwise(40, 3).dilation(12), 1, 23, 30, false, 0),
        (depthwise(24, 3).dilation(36), 1, 23, 30, true, 8),
        (depthwise(16, 3).stride(2), 2, 11, 14, true, 0),
        (depthwise(24, 5), 3, 6, 9, false, 16),
        (depthwise(8, 1), 1, 3, 4, false, 0),
        (depthwise(8, 2), 1, 5, 6, false, 0),
    ] {
        let x = Layout::contiguous(batch, Size::new(h, w), conv.in_channels).slice(0, beside);
        let y = Layout { size: conv.output_size(x.size).unwrap(), ..x };
        let mut random = Random((h * w) as u64);
        let data = random.halves(x.elements());
        let taps = conv.kernel * conv.kernel;
        let weight = random.halves(taps * conv.in_channels); // [r, s, c]
        let bias = random.floats(conv.in_channels);
        let expected = |n: usize, p: usize, q: usize, c: usize| {
            let (mut sum, mut plain) = (f64::from(bias[c]), 0f32);
            let mut magnitude = sum.abs();
            for tap in 0..taps {
                let place = |o: usize, r: usize| {
                    (o * conv.stride + r * conv.dilation) as isize - conv.padding as isize
                };
                let (row, column) = (place(p, tap / conv.kernel), place(q, tap % conv.kernel));
                let product =
                    x.at(&data, n, row, column, c) * f64::from(weight[tap * conv.in_channels + c]);
                sum += product;
                plain += product as f32;
                magnitude += product.abs();
            }
            plain += bias[c];
            if relu {
                (sum, plain) = (sum.max(0.0), plain.max(0.0));
            }
            Expected::sum(sum, plain.into(), taps + 1, magnitude, Element::F16)
        };
        for (name, device) in devices() {
            let device = &*device;
            let input = upload(device, &data);
            let weight = upload(device, &weight);
            let bias = upload(device, &bias);
            let out = output(device, y.elements() * 2);
            let (from, to) = (x.tensor(&input, Element::F16), y.tensor(&out, Element::F16));
            let launch =
                launch::depthwise(&conv, from, weight.all(), bias.all(), relu, to).unwrap();
            run(device, &[launch]);
            let got = download::<f16>(device, &out, y.elements());
            check(&format!("{conv:?} on {name}"), &y, &got, expected);
        }
    }
}
