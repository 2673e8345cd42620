//! Cleaning: converts a post's text into the form that the model expects.
//!
//! The same [`Profile`] must be used for training, evaluating and serving a model; the model folder names
//! it. A profile is composed of small steps:
//!
//! - [`mod@normalise`] (both profiles): NFC, HTML entities, control and zero-width characters, whitespace;
//! - [`mask`]: handles and links masked or removed, the `RT @x:` prefix dropped;
//! - [`emoji`] and [`words`] (`classical`): emoji as words, case, contractions, punctuation,
//!   numbers, stop words and lemmas.
//!
//! Invariants, checked by property tests: cleaning is idempotent, never panics, produces no control characters
//! and no whitespace except single inner spaces, and the length of its output is bounded by that of its input.

mod emoji;
mod lemma;
mod mask;
mod normalise;
mod words;

pub use normalise::normalise;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The maximum number of passes, so that the running time is linear in the text's length for any text.
const MAX_PASSES: usize = 8;

/// A named way of cleaning a post's text.
///
/// The names in settings and manifests are `twitter-roberta` and `classical`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Profile {
    /// The preprocessing of the Twitter RoBERTa family: handles become `@user` and links `http`; case,
    /// punctuation and emoji are kept.
    ///
    /// It follows the intention of [cardiffnlp's
    /// preprocessing](https://huggingface.co/cardiffnlp/twitter-roberta-base-emotion), but is not limited to words
    /// between spaces: `(@ann)` becomes `(@user)`, and a link without a scheme (`t.co/…`, `www.…`, `pic.twitter.com/…`) is
    /// a link. An email address is not a handle. The `RT @x:` prefix of a manual retweet is dropped, so that a copy has the
    /// same cleaned text and prediction as its original.
    #[default]
    TwitterRoberta,
    /// The full preprocessing of classical text classifiers, for English: links and handles removed, lower case, emoji and
    /// emoticons replaced by words, contractions expanded, repeated letters (`soooo`) reduced to two, punctuation and bare
    /// numbers removed, stop words (but not negations) removed, words reduced to their lemmas using WordNet's lists.
    Classical,
}

/// A profile name that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown cleaning profile `{name}`: use {}", known_names())]
pub struct UnknownProfile {
    /// The requested name.
    pub name: String,
}

fn known_names() -> String {
    Profile::ALL.map(|profile| format!("`{}`", profile.name())).join(" or ")
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 2] = [Self::TwitterRoberta, Self::Classical];

    /// Returns the profile with the given name.
    ///
    /// # Errors
    ///
    /// Returns [`UnknownProfile`] if no profile has that name.
    pub fn from_name(name: &str) -> Result<Self, UnknownProfile> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.name() == name)
            .ok_or_else(|| UnknownProfile { name: name.to_owned() })
    }

    /// The name used in settings and manifests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TwitterRoberta => "twitter-roberta",
            Self::Classical => "classical",
        }
    }

    /// Cleans a text. The result may be empty, for example if the text consists only of links and handles.
    ///
    /// The output of `twitter-roberta` is at most three times as long as `text`, plus a few bytes.
    /// That of `classical` is bounded by the length of emoji names.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        if *self == Self::Classical {
            return Steps::ALL.clean(text);
        }
        let mut text = mask::mask(normalise::normalise(text));
        // A mask may end up next to text that then reads as part of it. The rules handle the common cases. For all others,
        // cleaning is repeated until nothing changes, which makes it idempotent.
        for _ in 0..MAX_PASSES {
            if !mask::has_mask(&text) {
                break;
            }
            let next = mask::mask(normalise::normalise(&text));
            if next == text {
                break;
            }
            text = next;
        }
        text
    }
}

/// The optional steps of [`Profile::Classical`]. Disabling some of them serves only to measure their effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// Replace emoji and emoticons with words. Otherwise emoji are removed, and only the letters of emoticons remain.
    pub emoji_words: bool,
    /// Remove stop words, and replace contractions of `not` with that word.
    pub stop_words: bool,
    /// Reduce words to their lemmas.
    pub lemmas: bool,
}

impl Steps {
    /// All steps.
    pub const ALL: Self = Self {
        emoji_words: true,
        stop_words: true,
        lemmas: true,
    };

    /// Cleans a text. With all steps, the result is that of [`Profile::clean`] for [`Profile::Classical`].
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let mut text = self.pass(text);
        for _ in 0..MAX_PASSES {
            let next = self.pass(&text);
            if next == text {
                break;
            }
            text = next;
        }
        // Only once, at the end: lemmas are plain words, which another pass would not change.
        match self.lemmas {
            true => self.lemmatise(text),
            false => text,
        }
    }

    /// The last step by itself, on a text that the others have cleaned.
    #[must_use]
    pub fn lemmatise(&self, text: String) -> String {
        words::lemmatise(text, self)
    }

    fn pass(&self, text: &str) -> String {
        let removed = mask::remove(normalise::normalise(text));
        match self.emoji_words {
            true => words::reduce(&emoji::to_words(&removed), self),
            false => words::reduce(&removed, self),
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = UnknownProfile;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::from_name(name)
    }
}

impl TryFrom<String> for Profile {
    type Error = UnknownProfile;

    fn try_from(name: String) -> Result<Self, Self::Error> {
        Self::from_name(&name)
    }
}

impl From<Profile> for &'static str {
    fn from(profile: Profile) -> Self {
        profile.name()
    }
}

#[cfg(test)]
mod tests;
