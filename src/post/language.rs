//! Languages, limited to the registered primary subtags of BCP 47.

use std::{borrow::Cow, collections::HashMap, fmt, sync::LazyLock};

use regex::Regex;

/// Maps each registered primary subtag to the subtag that is stored. The file names its source.
static SUBTAGS: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
    include_str!("language_subtags.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .flat_map(str::split_ascii_whitespace)
        .map(|entry| entry.split_once('=').unwrap_or((entry, entry)))
        .chain(PRIVATE_USE.iter().map(|subtag| (&**subtag, &**subtag)))
        .collect()
});

/// `qaa` to `qtz`, registered as a range. Twitter uses some of them for posts without words.
static PRIVATE_USE: LazyLock<Vec<String>> = LazyLock::new(|| {
    ('a'..='t')
        .flat_map(|second| ('a'..='z').map(move |third| format!("q{second}{third}")))
        .collect()
});

/// The language of a post: a primary subtag of the [IANA Language Subtag Registry], in lower case.
///
/// Every rollup has a language column, so the set must be bounded for any input: about 8,800 subtags, of which a typical
/// stream uses 100 to 200.
///
/// [IANA Language Subtag Registry]: https://www.iana.org/assignments/language-subtag-registry
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Language(&'static str);

impl Language {
    /// Unknown.
    pub const UNDETERMINED: Self = Self("und");

    /// Returns the primary subtag of a language tag in any case (`pt` for `pt-BR` or `pt_BR`), or `None` if it is not
    /// registered. Deprecated codes are replaced by the registry's preferred ones (`iw` by `he`), and three-letter ISO 639
    /// codes by the two-letter subtag if there is one (`eng` by `en`).
    #[must_use]
    pub fn registered(tag: &str) -> Option<Self> {
        let primary = tag.trim().split(['-', '_']).next().unwrap_or_default();
        let lower = match primary.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => Cow::Owned(primary.to_ascii_lowercase()),
            false => Cow::Borrowed(primary),
        };
        SUBTAGS.get(&*lower).map(|subtag| Self(subtag))
    }

    /// Like [`Language::registered`], but returns [`Language::UNDETERMINED`] for an unregistered tag.
    #[must_use]
    pub fn of_tag(tag: &str) -> Self {
        Self::registered(tag).unwrap_or(Self::UNDETERMINED)
    }

    /// Identifies the language of a text, ignoring links, handles and hashtags. Returns `None` if the text is too short or
    /// ambiguous.
    ///
    /// Either two detectors must agree or whatlang must be confident. whatlang (trigrams) is cautious with short texts.
    /// whichlang (regression on n-grams) handles them well, but knows only sixteen languages and always names one.
    /// docs/benchmarks.md has their accuracy.
    #[must_use]
    pub fn identify(text: &str) -> Option<Self> {
        /// The minimum confidence at which whatlang is trusted alone, from 0 to 1.
        const SURE: f64 = 0.9;
        static NO_WORDS: LazyLock<Option<Regex>> =
            LazyLock::new(|| Regex::new(r"(?i)\bhttps?://\S+|\bwww\.\S+|[@#＠＃][\w.-]+|^RT\b").ok());
        let words = match NO_WORDS.as_ref() {
            Some(pattern) => pattern.replace_all(text, " "),
            None => Cow::Borrowed(text),
        };
        let found = whatlang::detect(&words)?;
        let code = found.lang().code();
        if found.confidence() < SURE && code != whichlang::detect_language(&words).three_letter_code() {
            return None;
        }
        match code {
            // Members of a macrolanguage whose subtag is the one in common use.
            "cmn" => Self::registered("zh"),
            "pes" => Self::registered("fa"),
            code => Self::registered(code),
        }
    }

    /// Whether it is a specific natural language: not undetermined, multiple, uncoded, no linguistic content, or a
    /// private-use code.
    #[must_use]
    pub fn is_natural(self) -> bool {
        !matches!(self.0, "und" | "mul" | "zxx" | "mis") && !PRIVATE_USE.iter().any(|subtag| subtag == self.0)
    }

    /// The subtag as a string slice.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Debug for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl PartialEq<&str> for Language {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn languages_are_registered_primary_subtags_without_deprecated_codes() {
        for (tag, expected) in [
            ("en", "en"),
            ("EN-gb", "en"),
            ("pt_BR", "pt"),
            ("in", "id"),
            ("iw", "he"),
            ("mo", "ro"),
            ("eng", "en"),
            ("ger", "de"),
            ("deu", "de"),
            ("ckb", "ckb"),
            ("zxx", "zxx"),
            ("art", "art"),
            ("qme", "qme"),
            (" und ", "und"),
        ] {
            assert_eq!(Language::of_tag(tag), expected, "{tag}");
        }
    }

    #[test]
    fn unregistered_tags_are_undetermined() {
        for tag in [
            "",
            "e",
            "e1",
            "日本",
            "qzxwvk",
            "averylongone",
            "-",
            "en us",
            "jp",
            "xx",
            "quz1",
            "root",
        ] {
            assert_eq!(Language::registered(tag), None, "{tag}");
            assert_eq!(Language::of_tag(tag), Language::UNDETERMINED);
        }
    }

    #[test]
    fn languages_are_identified_if_the_text_is_clear() {
        for (text, language) in [
            ("I would rather have stayed at home today", Some("en")),
            ("Estoy muy contento de que hayas venido a verme hoy", Some("es")),
            ("今日はとても楽しかったです", Some("ja")),
            ("今天天气很好，我们去公园吧", Some("zh")),
            ("сегодня очень хороший день, пойдём гулять", Some("ru")),
            ("오늘은 정말 기분이 좋아요", Some("ko")),
            ("@ann #hello https://ex.example/this-is-english", None),
            ("lol", None),
            ("12345 !!", None),
            ("", None),
        ] {
            assert_eq!(Language::identify(text).map(Language::as_str), language, "{text}");
        }
    }

    #[test]
    fn every_language_that_may_be_identified_is_registered() {
        for language in whatlang::Lang::all() {
            assert!(Language::registered(language.code()).is_some(), "{language:?}");
        }
    }

    #[test]
    fn every_stored_subtag_maps_to_itself() {
        assert!((8_000..9_500).contains(&SUBTAGS.len()), "{}", SUBTAGS.len());
        for (tag, subtag) in SUBTAGS.iter() {
            assert!((2..=3).contains(&tag.len()), "{tag}");
            assert_eq!(SUBTAGS.get(subtag), Some(subtag), "{tag}");
        }
    }
}
