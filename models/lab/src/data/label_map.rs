//! Maps the labels of one set to those of another.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use moodstream::model::toml_mistake;
use serde::Deserialize;

use super::{DataError, Example};

/// Renames, groups and drops labels.
///
/// As a TOML file:
///
/// ```toml
/// labels = ["anger", "joy"]    # the resulting labels, in this order
/// drop = ["boredom"]           # labels without a counterpart
///
/// [map]
/// hate = "anger"
/// ```
///
/// Each of `labels` is mapped to itself. A label that the file does not list is an error when it occurs in the data.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelMap {
    labels: Vec<String>,
    drop: BTreeSet<String>,
    map: BTreeMap<String, String>,
    /// Every label is mapped to itself.
    identity: bool,
}

/// What is wrong with a mapping file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LabelMapError {
    /// It is not TOML or has unknown keys; the line and the mistake.
    #[error("{0}")]
    Form(String),
    /// It lists no labels.
    #[error("`labels` is empty: list the resulting labels")]
    Empty,
    /// A label is listed twice.
    #[error("`{0}` is in `labels` twice")]
    Twice(String),
    /// A label is mapped to one that is not listed.
    #[error("`{from}` is mapped to `{to}`, which is not in `labels`")]
    Unknown {
        /// The label of the set.
        from: String,
        /// The label that it is mapped to.
        to: String,
    },
    /// A label is both mapped and dropped.
    #[error("`{0}` is both mapped and dropped")]
    Both(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    labels: Vec<String>,
    #[serde(default)]
    drop: BTreeSet<String>,
    #[serde(default)]
    map: BTreeMap<String, String>,
}

impl LabelMap {
    /// The map that changes nothing.
    #[must_use]
    pub fn identity() -> Self {
        Self {
            identity: true,
            ..Self::default()
        }
    }

    /// Reads a mapping file.
    ///
    /// # Errors
    ///
    /// [`DataError`] if it can't be read or is not valid.
    pub fn read(path: &Path) -> Result<Self, DataError> {
        let text = fs::read_to_string(path).map_err(|source| DataError::Io {
            file: path.to_owned(),
            source,
        })?;
        Self::parse(&text).map_err(|fault| DataError::LabelMap {
            file: path.to_owned(),
            fault,
        })
    }

    fn parse(text: &str) -> Result<Self, LabelMapError> {
        let File { labels, drop, map } = toml::from_str(text)
            .map_err(|error| LabelMapError::Form(toml_mistake(text, error.span(), error.message())))?;
        if labels.is_empty() {
            return Err(LabelMapError::Empty);
        }
        if let Some(label) = labels
            .iter()
            .enumerate()
            .find_map(|(at, label)| labels[..at].contains(label).then_some(label))
        {
            return Err(LabelMapError::Twice(label.clone()));
        }
        for (from, to) in &map {
            if !labels.contains(to) {
                let (from, to) = (from.clone(), to.clone());
                return Err(LabelMapError::Unknown { from, to });
            }
            if drop.contains(from) {
                return Err(LabelMapError::Both(from.clone()));
            }
        }
        Ok(Self {
            labels,
            drop,
            map,
            identity: false,
        })
    }

    /// The resulting labels in order; empty for [`LabelMap::identity`].
    #[must_use]
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// The label that `label` is mapped to; `Some(None)` if it is dropped, `None` if the map does not have it.
    #[must_use]
    pub fn get<'a>(&'a self, label: &'a str) -> Option<Option<&'a str>> {
        if self.identity {
            return Some(Some(label));
        }
        if let Some(to) = self.map.get(label) {
            return Some(Some(to));
        }
        if self.drop.contains(label) {
            return Some(None);
        }
        self.labels.iter().any(|known| known == label).then_some(Some(label))
    }

    /// Maps the labels of an example, in the order of [`LabelMap::labels`], without repeats.
    ///
    /// # Errors
    ///
    /// [`DataError::Row`] for a label that the map does not have.
    pub fn apply(&self, example: &mut Example) -> Result<(), DataError> {
        let labels = self.mapped(&example.labels, example)?;
        let mut unknown = self.mapped(&example.unknown, example)?;
        unknown.retain(|label| !labels.contains(label));
        (example.labels, example.unknown) = (labels, unknown);
        Ok(())
    }

    fn mapped(&self, labels: &[String], example: &Example) -> Result<Vec<String>, DataError> {
        let mut mapped: Vec<String> = Vec::new();
        for label in labels {
            let to = self.get(label).ok_or_else(|| DataError::Row {
                origin: example.origin.clone(),
                detail: format!("the labels map does not know `{label}`: add it to `map`, `labels` or `drop`"),
            })?;
            if let Some(to) = to
                && !mapped.iter().any(|known| known == to)
            {
                mapped.push(to.to_owned());
            }
        }
        if !self.identity {
            mapped.sort_by_key(|label| self.labels.iter().position(|known| known == label));
        }
        Ok(mapped)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::data::Origin;

    fn mapped(map: &LabelMap, labels: &[&str]) -> Result<Vec<String>, String> {
        let origin = Origin {
            file: Path::new("a.tsv").into(),
            row: 3,
        };
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        let mut example = Example {
            text: "x".to_owned(),
            labels,
            unknown: Vec::new(),
            language: None,
            origin,
        };
        map.apply(&mut example)
            .map(|()| example.labels)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn labels_are_renamed_grouped_dropped_and_ordered() {
        let map = LabelMap::parse("labels = ['anger', 'joy']\ndrop = ['boredom']\n[map]\nhate = 'anger'\nlove = 'joy'")
            .unwrap();
        assert_eq!(
            mapped(&map, &["love", "joy", "hate", "boredom"]).unwrap(),
            ["anger", "joy"]
        );
        assert!(mapped(&map, &["boredom"]).unwrap().is_empty());
        assert!(
            mapped(&map, &["fear"])
                .unwrap_err()
                .starts_with("a.tsv:3: the labels map does not know `fear`")
        );
        assert_eq!(mapped(&LabelMap::identity(), &["fear"]).unwrap(), ["fear"]);
    }

    #[test]
    fn a_map_that_contradicts_itself_is_refused() {
        for (text, word) in [
            ("labels = []", "empty"),
            ("labels = ['a', 'a']", "twice"),
            ("labels = ['a']\n[map]\nb = 'c'", "not in `labels`"),
            ("labels = ['a']\ndrop = ['b']\n[map]\nb = 'a'", "both"),
            ("label = ['a']", "unknown field"),
        ] {
            assert!(LabelMap::parse(text).unwrap_err().to_string().contains(word), "{text}");
        }
    }
}
