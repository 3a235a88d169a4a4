//! From a model's configuration to the plan of one input size: the topology of DeepLab-v3 and -v3+
//! (Chen et al., arXiv 1706.05587 and 1802.02611) stands here.

use super::arena::{Lifetime, place};
use super::fold::{Folded, padded};
use super::{Buffer, Node, Op, Plan, View};
use crate::error::{Error, Result};
use crate::model::Config;
use crate::ops::{MaxPool, Resize, Size};

/// The plan for `batch` images of size `image`.
///
/// # Errors
/// An empty batch or image, or an image whose activations no address space holds.
pub fn compile(config: &Config, weights: &Folded, batch: usize, image: Size) -> Result<Plan> {
    if batch == 0 || image.h == 0 || image.w == 0 {
        let found = format!("{batch} images of {image}");
        return Err(Error::invalid("input", "at least one image of at least one pixel", found));
    }
    let multiple = config.input_multiple;
    let round = |n: usize| n.checked_next_multiple_of(multiple).ok_or_else(|| too_large(image));
    let size = Size::new(round(image.h)?, round(image.w)?);
    let mut build = Builder { config, weights, batch, image, nodes: vec![], buffers: vec![] };
    let input = build.buffer(size, 3)?;

    let (low_level, deep) = backbone(&mut build, input)?;
    let mut features = aspp(&mut build, deep)?;
    for i in 0..config.post_aspp_channels.len() {
        features = build.three(&format!("post.{i}"), features)?;
    }
    if let Some(decoder) = &config.decoder {
        let (low, up) = (padded(decoder.low_level_channels), features.channels);
        let grid = build.size(low_level);
        let both = build.buffer(grid, low + up)?;
        let slice = |first, channels| View { first, channels, ..both };
        let (low, up) = match decoder.concat_order {
            crate::model::ConcatOrder::AsppFirst => (slice(up, low), slice(0, up)),
            crate::model::ConcatOrder::LowLevelFirst => (slice(0, low), slice(low, up)),
        };
        build.conv_into("decoder.low_level", low_level, low, None, true)?;
        build.resize("decoder.upsample", features, up);
        features = both;
        for i in 0..decoder.refine_channels.len() {
            features = build.three(&format!("decoder.{i}"), features)?;
        }
    }
    let logits = build.conv("classifier", features, None, false)?;
    build.finish(input, features, logits)
}

/// ResNet. Returns the output of the first stage (the low-level features) and of the last.
fn backbone(build: &mut Builder, input: View) -> Result<(View, View)> {
    let config = build.config;
    let stem = build.conv("backbone.stem", input, None, true)?;
    let pool = MaxPool { kernel: 3, stride: 2, padding: 1 };
    let size = pool.output_size(build.size(stem))?;
    let mut x = build.buffer(size, stem.channels)?;
    build.push("backbone.pool", Op::MaxPool(pool), stem, x);
    let mut low_level = x;
    for stage in 0..4 {
        for block in 0..config.backbone.blocks()[stage] {
            x = residual_block(build, &format!("backbone.layer{}.{block}", stage + 1), x)?;
        }
        if stage == 0 {
            low_level = x;
        }
    }
    Ok((low_level, x))
}

fn residual_block(build: &mut Builder, name: &str, x: View) -> Result<View> {
    let last = if build.config.backbone.bottleneck() { 3 } else { 2 };
    let mut y = x;
    for i in 1..last {
        y = build.conv(&format!("{name}.conv{i}"), y, None, true)?;
    }
    let downsample = format!("{name}.downsample");
    let shortcut = match build.has(&downsample) {
        true => build.conv(&downsample, x, None, false)?,
        false => x,
    };
    build.conv(&format!("{name}.conv{last}"), y, Some(shortcut), true)
}

/// Atrous spatial pyramid pooling: every branch writes its slice of one buffer.
fn aspp(build: &mut Builder, x: View) -> Result<View> {
    let branches = build.config.aspp_rates.len() + 2;
    let width = padded(build.config.aspp_channels);
    let size = build.size(x);
    let all = build.buffer(size, branches * width)?;
    let slice = |i: usize| View { first: i * width, channels: width, ..all };
    build.conv_into("aspp.0", x, slice(0), None, true)?;
    for i in 1..branches - 1 {
        build.three_into(&format!("aspp.{i}"), x, slice(i))?;
    }
    let mean = build.buffer(Size::new(1, 1), x.channels)?;
    build.push("aspp.pool.mean", Op::GlobalAvgPool, x, mean);
    let pooled = build.conv("aspp.pool", mean, None, true)?;
    build.resize("aspp.pool.upsample", pooled, slice(branches - 1));
    build.conv("aspp.project", all, None, true)
}

