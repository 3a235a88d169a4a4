//! A network in bands of rows against the same plan op by op: equal to the bit, whatever the height of the bands, since
//! nothing is computed otherwise ([`ddu::plan::Bands`]).

use ddu::cpu::{Runner, pairs};
use ddu::model::{Backbone, Config, Model};
use ddu::ops::Size;
use ddu::plan::{Limits, Plan, Step, compile};

use crate::models::{random_model, small};
use crate::plan::images;

/// Channels that take Winograd's transform (16 and 32), and others.
fn networks() -> Vec<(&'static str, Config)> {
    let winograd = |backbone| {
        let mut config = small(backbone);
        config.stem_channels = 16;
        config.stage_width = [16, 32, 20, 24];
        config.stage_channels =
            if config.backbone.bottleneck() { [32, 48, 40, 36] } else { config.stage_width };
        config
    };
    let separable = Config {
        aspp_separable: true,
        decoder_separable: true,
        post_aspp_channels: vec![20],
        ..winograd(Backbone::Resnet18)
    };
    vec![
        ("basic blocks", winograd(Backbone::Resnet18)),
        ("bottlenecks", winograd(Backbone::Resnet50)),
        ("separable", separable),
        ("v3", Config { decoder: None, ..small(Backbone::Resnet18) }),
    ]
}

/// Features and logits of all images, as bits.
fn run(model: &Model, plan: &Plan, mut runner: Runner) -> Vec<u32> {
    let images = images(plan.batch, plan.image);
    let pixels: Vec<&[u8]> = images.iter().map(|image| image.rgb.as_slice()).collect();
    runner.prepare(plan, model);
    let config = model.config();
    runner.preprocess(plan, &pixels, plan.image, config.mean, config.std);
    runner.run(plan, 0..plan.nodes.len(), None);
    let views = [plan.features, plan.logits];
    views.iter().flat_map(|view| runner.read(plan, *view)).map(|value| value.to_bits()).collect()
}

#[test]
fn equal_to_the_bit() {
    for (name, config) in networks() {
        let model = random_model(config, 11);
        // Rows of the network's input: 131 is a prime, 64 leaves maps of four rows and fewer.
        for (batch, size) in [(1, Size::new(131, 47)), (2, Size::new(64, 51))] {
            for bf16 in [false, true] {
                if bf16 && !pairs::available() {
                    println!("{name} in bf16: skipped, the CPU lacks AVX512-BF16");
                    continue;
                }
                let runner = || match bf16 {
                    true => Runner::in_bf16().unwrap(),
                    false => Runner::new(),
                };
                let plan = compile(model.config(), batch, size).unwrap();
                let plan = if bf16 { plan.in_bf16() } else { plan };
                let whole = run(&model, &plan, runner());
                for rows in [1, 2, 4, 8, 16] {
                    let limits = Limits { bytes: 0, window_bytes: 0, rows };
                    let bands = plan.clone().in_bands(limits);
                    if rows == 1 {
                        let steps = bands.bands.iter().flat_map(|chain| &chain.steps);
                        let slides = steps.filter(|step| matches!(step, Step::Slide { .. }));
                        assert!(slides.count() > 4, "{name}, {size}: hardly any bands");
                    }
                    let found = run(&model, &bands, runner());
                    assert!(found == whole, "{name}, {size}, bf16 {bf16}, bands of {rows} rows");
                }
            }
        }
    }
}

/// Small images run op by op, and so does what fits the windows at once.
#[test]
fn only_what_is_large_runs_in_bands() {
    let plan = |size| compile(&small(Backbone::Resnet18), 1, size).unwrap();
    let limits = Limits { bytes: 16 << 20, window_bytes: 16 << 20, rows: 8 };
    assert!(plan(Size::new(368, 480)).in_bands(limits).bands.is_empty());
    let large = plan(Size::new(2160, 3840));
    let bands = large.clone().in_bands(limits);
    // What is left: the image, the low-level features and the last, and windows.
    assert!(
        4 * bands.arena_len < 3 * large.arena_len,
        "{} of {}",
        bands.arena_len,
        large.arena_len
    );
    for chain in &bands.bands {
        for step in &chain.steps {
            let Step::Run { node, rows } = step else { continue };
            let h = bands.size(bands.nodes[*node].output).h;
            assert!(rows.end == h || rows.end.is_multiple_of(4), "rows {rows:?} of {h}");
        }
    }
}
