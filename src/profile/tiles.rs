//! Times of every dense convolution of a network under every tile and split that could suit it: what a rule for
//! choosing among them can be made of.

use super::measure::warm;
use super::network;
use crate::device::grow;
use crate::device::launch::conv2d::{ConvTiling, TILES, hopper_tiles};
use crate::device::{Device, Element};
use crate::engine::Engine;
use crate::error::Result;
use crate::ops::{Conv2d, Size};
use crate::plan::Op;
use crate::report::json::Summary;

/// Parts of the reduction that are tried.
const SPLITS: [usize; 10] = [1, 2, 3, 4, 6, 8, 12, 16, 24, 32];
/// Blocks of the reduction below which a part is not worth its copies' latency.
const LEAST_K_BLOCKS: usize = 2;

/// One convolution of a network under one tiling.
#[derive(Clone, Debug, serde::Serialize)]
pub struct TimedTiling {
    pub conv: Conv2d,
    pub batch: usize,
    pub input: Size,
    pub output: Size,
    pub residual: bool,
    pub output_f32: bool,
    pub tiling: ConvTiling,
    /// Of the convolution and, with more than one split, of joining them: one among many of the same in one graph.
    pub warm_us: Summary,
    /// Whether this is what the launch takes today.
    pub chosen: bool,
}

/// Each distinct dense convolution of a batch of images under every tiling tried, `repeats` launches of each.
///
/// # Errors
/// An engine on the CPU path, which has no launches, and those of the device.
pub fn tilings(
    engine: &mut Engine,
    batch: usize,
    size: Size,
    repeats: usize,
) -> Result<Vec<TimedTiling>> {
    let plan = engine.plan(batch, size)?;
    let network = network(engine)?;
    network.prepare(&plan)?;
    let device = network.device();
    let mut partial = Vec::new();
    let mut found: Vec<TimedTiling> = Vec::new();
    for node in &plan.nodes {
        let (Some((conv, chosen)), Op::Conv { residual, .. }) =
            (network.division(&plan, node), &node.op)
        else {
            continue;
        };
        let (input, output) = (plan.size(node.input), plan.size(node.output));
        let residual = residual.is_some();
        let output_f32 = node.output.buffer == plan.logits.buffer;
        let known = found.iter().any(|other| {
            (other.conv, other.input, other.residual, other.output_f32)
                == (*conv, input, residual, output_f32)
        });
        if known {
            continue;
        }
        let pixels = batch * output.pixels();
        for tiling in candidates(conv, pixels, device, chosen) {
            grow(device, &mut partial, &[tiling.partial_bytes(conv, pixels)])?;
            let division = (tiling, partial[0].all());
            let list = network.step_divided(&plan, node, division)?.launches;
            let warm_us = warm(device, &list, repeats)?;
            let (conv, chosen) = (*conv, tiling == chosen);
            found.push(TimedTiling {
                conv,
                batch,
                input,
                output,
                residual,
                output_f32,
                tiling,
                warm_us,
                chosen,
            });
        }
    }
    Ok(found)
}

/// Every tile, whole, and split (joined by either way) while the blocks are fewer than four for each multiprocessor; what is chosen
/// today among them.
fn candidates(
    conv: &Conv2d,
    pixels: usize,
    device: &dyn Device,
    chosen: ConvTiling,
) -> Vec<ConvTiling> {
    let mut found = vec![chosen];
    let multiprocessors = device.multiprocessors();
    for &tile in TILES.iter().chain(hopper_tiles(conv, device)) {
        let blocks = pixels.div_ceil(tile.pixels) * conv.out_channels.div_ceil(tile.channels);
        let most = (ConvTiling::new(conv, tile, 1).k_blocks / LEAST_K_BLOCKS).max(1);
        for splits in SPLITS {
            let tiling = ConvTiling::new(conv, tile, splits);
            if splits > 1 && (splits > most || blocks * splits > 4 * multiprocessors) {
                continue;
            }
            for tiling in std::iter::once(tiling).chain(tiling.in_clusters()) {
                if !found.contains(&tiling) {
                    found.push(tiling);
                }
            }
        }
    }
    found
}

/// The header over lines of [`TimedTiling::csv_line`].
pub const CSV_HEADER: &str = "host,device,batch,in_h,in_w,in_channels,out_h,out_w,out_channels,kernel,stride,dilation,padding,\
     residual,output,tile,tile_pixels,tile_channels,splits,cluster,us,us_min,us_max,chosen";

impl TimedTiling {
    /// A line under [`CSV_HEADER`]; commas in the names become semicolons.
    pub fn csv_line(&self, host: &str, device: &str) -> String {
        let [host, device] = [host, device].map(|name| name.replace(',', ";"));
        let TimedTiling { conv, batch, input, output, tiling, warm_us, .. } = self;
        let element = if self.output_f32 { Element::F32 } else { Element::F16 };
        let fields = [
            host,
            device,
            format!("{batch},{},{},{}", input.h, input.w, conv.in_channels),
            format!("{},{},{}", output.h, output.w, conv.out_channels),
            format!("{},{},{},{}", conv.kernel, conv.stride, conv.dilation, conv.padding),
            format!("{},{}", u8::from(self.residual), format!("{element:?}").to_lowercase()),
            tiling.tile.kernel().to_owned(),
            format!("{},{},{}", tiling.tile.pixels, tiling.tile.channels, tiling.splits),
            u8::from(tiling.cluster).to_string(),
            format!("{:.3},{:.3},{:.3}", warm_us.p50, warm_us.min, warm_us.max),
            u8::from(self.chosen).to_string(),
        ];
        fields.join(",")
    }
}
