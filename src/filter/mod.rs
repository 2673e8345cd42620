//! Which posts are wanted: languages and tracked subjects.
//!
//! [`LanguageFilter`] and [`SubjectSet`] are checked when they are built, so that invalid settings are reported before work
//! starts. [`PostFilter`] combines them.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    fmt::Write as _,
    sync::Arc,
};

use regex::{RegexSet, RegexSetBuilder};
use serde::{Deserialize, Serialize};
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

use crate::post::{Language, Post};

/// The maximum length of a subject's name, in characters: names are labels in tables and dashboards.
pub const MAX_SUBJECT_NAME: usize = 64;
/// The maximum number of subjects. Each adds rows to every rollup that it occurs in.
pub const MAX_SUBJECTS: usize = 1_000;
/// The maximum memory for compiled patterns, in bytes.
const MAX_PATTERN_BYTES: usize = 64 << 20;
/// Scripts that are written without spaces or that attach particles to words. A keyword in one of them matches anywhere, and
/// their characters end a word of any other script.
const UNSPACED: &str =
    r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Hangul}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}";

/// A filter that can't be built from its settings.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum FilterError {
    /// An unregistered language.
    #[error("`{0}` is not a language: use registered BCP 47 subtags, such as `en`, or `und` for posts without one")]
    Language(String),
    /// A subject with an empty name: `''` stands for all posts.
    #[error("subject {0} has an empty name, which stands for all posts: give it a name")]
    EmptyName(usize),
    /// A name that is too long, or that has spaces at its ends or control characters.
    #[error(
        "subject `{name}`: a name has at most {MAX_SUBJECT_NAME} characters, no spaces at its ends and no control characters"
    )]
    Name {
        /// The subject's name.
        name: String,
    },
    /// Two subjects with the same name.
    #[error("subject `{name}` is defined twice: merge the two")]
    Duplicate {
        /// The subject's name.
        name: String,
    },
    /// A subject without anything to match.
    #[error("subject `{name}` has no keywords, no hashtags and no regex: it could never match")]
    Nothing {
        /// The subject's name.
        name: String,
    },
    /// A blank keyword or hashtag.
    #[error("subject `{name}`: a keyword or hashtag is empty")]
    Blank {
        /// The subject's name.
        name: String,
    },
    /// A regex that is empty.
    #[error("subject `{name}`: its regex is empty and would match every post")]
    EmptyRegex {
        /// The subject's name.
        name: String,
    },
    /// A regex that is not valid, or too large.
    #[error("subject `{name}`: {error}")]
    Regex {
        /// The subject's name.
        name: String,
        /// The compiler's error.
        error: RegexError,
    },
    /// All patterns together are too large.
    #[error("the keywords and regexes of all subjects are too large together: {0}")]
    TooLarge(RegexError),
    /// More than [`MAX_SUBJECTS`].
    #[error("{0} subjects are too many: at most {MAX_SUBJECTS}")]
    TooMany(usize),
    /// Only tracked posts are wanted, and nothing is tracked.
    #[error("`only_tracked` without subjects would drop every post: add subjects, or set it to false")]
    NothingTracked,
}

/// An error of the regex compiler, displayed on one line instead of several.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}", one_line(.0))]
pub struct RegexError(regex::Error);

/// The languages to keep.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LanguageFilter {
    /// Empty for all languages.
    subtags: BTreeSet<Language>,
}

impl LanguageFilter {
    /// Creates the set from language tags (`pt-BR` counts as `pt`). Without any tags, it contains all languages.
    ///
    /// # Errors
    ///
    /// Returns [`FilterError::Language`] if a tag is not registered.
    pub fn new<T: AsRef<str>>(tags: impl IntoIterator<Item = T>) -> Result<Self, FilterError> {
        let language = |tag: T| {
            let tag = tag.as_ref();
            Language::registered(tag).ok_or_else(|| FilterError::Language(tag.to_owned()))
        };
        let subtags = tags.into_iter().map(language).collect::<Result<_, _>>()?;
        Ok(Self { subtags })
    }

    /// Whether to keep posts in this language. Posts without a known language are kept only if `und` is listed or all
    /// languages are kept.
    #[must_use]
    pub fn allows(&self, language: Language) -> bool {
        self.subtags.is_empty() || self.subtags.contains(&language)
    }
}

/// One `[[subjects]]` of the settings. A post belongs to the subject if any of its parts matches.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SubjectSettings {
    /// The name in tables and dashboards. It must not be empty: `''` stands for all posts.
    pub name: String,
    /// Words or phrases, found as whole words in any case; in scripts without spaces, anywhere.
    #[serde(default)]
    pub keywords: Vec<String>,
    /// Hashtags, with or without `#`, in any case.
    #[serde(default)]
    pub hashtags: Vec<String>,
    /// A regular expression ([syntax](https://docs.rs/regex/#syntax)), in any case unless it contains `(?-i)`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
}

