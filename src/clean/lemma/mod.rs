//! The lemmas of English words, by WordNet's rules and word lists: running, ran and runs are `run`, mice are `mouse`.
//!
//! A word is reduced as NLTK's `WordNetLemmatizer` does it, first as a noun and then as a verb: an exception list knows the
//! irregular forms; of all others an ending is replaced where WordNet has what comes of it, and of several such words the
//! shortest is taken. What differs from NLTK:
//!
//! - Nouns of two letters and those on `ss` are left alone, as by WordNet's own morphy: `boss` is no plural of `bos`.
//! - It is repeated until nothing changes, so that the lemma of a lemma is itself.
//! - A few forms of which WordNet knows another, rare word as well are [`PREFERRED`] otherwise.
//!
//! `src/clean/wordnet` has the word lists, their licence and the script that makes them.

mod table;

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::LazyLock,
};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use self::table::Words;

/// An ending and what replaces it.
type Rule = (&'static str, &'static str);

const NOUN_RULES: [Rule; 9] = [
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
];

const VERB_RULES: [Rule; 8] = [
    ("s", ""),
    ("ies", "y"),
    ("es", "e"),
    ("es", ""),
    ("ed", "e"),
    ("ed", ""),
    ("ing", "e"),
    ("ing", ""),
];

static NOUNS: Words = Words(include_bytes!(concat!(env!("OUT_DIR"), "/nouns.table")));
static VERBS: Words = Words(include_bytes!(concat!(env!("OUT_DIR"), "/verbs.table")));

/// Forms that posts on feelings use in another sense than the rare word that WordNet's lists lead to. Comparatives are neither
/// nouns nor verbs, so no rule is for them.
const PREFERRED: [(&str, &str); 10] = [
    ("better", "good"),
    ("best", "good"),
    ("worse", "bad"),
    ("worst", "bad"),
    ("felt", "feel"),
    ("saw", "see"),
    ("fell", "fall"),
    ("feed", "feed"),
    ("fed", "feed"),
    ("ground", "ground"),
];

/// Hashes words: every word of every post is looked up, and they are short.
#[derive(Debug, Default)]
struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// What ends a string; the keys are single ones.
    fn write_u8(&mut self, _: u8) {}
}

/// The lemma of each irregular form.
static IRREGULAR: LazyLock<HashMap<&str, &str, BuildHasherDefault<WordHasher>>> = LazyLock::new(|| {
    let rows = include_str!("../wordnet/irregular.tsv").lines();
    let of_wordnet = rows.filter_map(|row| row.split_once('\t'));
    of_wordnet.chain(PREFERRED).collect()
});

/// Rounds until nothing changes: three are the most that any word of WordNet takes.
const MAX_ROUNDS: usize = 8;

/// The lemma of a lower-case word. A word that WordNet does not know is its own, and so is one of other letters than a to z.
pub(super) fn lemma(word: &str) -> Cow<'_, str> {
    if !word.bytes().all(|byte| byte.is_ascii_lowercase()) {
        return Cow::Borrowed(word);
    }
    let mut lemma = Cow::Borrowed(word);
    for _ in 0..MAX_ROUNDS {
        lemma = match IRREGULAR.get(&*lemma) {
            Some(known) if *known == lemma => break,
            Some(known) => Cow::Borrowed(*known),
            None => match regular(&lemma) {
                Some(form) => Cow::Owned(form),
                None => break,
            },
        };
    }
    lemma
}

/// The lemma of a form that is not irregular, first as a noun, then as a verb; `None` where that is the form itself.
fn regular(word: &str) -> Option<String> {
    let noun = match word.len() <= 2 || word.ends_with("ss") {
        true => None,
        false => shortest(word, &NOUN_RULES, NOUNS),
    };
    let form = noun.as_deref().unwrap_or(word);
    match IRREGULAR.get(form) {
        Some(known) => Some((*known).to_owned()),
        None => shortest(form, &VERB_RULES, VERBS).or(noun),
    }
}

/// The shortest of the known words that the rules make of `word`, the first of equal ones; `None` where that is `word`.
fn shortest(word: &str, rules: &[Rule], known: Words) -> Option<String> {
    // All rules are for these endings.
    if !["s", "ed", "ing", "men"].iter().any(|ending| word.ends_with(ending)) {
        return None;
    }
    let mut best: Option<Cow<'_, str>> = None;
    for &(ending, instead) in rules {
        let Some(beginning) = word.strip_suffix(ending) else {
            continue;
        };
        let length = beginning.len() + instead.len();
        if best.as_ref().is_some_and(|best| best.len() <= length) {
            continue;
        }
        let form = match instead {
            "" => Cow::Borrowed(beginning),
            _ => Cow::Owned([beginning, instead].concat()),
        };
        // A form as long as the word comes behind it.
        if known.contains(&form) && (length < word.len() || !known.contains(word)) {
            best = Some(form);
        }
    }
    best.map(Cow::into_owned)
}

#[cfg(test)]
mod tests;
