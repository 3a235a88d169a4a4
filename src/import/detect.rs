//! From the keys and shapes of a state dict to a [`Config`]: family, backbone, widths, classes. What
//! they do not say is taken from the options, from the file, from smp's `config.json`, or from the
//! family's defaults, and the last is reported as assumed.

use super::family::Rules;
use super::smp::HubConfig;
use super::state_dict::StateDict;
use super::{FAMILIES, Options, shown, spectral};
use crate::error::{Error, Result};
use crate::model::config::{IMAGENET_MEAN, IMAGENET_STD, MAX_CHANNELS};
use crate::model::{Backbone, Config, Decoder, unnamed_class};

/// The family that a state dict's keys belong to.
pub fn family(dict: &StateDict, asked: Option<&str>) -> Result<&'static Rules> {
    let matches = |rules: &&Rules| dict.entries.keys().any(|key| key.starts_with(rules.signature));
    let found: Vec<_> = FAMILIES.into_iter().filter(matches).collect();
    let names = found.iter().map(|rules| rules.family).collect::<Vec<_>>().join(" and ");
    if let Some(rules) = found.iter().find(|rules| asked == Some(rules.family)) {
        return Ok(rules);
    }
    match (asked, found.as_slice()) {
        (None, [rules]) => Ok(rules),
        (_, []) => {
            let version = |rules: &Rules| if rules.concat_order.is_some() { "V3+" } else { "V3" };
            let known = FAMILIES.map(|rules| format!("{} ({})", rules.family, version(rules)));
            let expected = format!("the keys of a DeepLab of {}", known.join(", "));
            Err(Error::invalid(&dict.source, expected, describe(dict)))
        }
        (None, _) => Err(Error::invalid(&dict.source, "keys of one family", names)
            .fix("say which with --family")),
        (Some(family), _) => {
            let expected = format!("keys of --family {family}");
            Err(Error::invalid(&dict.source, expected, format!("keys of {names}"))
                .fix("leave --family out: it is detected"))
        }
    }
}

/// What a state dict of no known family looks like.
fn describe(dict: &StateDict) -> String {
    let begins = |prefix: &str| dict.entries.keys().any(|key| key.starts_with(prefix));
    let has = |key: &str| dict.entries.contains_key(key);
    if has("fc.weight") || has("classifier.weight") || has("head.weight") {
        "a classification network, which has no segmentation head".into()
    } else if begins("decoder.aspp.convs.") || begins("decoder.0.convs.") {
        "smp's DeepLabV3 without the plus".into()
    } else if begins("classifier.classifier.0.convs.") {
        "VainF's DeepLab-v3 without the plus".into()
    } else if begins("segmentation_head.") {
        "another decoder of segmentation-models-pytorch".into()
    } else if begins("layer1.0.conv1.") {
        "a bare ResNet without a segmentation head".into()
    } else {
        let some: Vec<_> = dict.entries.keys().take(3).map(|key| shown(key)).collect();
        match some.len() {
            0 => "no tensors".into(),
            _ => format!("{} tensors such as {}", dict.entries.len(), some.join(", ")),
        }
    }
}

pub struct Detected {
    pub config: Config,
    /// Values assumed because the checkpoint does not state them, one line each.
    pub assumed: Vec<String>,
}

