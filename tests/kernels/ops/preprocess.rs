//! `kernels/preprocess.cu`

use ddu::device::{Element, launch};
use ddu::ops::Size;
use half::f16;

use crate::support::*;

#[test]
fn normalised_and_padded_against_f64() {
    let (mean, std) = ([0.485f32, 0.456, 0.406], [0.229f32, 0.224, 0.225]);
    for (batch, h, w, to_h, to_w) in [(1, 5, 7, 16, 16), (2, 33, 17, 33, 17), (3, 1, 1, 2, 9)] {
        let image = Size::new(h, w);
        let y = Layout::contiguous(batch, Size::new(to_h, to_w), 4);
        let mut random = Random((h * w) as u64);
        let rgb: Vec<u8> = (0..batch * h * w * 3).map(|_| random.next() as u8).collect();
        let expected = |n: usize, i: usize, j: usize, c: usize| {
            if i >= h || j >= w || c == 3 {
                return Expected { value: 0.0, bound: 0.0, plain: 0.0 };
            }
            let v = f64::from(rgb[((n * h + i) * w + j) * 3 + c]) / 255.0;
            let (mean, std) = (f64::from(mean[c]), f64::from(std[c]));
            let value = (v - mean) / std;
            Expected::sum(value, value, 3, (v + mean) / std, Element::F16)
        };
        for (name, device) in devices() {
            let device = &*device;
            let input = upload(device, &rgb);
            let out = output(device, y.elements() * 2);
            let to = y.tensor(&out, Element::F16);
            run(device, &[launch::preprocess(input.all(), image, mean, std, to).unwrap()]);
            let got = download::<f16>(device, &out, y.elements());
            check(&format!("preprocess {batch} x {image} on {name}"), &y, &got, expected);
        }
    }
}
