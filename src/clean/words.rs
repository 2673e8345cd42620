//! The bag of words of the classical profile, for English.
//!
//! Words are reduced to their lemmas by WordNet's lists: see [`lemma`](super::lemma).

use std::{borrow::Cow, collections::HashSet, hash::BuildHasherDefault, sync::LazyLock};

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use super::{
    Steps,
    lemma::{WordHasher, lemma},
};

/// Stop words that are kept: each of them turns an emotion round (`not happy`, `nothing but
/// love`), weakens it or heightens it.
const KEPT: [&str; 16] = [
    "no", "nor", "not", "against", "but", "few", "more", "most", "only", "too", "very", "never", "without", "none",
    "nothing", "cannot",
];

/// Words of links and masks without meaning, left by other tools' preprocessing.
const LEFTOVERS: [&str; 5] = ["http", "https", "amp", "rt", "via"];

/// Contractions with `not` that lost their apostrophe; with it they are known by their `n't`.
const NEGATED: [&str; 19] = [
    "aint", "arent", "cant", "couldnt", "didnt", "doesnt", "dont", "hadnt", "hasnt", "havent", "isnt", "mustnt",
    "neednt", "shouldnt", "wasnt", "werent", "wont", "wouldnt", "cannot",
];

static ENGLISH: LazyLock<English> = LazyLock::new(English::new);

type WordSet = HashSet<&'static str, BuildHasherDefault<WordHasher>>;

struct English {
    stop: WordSet,
    kept: WordSet,
    negated: WordSet,
}

impl English {
    fn new() -> Self {
        let mut stop: WordSet = stop_words::lookup("en").unwrap_or_default().iter().copied().collect();
        stop.extend(LEFTOVERS);
        for kept in KEPT {
            stop.remove(kept);
        }
        Self {
            stop,
            kept: KEPT.into_iter().collect(),
            negated: NEGATED.into_iter().collect(),
        }
    }

    /// Appends what is left of one lower-case word without apostrophes.
    fn push(&self, word: &str, steps: &Steps, out: &mut String) {
        let stop = |word: &str| steps.stop_words && self.stop.contains(word);
        if word.is_empty() || word.chars().all(char::is_numeric) || stop(word) {
            return;
        }
        if self.negated.contains(word) {
            return push_word("not", out);
        }
        push_word(word, out);
    }

    /// What stands for one word that [`English::push`] has left: nothing where its lemma is a stop word. `None` for the word
    /// itself.
    fn lemma<'a>(&self, word: &'a str, steps: &Steps) -> Option<Cow<'a, str>> {
        // What is a form of a stop word is one (`doings`), and what is a form of a negation says it.
        let lemma = lemma(word)?;
        if self.kept.contains(word) {
            return None;
        }
        if self.negated.contains(&*lemma) {
            return Some(Cow::Borrowed("not"));
        }
        match steps.stop_words && self.stop.contains(&*lemma) {
            true => Some(Cow::Borrowed("")),
            false => Some(lemma),
        }
    }
}

/// The lemmas of a text's words, which [`reduce`] has left, between single spaces.
pub(super) fn lemmatise(text: String, steps: &Steps) -> String {
    let english = &*ENGLISH;
    // Most words are their own lemmas: what lies between those that are not is copied at once.
    let mut out = String::with_capacity(text.len());
    let (mut copied, mut from) = (0, 0);
    while from < text.len() {
        // Words of other letters than a to z are their own lemmas as well.
        let mut plain = true;
        let word = text.as_bytes()[from..].iter().take_while(|&&byte| {
            plain &= byte.is_ascii_lowercase() | (byte == b' ');
            byte != b' '
        });
        let to = from + word.count();
        if plain && let Some(lemma) = english.lemma(&text[from..to], steps) {
            out.push_str(&text[copied..from]);
            out.push_str(&lemma);
            // With nothing in its place, a word goes with the space behind it.
            copied = if lemma.is_empty() { text.len().min(to + 1) } else { to };
        }
        from = to + 1;
    }
    if copied == 0 {
        return text;
    }
    out.push_str(&text[copied..]);
    out.truncate(out.trim_end_matches(' ').len());
    out
}

/// The words of `text` that carry meaning between single spaces; without the steps that are left out.
pub(super) fn reduce(text: &str, steps: &Steps) -> String {
    let english = &*ENGLISH;
    let mut out = String::with_capacity(text.len());
    let lower = lower_case(text);
    let mut word = String::new();
    for token in lower.split(|c: char| !is_word(c) && !is_apostrophe(c)) {
        for part in expand(token) {
            cut_repeats(part, &mut word);
            english.push(&word, steps, &mut out);
        }
    }
    out
}

fn push_word(word: &str, out: &mut String) {
    if !out.is_empty() {
        out.push(' ');
    }
    out.push_str(word);
}

fn lower_case(text: &str) -> String {
    let lower = text.to_lowercase();
    if lower.is_ascii() { lower } else { lower.nfc().collect() }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || is_joiner(c) || (is_combining_mark(c) && !matches!(c, '\u{FE0E}' | '\u{FE0F}'))
}

fn is_joiner(c: char) -> bool {
    matches!(c, '\u{200C}' | '\u{200D}')
}

fn is_apostrophe(c: char) -> bool {
    matches!(c, '\'' | '’' | '‘' | 'ʼ' | '＇')
}

/// The words of a contraction: `can't` is `not`, `they'll` is `they`; the rest of each is a stop word.
fn expand(token: &str) -> impl Iterator<Item = &str> {
    let token = token.trim_matches(|c| is_apostrophe(c) || is_joiner(c));
    let negated = token
        .char_indices()
        .rfind(|&(_, c)| is_apostrophe(c))
        .is_some_and(|(at, c)| token[..at].ends_with('n') && &token[at + c.len_utf8()..] == "t");
    let whole = if negated { "not" } else { token };
    let mut parts = whole.split(is_apostrophe);
    let head = parts.next();
    let tail = parts.filter(|part| !matches!(*part, "s" | "m" | "re" | "ve" | "ll" | "d" | "t" | "all"));
    head.into_iter().chain(tail)
}

/// Letters drawn out are cut to two: `soooo` is `soo`, still apart from `so`.
fn cut_repeats(part: &str, word: &mut String) {
    word.clear();
    let mut last = None;
    let mut length = 0;
    for c in part.chars() {
        length = if last == Some(c) { length + 1 } else { 1 };
        last = Some(c);
        if length <= 2 {
            word.push(c);
        }
    }
}