pub fn config(
    dict: &StateDict,
    rules: &'static Rules,
    hub: Option<&HubConfig>,
    options: &Options,
) -> Result<Detected> {
    let look = Look { dict, rules };
    let stem = look.shape("backbone.stem")?;
    if stem[1] != 3 {
        let what = format!("{}: {}conv1.weight", dict.source, rules.backbone);
        return Err(Error::invalid(what, "3 input channels (RGB)", stem[1]));
    }
    let backbone = look.backbone(options.backbone)?;
    let (mut stage_width, mut stage_channels) = ([0; 4], [0; 4]);
    for stage in 0..4 {
        let block = format!("backbone.layer{}.0", stage + 1);
        // The two convolutions of a basic block have one width.
        let (inner, last) = if backbone.bottleneck() { (1, 3) } else { (2, 2) };
        stage_width[stage] = look.outputs(&format!("{block}.conv{inner}"))?;
        stage_channels[stage] = look.outputs(&format!("{block}.conv{last}"))?;
    }

    let mut assumed = Vec::new();
    let hub_stride = hub.and_then(|hub| hub.encoder_output_stride);
    let stated_stride = options.output_stride.or(dict.stated.output_stride).or(hub_stride);
    let output_stride = stated_stride.unwrap_or_else(|| {
        let os = rules.output_stride;
        assumed.push(format!("output stride {os} (default of {}; --output-stride)", rules.family));
        os
    });
    if !matches!(output_stride, 8 | 16) {
        let what = format!("{}: output stride", dict.source);
        return Err(Error::invalid(what, "8 or 16", output_stride));
    }
    let hub_rates = || hub.and_then(|hub| hub.decoder_atrous_rates.clone());
    let stated = &dict.stated.atrous_rates;
    let stated_rates = options.atrous_rates.as_ref().or(stated.as_ref()).cloned();
    let aspp_rates = stated_rates.or_else(hub_rates).unwrap_or_else(|| {
        let rates = (rules.aspp_rates)(output_stride).to_vec();
        let list = rates.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        assumed.push(format!("ASPP rates {list} (default of {}; --atrous-rates)", rules.family));
        rates
    });
    if aspp_rates.len() != 3 || aspp_rates.iter().any(|rate| !(1..=4096).contains(rate)) {
        let what = format!("{}: ASPP rates", dict.source);
        return Err(Error::invalid(what, "three rates from 1 to 4096", format!("{aspp_rates:?}")));
    }
    let blocks = backbone.blocks();
    let dilations = [0, 1, 2, 3].map(|stage| {
        let dilation = |block| match stage {
            0 | 1 => 1,
            _ => (rules.dilation)(output_stride, stage, block),
        };
        (0..blocks[stage]).map(dilation).collect()
    });

    let (post_aspp_channels, post_separable) = look.chain("post")?;
    let (refine_channels, refine_separable) = look.chain("decoder")?;
    let decoder = match rules.concat_order {
        None => None,
        Some(concat_order) => Some(Decoder {
            low_level_channels: look.outputs("decoder.low_level")?,
            concat_order,
            refine_channels,
        }),
    };

    let count = look.outputs("classifier")?;
    let classes = match &options.classes {
        None => (0..count).map(unnamed_class).collect(),
        Some(names) if names.len() == count => names.clone(),
        Some(names) => {
            let what = format!("{}: class names", dict.source);
            let expected = format!("{count} names, one for each output of the last layer");
            return Err(Error::invalid(what, expected, names.len())
                .fix("give the right file with --classes"));
        }
    };

    let mut dropout = rules.dropout();
    if let Some(rate) = hub.and_then(|hub| hub.decoder_aspp_dropout) {
        dropout[0].probability = rate;
    }
    let config = Config {
        family: rules.family.to_owned(),
        backbone,
        stem_channels: look.outputs("backbone.stem")?,
        stage_width,
        stage_channels,
        output_stride,
        dilations,
        aspp_rates,
        aspp_channels: look.outputs("aspp.0")?,
        post_aspp_channels,
        aspp_separable: look.has("aspp.1.depthwise"),
        decoder_separable: post_separable || refine_separable,
        decoder,
        align_corners: rules.align_corners,
        input_multiple: if rules.whole_strides { output_stride } else { 1 },
        dropout,
        classes,
        mean: IMAGENET_MEAN,
        std: IMAGENET_STD,
    };
    config.validate(&dict.source)?;
    Ok(Detected { config, assumed })
}

/// Key and form of spectral normalisation (if any) of a convolution's weight.
pub fn weight_key(
    dict: &StateDict,
    conv: &str,
) -> Option<(String, Option<&'static [&'static str; 3]>)> {
    let has = |suffix: &str| {
        let key = format!("{conv}{suffix}");
        dict.entries.contains_key(&key).then_some(key)
    };
    let normalised = spectral::FORMS.iter().find_map(|form| Some((has(form[0])?, Some(form))));
    normalised.or_else(|| Some((has(".weight")?, None)))
}

/// Looks units up by their canonical names.
struct Look<'a> {
    dict: &'a StateDict,
    rules: &'static Rules,
}

