//! The word steps of the classical profile, for English: case, contractions, punctuation, stop words and lemmas.

use std::{borrow::Cow, collections::HashSet, hash::BuildHasherDefault, sync::LazyLock};

use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

use super::{
    Steps,
    lemma::{WordHasher, lemma},
};

/// Stop words that are kept, since they reverse an emotion (`not happy`, `nothing but love`), weaken or intensify it.
const KEPT: [&str; 16] = [
    "no", "nor", "not", "against", "but", "few", "more", "most", "only", "too", "very", "never", "without", "none",
    "nothing", "cannot",
];

/// Remains of links and masks from the preprocessing of other tools.
const LEFTOVERS: [&str; 5] = ["http", "https", "amp", "rt", "via"];

/// Contractions with `not` without their apostrophe. Those with it are recognised by their `n't`.
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

    /// Appends a lower-case word without apostrophes, unless it is removed.
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

    /// Returns the replacement of a word that [`English::push`] has kept: its lemma, or nothing if that is a stop word. `None`
    /// keeps the word.
    fn lemma<'a>(&self, word: &'a str, steps: &Steps) -> Option<Cow<'a, str>> {
        // Forms of stop words are removed too (`doings`), and forms of negations become `not`.
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

/// Replaces the words of a text returned by [`reduce`] with their lemmas.
pub(super) fn lemmatise(text: String, steps: &Steps) -> String {
    let english = &*ENGLISH;
    // Most words are their own lemmas. The text between those that are not is copied at once.
    let mut out = String::with_capacity(text.len());
    let (mut copied, mut from) = (0, 0);
    while from < text.len() {
        // Words with letters other than a to z are their own lemmas too.
        let mut plain = true;
        let word = text.as_bytes()[from..].iter().take_while(|&&byte| {
            plain &= byte.is_ascii_lowercase() | (byte == b' ');
            byte != b' '
        });
        let to = from + word.count();
        if plain && let Some(lemma) = english.lemma(&text[from..to], steps) {
            out.push_str(&text[copied..from]);
            out.push_str(&lemma);
            // A word that is removed takes the following space with it.
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

/// Returns the words of `text` in lower case, separated by single spaces, after the enabled steps except lemmas.
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

/// Splits a contraction into the words to keep: `can't` becomes `not`, `they'll` becomes `they`. The rest is a stop word.
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

/// Reduces repeated letters to two: `soooo` becomes `soo`, which still differs from `so`.
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
