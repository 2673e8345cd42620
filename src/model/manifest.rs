//! `moodstream.toml`: settings of a model that Hugging Face's files do not cover.

use std::{collections::BTreeMap, ops::Range, path::Path, sync::Arc};

use serde::Deserialize;

use super::{ModelError, ProblemType, error::ManifestError};
use crate::post::Language;

/// The manifest. All fields are optional; unknown fields are errors.
#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The model's name, used as the first part of its id. Defaults to the folder's name.
    pub name: Option<String>,
    /// The cleaning profile that the model was trained with. Defaults to `twitter-roberta`.
    pub profile: Option<String>,
    /// How logits become scores. Overrides `config.json`, which may omit it or be wrong.
    pub problem_type: Option<ProblemType>,
    /// The emotion of a post for which no label of a multi-label model reaches its threshold. Defaults to `neutral` if
    /// that is a label, and otherwise to the label with the highest score.
    pub fallback: Option<Arc<str>>,
    /// The divisor of the logits before softmax or sigmoid. Defaults to 1.
    pub temperature: Option<f64>,
    /// The languages in which the model was evaluated, as BCP 47 tags with its macro-F1 from 0 to 1. Unless empty, posts in
    /// other languages are marked as unsupported.
    #[serde(default)]
    pub languages: BTreeMap<Arc<str>, f64>,
    /// Named groups of labels. Defaults to [`default_groups`](super::groups::default_groups).
    pub groups: Option<BTreeMap<Arc<str>, Vec<Arc<str>>>>,
    /// The minimum score at which a multi-label model's label applies. Defaults to 0.5 for labels not listed.
    #[serde(default)]
    pub thresholds: BTreeMap<Arc<str>, f64>,
}

impl Manifest {
    pub(super) fn parse(path: &Path, bytes: &[u8], labels: &[Arc<str>]) -> Result<Self, ModelError> {
        let manifest = Self::from_toml(bytes).map_err(ModelError::invalid(path))?;
        manifest.check(labels).map_err(ModelError::invalid(path))?;
        Ok(manifest)
    }

    fn from_toml(bytes: &[u8]) -> Result<Self, ManifestError> {
        let text = std::str::from_utf8(bytes).map_err(ManifestError::Utf8)?;
        toml::from_str(text).map_err(|error| ManifestError::Toml(toml_mistake(text, error.span(), error.message())))
    }

    fn check(&self, labels: &[Arc<str>]) -> Result<(), ManifestError> {
        let known = |label: &Arc<str>, place: &str| {
            if labels.contains(label) {
                return Ok(());
            }
            Err(ManifestError::UnknownLabel {
                place: place.to_owned(),
                label: Arc::clone(label),
                labels: labels.join(", "),
            })
        };
        if let Some(fallback) = &self.fallback {
            known(fallback, "fallback")?;
        }
        for (group, members) in self.groups.iter().flatten() {
            for label in members {
                known(label, &format!("group {group:?}"))?;
            }
        }
        for (label, threshold) in &self.thresholds {
            known(label, "thresholds")?;
            if !(0.0..=1.0).contains(threshold) {
                return Err(ManifestError::Threshold {
                    label: Arc::clone(label),
                    threshold: *threshold,
                });
            }
        }
        for (language, &macro_f1) in &self.languages {
            if Language::registered(language).is_none() {
                return Err(ManifestError::Language(Arc::clone(language)));
            }
            if !(0.0..=1.0).contains(&macro_f1) {
                return Err(ManifestError::MacroF1 {
                    language: Arc::clone(language),
                    macro_f1,
                });
            }
        }
        if let Some(temperature) = self.temperature.filter(|t| !(t.is_finite() && *t > 0.0)) {
            return Err(ManifestError::Temperature(temperature));
        }
        // The name is part of a row's model_id, where `@` separates it from the hash.
        if let Some(name) = self
            .name
            .as_deref()
            .filter(|name| name.is_empty() || name.contains('@') || name.contains(char::is_control))
        {
            return Err(ManifestError::Name(name.to_owned()));
        }
        Ok(())
    }
}

/// Formats a TOML error as one line. The parser's own rendering spans several lines and includes a source excerpt.
#[must_use]
pub fn toml_mistake(text: &str, span: Option<Range<usize>>, message: &str) -> String {
    let before = text.as_bytes().iter().take(span.map_or(0, |span| span.start));
    let line = 1 + before.filter(|&&byte| byte == b'\n').count();
    format!("line {line}: {message}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(text: &str) -> Result<Manifest, String> {
        let labels = ["joy".into(), "anger".into(), "neutral".into()];
        Manifest::parse(Path::new("moodstream.toml"), text.as_bytes(), &labels)
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn a_complete_manifest_is_read() {
        let manifest = parse(
            "name = \"moods\"\nprofile = \"classical\"\nproblem_type = \"multi_label_classification\"\nfallback = \"neutral\"\ntemperature = 1.5\n\
             [groups]\npositive = [\"joy\"]\n[thresholds]\njoy = 0.3\n[languages]\nen = 0.66\npt-BR = 0.4\n",
        )
        .unwrap();
        assert_eq!(manifest.problem_type, Some(ProblemType::MultiLabelClassification));
        assert_eq!(manifest.thresholds["joy"], 0.3);
        assert_eq!(manifest.languages["en"], 0.66);
        assert_eq!(parse("").unwrap(), Manifest::default());
    }

    #[test]
    fn mistakes_are_named_in_one_line() {
        for (text, reason) in [
            ("nmae = \"x\"", "unknown field `nmae`"),
            ("name = \"a\"\n\nprofil = \"x\"", "line 3"),
            ("fallback = \"calm\"", "fallback names \"calm\""),
            ("[groups]\npositive = [\"glee\"]", "group \"positive\" names \"glee\""),
            ("[thresholds]\njoy = 1.5", "between 0 and 1"),
            ("[thresholds]\nglee = 0.5", "not a label"),
            ("[languages]\nen = 66", "between 0 and 1"),
            ("[languages]\nenglish = 0.66", "not a registered BCP 47 tag"),
            ("temperature = 0.0", "above 0"),
            ("temperature = nan", "above 0"),
            ("name = \"a@b\"", "must not be empty"),
            ("problem_type = \"regression\"", "unknown variant"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
            assert_eq!(error.lines().count(), 1, "{error}");
        }
    }
}