/// The tracked subjects.
#[derive(Debug, Clone)]
pub struct SubjectSet {
    /// Sorted, so that ascending positions are sorted names.
    names: Vec<Arc<str>>,
    patterns: RegexSet,
    /// The subject, as position in `names`, of each pattern.
    subject_of: Vec<usize>,
    /// The subjects of each hashtag (NFC, lower case, without `#`).
    hashtags: HashMap<String, Vec<usize>>,
}

impl Default for SubjectSet {
    fn default() -> Self {
        Self {
            names: Vec::new(),
            patterns: RegexSet::empty(),
            subject_of: Vec::new(),
            hashtags: HashMap::new(),
        }
    }
}

impl SubjectSet {
    /// Builds the set.
    ///
    /// # Errors
    ///
    /// [`FilterError`] naming the subject at fault.
    pub fn new(subjects: &[SubjectSettings]) -> Result<Self, FilterError> {
        if subjects.len() > MAX_SUBJECTS {
            return Err(FilterError::TooMany(subjects.len()));
        }
        for (at, subject) in subjects.iter().enumerate() {
            check_name(&subject.name, at + 1)?;
        }
        let mut sorted: Vec<&SubjectSettings> = subjects.iter().collect();
        sorted.sort_by(|a, b| a.name.cmp(&b.name));
        if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
            return Err(FilterError::Duplicate {
                name: pair[0].name.clone(),
            });
        }

        let mut patterns = Vec::new();
        let mut subject_of = Vec::new();
        let mut hashtags: HashMap<String, Vec<usize>> = HashMap::new();
        for (at, subject) in sorted.iter().enumerate() {
            for pattern in patterns_of(subject)? {
                patterns.push(pattern);
                subject_of.push(at);
            }
            for hashtag in &subject.hashtags {
                let key = hashtag_key(hashtag.trim());
                if key.is_empty() {
                    return Err(FilterError::Blank {
                        name: subject.name.clone(),
                    });
                }
                hashtags.entry(key).or_default().push(at);
            }
        }
        let patterns = compile(&patterns).map_err(FilterError::TooLarge)?;
        let names = sorted.iter().map(|subject| subject.name.as_str().into()).collect();
        Ok(Self {
            names,
            patterns,
            subject_of,
            hashtags,
        })
    }

    /// The names, sorted.
    #[must_use]
    pub fn names(&self) -> &[Arc<str>] {
        &self.names
    }

    /// The subjects that match a post's text, the text that it quotes, or its hashtags: sorted, without duplicates.
    #[must_use]
    pub fn matches(&self, post: &Post) -> Vec<Arc<str>> {
        if self.names.is_empty() {
            return Vec::new();
        }
        let mut found = Vec::new();
        if !self.patterns.is_empty() {
            for text in [Some(&post.text), post.quoted_text.as_ref()].into_iter().flatten() {
                found.extend(
                    self.patterns
                        .matches(&nfc(text))
                        .iter()
                        .map(|pattern| self.subject_of[pattern]),
                );
            }
        }
        if !self.hashtags.is_empty() {
            for hashtag in &post.hashtags {
                found.extend(self.hashtags.get(&hashtag_key(hashtag)).into_iter().flatten());
            }
        }
        found.sort_unstable();
        found.dedup();
        found
            .into_iter()
            .map(|subject| Arc::clone(&self.names[subject]))
            .collect()
    }
}

/// The language filter and the subjects, combined.
#[derive(Debug, Clone, Default)]
pub struct PostFilter {
    languages: LanguageFilter,
    subjects: SubjectSet,
    only_tracked: bool,
}

impl PostFilter {
    /// Combines the two. With `only_tracked`, posts that match no subject are not wanted.
    ///
    /// # Errors
    ///
    /// [`FilterError::NothingTracked`] for `only_tracked` without subjects.
    pub fn new(languages: LanguageFilter, subjects: SubjectSet, only_tracked: bool) -> Result<Self, FilterError> {
        if only_tracked && subjects.names.is_empty() {
            return Err(FilterError::NothingTracked);
        }
        Ok(Self {
            languages,
            subjects,
            only_tracked,
        })
    }

    /// The subjects of a wanted post (often none); `None` if it is not wanted.
    #[must_use]
    pub fn admit(&self, post: &Post) -> Option<Vec<Arc<str>>> {
        if !self.languages.allows(post.lang) {
            return None;
        }
        let subjects = self.subjects.matches(post);
        (!self.only_tracked || !subjects.is_empty()).then_some(subjects)
    }
}

