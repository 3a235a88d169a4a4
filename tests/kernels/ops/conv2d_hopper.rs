//! `kernels/conv2d_hopper.cu`, on devices that have warpgroup products, by the cases and bounds of `conv2d.rs`.

use ddu::device::Element;
use ddu::device::launch::conv2d::HOPPER_TILES;
use ddu::ops::{Conv2d, Size};

use super::conv2d::{Case, Reference, run_case};
use crate::support::*;

fn cases() -> Vec<Case> {
    let case = Case::new;
    let dense = Conv2d::dense;
    vec![
        case("pointwise, a tiled map", dense(72, 64, 1), 17, 19),
        Case {
            relu: false,
            ..case(
                "pointwise stride 2, the downsampling shortcut",
                dense(40, 24, 1).stride(2),
                15,
                10,
            )
        },
        Case {
            batch: 3,
            beside: 8,
            residual: true,
            ..case("batch 3, channel slices, tiles across images", dense(16, 136, 3), 10, 11)
        },
        case("stride 2", dense(72, 72, 3).stride(2), 21, 34),
        case(
            "dilation 36 on 23 x 30: only the centre tap or a rim",
            dense(24, 40, 3).dilation(36),
            23,
            30,
        ),
        Case {
            splits: 5,
            residual: true,
            beside: 16,
            ..case("split-K with an uneven last split, residual, slices", dense(200, 64, 3), 6, 7)
        },
        Case {
            output: Element::F32,
            relu: false,
            splits: 2,
            ..case("f32 logits, split-K", dense(256, 24, 1), 7, 9)
        },
        Case {
            output: Element::F32,
            relu: false,
            ..case("f32 logits, one pixel", dense(64, 32, 1), 1, 1)
        },
        case(
            "more steps than the ring has stages, twice around",
            dense(136, 16, 3).dilation(2),
            5,
            6,
        ),
        case("5 x 5, padding 0", Conv2d { padding: 0, ..dense(8, 16, 5) }, 9, 8),
    ]
}

#[test]
fn every_hopper_tile_on_every_device_against_f64() {
    for case in cases() {
        let reference = Reference::new(&case);
        for tile in HOPPER_TILES {
            for (name, device) in devices().into_iter().filter(|(_, device)| device.wgmma()) {
                run_case(&case, &reference, tile, &name, &*device);
            }
        }
    }
}

/// 134 tiles for 132 blocks: two of them go on to another, with the ring where the first left it.
#[test]
fn a_block_takes_several_tiles() {
    let case = Case {
        name: "persistent",
        conv: Conv2d::dense(72, 8, 1),
        batch: 1,
        size: Size::new(1, 133 * 128 + 5),
        splits: 1,
        residual: true,
        relu: true,
        output: Element::F16,
        beside: 0,
    };
    let reference = Reference::new(&case);
    for (name, device) in devices().into_iter().filter(|(_, device)| device.wgmma()) {
        run_case(&case, &reference, HOPPER_TILES[1], &name, &*device);
    }
}
