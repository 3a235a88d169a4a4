//! `kernels/clip.cu`: exact, a value that is not finite stays.

use ddu::device::{Element, launch};
use ddu::ops::Size;
use half::f16;

use crate::support::*;

#[test]
fn features_are_cut_at_their_channels_limit() {
    for (channels, beside, batch, size) in [
        (8, 0, 1, Size::new(1, 1)),
        (16, 8, 2, Size::new(5, 7)),
        (24, 0, 1, Size::new(3, 31)),
        (256, 16, 2, Size::new(9, 13)),
    ] {
        let x = Layout::contiguous(batch, size, channels).slice(beside, beside);
        let y = Layout::contiguous(batch, size, channels).slice(beside, 0);
        let mut random = Random(channels as u64);
        let mut values = random.halves(x.elements());
        let broken = [f16::NAN, f16::INFINITY, f16::NEG_INFINITY, f16::MAX, f16::MIN];
        for (i, value) in values.iter_mut().enumerate().filter(|(i, _)| i % 11 == 3) {
            *value = broken[i / 11 % broken.len()];
        }
        let mut limits = random.halves(channels);
        // Padding, and a limit that a value equals.
        limits[channels - 1] = f16::INFINITY;
        limits[0] = values[x.first];
        for (name, device) in devices() {
            let device = &*device;
            let (input, limit) = (upload(device, &values), upload(device, &limits));
            let out = output(device, y.elements() * 2);
            let to = |buffer| y.tensor(buffer, Element::F16);
            let from = x.tensor(&input, Element::F16);
            run(device, &[launch::clip(from, limit.all(), to(&out)).unwrap()]);
            let found = download::<u16>(device, &out, y.elements());
            for (pixel, found) in found.chunks_exact(y.stride).enumerate() {
                let what = format!("D = {channels} on {name}, pixel {pixel}");
                assert!(
                    found[..beside].iter().all(|v| *v == 0xffff),
                    "{what}: beside its channels"
                );
                for (c, found) in found[beside..].iter().enumerate() {
                    let value = values[pixel * x.stride + x.first + c];
                    let cut = value.is_finite() && value > limits[c];
                    let expected = if cut { limits[c] } else { value };
                    let found = f16::from_bits(*found);
                    let same = found == expected || found.is_nan() && expected.is_nan();
                    assert!(same, "{what}, channel {c}: {found} for {expected}");
                }
            }
            let short = limit.slice(0, channels * 2 - 2).unwrap();
            assert!(launch::clip(from, short, to(&out)).is_err());
            assert!(launch::clip(from, limit.all(), from).is_ok(), "in place");
        }
    }
}
