//! How the class indices of a dataset become those of a model: index k is class k, unless
//! `--class-map` says otherwise. Where both sides have names they must agree.

use super::VOID;
use crate::error::{Error, Result};

/// The model's class for each value of a mask; a value beyond the model's classes stays itself, an
/// unknown class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassMap([u8; 256]);

impl ClassMap {
    /// `dataset` and `model` are class names in index order, where there are any; the model has
    /// `classes`. `entries` are `FROM=TO` of a dataset's and a model's class, each an index or a name;
    /// TO may be `void`.
    ///
    /// # Errors
    /// An entry that names no class or comes twice; names that disagree at an index that no entry
    /// maps.
    pub fn new(
        dataset: Option<&[String]>,
        model: Option<&[String]>,
        classes: usize,
        entries: &[String],
    ) -> Result<Self> {
        let mut map: [u8; 256] = std::array::from_fn(|value| value as u8);
        let mut mapped = [false; 256];
        for entry in entries {
            let wrong = |reason: String| {
                Err(Error::Usage(format!("--class-map {entry}: {reason}; expected FROM=TO")))
            };
            let Some((from, to)) = entry.split_once('=') else {
                return wrong("no =".into());
            };
            let (from, to) = (from.trim(), to.trim());
            let Some(source) = index_of(from, dataset) else {
                return wrong(format!("{from} is no index and no class of the dataset"));
            };
            let target = if to == "void" { Some(VOID) } else { index_of(to, model) };
            let exists = |index: u8| index == VOID || usize::from(index) < classes;
            let Some(target) = target.filter(|index| exists(*index)) else {
                if target.is_some() {
                    return wrong(format!("the model has the classes 0 to {}", classes - 1));
                }
                return wrong(format!("{to} is no index, no class of the model and not void"));
            };
            if std::mem::replace(&mut mapped[usize::from(source)], true) {
                return wrong(format!("{from} comes twice"));
            }
            map[usize::from(source)] = target;
        }
        let names = dataset.unwrap_or_default().iter().zip(model.unwrap_or_default());
        for (index, (dataset, model)) in names.enumerate().filter(|(index, _)| !mapped[*index]) {
            if !dataset.eq_ignore_ascii_case(model) {
                return Err(Error::invalid(
                    format!("class {index} of the dataset"),
                    format!("{model}, as the model has it"),
                    dataset,
                )
                .fix(format!(
                    "if they mean the same, --class-map {index}={index}; else say which is \
                     which, as in {dataset}=CLASS or {dataset}=void"
                )));
            }
        }
        Ok(ClassMap(map))
    }

    /// Replaces a dataset's indices by the model's.
    pub fn apply(&self, label: &mut [u8]) {
        for value in label {
            *value = self.0[usize::from(*value)];
        }
    }

    /// For each value of a mask, what it becomes.
    pub fn table(&self) -> &[u8; 256] {
        &self.0
    }
}

fn index_of(class: &str, names: Option<&[String]>) -> Option<u8> {
    let named = names.and_then(|names| names.iter().position(|n| n.eq_ignore_ascii_case(class)));
    match named {
        Some(index) => u8::try_from(index).ok(),
        None => class.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        text.split(' ').map(String::from).collect()
    }

    fn map(dataset: &str, model: &str, entries: &[&str]) -> Result<ClassMap> {
        let entries: Vec<String> = entries.iter().map(|e| e.to_string()).collect();
        let model = names(model);
        ClassMap::new(Some(&names(dataset)), Some(&model), model.len(), &entries)
    }

    #[test]
    fn names_that_agree_change_nothing() {
        for (dataset, model) in [("sky road", "Sky road"), ("sky road car", "sky road")] {
            let map = map(dataset, model, &[]).unwrap();
            assert!(map.table().iter().enumerate().all(|(k, v)| k == usize::from(*v)));
        }
        assert!(ClassMap::new(None, Some(&names("a b")), 2, &[]).is_ok());
    }

    #[test]
    fn names_that_disagree_need_a_map() {
        let error = map("sky car road", "sky road car", &[]).unwrap_err().to_string();
        assert!(error.contains("class 1") && error.contains("--class-map"), "{error}");
        let good = map("sky car road", "sky road car", &["car=car", "road=1"]).unwrap();
        let mut label = [0, 1, 2, 3, 255];
        good.apply(&mut label);
        assert_eq!(label, [0, 2, 1, 3, 255]);
        let void = map("sky tree", "sky road", &["tree=void"]).unwrap();
        let mut label = [0, 1];
        void.apply(&mut label);
        assert_eq!(label, [0, 255]);
        assert!(map("sky car road", "sky road car", &["car=car"]).is_err(), "2 still disagrees");
    }

    #[test]
    fn entries_that_mean_nothing_are_refused() {
        for entry in
            ["sky", "sky=", "=sky", "moon=sky", "sky=moon", "256=0", "0=-1", "0=2", "sky=254"]
        {
            let error = map("sky road", "sky road", &[entry]).unwrap_err();
            assert!(matches!(&error, Error::Usage(text) if text.contains(entry)), "{error}");
        }
        assert!(map("sky road", "sky road", &["sky=1", "0=0"]).is_err());
        // A model without names has classes all the same.
        let unnamed = |entry: &str| ClassMap::new(None, None, 3, &[entry.to_owned()]);
        assert!(unnamed("7=2").is_ok() && unnamed("7=255").is_ok());
        let error = unnamed("7=3").unwrap_err().to_string();
        assert!(error.contains("the model has the classes 0 to 2"), "{error}");
    }
}
