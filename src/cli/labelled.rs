//! The options that name a labelled data set, for `fit` and `eval`.

use std::path::PathBuf;

use ddu::data::{ClassMap, Dataset};
use ddu::model::Model;
use ddu::{Error, Result};

#[derive(clap::Args)]
#[group(skip)]
pub struct Args {
    /// Folder in Pascal VOC's layout
    #[arg(long, value_name = "VOC_ROOT", requires = "split")]
    data: Option<PathBuf>,
    /// List of the VOC folder: train, val, test ..
    #[arg(long, value_name = "SPLIT", requires = "data")]
    split: Option<String>,
    /// Folder of images, searched recursively, instead of a VOC folder
    #[arg(long, value_name = "DIR", requires = "masks", conflicts_with = "data")]
    images: Option<PathBuf>,
    /// Their masks: PNGs of the same relative paths and stems
    #[arg(long, value_name = "DIR", requires = "images")]
    masks: Option<PathBuf>,
    /// Dataset's class FROM is the model's class TO, each an index or a name; TO may be void
    #[arg(long, value_name = "FROM=TO", value_delimiter = ',')]
    class_map: Vec<String>,
}

impl Args {
    /// The list of a VOC folder, where that is the data set.
    pub fn split(&self) -> Option<&str> {
        self.split.as_deref()
    }

    /// The data set, and how its classes become those of the model.
    ///
    /// # Errors
    /// No data set named, one that cannot be read, classes that do not fit the model's.
    pub fn open(&self, model: &Model) -> Result<(Dataset, ClassMap)> {
        let data = match (&self.data, &self.split, &self.images, &self.masks) {
            (Some(root), Some(split), _, _) => Dataset::voc(root, split)?,
            (_, _, Some(images), Some(masks)) => Dataset::folders(images, masks)?,
            _ => {
                let text = "no data set: name --data and --split, or --images and --masks";
                return Err(Error::Usage(text.into()));
            }
        };
        let config = model.config();
        let names = config.has_class_names().then_some(config.classes.as_slice());
        let map =
            ClassMap::new(data.classes.as_deref(), names, config.classes.len(), &self.class_map)?;
        Ok((data, map))
    }
}
