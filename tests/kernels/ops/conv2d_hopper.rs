//! `kernels/conv2d_hopper.cu`, on devices that have warpgroup products, by the cases and bounds of `conv2d.rs`.

use ddu::device::launch::conv2d::{ConvTile, ConvTiling, HOPPER_TILES, TILES};
use ddu::device::{Device, Element};
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
        case(
            "stride 2, a full tile of channels without a residual",
            dense(72, 128, 3).stride(2),
            21,
            34,
        ),
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

fn hopper_devices() -> impl Iterator<Item = (String, Box<dyn Device>)> {
    devices().into_iter().filter(|(_, device)| device.wgmma())
}

#[test]
fn every_hopper_tile_on_every_device_against_f64() {
    for case in cases() {
        let reference = Reference::new(&case);
        for tile in HOPPER_TILES {
            let tiling = ConvTiling::new(&case.conv, tile, case.splits);
            for (name, device) in hopper_devices() {
                run_case(&case, &reference, tiling, &name, &*device);
            }
        }
    }
}

/// More tiles than blocks, so that blocks go on to another, with the ring where the first left it; the bits are those of a block a tile.
#[test]
fn a_block_takes_several_tiles() {
    let size = Size::new(1, 7 * 128 + 5);
    let case = Case {
        residual: true,
        multiprocessors: 3,
        ..Case::new("persistent", Conv2d::dense(72, 8, 1), size.h, size.w)
    };
    let reference = Reference::new(&case);
    let tiling = ConvTiling::new(&case.conv, HOPPER_TILES[1], 1);
    let all = Case { multiprocessors: 132, ..case };
    for (name, device) in hopper_devices() {
        let [few, many] =
            [&case, &all].map(|case| run_case(case, &reference, tiling, &name, &*device).bytes);
        assert!(few == many, "bits depend on the number of blocks, on {name}");
    }
}

/// Tails in every dimension: a tile of which a part of the rows, and of the channels, is not there.
fn split(name: &'static str, conv: Conv2d, splits: usize) -> Case {
    Case { splits, ..Case::new(name, conv, 9, 17) }
}

/// Against f64, and the bits of the second kernel's join.
fn same_by_either_join(case: &Case, tiles: &[ConvTile]) {
    let reference = Reference::new(case);
    for &tile in tiles {
        let tiling = ConvTiling::new(&case.conv, tile, case.splits);
        let in_clusters = tiling.in_clusters().unwrap();
        for (name, device) in hopper_devices() {
            let [a, b] = [tiling, in_clusters]
                .map(|tiling| run_case(case, &reference, tiling, &name, &*device).bytes);
            assert!(a == b, "\"{}\" {tile:?}: other bits in a cluster, on {name}", case.name);
        }
    }
}

#[test]
fn splits_joined_in_a_cluster() {
    let dense = Conv2d::dense;
    let two = Case {
        batch: 2,
        residual: true,
        beside: 8,
        ..split("two, several tiles, slices", dense(72, 136, 3), 2)
    };
    same_by_either_join(&two, &HOPPER_TILES);
    let f32 = Case {
        output: Element::F32,
        relu: false,
        ..split("three, f32, the last has less", dense(136, 24, 1), 3)
    };
    same_by_either_join(&f32, &HOPPER_TILES[1..2]);
}

/// The first tile is full, so that with eight the last warp of the last block has a part to add as well.
#[test]
fn interchangeable_joins_of_up_to_eight_splits() {
    for splits in [5, 6, 8] {
        let case = Case {
            residual: true,
            ..split("an uneven last split, residual", Conv2d::dense(200, 104, 3), splits)
        };
        same_by_either_join(&case, &HOPPER_TILES[1..]);
    }
}

#[test]
fn clusters_have_room_for_two_to_eight_splits() {
    let conv = Conv2d::dense(1024, 64, 1);
    let fits = |tile, splits| ConvTiling::new(&conv, tile, splits).in_clusters().is_some();
    let [hopper, portable] = [HOPPER_TILES[0], TILES[0]];
    assert!(fits(hopper, 2) && fits(hopper, 8));
    assert!(!fits(hopper, 1) && !fits(hopper, 16) && !fits(portable, 2));
}
