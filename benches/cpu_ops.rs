//! Where the time of a network goes on the CPU: every op of DeepLab-v3+ (smp, output stride 16) by shape, its rate and
//! what it would take at the machine's roofs, which are measured in the same run. Random weights: the time does not
//! depend on them.
//!
//! `RAYON_NUM_THREADS=2 cargo bench --bench cpu_ops -- [resnet18|resnet34|resnet50|resnet101] [HxW] [ROUNDS] [bf16]`
//!
//! An op's roof is the larger of its FLOP at the machine's rate and its bytes (operands and weights once) at the memory's; by
//! Winograd's transform, which does a quarter of the products (in bf16 four ninths), it may do better. Ops run one by one here, never in bands.

use std::collections::BTreeMap;
use std::time::Instant;

use ddu::cpu::Runner;
use ddu::model::{Backbone, ConcatOrder, Config, Decoder, Model, Tensor, config, units};
use ddu::ops::Size;
use ddu::plan::{ConvWeights, Node, Op, Plan, compile};

/// segmentation-models-pytorch `DeepLabV3Plus(backbone, classes=9, encoder_output_stride=16)`.
fn network(backbone: Backbone) -> Model {
    let stage_width = [64, 128, 256, 512];
    let blocks = backbone.blocks();
    let config = Config {
        family: config::SMP.into(),
        backbone,
        stem_channels: 64,
        stage_width,
        stage_channels: stage_width
            .map(|width| if backbone.bottleneck() { 4 * width } else { width }),
        output_stride: 16,
        dilations: [vec![1; blocks[0]], vec![1; blocks[1]], vec![1; blocks[2]], vec![2; blocks[3]]],
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

/// The op's parameters and its input's size: ops of one name cost the same.
fn name(plan: &Plan, node: &Node) -> String {
    let (input, output) = (plan.size(node.input), plan.size(node.output));
    let what = match &node.op {
        Op::Conv { conv, residual, .. } => format!(
            "{}{}x{} {}->{}{}{}{}",
            if conv.depthwise { "depthwise " } else { "" },
            conv.kernel,
            conv.kernel,
            conv.in_channels,
            conv.out_channels,
            if conv.stride > 1 { format!(" stride {}", conv.stride) } else { String::new() },
            if conv.dilation > 1 { format!(" dilation {}", conv.dilation) } else { String::new() },
            if residual.is_some() { " + residual" } else { "" },
        ),
        Op::Dropout(_) => "dropout".into(),
        Op::Spatial(op) => {
            let text = format!("{op:?}");
            let word = text.split([' ', '(']).next().unwrap_or_default().to_owned();
            format!("{word} of {} to {output}", node.output.channels)
        }
    };
    format!("{what} on {input}")
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

/// Ops of one name.
#[derive(Default)]
struct Row {
    count: usize,
    flop: u64,
    /// Operands and weights, each once.
    bytes: u64,
    /// Milliseconds of all of them, a round each.
    times: Vec<f64>,
}

fn main() {
    // As in a run of the network: in the pool, so that no thread is woken for each op.
    rayon::scope(|_| measure());
}

fn measure() {
    let words: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let backbone = Backbone::ALL.into_iter().find(|b| words.iter().any(|word| word == b.name()));
    let backbone = backbone.unwrap_or(Backbone::Resnet18);
    let size = words.iter().find_map(|word| {
        let (h, w) = word.split_once('x')?;
        Some(Size::new(h.parse().ok()?, w.parse().ok()?))
    });
    let size = size.unwrap_or(Size::new(360, 480));
    let rounds = words.iter().find_map(|word| word.parse().ok()).unwrap_or(15);

    let model = network(backbone);
    let bf16 = words.iter().any(|word| word == "bf16");
    let mut runner = match bf16 {
        true => Runner::in_bf16().expect("a CPU with AVX512-BF16"),
        false => Runner::new(),
    };
    let plan = compile(model.config(), 1, size).expect("the size is valid");
    let plan = if bf16 { plan.in_bf16() } else { plan };
    runner.prepare(&plan, &model);
    let picture = vec![99; 3 * size.pixels()];
    runner.preprocess(&plan, &[&picture], size, config::IMAGENET_MEAN, config::IMAGENET_STD);
    let mut rows: Vec<(String, Row)> = Vec::new();
    let mut totals = Vec::new();
    for round in 0..=rounds {
        let mut total = 0.0;
        rows.iter_mut().for_each(|(_, row)| row.times.push(0.0));
        for node in &plan.nodes {
            let start = Instant::now();
            runner.step(&plan, node);
            let time = start.elapsed().as_secs_f64() * 1e3;
            total += time;
            let name = name(&plan, node);
            let found = rows.iter().position(|(other, _)| *other == name);
            let at = found.unwrap_or_else(|| {
                rows.push((name, Row { times: vec![0.0], ..Row::default() }));
                rows.len() - 1
            });
            let row = &mut rows[at].1;
            row.times[round] += time;
            if round == 0 {
                row.count += 1;
                row.flop += plan.node_flops(node);
                row.bytes += bytes(&plan, node);
            }
        }
        totals.push(total);
    }
    // The first round touches fresh memory.
    let total = median(&mut totals[1..]);
    println!(
        "{backbone}, {}, {size}: {total:.2} ms ({:.2} to {:.2}), {:.2} GFLOP, {:.0} GFLOP/s",
        if bf16 { "bf16" } else { "f32" },
        totals[1],
        totals[totals.len() - 1],
        plan.flops() as f64 / 1e9,
        plan.flops() as f64 / total / 1e6
    );
    let [rate, memory] = roofs(bf16);
    println!("roofs: {:.0} GFLOP/s, {:.1} GB/s", rate / 1e9, memory / 1e9);
    let titles = ["ms", "%", "GFLOP/s", "GB/s", "roof ms", "bound by"];
    let [ms, share, flops, bytes, roof, bound] = titles;
    println!("{:>3} {:64} {ms:>8} {share:>6} {flops:>8} {bytes:>7} {roof:>8} {bound}", "n", "op");
    let mut rows: Vec<_> =
        rows.into_iter().map(|(name, mut row)| (median(&mut row.times[1..]), name, row)).collect();
    rows.sort_by(|a, b| b.0.total_cmp(&a.0));
    for (ms, name, row) in &rows {
        let [products, traffic] = [row.flop as f64 / rate * 1e3, row.bytes as f64 / memory * 1e3];
        println!(
            "{:>3} {name:64} {ms:8.3} {:6.1} {:8.0} {:7.1} {:8.3} {}",
            row.count,
            100.0 * ms / total,
            row.flop as f64 / ms / 1e6,
            row.bytes as f64 / ms / 1e6,
            products.max(traffic),
            if products > traffic { "products" } else { "memory" },
        );
    }
}

/// FLOP/s of products whose operands lie in the caches, and bytes/s of reading what does not: by all threads, best of many.
fn roofs(bf16: bool) -> [f64; 2] {
    use ddu::cpu::tensor::{Input, Output};
    use ddu::cpu::{conv::Direct, pairs::Pairs};
    use ddu::ops::Conv2d;
    use half::bf16;
    use rayon::prelude::*;

    let (channels, size) = (128, Size::new(48, 48));
    let conv = Conv2d::dense(channels, channels, 1);
    let weight = vec![0.01; channels * channels];
    let weights = ConvWeights { name: "roof".into(), conv, weight, bias: vec![0.0; channels] };
    let (direct, x) = (Direct::new(&weights), vec![1.0; size.pixels() * channels]);
    let mut y = x.clone();
    let pairs =
        bf16.then(|| (Pairs::new(&weights), vec![bf16::ONE; x.len()], vec![bf16::ONE; x.len()]));
    let best = |run: &mut dyn FnMut()| {
        let times = (0..200).map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        });
        times.fold(f64::INFINITY, f64::min)
    };
    let flop = conv.flops(1, size) as f64;
    let seconds = match pairs {
        None => best(&mut || {
            let y = Output::contiguous(&mut y, 1, size, channels);
            direct.run(Input::contiguous(&x, 1, size, channels), None, false, y);
        }),
        Some((pairs, x, mut y)) => best(&mut || {
            let y = Output::contiguous(&mut y, 1, size, channels);
            pairs.run(Input::contiguous(&x, 1, size, channels), None, false, y);
        }),
    };
    let memory = vec![1u64; 32 << 20];
    let read = || {
        let sum: u64 = memory.par_chunks(1 << 16).map(|chunk| chunk.iter().sum::<u64>()).sum();
        assert_eq!(sum, memory.len() as u64);
    };
    let start = Instant::now();
    (0..4).for_each(|_| read());
    let rate = 4.0 * size_of_val(&memory[..]) as f64 / start.elapsed().as_secs_f64();
    [flop / seconds, rate]
}

fn bytes(plan: &Plan, node: &Node) -> u64 {
    let view = |view: ddu::plan::View| plan.batch * plan.size(view).pixels() * view.channels;
    let mut elements = view(node.input) + view(node.output);
    if let Op::Conv { conv, residual, .. } = &node.op {
        elements += conv.weight_shape().iter().product::<usize>();
        elements += residual.map_or(0, view);
    }
    (plan.element_bytes() * elements) as u64
}
