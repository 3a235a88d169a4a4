//! A device compared with the CPU path, op by op and end to end.
//!
//! Op by op: each op of the plan is fed the reference's input. Inputs, residuals and weights are rounded
//! to fp16 on both sides, so only accumulation and the rounding of the output differ. With
//! nrms(e) = sqrt(sum e^2 / sum want^2), an op passes if nrms(got - want) <= 2 nrms(plain) + 1e-6, where
//! plain is the error of a plain loop with fp16 inputs and f32 accumulation: the rounding of `want` to
//! fp16, or for f32 logits u sqrt(n), the random walk of n roundings (u = 2^-24). The head's bound is
//! derived where it is computed. A NaN or infinity fails.
//!
//! End to end: the device's chain of ops against plain f32, from the same picture. With L convolutions,
//! activations and weights are each rounded L times, independently, with a relative rms of at most
//! 2^-11 / sqrt(3); twice sqrt(2 L) of that is the limit of the logits' nrms. Labels must agree on
//! 99.5 % of the pixels.

use half::f16;

use crate::cpu;
use crate::data::Image;
use crate::device::Device;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::gpu::network::{Network, Pictures};
use crate::gpu::step::Step;
use crate::model::Model;
use crate::ops::Size;
use crate::plan::{Folding, Node, Op, Plan, View};

#[derive(Clone, Debug, serde::Serialize)]
pub struct Comparison {
    pub ops: Vec<OpError>,
    pub end_to_end: EndToEnd,
}

/// The error of one op.
#[derive(Clone, Debug, serde::Serialize)]
pub struct OpError {
    pub name: String,
    pub kernels: Vec<&'static str>,
    /// `[batch, h, w, channels]` of the output.
    pub shape: [usize; 4],
    pub max_abs: f64,
    /// `[image, row, column, channel]` of the largest error.
    pub worst: [usize; 4],
    pub nrms: f64,
    pub limit: f64,
    pub pass: bool,
}

#[derive(Clone, Debug, serde::Serialize)]
pub struct EndToEnd {
    pub logits_max_abs: f64,
    pub logits_nrms: f64,
    pub logits_limit: f64,
    /// Share of the pixels with the CPU's label.
    pub labels_equal: f64,
    pub labels_limit: f64,
    /// Nats.
    pub entropy_max_abs: f64,
    pub pass: bool,
}

impl Comparison {
    pub fn pass(&self) -> bool {
        self.end_to_end.pass && self.ops.iter().all(|op| op.pass)
    }
}

/// Runs one picture on both.
pub fn compare(model: Model, device: Box<dyn Device>, image: &Image) -> Result<Comparison> {
    let (mean, std) = (model.config().mean, model.config().std);
    let classes = model.config().classes.len();
    let mut engine = Engine::on(model, device)?;
    let plan = engine.plan(1, image.size)?;
    let mut runner = cpu::Runner::new();
    let folding = Folding::new(engine.model());
    runner.prepare_with(&plan, |index| {
        let mut conv = folding.conv(index);
        conv.weight.iter_mut().for_each(|weight| *weight = rounded(*weight));
        conv
    });
    let Some(network) = engine.network_mut() else {
        return Err(Error::invalid("compare", "a device with kernels", "cpu"));
    };
    network.prepare(&plan)?;
    network.write_pictures(&plan, Pictures::Host(&[image]))?;
    let mut ops = Vec::new();

    runner.preprocess(&plan, &[&image.rgb], image.size, mean, std);
    let step = network.preprocess(&plan)?;
    run(network, &step)?;
    let got = network.read(&plan, plan.input)?;
    ops.push(error(&step, &plan, plan.input, &got, runner.read(&plan, plan.input), None));
    round_to_f16(&mut runner, &plan, plan.input);

    for node in &plan.nodes {
        let residual = match node.op {
            Op::Conv { residual, .. } => residual,
            _ => None,
        };
        for view in [Some(node.input), residual].into_iter().flatten() {
            network.write(&plan, view, runner.read(&plan, view))?;
        }
        let step = network.step(&plan, node)?;
        run(network, &step)?;
        runner.step(&plan, node);
        let got = network.read(&plan, node.output)?;
        let wide = node.output.buffer == plan.logits.buffer;
        let terms = wide.then(|| terms(node));
        let want = runner.read(&plan, node.output);
        ops.push(error(&step, &plan, node.output, &got, want, terms));
        if !wide {
            round_to_f16(&mut runner, &plan, node.output);
        }
    }

    network.write(&plan, plan.logits, runner.read(&plan, plan.logits))?;
    let step = network.head(&plan)?;
    run(network, &step)?;
    ops.push(head_error(&step, network, &plan, classes, runner.read(&plan, plan.logits))?);

    network.write_pictures(&plan, Pictures::Host(&[image]))?;
    for step in network.steps(&plan)? {
        run(network, &step)?;
    }
    let logits = network.read(&plan, plan.logits)?;
    let maps = network.maps(&plan, 0)?;
    let end_to_end = end_to_end(engine.into_model(), &plan, image, logits, maps)?;
    Ok(Comparison { ops, end_to_end })
}

