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
pub(super) struct WordHasher(u64);

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

static IRREGULAR: LazyLock<Irregular> = LazyLock::new(|| {
    let rows = include_str!("../wordnet/irregular.tsv").lines();
    let of_wordnet = rows.filter_map(|row| row.split_once('\t'));
    Irregular::new(of_wordnet.chain(PREFERRED))
});

/// Words of 64 bits in the filter of irregular forms.
const FILTER: usize = 1024;

/// Irregular forms and their lemmas.
struct Irregular {
    lemmas: HashMap<&'static str, &'static str, BuildHasherDefault<WordHasher>>,
    /// A bit for each form: it answers for most words, and unlike the map it stays in a processor's fastest cache.
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

    /// The lemma of a form that is irregular.
    fn lemma(&self, form: &str) -> Option<&'static str> {
        let (at, bit) = Self::place(form);
        match self.filter[at] & bit {
            0 => None,
            _ => self.lemmas.get(form).copied(),
        }
    }
}

/// Rounds until nothing changes: three are the most that any word of WordNet takes.
const MAX_ROUNDS: usize = 8;

/// The lemma of a word of the letters a to z in lower case; `None` where that is the word itself, as of words that WordNet does
/// not know.
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

/// The lemma of a form that is not irregular, first as a noun, then as a verb; `None` where that is the form itself.
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

/// Whether a rule may be for the word: all are for forms on `s`, `ed`, `ing` or `men`.
fn may_be_inflected(word: &str) -> bool {
    matches!(
        word.as_bytes(),
        [.., b's'] | [.., b'e', b'd'] | [.., b'i', b'n', b'g'] | [.., b'm', b'e', b'n']
    )
}

/// As [`str::ends_with`]: most endings differ in their last letters, which a loop sees sooner than a call that compares memory.
fn ends_with(word: &str, ending: &str) -> bool {
    let mut letters = word.bytes().rev().zip(ending.bytes().rev());
    word.len() >= ending.len() && letters.all(|(one, other)| one == other)
}

/// The shortest of the known words that the rules make of `word`, the first of equal ones; `None` where that is `word`.
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
        // A form as long as the word comes behind it.
        if known.contains(&form) && (length < word.len() || !known.contains(word)) {
            best = Some(form);
        }
    }
    best
}

#[cfg(test)]
mod tests;
