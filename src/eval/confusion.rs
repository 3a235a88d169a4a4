//! The confusion matrix, and what follows from it: pixel accuracy and intersection over union.

use crate::error::{Error, Result};

/// Counts of pixels by true and predicted class; `[C, C]`, the true class first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confusion {
    classes: usize,
    counts: Vec<u64>,
}

impl Confusion {
    pub fn new(classes: usize) -> Self {
        Confusion { classes, counts: vec![0; classes * classes] }
    }

    /// Adds pixels. A label that is no class of the model (an unknown class, or void) is skipped.
    ///
    /// # Errors
    /// Slices of different lengths, or a prediction that is no class.
    pub fn add(&mut self, labels: &[u8], predictions: &[u8]) -> Result<()> {
        if labels.len() != predictions.len() {
            let expected = format!("{} predictions, one a label", labels.len());
            return Err(Error::invalid("confusion matrix", expected, predictions.len()));
        }
        if let Some(p) = predictions.iter().find(|&&p| usize::from(p) >= self.classes) {
            let expected = format!("predictions below {}", self.classes);
            return Err(Error::invalid("confusion matrix", expected, p));
        }
        for (&label, &prediction) in labels.iter().zip(predictions) {
            if usize::from(label) < self.classes {
                self.counts[usize::from(label) * self.classes + usize::from(prediction)] += 1;
            }
        }
        Ok(())
    }

    /// Adds another's counts, of the same number of classes.
    pub fn merge(&mut self, other: &Confusion) {
        assert_eq!(self.classes, other.classes, "confusion matrices of different models");
        self.counts.iter_mut().zip(&other.counts).for_each(|(a, b)| *a += b);
    }

    /// Pixels whose label is `label` and whose prediction is `prediction`.
    pub fn count(&self, label: usize, prediction: usize) -> u64 {
        self.counts[label * self.classes + prediction]
    }

    pub fn pixels(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// For each class the pixels that are predicted and labelled so, those labelled so, those predicted so.
    pub fn by_class(&self) -> Vec<[u64; 3]> {
        let sum = |of: &dyn Fn(usize) -> u64| (0..self.classes).map(of).sum();
        let class = |c| [self.count(c, c), sum(&|k| self.count(c, k)), sum(&|k| self.count(k, c))];
        (0..self.classes).map(class).collect()
    }

    /// The share of pixels predicted right; `None` without pixels.
    pub fn accuracy(&self) -> Option<f64> {
        accuracy(&self.by_class())
    }

    /// For each class hits / (labelled or predicted so); `None` where neither is any pixel.
    pub fn iou(&self) -> Vec<Option<f64>> {
        iou(&self.by_class())
    }

    /// Mean of [`Self::iou`] over the classes that have one; `None` without pixels.
    pub fn mean_iou(&self) -> Option<f64> {
        mean_iou(&self.by_class())
    }
}

/// Of [`Confusion::by_class`].
pub(super) fn accuracy(by_class: &[[u64; 3]]) -> Option<f64> {
    let sum = |at: usize| by_class.iter().map(|counts| counts[at]).sum::<u64>();
    (sum(1) > 0).then(|| sum(0) as f64 / sum(1) as f64)
}

fn iou(by_class: &[[u64; 3]]) -> Vec<Option<f64>> {
    let iou = |&[hit, labelled, predicted]: &[u64; 3]| {
        let union = labelled + predicted - hit;
        (union > 0).then(|| hit as f64 / union as f64)
    };
    by_class.iter().map(iou).collect()
}

pub(super) fn mean_iou(by_class: &[[u64; 3]]) -> Option<f64> {
    let iou: Vec<f64> = iou(by_class).into_iter().flatten().collect();
    (!iou.is_empty()).then(|| iou.iter().sum::<f64>() / iou.len() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worked_example() {
        let mut confusion = Confusion::new(3);
        // Class 2 is nowhere; 255 and 7 are skipped.
        confusion.add(&[0, 0, 0, 1, 1, 255, 7], &[0, 0, 1, 1, 0, 1, 1]).unwrap();
        assert_eq!(confusion.pixels(), 5);
        assert_eq!(confusion.accuracy(), Some(3.0 / 5.0));
        assert_eq!(confusion.iou(), [Some(2.0 / 4.0), Some(1.0 / 3.0), None]);
        assert_eq!(confusion.mean_iou(), Some((0.5 + 1.0 / 3.0) / 2.0));
    }

    #[test]
    fn a_class_only_predicted_has_iou_zero() {
        let mut confusion = Confusion::new(2);
        confusion.add(&[0, 0], &[1, 1]).unwrap();
        assert_eq!(confusion.iou(), [Some(0.0), Some(0.0)]);
    }

    #[test]
    fn parts_merge_to_the_whole() {
        let (labels, predictions) = ([0, 1, 1, 0, 1], [0, 1, 0, 1, 1]);
        let mut all = Confusion::new(2);
        all.add(&labels, &predictions).unwrap();
        let mut parts = Confusion::new(2);
        parts.add(&labels[..2], &predictions[..2]).unwrap();
        let mut rest = Confusion::new(2);
        rest.add(&labels[2..], &predictions[2..]).unwrap();
        parts.merge(&rest);
        assert_eq!(parts, all);
    }

    #[test]
    fn degenerate_inputs() {
        let mut confusion = Confusion::new(2);
        assert_eq!((confusion.accuracy(), confusion.mean_iou()), (None, None));
        let short = confusion.add(&[0, 1], &[0]).unwrap_err().to_string();
        assert!(short.contains("expected 2 predictions, one a label, found 1"), "{short}");
        let wild = confusion.add(&[0], &[2]).unwrap_err().to_string();
        assert!(wild.contains("expected predictions below 2, found 2"), "{wild}");
        assert_eq!(confusion.pixels(), 0);
    }
}
