//! What an evaluation finds, in the words of `results.json` (docs/formats.md). The command line's report has besides
//! them what it alone does: timings, positions, other methods than one forward pass.

use std::collections::BTreeSet;
use std::sync::Mutex;

use ddu::data::{ClassMap, LabelRule, Mask, VOID, label_grid};
use ddu::eval::{self, Method, Prediction, Truth};
use ddu::ops::Size;
use ddu::score::Score;
use pyo3::prelude::*;
use serde_json::Value;

use crate::data::Labelled;
use crate::engine::Engine;
use crate::fit::class_map_of;
use crate::fork::threads_started;
use crate::{invalid, raised};

#[pyclass(frozen)]
pub struct Evaluation {
    engine: Py<Engine>,
    evaluation: Mutex<eval::Evaluation>,
    map: ClassMap,
    scores: Vec<Score>,
    /// The dataset's names of its labels.
    labels: Option<Vec<String>>,
}

#[pymethods]
impl Evaluation {
    /// `classes`: the dataset's; `ood_classes`: indices or names of the unknown classes.
    #[new]
    fn new(
        py: Python,
        engine: Py<Engine>,
        classes: Option<Vec<String>>,
        class_map: Vec<String>,
        ood_classes: Vec<String>,
        void_as_inaccurate: bool,
        patches: Vec<usize>,
    ) -> PyResult<Self> {
        threads_started()?;
        let here = engine.get();
        let map = class_map_of(here, classes.as_deref(), &class_map)?;
        let scores = here.possible();
        let count = here.classes().len();
        let unknown = unknown_labels(&ood_classes, classes.as_deref(), count)?;
        if let Some(width) = patches.iter().find(|width| !(1..=64).contains(*width)) {
            return Err(invalid("patches", "widths of 1 to 64 pixels", width));
        }
        let range = py.detach(|| {
            here.compute(&scores)?;
            let density = here.density_used();
            let parts = density.map(|density| (&density.density.sample, &*density.ready));
            Ok::<_, PyErr>(Score::Density.colour_range(count, parts))
        })?;
        let evaluation = eval::Evaluation::new(eval::Options {
            classes: count,
            unknown,
            void_as_inaccurate,
            patches: patches.into_iter().filter(|width| *width > 1).collect(),
            thresholds: Vec::new(),
            density_range: range,
        });
        Ok(Evaluation { evaluation: Mutex::new(evaluation), engine, map, scores, labels: classes })
    }

    fn add(&self, py: Python, labelled: &Labelled) -> PyResult<()> {
        threads_started()?;
        let (engine, image) = (self.engine.get(), labelled.image.clone());
        let mut mask = labelled.mask.clone();
        self.map.apply(&mut mask.label);
        let added = py.detach(|| {
            let mask = of_size(mask, image.size);
            let mut engine = engine.lock();
            let output = engine.run(&[&image])?;
            let (label, maps) = output.scored(0, &self.scores)?;
            let maps = maps.into_iter().map(|map| map.values);
            let scores: Vec<_> = self.scores.iter().copied().zip(maps).collect();
            let confidence = scores.iter().find(|(score, _)| *score == Score::MaxSoftmax);
            let confidence = confidence.map(|(_, map)| map.clone()).unwrap_or_default();
            let prediction = Prediction { method: Method::Softmax, label, confidence, scores };
            let truth = Truth { hash: labelled.hash, size: mask.size, labels: &mask.label };
            let mut evaluation =
                self.evaluation.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            evaluation.add(truth, &[prediction])
        });
        added.map_err(raised)
    }

    /// Has the engine compute its own scores again.
    fn close(&self, py: Python) -> PyResult<()> {
        let engine = self.engine.get();
        py.detach(|| engine.compute(engine.own_scores()))
    }

    /// As JSON.
    fn results(&self, py: Python) -> String {
        py.detach(|| {
            let evaluation =
                self.evaluation.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
            self.report(&evaluation.results()).to_string()
        })
    }
}

/// A pixel of a scaled image has the mask's label at its middle, as in a fit.
fn of_size(mask: Mask, size: Size) -> Mask {
    match mask.size == size {
        true => mask,
        false => Mask { size, label: label_grid(&mask, size, size, size, LabelRule::HalfPixel) },
    }
}

fn unknown_labels(
    named: &[String],
    names: Option<&[String]>,
    classes: usize,
) -> PyResult<Option<BTreeSet<u8>>> {
    let mut labels = BTreeSet::new();
    for name in named {
        let by_name = || names?.iter().position(|n| n == name).and_then(|i| u8::try_from(i).ok());
        let label: Option<u8> = name.parse().ok().or_else(by_name);
        let label = label.filter(|label| usize::from(*label) >= classes && *label != VOID);
        let expected = "an index or name of a class of the dataset that the model does not have";
        labels.insert(label.ok_or_else(|| invalid("ood_classes", expected, name))?);
    }
    Ok((!named.is_empty()).then_some(labels))
}

impl Evaluation {
    /// The figures that the command line reports too, and what they were measured with.
    fn report(&self, results: &eval::Results) -> Value {
        let engine = self.engine.get();
        let label = |label: u8| {
            let name = self.labels.as_ref().and_then(|names| names.get(usize::from(label)));
            name.cloned().unwrap_or_else(|| label.to_string())
        };
        let mut report = results.figures(&engine.classes(), label);
        report.insert("model_sha256".into(), engine.weights().hash().into());
        report.insert("device".into(), engine.device_name().into());
        Value::Object(report)
    }
}
