//! `kernels/gather.cu`: a copy, bit for bit.

use ddu::device::{Element, launch};
use ddu::ops::Size;
use half::f16;

use crate::support::*;

#[test]
fn rows_are_copied_in_the_order_of_the_list() {
    for (channels, beside, size, count) in [
        (16, 0, Size::new(5, 7), 1),
        (64, 8, Size::new(9, 13), 257),
        (24, 0, Size::new(1, 3), 40),
        (256, 16, Size::new(20, 31), 100),
    ] {
        let layout = Layout::contiguous(2, size, channels).slice(beside, beside);
        let mut random = Random(channels as u64);
        let values = random.halves(layout.elements());
        // Any order, with repetitions; some lie outside on either side.
        let row = |i: usize, random: &mut Random| match i % 10 {
            8 => -1 - (random.next() % 9) as i32,
            9 => (layout.pixels() as u64 + random.next() % 9) as i32,
            _ => (random.next() % layout.pixels() as u64) as i32,
        };
        let rows: Vec<i32> = (0..count).map(|i| row(i, &mut random)).collect();
        let labels: Vec<u8> = (0..layout.pixels()).map(|_| random.next() as u8).collect();
        for (name, device) in devices() {
            let (features, list) = (upload(&*device, &values), upload(&*device, &rows));
            let known = upload(&*device, &labels);
            let (out, picked) = (output(&*device, count * channels * 2), output(&*device, count));
            let features = layout.tensor(&features, Element::F16);
            let gather = |list, count, out| {
                launch::gather(features, known.all(), list, count, out, picked.all())
            };
            run(&*device, &[gather(list.all(), count, out.all()).unwrap()]);
            let found = download::<f16>(&*device, &out, count * channels);
            let found_labels = download::<u8>(&*device, &picked, count);
            let found = found.chunks_exact(channels).zip(found_labels);
            for (row, (found, label)) in rows.iter().zip(found) {
                let what = format!("D = {channels} on {name}, row {row}");
                match usize::try_from(*row).ok().filter(|row| *row < layout.pixels()) {
                    Some(row) => {
                        let pixel = &values[row * layout.stride + beside..][..channels];
                        let bits = |v: &[f16]| v.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                        assert_eq!((bits(found), label), (bits(pixel), labels[row]), "{what}");
                    }
                    None => assert!(found.iter().all(|v| v.is_nan()) && label == 255, "{what}"),
                }
            }
            let short = out.slice(0, count * channels * 2 - 2).unwrap();
            assert!(gather(list.all(), count, short).is_err());
            assert!(gather(list.all(), count + 1, out.all()).is_err());
        }
    }
}
