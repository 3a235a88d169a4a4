//! Times of runs and kernels on a device, as users get them.

use std::time::{Duration, Instant};

use super::ceilings::{Ceilings, Clocks, Copy};
use super::{Profile, Row, network, row};
use crate::data::Image;
use crate::density::Moments;
use crate::device::{Counts, Device, Launch};
use crate::engine::Engine;
use crate::error::Result;
use crate::gpu::moments::DeviceMoments;
use crate::gpu::network::{Network, Pictures};
use crate::plan::Plan;
use crate::report::json::Summary;

/// How long a GPU works before anything is timed: its clock idles low.
const WARM: Duration = Duration::from_millis(300);

/// How a device is measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whole runs, and launches of each kernel; on simt, whose times say nothing, all is run once.
    pub repeats: usize,
    /// Fold the features into a fit's moments as well, the labels in stripes.
    pub moments: bool,
    /// The GPU that nvidia-smi is asked for.
    pub pci_bus_id: Option<String>,
}

/// What a launch was found to cost, in microseconds.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Measured {
    /// Of one among many of the same in one graph: operands that fit are in L2, and what a launch inside a graph costs
    /// counts.
    pub warm_us: Summary,
    /// Of one alone, with the caches full of other data; None on simt.
    pub flushed_us: Option<Summary>,
    /// On simt only.
    pub counts: Option<Counts>,
}

/// Runs `batch` copies of a picture and measures whole runs and every launch, those of the density included where the
/// engine scores with one.
///
/// # Errors
/// An engine on the CPU path, which has no launches, and those of the device.
pub fn profile(
    engine: &mut Engine,
    batch: usize,
    picture: &Image,
    settings: &Settings,
) -> Result<Profile> {
    let plan = engine.plan(batch, picture.size)?;
    let network = network(engine)?;
    network.prepare(&plan)?;
    network.write_pictures(&plan, Pictures::Host(&vec![picture; batch]))?;
    let device = network.device();
    let steps = network.steps(&plan)?;
    let all: Vec<Launch> = steps.iter().flat_map(|step| step.launches.clone()).collect();
    let counted = device.measure(&[], &all[..1])?.counts.is_some();

    let (mut run_us, mut clocks, mut ceilings, mut copy) = (None, None, None, None);
    if !counted {
        let start = Instant::now();
        for _ in 0..settings.repeats {
            device.measure(&[], &all)?;
            if start.elapsed() > WARM {
                break;
            }
        }
        run_us = Summary::of(&microseconds(device, &[], &all, settings.repeats)?);
        if let Some(bus) = &settings.pci_bus_id {
            clocks = Clocks::measure(bus, || device.measure(&[], &all).map(|_| ()))?;
        }
        let long = Copy::long(device)?;
        ceilings = Some(Ceilings::measure(device, &long)?);
        copy = Some(long);
    }
    let mut launches: Vec<Row> = Vec::new();
    for step in &steps {
        for launch in &step.launches {
            let measured = match &copy {
                None => once(device, launch)?,
                Some(copy) => repeated(device, launch, copy, settings.repeats)?,
            };
            launches.push(Row { measured: Some(measured), ..row(step.name, launch) });
        }
    }
    // The loops leave every buffer as one run does: no launch writes what it reads.
    let early_exit_skipped = match network.density_scores() {
        Some(scores) => Some(1.0 - scores.multiplied_share(device, batch, &plan.head())?),
        None => None,
    };
    let moments_us = match settings.moments {
        true => moments(network, &plan, if counted { 1 } else { settings.repeats })?,
        false => None,
    };
    let h200_predicted_run_us = super::run_us(&launches, all.iter());
    Ok(Profile {
        launches,
        h200_predicted_run_us,
        early_exit_skipped,
        run_us,
        moments_us,
        ceilings,
        clocks,
    })
}

/// Times of `list` after `before`, each repeat by itself.
pub(super) fn microseconds(
    device: &dyn Device,
    before: &[Launch],
    list: &[Launch],
    repeats: usize,
) -> Result<Vec<f64>> {
    let time = |_| Ok(device.measure(before, list)?.time.as_secs_f64() * 1e6);
    (0..repeats).map(time).collect()
}

fn once(device: &dyn Device, launch: &Launch) -> Result<Measured> {
    let cost = device.measure(&[], std::slice::from_ref(launch))?;
    let warm_us = Summary::of(&[cost.time.as_secs_f64() * 1e6]).expect("one time");
    Ok(Measured { warm_us, flushed_us: None, counts: cost.counts })
}

fn repeated(device: &dyn Device, launch: &Launch, copy: &Copy, repeats: usize) -> Result<Measured> {
    let one = std::slice::from_ref(launch);
    let flushed = microseconds(device, &[copy.launch()?], one, repeats.div_ceil(10))?;
    Ok(Measured {
        warm_us: warm(device, one, repeats)?,
        flushed_us: Summary::of(&flushed),
        counts: None,
    })
}

/// Of one `list` in a loop: up to 10 loops, timed apart, of `repeats` in all.
pub(super) fn warm(device: &dyn Device, list: &[Launch], repeats: usize) -> Result<Summary> {
    let loops = repeats.clamp(1, 10);
    let length = (repeats / loops).max(1);
    let one_by_one = || list.iter().map(|launch| launch.clone().in_order());
    let many: Vec<Launch> = (0..length).flat_map(|_| one_by_one()).collect();
    if loops > 1 {
        device.measure(&[], &many)?;
    }
    let mut times = microseconds(device, &[], &many, loops)?;
    times.iter_mut().for_each(|time| *time /= length as f64);
    Ok(Summary::of(&times).expect("one loop at least"))
}

/// Folding one batch of features into the moments of a fit, all its kernels as one graph.
fn moments(network: &Network, plan: &Plan, repeats: usize) -> Result<Option<Summary>> {
    let device = network.device();
    let features = network.features(plan)?;
    let classes = plan.logits.channels;
    let cells = features.pixels();
    let labels = device.alloc(cells)?;
    // Runs of 64 cells, as a street's classes lie in runs.
    let stripes: Vec<u8> = (0..cells).map(|i| (i / 64 % classes) as u8).collect();
    device.write(labels.all(), &stripes)?;
    let mut moments = DeviceMoments::new(device, &Moments::new(classes, plan.features.channels))?;
    let list = moments.launches(device, features, labels.all(), None)?;
    device.measure(&[], &list)?;
    Ok(Summary::of(&microseconds(device, &[], &list, repeats)?))
}
