//! The lemmas of English words, by WordNet's rules and word lists: `run` for running, ran and runs, `mouse` for mice.
//!
//! A word is reduced as by NLTK's `WordNetLemmatizer`, first as a noun and then as a verb. Irregular forms are in an exception
//! list. In all other forms an ending is replaced if WordNet has the resulting word; if it has several, the shortest is used.
//! The differences from NLTK:
//!
//! - Nouns of two letters or ending in `ss` are unchanged, as in WordNet's own morphy: `boss` is not a plural of `bos`.
//! - The reduction is repeated until nothing changes, so that the lemma of a lemma is itself.
//! - For a few forms, [`PREFERRED`] names the common word instead of a rare one that WordNet also has.
//!
//! `src/clean/wordnet` has the word lists, their licence and the script that generates them.

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

/// Forms that WordNet's lists would reduce to a word that is rare in posts about feelings. Comparatives are neither nouns nor
/// verbs, so no rule applies to them.
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

/// Hashes words with XXH3, which is fast for short keys: every word of every post is looked up.
#[derive(Debug, Default)]
pub(super) struct WordHasher(u64);

impl Hasher for WordHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = xxh3_64_with_seed(bytes, self.0);
    }

    /// Ignores the terminator of a string, since each key is a single string.
    fn write_u8(&mut self, _: u8) {}
}

static IRREGULAR: LazyLock<Irregular> = LazyLock::new(|| {
    let rows = include_str!("../wordnet/irregular.tsv").lines();
    let of_wordnet = rows.filter_map(|row| row.split_once('\t'));
    Irregular::new(of_wordnet.chain(PREFERRED))
});

/// The size of the filter of irregular forms, in words of 64 bits.
const FILTER: usize = 1024;

/// Irregular forms and their lemmas.
struct Irregular {
    lemmas: HashMap<&'static str, &'static str, BuildHasherDefault<WordHasher>>,
    /// A bit for each form. It excludes most words, and unlike the map it fits into the L1 cache.
    filter: [u64; FILTER],
}

impl Irregular {
    fn new(lemmas: impl Iterator<Item = (&'static str, &'static str)>) -> Self {
        let lemmas: HashMap<_, _, _> = lemmas.collect();
        let mut filter = [0; FILTER];
        for form in lemmas.keys() {
            let (at, bit) = Self::place(form);
            filter[at] |= bit;
        }
        Self { lemmas, filter }
    }

    /// A form's place in the filter, by its length and its first and last letters.
    fn place(form: &str) -> (usize, u64) {
        let letters = match form.as_bytes() {
            [one, two, .., three, four] => u32::from_le_bytes([*one, *two, *three, *four]),
            _ => 0,
        };
        // Fibonacci hashing (Knuth, The Art of Computer Programming 6.4).
        let hash = (u64::from(letters) << 8 | form.len() as u64).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        ((hash >> 54) as usize % FILTER, 1 << (hash >> 48 & 63))
    }

    /// The lemma of an irregular form.
    fn lemma(&self, form: &str) -> Option<&'static str> {
        let (at, bit) = Self::place(form);
        match self.filter[at] & bit {
            0 => None,
            _ => self.lemmas.get(form).copied(),
        }
    }
}

/// The maximum number of rounds. No word of WordNet needs more than three.
const MAX_ROUNDS: usize = 8;

/// The lemma of a word of the letters a to z in lower case. `None` if it is the word itself, as for words that WordNet does not
/// have.
pub(super) fn lemma(word: &str) -> Option<Cow<'_, str>> {
    let mut lemma = once(word)?;
    for _ in 1..MAX_ROUNDS {
        match once(&lemma) {
            Some(next) => lemma = Cow::Owned(next.into_owned()),
            None => break,
        }
    }
    (lemma != word).then_some(lemma)
}

/// One round.
fn once(word: &str) -> Option<Cow<'_, str>> {
    match IRREGULAR.lemma(word) {
        Some(known) => (known != word).then_some(Cow::Borrowed(known)),
        None => regular(word),
    }
}

/// The lemma of a regular form, first as a noun, then as a verb. `None` if it is the form itself.
fn regular(word: &str) -> Option<Cow<'_, str>> {
    if !may_be_inflected(word) {
        return None;
    }
    let noun = match word.len() <= 2 || word.ends_with("ss") {
        true => None,
        false => shortest(word, &NOUN_RULES, NOUNS),
    };
    let Some(noun) = noun else {
        return shortest(word, &VERB_RULES, VERBS);
    };
    if let Some(known) = IRREGULAR.lemma(&noun) {
        return Some(Cow::Borrowed(known));
    }
    match shortest(&noun, &VERB_RULES, VERBS) {
        Some(verb) => Some(Cow::Owned(verb.into_owned())),
        None => Some(noun),
    }
}

/// Whether a rule may apply to the word: all rules are for forms ending in `s`, `ed`, `ing` or `men`.
fn may_be_inflected(word: &str) -> bool {
    matches!(
        word.as_bytes(),
        [.., b's'] | [.., b'e', b'd'] | [.., b'i', b'n', b'g'] | [.., b'm', b'e', b'n']
    )
}

/// Like [`str::ends_with`], but faster, since most endings differ in their last letters.
fn ends_with(word: &str, ending: &str) -> bool {
    let mut letters = word.bytes().rev().zip(ending.bytes().rev());
    word.len() >= ending.len() && letters.all(|(one, other)| one == other)
}

/// The shortest of the known words that the rules derive from `word`, the first of those of equal length. `None` if it is
/// `word`.
fn shortest<'a>(word: &'a str, rules: &[Rule], known: Words) -> Option<Cow<'a, str>> {
    if !may_be_inflected(word) {
        return None;
    }
    let mut best: Option<Cow<'_, str>> = None;
    for &(ending, instead) in rules {
        if !ends_with(word, ending) {
            continue;
        }
        let beginning = &word[..word.len() - ending.len()];
        let length = beginning.len() + instead.len();
        if best.as_ref().is_some_and(|best| best.len() <= length) {
            continue;
        }
        let form = match ending.starts_with(instead) {
            true => Cow::Borrowed(&word[..length]),
            false => Cow::Owned([beginning, instead].concat()),
        };
        // If a form is as long as the word, the word is preferred.
        if known.contains(&form) && (length < word.len() || !known.contains(word)) {
            best = Some(form);
        }
    }
    best
}

#[cfg(test)]
mod tests;
