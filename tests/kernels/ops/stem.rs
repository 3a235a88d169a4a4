//! `kernels/stem.cu`
//!
//! The bound is that of `main.rs`, with n = 148. A tensor core's steps are more than n / 8 here, for the fourth channel of a pixel
//! and the eighth of a row are zeros: 28 steps of 8 on an A100, six products at most that are not 0, so that each errs by at most
//! (6 2^-24 + 2^-23) A and all by 112 2^-23 A.

use ddu::device::{Element, launch};
use ddu::ops::{Conv2d, Size};
use half::f16;

use crate::support::*;

#[test]
fn odd_sizes_and_channel_tails_against_f64() {
    let mut worst = [0f64; 2];
    // Output tiles are 4 x 32 pixels and 64 channels: fewer, more, and not a multiple of each.
    for (batch, h, w, channels, beside) in [
        (1, 7, 7, 8, 0),
        (1, 1, 1, 16, 0),
        (2, 17, 71, 64, 0),
        (1, 12, 130, 72, 8),
        (3, 9, 64, 24, 16),
    ] {
        let conv = Conv2d { padding: 3, ..Conv2d::dense(3, channels, 7).stride(2) };
        let x = Layout::contiguous(batch, Size::new(h, w), 4);
        let y =
            Layout::contiguous(batch, conv.output_size(x.size).unwrap(), channels).slice(beside, 0);
        let mut random = Random((h * w) as u64);
        let mut data = random.halves(x.elements());
        data.chunks_exact_mut(4).for_each(|pixel| pixel[3] = f16::ZERO);
        let weight = random.halves(channels * 49 * 3); // [k, r, s, c]
        let bias = random.floats(channels);
        let mut padded = vec![f16::ZERO; channels * 7 * 8 * 4];
        for (i, &w) in weight.iter().enumerate() {
            let (k, r, s, c) = (i / 147, i / 21 % 7, i / 3 % 7, i % 3);
            padded[((k * 7 + r) * 8 + s) * 4 + c] = w;
        }
        let relu = batch != 2;
        let expected = |n: usize, p: usize, q: usize, k: usize| {
            let (mut sum, mut plain) = (f64::from(bias[k]), 0f32);
            let mut magnitude = sum.abs();
            for i in 0..147 {
                let (r, s, c) = (i / 21, i / 3 % 7, i % 3);
                let (row, column) = ((2 * p + r) as isize - 3, (2 * q + s) as isize - 3);
                let product = x.at(&data, n, row, column, c) * f64::from(weight[k * 147 + i]);
                sum += product;
                plain += product as f32;
                magnitude += product.abs();
            }
            plain += bias[k];
            if relu {
                (sum, plain) = (sum.max(0.0), plain.max(0.0));
            }
            Expected::sum(sum, plain.into(), 148, magnitude, Element::F16)
        };
        for (name, device) in devices() {
            let device = &*device;
            let input = upload(device, &data);
            let weight = upload(device, &padded);
            let bias = upload(device, &bias);
            let out = output(device, y.elements() * 2);
            let (from, to) = (x.tensor(&input, Element::F16), y.tensor(&out, Element::F16));
            let launch = launch::stem(&conv, from, weight.all(), bias.all(), relu, to).unwrap();
            run(device, &[launch]);
            let got = download::<f16>(device, &out, y.elements());
            let what = format!("stem {batch} x {h} x {w} to {channels} on {name}");
            let shares = check(&what, &y, &got, expected);
            worst = [worst[0].max(shares[0]), worst[1].max(shares[1])];
        }
    }
    let [bound, rms] = worst.map(|share| share * 100.0);
    println!("stem: {bound:.0} % of the bound, {rms:.0} % of the rms");
}
