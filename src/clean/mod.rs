//! Cleaning: a post's text as the model expects it.
//!
//! One [`Profile`] has to be used for training, judging and serving a model: the model folder names
//! it. A profile is composed of small steps:
//!
//! - [`mod@normalise`] (both profiles): NFC, HTML entities, control and zero-width characters, whitespace;
//! - [`mask`]: handles and links masked or removed, the `RT @x:` prefix dropped;
//! - [`emoji`] and [`words`] (`classical`): emoji as words, case, contractions, punctuation,
//!   numbers, stop words and lemmas.
//!
//! Laws, held by property tests: cleaning is idempotent, never panics, yields no control character
//! and no whitespace but single inner spaces, and its output is bounded by its input.

mod emoji;
mod lemma;
mod mask;
mod normalise;
mod words;

pub use normalise::normalise;

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How often cleaning is repeated at most, so that its time stays linear in the text whatever that is.
const MAX_PASSES: usize = 8;

/// A named way of cleaning a post's text.
///
/// Names, in settings and manifests: `twitter-roberta` and `classical`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum Profile {
    /// What the Twitter RoBERTa family was trained on: handles become `@user` and links `http`; case,
    /// punctuation and emoji are kept.
    ///
    /// As [cardiffnlp's preprocessing](https://huggingface.co/cardiffnlp/twitter-roberta-base-emotion)
    /// intends, but not only for words that stand between spaces: `(@ann)` becomes `(@user)`, and a
    /// link without scheme (`t.co/…`, `www.…`, `pic.twitter.com/…`) is a link. An email address is
    /// no handle. The prefix `RT @x:` of a manual retweet is dropped, so that a copy gets the
    /// prediction of its original, and both are classified once.
    #[default]
    TwitterRoberta,
    /// The full preprocessing of classical text classifiers, for English: links and handles removed,
    /// lower case, emoji and emoticons as words, contractions resolved, letters drawn out (`soooo`)
    /// cut to two, punctuation and bare numbers removed, stop words (but no negations) removed,
    /// words reduced to their lemmas by WordNet's lists.
    Classical,
}

/// A profile name that does not exist.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown cleaning profile `{name}`: use {}", known_names())]
pub struct UnknownProfile {
    /// The name that was asked for.
    pub name: String,
}

fn known_names() -> String {
    Profile::ALL.map(|profile| format!("`{}`", profile.name())).join(" or ")
}

impl Profile {
    /// All profiles.
    pub const ALL: [Self; 2] = [Self::TwitterRoberta, Self::Classical];

    /// The profile of that name.
    ///
    /// # Errors
    ///
    /// [`UnknownProfile`] for any other name than those of [`Profile::ALL`].
    pub fn from_name(name: &str) -> Result<Self, UnknownProfile> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.name() == name)
            .ok_or_else(|| UnknownProfile { name: name.to_owned() })
    }

    /// The name in settings and manifests.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::TwitterRoberta => "twitter-roberta",
            Self::Classical => "classical",
        }
    }

    /// The cleaned text. It may be empty: a text of links and handles alone has no words.
    ///
    /// The output of `twitter-roberta` is at most three times as long as `text`, and some bytes;
    /// that of `classical` is bounded by the length of emoji names.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        if *self == Self::Classical {
            return Steps::ALL.clean(text);
        }
        let mut text = mask::mask(normalise::normalise(text));
        // A mask may come to stand beside what reads on as a part of it. The rules know the common cases; for the others,
        // cleaning is repeated until it changes nothing, which makes it idempotent.
        for _ in 0..MAX_PASSES {
            if !mask::has_mask(&text) {
                break;
            }
            let again = mask::mask(normalise::normalise(&text));
            if again == text {
                break;
            }
            text = again;
        }
        text
    }
}

/// The steps of [`Profile::Classical`] that may be left out, to measure what each is worth. Nothing that serves does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Steps {
    /// Emoji and emoticons become words; else emoji go, and of emoticons what are letters stays.
    pub emoji_words: bool,
    /// Stop words are removed, contractions of `not` become that word.
    pub stop_words: bool,
    /// Words are reduced to their lemmas.
    pub lemmas: bool,
}

impl Steps {
    /// The whole profile.
    pub const ALL: Self = Self {
        emoji_words: true,
        stop_words: true,
        lemmas: true,
    };

    /// The cleaned text, as [`Profile::clean`] of [`Profile::Classical`] gives it where no step is left out.
    #[must_use]
    pub fn clean(&self, text: &str) -> String {
        let mut text = self.pass(text);
        for _ in 0..MAX_PASSES {
            let again = self.pass(&text);
            if again == text {
                break;
            }
            text = again;
        }
        // Once, at the end: lemmas are plain words, of which another pass would leave all.
        match self.lemmas {
            true => words::lemmatise(&text, self),
            false => text,
        }
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