struct Builder<'a> {
    config: &'a Config,
    weights: &'a Folded,
    batch: usize,
    image: Size,
    nodes: Vec<Node>,
    buffers: Vec<Buffer>,
}

impl Builder<'_> {
    fn buffer(&mut self, size: Size, channels: usize) -> Result<View> {
        let len = [size.h, size.w, channels]
            .iter()
            .try_fold(self.batch, |product, &n| product.checked_mul(n))
            .ok_or_else(|| too_large(self.image))?;
        self.buffers.push(Buffer { size, channels, offset: 0, len });
        Ok(View { buffer: self.buffers.len() - 1, first: 0, channels })
    }

    fn has(&self, unit: &str) -> bool {
        self.weights.convs.iter().any(|conv| conv.name == unit)
    }

    fn size(&self, view: View) -> Size {
        self.buffers[view.buffer].size
    }

    fn push(&mut self, name: &str, op: Op, input: View, output: View) {
        self.nodes.push(Node { name: name.into(), op, input, output });
    }

    /// A convolution into a buffer of its own.
    fn conv(&mut self, name: &str, x: View, residual: Option<View>, relu: bool) -> Result<View> {
        let conv = self.weights.convs[self.weights.index(name)].conv;
        let size = conv.output_size(self.size(x))?;
        let y = self.buffer(size, conv.out_channels)?;
        self.conv_into(name, x, y, residual, relu)?;
        Ok(y)
    }

    fn conv_into(
        &mut self,
        name: &str,
        x: View,
        y: View,
        residual: Option<View>,
        relu: bool,
    ) -> Result<()> {
        let weights = self.weights.index(name);
        let conv = self.weights.convs[weights].conv;
        debug_assert_eq!((conv.in_channels, conv.out_channels), (x.channels, y.channels));
        debug_assert_eq!(conv.output_size(self.size(x))?, self.size(y));
        self.push(name, Op::Conv { conv, weights, residual, relu }, x, y);
        Ok(())
    }

    /// A 3x3 convolution of the ASPP or the decoder, as one op or as depthwise and pointwise.
    fn three(&mut self, name: &str, x: View) -> Result<View> {
        if !self.has(&format!("{name}.depthwise")) {
            return self.conv(name, x, None, true);
        }
        let y = self.conv(&format!("{name}.depthwise"), x, None, false)?;
        self.conv(&format!("{name}.pointwise"), y, None, true)
    }

    fn three_into(&mut self, name: &str, x: View, y: View) -> Result<()> {
        if !self.has(&format!("{name}.depthwise")) {
            return self.conv_into(name, x, y, None, true);
        }
        let between = self.conv(&format!("{name}.depthwise"), x, None, false)?;
        self.conv_into(&format!("{name}.pointwise"), between, y, None, true)
    }

    fn resize(&mut self, name: &str, x: View, y: View) {
        let align_corners = self.config.align_corners;
        self.push(name, Op::Resize(Resize { align_corners }), x, y);
    }

    fn finish(mut self, input: View, features: View, logits: View) -> Result<Plan> {
        // Op i runs at time i + 1; the input is written at time 0, and what the caller reads
        // lives to the end.
        let end = self.nodes.len() + 1;
        let mut lives = vec![Lifetime { first: usize::MAX, last: 0 }; self.buffers.len()];
        let mut touch = |view: View, time: usize| {
            let life = &mut lives[view.buffer];
            life.first = life.first.min(time);
            life.last = life.last.max(time);
        };
        touch(input, 0);
        touch(features, end);
        touch(logits, end);
        for (i, node) in self.nodes.iter().enumerate() {
            touch(node.input, i + 1);
            touch(node.output, i + 1);
            if let Op::Conv { residual: Some(view), .. } = node.op {
                touch(view, i + 1);
            }
        }
        let arena_len = place(&mut self.buffers, &lives).ok_or_else(|| too_large(self.image))?;
        Ok(Plan {
            batch: self.batch,
            image: self.image,
            padded: self.buffers[input.buffer].size,
            align_corners: self.config.align_corners,
            nodes: self.nodes,
            buffers: self.buffers,
            arena_len,
            input,
            features,
            logits,
        })
    }
}

fn too_large(image: Size) -> Error {
    Error::invalid("input", "an image whose activations can be addressed", image)
        .fix("scale it down with --resize")
}
