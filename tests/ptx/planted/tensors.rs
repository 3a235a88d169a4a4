//! Copies of a tensor's boxes to shared memory and back: each fault is one change of a sound kernel's text, or of its tensor map.

use super::*;

/// A tensor map of `kernels/simt/tensor_map.h`: 16-byte aligned `address` from the start of the data, mode, sizes, strides in
/// bytes, box, steps and corners; 128-byte swizzle.
fn map(
    address: u64,
    mode: u32,
    sizes: &[u32],
    strides: &[u64],
    [first, steps]: [[u32; 4]; 2],
    corners: [i32; 4],
) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(address.to_le_bytes());
    bytes.extend([mode, sizes.len() as u32].iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend((0..3).flat_map(|i| strides.get(i).unwrap_or(&0).to_le_bytes()));
    bytes.extend((0..4).flat_map(|i| sizes.get(i).unwrap_or(&0).to_le_bytes()));
    bytes.extend(first.iter().chain(&steps).flat_map(|n| n.to_le_bytes()));
    bytes.extend(corners.iter().flat_map(|n| n.to_le_bytes()));
    bytes.extend(1u32.to_le_bytes());
    bytes.resize(128, 0);
    bytes
}

/// Of A 40 channels of 48 in 2 images of 5 x 9, a 3 x 3 filter with padding 1 and stride 2; of B [66][2][40].
fn tensor() -> Kernel {
    let (h, w, c, stride) = (5, 9, 40, 48);
    let (out_h, out_w) = (3, 5);
    let b_at = 2 * h * w * stride;
    let a = |n: usize, y: isize, x: isize, k: usize| {
        let inside = (0..h as isize).contains(&y) && (0..w as isize).contains(&x) && n < 2 && k < c;
        if inside { number(((n * h + y as usize) * w + x as usize) * stride + k) } else { 0.0 }
    };
    let b = |row: usize, k: usize| {
        if row < 66 && k < c { number(b_at + (row * 2 + 1) * c + k) } else { 0.0 }
    };
    let (pixel, filter) = (stride as u64 * 2, c as u64 * 2);
    let image = [pixel, pixel * w as u64, pixel * (w * h) as u64];
    let sizes = [c as u32, w as u32, h as u32, 2];
    let mut input = map(0, 2, &sizes, &image, [[64, 64, 0, 0], [1, 2, 2, 1]], [-1, -1, -1, -1]);
    let place = b_at as u64 * 2;
    let strides = [filter, filter * 2];
    let sizes = [c as u32, 2, 66];
    input.extend(map(place, 1, &sizes, &strides, [[64, 1, 64, 0], [1, 1, 1, 0]], [0; 4]));
    input.extend(halves((0..b_at + 66 * 2 * c).map(number)));
    // The first pixel is the second of the first row.
    let product = |row: usize, column: usize| {
        let m = row + 1;
        let (n, y, x) = (m / out_w / out_h, m / out_w % out_h * 2, m % out_w * 2);
        let tap = |k| a(n, y as isize, x as isize + 1, k);
        (0..64).map(|k| tap(k) * b(column + 3, k)).sum::<f32>()
    };
    let expected = bits((0..64 * 64).map(|i| product(i / 64, i % 64)));
    Kernel { text: include_str!("../tensor.ptx"), threads: 128, shared: 16512, input, expected }
}

/// Of 21 rows of 40 channels, 48 apart, the last row without what lies behind its channels; see the kernel.
fn store() -> Kernel {
    let (rows, c, stride) = (21, 40, 48);
    let sizes = [c as u32, 1, rows as u32];
    let pitch = stride as u64 * 2;
    let boxes = [[64, 1, 8, 0], [1, 1, 1, 0]];
    let mut input = map(1 << 63, 1, &sizes, &[pitch, pitch], boxes, [0; 4]);
    input.extend(halves((0..2 * 8 * 64).map(number)));
    let mut out = vec![0xeeee_u16; (rows - 1) * stride + c];
    for (of, first) in [(0, 16), (1, 3)] {
        for row in (0..8).filter(|row| first + row < rows) {
            for k in 0..c {
                let at = of * 512 + row * 64 + ((k / 8) ^ row) * 8 + k % 8;
                out[(first + row) * stride + k] = half::f16::from_f32(number(at)).to_bits();
            }
        }
    }
    let expected = out.chunks(2).map(|w| u32::from(w[1]) << 16 | u32::from(w[0])).collect();
    Kernel { text: include_str!("../store.ptx"), threads: 32, shared: 1024, input, expected }
}

