//! Reading the pairs of an evaluation: each at the size at which the network sees its image.

use ddu::Result;
use ddu::data::{ClassMap, Dataset, Image, LabelRule, Mask, label_grid};
use ddu::ops::Size;

use super::protocol::Protocol;

pub struct Reader<'a> {
    pub data: &'a Dataset,
    pub map: &'a ClassMap,
    /// Shorter side that images are scaled to.
    pub resize: Option<usize>,
    pub protocol: Option<Protocol>,
    pub max_pixels: u64,
}

/// The labels of an image, of its size, in the model's classes.
pub struct Annotation {
    pub mask: Mask,
    /// Of the image's content.
    pub hash: u64,
}

impl Reader<'_> {
    /// From the headers alone.
    pub fn size(&self, index: usize) -> Result<Size> {
        let size = self.data.pairs[index].size_within(self.resize, self.max_pixels)?;
        Ok(self.protocol.map_or(size, |protocol| protocol.size(size)))
    }

    pub fn read(&self, index: usize) -> Result<(Image, Annotation)> {
        let read = self.data.pairs[index].read_within(self.resize, self.max_pixels)?;
        let (mut image, mut mask) = (read.image, read.mask);
        self.map.apply(&mut mask.label);
        let size = image.size;
        if mask.size != size {
            // A pixel of a scaled image has the mask's label at its middle, as in a fit.
            let label = label_grid(&mask, size, size, size, LabelRule::HalfPixel);
            mask = Mask { size, label };
        }
        if let Some(protocol) = self.protocol {
            (image, mask) = protocol.crop(&image, &mask);
        }
        Ok((image, Annotation { mask, hash: read.hash }))
    }

    /// The first image that can be read.
    pub fn first(&self) -> Option<Image> {
        (0..self.data.pairs.len()).find_map(|index| Some(self.read(index).ok()?.0))
    }
}
