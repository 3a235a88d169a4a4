//! Times each op of a real network on the CPU by shape: DeepLab-v3+ ResNet-18 (smp, output stride
//! 16) at 368 x 480, every distinct op once, and the network as a whole. Random weights: the time
//! does not depend on them.
//!
//! `RAYON_NUM_THREADS=2 cargo bench --bench cpu_ops`

use std::collections::{BTreeMap, HashSet};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ddu::cpu::Runner;
use ddu::model::{Backbone, ConcatOrder, Config, Decoder, Model, Tensor, config, units};
use ddu::ops::Size;
use ddu::plan::{Folded, Op, compile};

/// segmentation-models-pytorch `DeepLabV3Plus("resnet18", classes=9, encoder_output_stride=16)`.
fn network() -> Model {
    let config = Config {
        family: config::SMP.into(),
        backbone: Backbone::Resnet18,
        stem_channels: 64,
        stage_width: [64, 128, 256, 512],
        stage_channels: [64, 128, 256, 512],
        output_stride: 16,
        dilations: [vec![1, 1], vec![1, 1], vec![1, 1], vec![2, 2]],
        aspp_rates: vec![6, 12, 18],
        aspp_channels: 256,
        post_aspp_channels: vec![256],
        aspp_separable: true,
        decoder_separable: true,
        decoder: Some(Decoder {
            low_level_channels: 48,
            concat_order: ConcatOrder::AsppFirst,
            refine_channels: vec![256],
        }),
        align_corners: true,
        input_multiple: 16,
        dropout: vec![],
        classes: (0..9).map(|i| format!("class {i}")).collect(),
        mean: config::IMAGENET_MEAN,
        std: config::IMAGENET_STD,
    };
    let tensors: BTreeMap<_, _> = units(&config)
        .iter()
        .flat_map(|unit| unit.tensors())
        .map(|(name, shape)| {
            let len: usize = shape.iter().product();
            let scale = 2.0 / (len as f32 / shape[0] as f32).sqrt();
            let value = |i: usize| match name.contains(".norm.") {
                true => 1.0,
                false => scale * ((i * 7919 % 1009) as f32 / 1009.0 - 0.5),
            };
            (name.clone(), Tensor { shape, data: (0..len).map(value).collect() })
        })
        .collect();
    Model::new("bench", config, tensors).expect("the bench's own model is valid")
}

fn ops(criterion: &mut Criterion) {
    let model = network();
    let mut runner = Runner::new(Folded::new(&model));
    let plan = compile(model.config(), runner.weights(), 1, Size::new(360, 480))
        .expect("the size is valid");
    runner.prepare(&plan);
    runner.input(&plan).buffer.fill(0.1);

    let mut group = criterion.benchmark_group("op");
    group.sample_size(20);
    let mut seen = HashSet::new();
    for node in &plan.nodes {
        let (input, output) = (plan.size(node.input), plan.size(node.output));
        let what = match &node.op {
            Op::Conv { conv, .. } => format!(
                "{}{}x{} {}->{} stride {} dilation {}",
                if conv.depthwise { "depthwise " } else { "" },
                conv.kernel,
                conv.kernel,
                conv.in_channels,
                conv.out_channels,
                conv.stride,
                conv.dilation
            ),
            // Of plans for MC Dropout alone.
            Op::Dropout(_) => continue,
            Op::Spatial(op) => format!("{op:?} of {} channels to {output}", node.output.channels),
        };
        let name = format!("{what} on {input}");
        if seen.insert(name.clone()) {
            group.throughput(Throughput::Elements(plan.node_flops(node)));
            group.bench_function(name, |b| b.iter(|| runner.step(&plan, node)));
        }
    }
    group.finish();

    let mut group = criterion.benchmark_group("network");
    group.sample_size(20).throughput(Throughput::Elements(plan.flops()));
    group.bench_function("DeepLab-v3+ ResNet-18, 368 x 480", |b| {
        b.iter(|| {
            for node in &plan.nodes {
                runner.step(&plan, node);
            }
        })
    });
    group.finish();
}

criterion_group!(benches, ops);
criterion_main!(benches);