/// Instructions that `faults_of_tensor_copies` holds, beside what `edges` has cases for.
pub const HELD: [&str; 5] = [
    "cp.async.bulk.tensor",
    "cp.async.bulk.tensor.store",
    "cp.async.bulk.commit_group",
    "cp.async.bulk.wait_group.read",
    "prefetch.tensormap",
];

#[test]
fn faults_of_tensor_copies() {
    const IM2COL: &str = "4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%r2], [%rd3, {%r5, %r6, %r7, %r8}], [%r3], {%h1, %h2}";
    const IM2COL_OF_B: &str = "4d.shared::cluster.global.im2col.mbarrier::complete_tx::bytes [%r2], [%rd4, {%r5, %r6, %r7, %r8}], [%r3], {%h1, %h2}";
    let faults = [
        fault("bytes that nobody expects", "%r4, 16384", "%r4, 8192", Said("under way to")),
        fault("more bytes than come", "%r4, 16384", "%r4, 16400", Said("deadlock")),
        fault("no wait", "mov.u32 %r12, 0;", "mov.u32 %r12, 1;", Said("under way to")),
        fault(
            "a destination that is no multiple of 128",
            "%r9, %r2, 8192",
            "%r9, %r2, 8128",
            Said("misaligned shared address"),
        ),
        fault(
            "a destination that the other operand's lies in",
            "%r9, %r2, 8192",
            "%r9, %r2, 7168",
            Said("writes shared memory that an asynchronous copy is under way to"),
        ),
        fault(
            "a parameter that is not aligned as maps are",
            ".align 64 .b8 test",
            ".align 8 .b8 test",
            Said("a tensor map that is no multiple of 64"),
        ),
        fault("an address inside a map", "%rd3, 128;", "%rd3, 64;", Said("of another rank")),
        fault("a map of the other mode", "[%rd4, {", "[%rd3, {", Said("of the other mode")),
        fault("an im2col copy without a map of it", IM2COL, IM2COL_OF_B, Said("of the other mode")),
        fault("another column", "mov.u32 %r6, 1;", "mov.u32 %r6, 3;", Values),
        fault(
            "a column between those of the stride",
            "mov.u32 %r6, 1;",
            "mov.u32 %r6, 2;",
            Said("between those of the traversal stride"),
        ),
        fault(
            "a row above the bounding box",
            "mov.u32 %r7, -1;",
            "mov.u32 %r7, -3;",
            Said("outside the bounding box"),
        ),
        fault("offsets exchanged", "{%h1, %h2};", "{%h2, %h1};", Values),
        fault("an offset of nine bits", "%h2, 1;", "%h2, 257;", Said("an offset above 255")),
        fault(
            "a prefetch of what is no parameter",
            "prefetch.tensormap [%rd4];",
            "prefetch.tensormap [%rd1];",
            Said("prefetch.tensormap [%rd1]: a tensor map outside the parameter"),
        ),
        fault("another slice", "mov.u32 %r10, 1;", "mov.u32 %r10, 0;", Values),
        fault(
            "an mbarrier that copies cannot see",
            "fence.mbarrier_init.release.cluster;",
            "",
            Said("no fence after mbarrier.init"),
        ),
        fault(
            "the left operand's descriptor off by a chunk",
            "%rd11, %rd7, 2",
            "%rd11, %rd7, 1",
            Values,
        ),
        fault("the right one's", "%rd12, %rd8, 2", "%rd12, %rd8, 1", Values),
    ];
    let sound = tensor();
    check(&sound, &faults);
    // Of the maps themselves: a word of the input.
    let word = |map: usize, field: usize, value: i32| {
        let mut input = sound.input.clone();
        input[map * 128 + field..][..4].copy_from_slice(&value.to_le_bytes());
        Kernel { input, expected: sound.expected.clone(), ..sound }.run(sound.text, None)
    };
    let values = |run: Result<Vec<u32>, String>| run.is_ok_and(|values| values != sound.expected);
    assert!(values(word(0, 104, 0)) && values(word(1, 104, 0)), "no swizzle");
    assert!(values(word(0, 96, 1)), "an upper corner that makes rows longer");
    assert!(values(word(0, 40, 39)), "a channel less");
    assert!(values(word(0, 52, 3)), "an image more, of what lies behind");
    let said = |run: Result<Vec<u32>, String>, words| run.is_err_and(|said| said.contains(words));
    assert!(said(word(0, 88, 0), "between those of the traversal stride"), "a lower corner");
    assert!(said(word(0, 32, 1 << 20), "global address"), "images further apart than they are");
    assert!(said(word(1, 48, 99), "global address"), "more rows than there are");
    assert!(
        said(word(0, 56, 128), "is under way to"),
        "a box of more channels than there is room for"
    );
}