fn check_name(name: &str, position: usize) -> Result<(), FilterError> {
    if name.trim().is_empty() {
        return Err(FilterError::EmptyName(position));
    }
    let fits = name.chars().count() <= MAX_SUBJECT_NAME && name.trim() == name && !name.chars().any(char::is_control);
    if fits {
        Ok(())
    } else {
        Err(FilterError::Name {
            name: name.escape_debug().take(2 * MAX_SUBJECT_NAME).collect(),
        })
    }
}

/// At most two patterns: one for all keywords, one for the regex. Each is compiled separately first, so that an error names
/// its subject.
fn patterns_of(subject: &SubjectSettings) -> Result<Vec<String>, FilterError> {
    let SubjectSettings {
        name,
        keywords,
        hashtags,
        regex,
    } = subject;
    if keywords.is_empty() && hashtags.is_empty() && regex.is_none() {
        return Err(FilterError::Nothing { name: name.clone() });
    }
    let mut patterns = Vec::new();
    if !keywords.is_empty() {
        let mut alternatives = Vec::with_capacity(keywords.len());
        for keyword in keywords {
            alternatives.push(keyword_pattern(keyword).ok_or_else(|| FilterError::Blank { name: name.clone() })?);
        }
        patterns.push(alternatives.join("|"));
    }
    if let Some(regex) = regex {
        if regex.trim().is_empty() {
            return Err(FilterError::EmptyRegex { name: name.clone() });
        }
        patterns.push(regex.clone());
    }
    for pattern in &patterns {
        compile(std::slice::from_ref(pattern)).map_err(|error| FilterError::Regex {
            name: name.clone(),
            error,
        })?;
    }
    Ok(patterns)
}

/// The pattern of a keyword between word boundaries, if its script has any; `None` if it is blank.
fn keyword_pattern(keyword: &str) -> Option<String> {
    let keyword = nfc(keyword);
    let words: Vec<&str> = keyword.split_whitespace().collect();
    let first = words.first()?.chars().next()?;
    let last = words.last()?.chars().next_back()?;
    let mut pattern = String::new();
    // `\b` suffices only for scripts with spaces: between kana and Latin letters it finds no boundary.
    if has_boundary(first) {
        let _ = write!(pattern, r"(?:\A|[\W{UNSPACED}])");
    }
    for (at, word) in words.iter().enumerate() {
        if at > 0 {
            pattern.push_str(r"\s+");
        }
        // Posts from phones have the typographic apostrophe, settings rarely do.
        pattern.push_str(&regex::escape(word).replace(['\'', '’'], "['’]"));
    }
    if has_boundary(last) {
        let _ = write!(pattern, r"(?:\z|[\W{UNSPACED}])");
    }
    Some(pattern)
}

/// Whether a word that starts or ends with `c` has a boundary there. Emoji and signs (`c++`) have none, nor do the scripts of
/// [`UNSPACED`], whose blocks are listed here.
fn has_boundary(c: char) -> bool {
    let unspaced = matches!(c,
        '\u{E00}'..='\u{109F}' | '\u{1100}'..='\u{11FF}' | '\u{1780}'..='\u{17FF}' | '\u{2E80}'..='\u{A4CF}'
        | '\u{A960}'..='\u{A97F}' | '\u{AA60}'..='\u{AA7F}' | '\u{AC00}'..='\u{D7FF}' | '\u{F900}'..='\u{FAFF}'
        | '\u{FF66}'..='\u{FFDC}' | '\u{20000}'..='\u{3FFFF}');
    (c.is_alphanumeric() || c == '_') && !unspaced
}

fn compile(patterns: &[String]) -> Result<RegexSet, RegexError> {
    RegexSetBuilder::new(patterns)
        .case_insensitive(true)
        .size_limit(MAX_PATTERN_BYTES)
        .build()
        .map_err(RegexError)
}

/// Formats a compiler's error, whose last line says what is wrong, on one line.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.strip_prefix("error: ")
        .map_or_else(|| last.to_owned(), |detail| format!("bad regex: {detail}"))
}

fn hashtag_key(hashtag: &str) -> String {
    nfc(hashtag.trim_start_matches(['#', '＃'])).to_lowercase()
}

fn nfc(text: &str) -> Cow<'_, str> {
    match is_nfc_quick(text.chars()) {
        IsNormalized::Yes => Cow::Borrowed(text),
        _ => Cow::Owned(text.nfc().collect()),
    }
}

#[cfg(test)]
mod tests;
