//! segmentation-models-pytorch `DeepLabV3Plus`: separable ASPP (unless asked otherwise), separable
//! 3x3 after it and in the decoder, everything upsampled with align_corners; and its hub folder.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::family::{Keys, Rules, aspp, three};
use super::shown;
use crate::data::read_file;
use crate::error::{Error, Result};
use crate::model::config::SMP;
use crate::model::{Backbone, ConcatOrder};

pub const RULES: Rules = Rules {
    family: SMP,
    signature: "decoder.aspp.0.",
    backbone: "encoder.",
    backbones: &[Backbone::Resnet18, Backbone::Resnet34, Backbone::Resnet50, Backbone::Resnet101],
    head,
    output_stride: 16,
    // Not halved at output stride 16: the class has one default.
    aspp_rates: |_| [12, 24, 36],
    // Every convolution of a dilated stage gets the dilation.
    dilation: |output_stride, stage, _| match (output_stride, stage) {
        (8, 2) | (16, 3) => 2,
        (8, 3) => 4,
        _ => 1,
    },
    concat_order: Some(ConcatOrder::AsppFirst),
    align_corners: true,
    whole_strides: true,
    dropout: &[("aspp.project", 0.5)],
    auxiliary: Some("classification_head."),
};

fn head(base: &str, part: &str) -> Option<Keys> {
    match base {
        "post.0" => three("decoder.aspp.1", "decoder.aspp.2", ".", part),
        "decoder.low_level" => Some(Keys::new("decoder.block1.0", "decoder.block1.1")),
        "decoder.0" => three("decoder.block2.0", "decoder.block2.1", ".", part),
        "classifier" => Some(Keys::new("segmentation_head.0", "")),
        _ => aspp("decoder.aspp.0.", base, part, "."),
    }
}

const EXPECTED: &str = "the configuration of an smp model";
const MAX_BYTES: u64 = 1 << 20;

/// What of `config.json` the weights do not say.
#[derive(Debug, Deserialize)]
pub struct HubConfig {
    #[serde(rename = "_model_class")]
    model_class: Option<String>,
    pub encoder_output_stride: Option<usize>,
    pub decoder_atrous_rates: Option<Vec<usize>>,
    pub decoder_aspp_dropout: Option<f32>,
    upsampling: Option<f64>,
}

impl HubConfig {
    /// The `config.json` in the folder of a checkpoint, if smp wrote it for a DeepLabV3Plus.
    pub fn in_folder_of(checkpoint: &Path) -> Result<Option<(PathBuf, Self)>> {
        let path = checkpoint.with_file_name("config.json");
        let text = read_file(&path, EXPECTED, MAX_BYTES).unwrap_or_default();
        let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
        match json["_model_class"] == "DeepLabV3Plus" {
            true => Ok(Some((path.clone(), Self::read(&path)?))),
            false => Ok(None),
        }
    }

    pub fn read(path: &Path) -> Result<Self> {
        let bytes = read_file(path, EXPECTED, MAX_BYTES)?;
        let source = path.display();
        let config: HubConfig = serde_json::from_slice(&bytes)
            .map_err(|e| Error::invalid(&source, EXPECTED, shown(&e.to_string())))?;
        match &config.model_class {
            Some(class) if class != "DeepLabV3Plus" => {
                Err(Error::invalid(&source, "_model_class DeepLabV3Plus", shown(class)))
            }
            _ => match config.upsampling {
                Some(factor) if factor != 4.0 => {
                    Err(Error::invalid(&source, "upsampling 4 (to the input's size)", factor))
                }
                _ => Ok(config),
            },
        }
    }
}