fn run(network: &Network, step: &Step) -> Result<()> {
    step.launches.iter().try_for_each(|launch| network.device().launch(launch))
}

fn rounded(value: f32) -> f32 {
    f16::from_f32(value).to_f32()
}

fn round_to_f16(runner: &mut cpu::Runner, plan: &Plan, view: View) {
    for pixel in runner.write(plan, view).chunks_exact_mut(plan.buffer(view).channels) {
        for value in &mut pixel[view.first..][..view.channels] {
            *value = rounded(*value);
        }
    }
}

/// Length of the sums of an op.
fn terms(node: &Node) -> usize {
    match &node.op {
        Op::Conv { conv, .. } => conv.weight_shape()[1..].iter().product(),
        _ => 1,
    }
}

/// Sums of squares of one comparison.
#[derive(Default)]
struct Errors {
    error: f64,
    plain: f64,
    want: f64,
    max_abs: f64,
    worst: usize,
    finite: bool,
}

impl Errors {
    /// `rounding`: the output is fp16.
    fn of(pairs: impl Iterator<Item = (f32, f32)>, rounding: bool) -> Self {
        let mut sums = Errors { finite: true, ..Errors::default() };
        for (i, (got, want)) in pairs.enumerate() {
            let (got, exact) = (f64::from(got), f64::from(want));
            let off = (got - exact).abs();
            if !off.is_finite() && sums.finite {
                (sums.finite, sums.max_abs, sums.worst) = (false, f64::INFINITY, i);
            }
            if off > sums.max_abs {
                (sums.max_abs, sums.worst) = (off, i);
            }
            sums.error += off * off;
            sums.want += exact * exact;
            if rounding {
                sums.plain += (f64::from(rounded(want)) - exact).powi(2);
            }
        }
        sums
    }

    fn nrms(&self, sum: f64) -> f64 {
        (sum / self.want.max(f64::MIN_POSITIVE)).sqrt()
    }
}

/// `sum`: the length of the sums where the output is f32.
fn error(
    step: &Step,
    plan: &Plan,
    view: View,
    got: &[f32],
    want: &[f32],
    sum: Option<usize>,
) -> OpError {
    let buffer = plan.buffer(view);
    let slice = |data: &[f32]| -> Vec<f32> {
        let pixels = data.chunks_exact(buffer.channels);
        pixels.flat_map(|pixel| &pixel[view.first..][..view.channels]).copied().collect()
    };
    let pairs = slice(got).into_iter().zip(slice(want));
    let errors = Errors::of(pairs, sum.is_none());
    let plain = match sum {
        Some(terms) => 2f64.powi(-24) * (terms as f64).sqrt(),
        None => errors.nrms(errors.plain),
    };
    let Size { h, w } = buffer.size;
    op_error(step, [plan.batch, h, w, view.channels], &errors, 2.0 * plain + 1e-6)
}

