//! The languages that a model was judged in.

use std::{collections::BTreeMap, sync::Arc};

use crate::post::Language;

/// The emotion that is stored for a post in a language that the model doesn't support, where the settings ask for it.
pub const UNSUPPORTED: &str = "unsupported";

/// The languages that a model's manifest lists, with its macro-F1 in each; empty where it lists none.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Languages(BTreeMap<Language, f64>);

impl Languages {
    /// The languages of a manifest. Of the varieties of one language (`pt-BR`, `pt-MZ`) the lowest figure counts.
    /// Tags that aren't registered are left out: [`Manifest`](super::Manifest) refuses them.
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

    /// Whether the model supports a language. None where that can't be told: the post's language isn't known, or the
    /// manifest lists no languages.
    #[must_use]
    pub fn support(&self, language: Language) -> Option<bool> {
        let is_known = !self.0.is_empty() && language.is_natural();
        is_known.then(|| self.0.contains_key(&language))
    }

    /// Each language with the model's macro-F1 in it, from 0 to 1.
    pub fn iter(&self) -> impl Iterator<Item = (Language, f64)> {
        self.0.iter().map(|(&language, &figure)| (language, figure))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn languages(figures: &[(&str, f64)]) -> Languages {
        Languages::new(&figures.iter().map(|&(tag, figure)| (tag.into(), figure)).collect())
    }

    #[test]
    fn varieties_of_a_language_are_one_language_with_the_lowest_figure() {
        let languages = languages(&[("en", 0.66), ("pt-BR", 0.39), ("pt-MZ", 0.42)]);
        let read: Vec<_> = languages
            .iter()
            .map(|(language, figure)| (language.as_str(), figure))
            .collect();
        assert_eq!(read, [("en", 0.66), ("pt", 0.39)]);
    }

    #[test]
    fn support_is_told_only_where_it_is_known() {
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
        assert_eq!(Languages::default().support(Language::of_tag("th")), None);
    }
}