impl<'a> Look<'a> {
    fn find(&self, unit: &str) -> Option<&'a [usize]> {
        let (key, _) = weight_key(self.dict, &self.rules.keys(unit)?.conv)?;
        Some(&self.dict.entries[&key].shape)
    }

    fn has(&self, unit: &str) -> bool {
        self.find(unit).is_some()
    }

    fn shape(&self, unit: &str) -> Result<&'a [usize]> {
        let missing = || {
            let conv = self.rules.keys(unit).map_or_else(|| unit.to_owned(), |keys| keys.conv);
            let error = Error::invalid(&self.dict.source, format!("key {conv}.weight"), "none");
            match unit.starts_with("backbone.") {
                true => error.fix("only ResNet backbones are supported"),
                false => error,
            }
        };
        let shape = self.find(unit).ok_or_else(missing)?;
        match shape.len() {
            4 => Ok(shape),
            _ => {
                let conv = self.rules.keys(unit).map(|keys| keys.conv).unwrap_or_default();
                let what = format!("{}: {conv}.weight", self.dict.source);
                Err(Error::invalid(what, "the 4 axes of a convolution", format!("{shape:?}")))
            }
        }
    }

    fn outputs(&self, unit: &str) -> Result<usize> {
        match self.shape(unit)?[0] {
            channels @ 1..=MAX_CHANNELS => Ok(channels),
            channels => {
                let conv = self.rules.keys(unit).map(|keys| keys.conv).unwrap_or_default();
                let what = format!("{}: {conv}.weight", self.dict.source);
                Err(Error::invalid(what, format!("1 to {MAX_CHANNELS} output channels"), channels))
            }
        }
    }

    /// Output channels of the 3x3 convolutions `NAME.0`, `NAME.1`..., and whether they are separable.
    fn chain(&self, name: &str) -> Result<(Vec<usize>, bool)> {
        let (mut channels, mut separable) = (Vec::new(), false);
        loop {
            let unit = format!("{name}.{}", channels.len());
            let pointwise = format!("{unit}.pointwise");
            if self.has(&pointwise) {
                separable = true;
                channels.push(self.outputs(&pointwise)?);
            } else if self.has(&unit) {
                channels.push(self.outputs(&unit)?);
            } else {
                return Ok((channels, separable));
            }
        }
    }

    /// Told by the number of blocks of each stage; a block that is missing in between is found
    /// later, by its key.
    fn backbone(&self, asked: Option<Backbone>) -> Result<Backbone> {
        let mut blocks = [0usize; 4];
        for (stage, blocks) in blocks.iter_mut().enumerate() {
            let prefix = format!("{}layer{}.", self.rules.backbone, stage + 1);
            let index = |key: &String| -> Option<usize> {
                key.strip_prefix(&prefix)?.split('.').next()?.parse().ok()
            };
            let last = self.dict.entries.keys().filter_map(index).max();
            *blocks = last.map_or(0, |last| last.saturating_add(1));
        }
        let bottleneck = self.has("backbone.layer1.0.conv3");
        let fits = |b: &Backbone| b.blocks() == blocks && b.bottleneck() == bottleneck;
        let found = Backbone::ALL.into_iter().find(fits);
        let source = &self.dict.source;
        let kind = if bottleneck { "bottleneck" } else { "basic" };
        let found_text = match found {
            Some(backbone) => backbone.to_string(),
            None => format!("{kind} blocks {blocks:?}"),
        };
        let supported = self.rules.backbones.iter().map(|b| b.to_string()).collect::<Vec<_>>();
        match (asked, found) {
            // Asked for: what does not fit is then named key by key.
            (Some(backbone), None) => Ok(backbone),
            (Some(backbone), Some(found)) if backbone != found => {
                let expected = format!("--backbone {backbone}");
                Err(Error::invalid(source, expected, format!("the keys of a {found}"))
                    .fix("leave --backbone out: it is detected"))
            }
            (_, Some(backbone)) if self.rules.backbones.contains(&backbone) => Ok(backbone),
            _ => {
                let expected =
                    format!("a backbone of {}: {}", self.rules.family, supported.join(", "));
                let error = Error::invalid(source, expected, found_text);
                Err(match found {
                    Some(_) => error,
                    None => error.fix("if keys are missing, name it with --backbone to see which"),
                })
            }
        }
    }
}