fn op_error(step: &Step, shape: [usize; 4], errors: &Errors, limit: f64) -> OpError {
    let [_, h, w, c] = shape;
    let i = errors.worst;
    let nrms = errors.nrms(errors.error);
    OpError {
        name: step.name.into(),
        kernels: step.launches.iter().map(|launch| launch.kernel().name).collect(),
        shape,
        max_abs: errors.max_abs,
        worst: [i / (h * w * c), i / (w * c) % h, i / c % w, i % c],
        nrms,
        limit,
        pass: errors.finite && nrms <= limit,
    }
}

/// The head's entropy, in f32 on both sides. Labels are compared end to end.
fn head_error(
    step: &Step,
    network: &Network,
    plan: &Plan,
    classes: usize,
    logits: &[f32],
) -> Result<OpError> {
    let head = plan.head();
    let (_, got) = network.maps(plan, 0)?;
    let mut label = vec![0; got.len()];
    let mut want = vec![0.0; got.len()];
    cpu::head::head(&head, logits, &mut label, &mut want);
    let errors = Errors::of(got.into_iter().zip(want), false);
    // The CPU path takes positions in f32, off by up to 3 u (grid + 1), which moves a logit of at most s
    // by up to 2 s times that on each axis; the blends round 8 u s on top. dH / dl_c = -p_c (ln p_c + H)
    // makes of a slip in the logits at most 2 slip ln C of entropy; exponentials, sums and logarithm add
    // (C + 8) u (1 + ln C). The nrms of errors that all keep this bound is at most bound / rms(want).
    let u = 2f64.powi(-24);
    let s = logits.iter().fold(0.0, |max, l| f64::max(max, f64::from(l.abs())));
    let slip = 12.0 * u * (head.grid.h.max(head.grid.w) + 1) as f64 * s + 8.0 * u * s;
    let ln_c = (classes as f64).ln();
    let bound = 2.0 * slip * ln_c + (classes as f64 + 8.0) * u * (1.0 + ln_c);
    let rms = (errors.want / (plan.image.pixels() as f64)).sqrt().max(f64::MIN_POSITIVE);
    let limit = bound / rms + 1e-6;
    Ok(op_error(step, [1, plan.image.h, plan.image.w, 1], &errors, limit))
}

/// The device's logits, labels and entropy against those of the CPU path.
fn end_to_end(
    model: Model,
    plan: &Plan,
    image: &Image,
    logits: Vec<f32>,
    (label, entropy): (Vec<u8>, Vec<f32>),
) -> Result<EndToEnd> {
    let mut engine = Engine::new(model);
    let output = engine.run(&[image])?;
    let maps = output.maps(0)?;
    let errors = Errors::of(logits.into_iter().zip(output.logits(0)?.iter().copied()), false);
    let equal = label.iter().zip(&maps.label).filter(|(a, b)| a == b).count();
    let labels_equal = equal as f64 / label.len() as f64;
    let entropies = Errors::of(entropy.into_iter().zip(maps.entropy), false);
    let convs = plan.nodes.iter().filter(|node| matches!(node.op, Op::Conv { .. })).count();
    let logits_limit = 2.0 * (2.0 * convs as f64).sqrt() * 2f64.powi(-11) / 3f64.sqrt();
    let labels_limit = 0.995;
    let logits_nrms = errors.nrms(errors.error);
    Ok(EndToEnd {
        logits_max_abs: errors.max_abs,
        logits_nrms,
        logits_limit,
        labels_equal,
        labels_limit,
        entropy_max_abs: entropies.max_abs,
        pass: errors.finite
            && entropies.finite
            && logits_nrms <= logits_limit
            && labels_equal >= labels_limit,
    })
}
