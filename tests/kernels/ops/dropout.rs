//! `kernels/dropout.cu`, and the CPU path's.

use ddu::cpu;
use ddu::device::{Element, launch};
use ddu::ops::{Dropout, Pass, Size};
use half::f16;

use crate::support::*;

const OP: Dropout = Dropout { place: 1, probability: 0.3 };
/// All 32 bits of each half of the seed, and of the pass.
const PASS: Pass = Pass { seed: 0xfedc_ba98_7654_3210, index: 0x8000_0003 };

/// Every element is exactly the fp16 of x times its factor: the masks are those of `ddu::ops::Dropout`, bit for bit.
#[test]
fn masks_are_those_of_the_cpu() {
    for (batch, size, channels, beside) in
        [(1, (1, 1), 8, 0), (2, (7, 9), 24, 8), (3, (16, 17), 40, 0), (1, (33, 8), 256, 16)]
    {
        let x = Layout::contiguous(batch, Size::new(size.0, size.1), channels).slice(beside, 0);
        let y = Layout::contiguous(batch, x.size, channels).slice(0, beside);
        let data = Random(channels as u64).halves(x.elements());
        for pass in [Some(PASS), Some(Pass { seed: 0, index: 0 }), None] {
            for (name, device) in devices() {
                let device = &*device;
                let input = upload(device, &data);
                let out = output(device, y.elements() * 2);
                let (from, to) = (x.tensor(&input, Element::F16), y.tensor(&out, Element::F16));
                run(device, &[launch::dropout(&OP, pass, from, to).unwrap()]);
                let got = download::<f16>(device, &out, y.elements());
                let expected = |n: usize, row: usize, column: usize, c: usize| {
                    let pixel = (row * x.size.w + column) as u32;
                    let factor = |pass| OP.factors(pass, pixel, c as u32 / 4)[c % 4];
                    let x = x.at(&data, n, row as isize, column as isize, c);
                    // A product of an fp16 and an f32 number is rounded to f32, then to fp16.
                    let value = f16::from_f32(x as f32 * pass.map_or(1.0, factor)).to_f64();
                    Expected { value, bound: 0.0, plain: value }
                };
                check(&format!("dropout of {x:?}, {pass:?} on {name}"), &y, &got, expected);
            }
        }
    }
}

#[test]
fn shapes_that_differ_are_refused() {
    let device = device();
    let x = Layout::contiguous(1, Size::new(3, 3), 16);
    let (input, out) = (upload(&*device, &vec![0u8; 288]), output(&*device, 288));
    for y in [Layout::contiguous(1, Size::new(3, 3), 8), Layout::contiguous(1, Size::new(3, 2), 16)]
    {
        let (from, to) = (x.tensor(&input, Element::F16), y.tensor(&out, Element::F16));
        assert!(launch::dropout(&OP, None, from, to).is_err(), "{y:?}");
    }
}

mod on_the_cpu {
    use super::*;
    use crate::cpu::{Rng, Tensor};

    #[test]
    fn every_element_has_its_factor() {
        let size = Size::new(5, 7);
        let x = Tensor::random(&mut Rng(3), 2, size, 12, 4);
        for pass in [Some(PASS), None] {
            let mut y = Tensor::poisoned(2, size, 12, 8);
            cpu::dropout::dropout(&OP, pass, x.input(), y.output());
            y.check("dropout", |image, row, column, c| {
                let pixel = (row * size.w + column) as u32;
                let factor = |pass| OP.factors(pass, pixel, c as u32 / 4)[c % 4];
                let factor = f64::from(pass.map_or(1.0, factor));
                // One rounding of a value of at most 1 / 0.7.
                (x.at(image, row, column, c) * factor, 1e-7)
            });
        }
    }
}
