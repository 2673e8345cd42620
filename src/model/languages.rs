//! The languages in which a model was evaluated.

use std::{collections::BTreeMap, sync::Arc};

use crate::post::Language;

/// The emotion stored for a post in an unsupported language, if the settings ask for that.
pub const UNSUPPORTED: &str = "unsupported";

/// The languages listed in a model's manifest, each with the model's macro-F1. Empty if the manifest lists none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SupportedLanguages(BTreeMap<Language, f64>);

impl SupportedLanguages {
    /// Creates the list from a manifest's figures. For varieties of the same language (`pt-BR`, `pt-MZ`), the lowest figure
    /// is used. Unregistered tags are ignored: [`Manifest`](super::Manifest) refuses them.
    #[must_use]
    pub fn new(figures: &BTreeMap<Arc<str>, f64>) -> Self {
        let mut languages = BTreeMap::new();
        for (tag, &figure) in figures {
            if let Some(language) = Language::registered(tag) {
                let lowest = languages.entry(language).or_insert(figure);
                *lowest = figure.min(*lowest);
            }
        }
        Self(languages)
    }

    /// Whether the model supports a language. Returns `None` if that is unknown: the post's language is undetermined, or
    /// the manifest lists no languages.
    #[must_use]
    pub fn support(&self, language: Language) -> Option<bool> {
        let is_known = !self.0.is_empty() && language.is_natural();
        is_known.then(|| self.0.contains_key(&language))
    }

    /// Returns each language with the model's macro-F1, from 0 to 1.
    pub fn iter(&self) -> impl Iterator<Item = (Language, f64)> {
        self.0.iter().map(|(&language, &figure)| (language, figure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn languages(figures: &[(&str, f64)]) -> SupportedLanguages {
        SupportedLanguages::new(&figures.iter().map(|&(tag, figure)| (tag.into(), figure)).collect())
    }

    #[test]
    fn varieties_of_a_language_are_merged_with_the_lowest_figure() {
        let languages = languages(&[("en", 0.66), ("pt-BR", 0.39), ("pt-MZ", 0.42)]);
        let read: Vec<_> = languages
            .iter()
            .map(|(language, figure)| (language.as_str(), figure))
            .collect();
        assert_eq!(read, [("en", 0.66), ("pt", 0.39)]);
    }

    #[test]
    fn support_is_unknown_without_a_language_or_a_list() {
        let listed = languages(&[("en", 0.66), ("zh", 0.5)]);
        for (language, support) in [
            ("en", Some(true)),
            ("zh-TW", Some(true)),
            ("th", Some(false)),
            ("und", None),
            ("zxx", None),
            ("mul", None),
            ("qme", None),
        ] {
            assert_eq!(listed.support(Language::of_tag(language)), support, "{language}");
        }
        assert_eq!(SupportedLanguages::default().support(Language::of_tag("th")), None);
    }
}
