//! Small random networks.

#![allow(dead_code)]

use std::collections::BTreeMap;

use ddu::model::{Backbone, ConcatOrder, Config, Decoder, Model, Tensor, config, units};

/// SplitMix64: small, seeded, the same everywhere.
pub struct Rng(pub u64);

impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in [-1, 1).
    pub fn uniform(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    pub fn vector(&mut self, len: usize) -> Vec<f32> {
        (0..len).map(|_| self.uniform()).collect()
    }
}

/// Narrow, with widths that are no multiples of 8.
pub fn small(backbone: Backbone) -> Config {
    let blocks = backbone.blocks();
    let stage_width = [8, 12, 16, 20];
    let stage_channels = if backbone.bottleneck() { [20, 24, 28, 36] } else { stage_width };
    Config {
        family: config::SMP.into(),
        backbone,
        stem_channels: 10,
        stage_width,
        stage_channels,
        output_stride: 16,
        dilations: [vec![1; blocks[0]], vec![1; blocks[1]], vec![1; blocks[2]], vec![2; blocks[3]]],
        aspp_rates: vec![6, 12, 18],
        aspp_channels: 20,
        post_aspp_channels: vec![],
        aspp_separable: false,
        decoder_separable: false,
        decoder: Some(Decoder {
            low_level_channels: 12,
            concat_order: ConcatOrder::AsppFirst,
            refine_channels: vec![28, 20],
        }),
        align_corners: true,
        input_multiple: 1,
        dropout: vec![],
        classes: (0..5).map(|i| format!("class {i}")).collect(),
        mean: config::IMAGENET_MEAN,
        std: config::IMAGENET_STD,
    }
}

/// As `small`, with as many feature channels.
pub fn wide(channels: usize) -> Config {
    let mut config = small(Backbone::Resnet18);
    if let Some(decoder) = &mut config.decoder {
        decoder.refine_channels = vec![28, channels];
    }
    config
}

/// Weights for a configuration, statistics of the norms included.
pub fn random_model(config: Config, seed: u64) -> Model {
    let mut rng = Rng(seed);
    let mut tensors = BTreeMap::new();
    for unit in units(&config) {
        let [_, inner, kernel, _] = unit.conv.weight_shape();
        // He scaling keeps the activations near 1.
        let scale = (6.0 / (inner * kernel * kernel) as f32).sqrt();
        for (name, shape) in unit.tensors() {
            let len = shape.iter().product();
            let data = (0..len)
                .map(|_| match name.rsplit('.').next().unwrap() {
                    "var" => 1.0 + 0.5 * rng.uniform(),
                    "weight" if name.contains(".norm.") => 1.0 + 0.5 * rng.uniform(),
                    "weight" => scale * rng.uniform(),
                    _ => 0.3 * rng.uniform(),
                })
                .collect();
            tensors.insert(name, Tensor { shape, data });
        }
    }
    Model::new("test", config, tensors).unwrap()
}