#[test]
fn faults_of_a_tensor_store() {
    let under_way = || Said("that a wgmma.mma_async or a tensor store under way reads");
    let faults = [
        fault(
            "stores that no fence comes after",
            "fence.proxy.async.shared::cta;\n",
            "\n",
            Said("reads what a store wrote, no fence.proxy.async between"),
        ),
        fault("the same, of the second", "fence.proxy.async.shared::cta; // second", "", {
            Said("reads what a store wrote, no fence.proxy.async between")
        }),
        fault("no barrier before it", "bar.warp.sync -1;\n", "\n", {
            Said("RACE: reads what another thread wrote")
        }),
        fault("none before the second", "bar.warp.sync -1; // second", "", {
            Said("RACE: reads what another thread wrote")
        }),
        fault("none before what it read changes", "bar.warp.sync -1; // first", "", {
            Said("RACE: writes what another thread read")
        }),
        fault("no wait", "cp.async.bulk.wait_group.read 0; // first", "", under_way()),
        fault("a wait for too few", "read 0; // first", "read 1; // first", under_way()),
        fault("without a group", "cp.async.bulk.commit_group; // first", "", under_way()),
        fault(
            "not waited for at the end",
            "cp.async.bulk.wait_group.read 0;\n",
            "\n",
            Said("a thread ends with a store of a tensor's box under way"),
        ),
        fault(
            "no group at the end",
            "cp.async.bulk.commit_group;\n",
            "\n",
            Said("a thread ends with a store of a tensor's box under way"),
        ),
        fault("another row", "mov.u32 %r7, 3;", "mov.u32 %r7, 4;", Values),
        fault("beyond the last row", "mov.u32 %r6, 16;", "mov.u32 %r6, 21;", Values),
        fault("before the first", "mov.u32 %r7, 3;", "mov.u32 %r7, -2;", Values),
        fault("another channel", "mov.u32 %r5, 0;", "mov.u32 %r5, 8;", Values),
        fault("a misaligned source", "{%r5, %r5, %r7}], [%r2]", "{%r5, %r5, %r7}], [%r4+64]", {
            Said("an offset")
        }),
        fault(
            "beyond shared memory",
            "mov.u32 %r7, 3;",
            "mov.u32 %r7, 3;\n\tadd.s32 %r2, %r2, 128;",
            Said("shared address 128 of 1024 bytes"),
        ),
        fault(
            "a source that is no multiple of 128",
            "mov.u32 %r7, 3;",
            "mov.u32 %r7, 3;\n\tadd.s32 %r2, %r2, 64;",
            Said("misaligned shared address"),
        ),
        fault("two coordinates", "{%r5, %r5, %r6}", "{%r5, %r6}", Said("coordinates of")),
    ];
    let sound = store();
    check(&sound, &faults);
    // Of the map itself: a word of the input.
    let word = |field: usize, value: u32| {
        let mut input = sound.input.clone();
        input[field..][..4].copy_from_slice(&value.to_le_bytes());
        Kernel { input, expected: sound.expected.clone(), ..sound }.run(sound.text, None)
    };
    let values = |run: Result<Vec<u32>, String>| run.is_ok_and(|values| values != sound.expected);
    let said = |run: Result<Vec<u32>, String>, words| run.is_err_and(|said| said.contains(words));
    assert!(values(word(104, 0)), "no swizzle");
    assert!(values(word(40, 32)), "eight channels less");
    assert!(said(word(48, 22), "of a buffer of"), "a row more than there is");
    assert!(said(word(8, 2), "of the other mode"), "an im2col map");
    assert!(said(word(12, 4), "of another rank"), "a map of another rank");
    assert!(said(word(8, 0), "no tensor map there"), "no map");
}
