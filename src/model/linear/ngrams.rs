//! Hashes of the n-grams in a cleaned text.
//!
//! There are two kinds, defined as in scikit-learn's vectorizers for a text whose words are separated by single spaces:
//!
//! - words: unigrams and bigrams (`ngram_range=(1, 2)`, words of any length);
//! - characters: 2 to 5 consecutive characters within a word including the spaces around it
//!   (`analyzer="char_wb"`, `ngram_range=(2, 5)`).
//!
//! An n-gram is identified only by its 64-bit XXH3 hash. Among 200,000 n-grams, the probability of a collision is 1 in 10⁹.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// The maximum number of words in a word n-gram.
const MAX_WORDS: usize = 2;
/// The number of characters in a character n-gram.
const CHARACTERS: std::ops::RangeInclusive<usize> = 2..=5;

/// The unit that an n-gram consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NgramKind {
    /// Words.
    Word,
    /// Characters.
    Character,
}

impl NgramKind {
    /// Both kinds, in the order of their numbers in a weights file.
    pub const ALL: [Self; 2] = [Self::Word, Self::Character];

    /// Returns the hash seed of a kind, which distinguishes word and character n-grams of the same bytes. For short inputs
    /// XXH3 mixes in the seed only by addition and xor. If the seeds differed only in a few low bits, the word `so` would
    /// collide with the characters `sn`.
    const fn seed(self) -> u64 {
        match self {
            Self::Word => 0x9E37_79B9_7F4A_7C15,
            Self::Character => 0xC2B2_AE3D_27D4_EB4F,
        }
    }
}

/// Buffers for extracting n-grams, reused between texts.
#[derive(Debug, Default, Clone)]
pub struct Ngrams {
    padded: String,
    /// The start of each character of the padded text, and its end.
    starts: Vec<usize>,
}

impl Ngrams {
    /// Calls `each` with every occurrence of an n-gram in `text`. Any whitespace separates words.
    pub fn each(&mut self, text: &str, mut each: impl FnMut(NgramKind, u64)) {
        self.pad(text);
        // Indices into `starts` of the spaces before each word and after the last.
        let mut before = 0;
        let mut previous = None;
        while before + 1 < self.starts.len() - 1 {
            let mut after = before + 1;
            while self.padded.as_bytes()[self.starts[after]] != b' ' {
                after += 1;
            }
            self.words(before, after, previous, &mut each);
            self.characters(before, after, &mut each);
            previous = Some(before);
            before = after;
        }
    }

    /// Copies the text with a single space before, between and after the words.
    fn pad(&mut self, text: &str) {
        self.padded.clear();
        self.padded.push(' ');
        for word in text.split_whitespace() {
            self.padded.push_str(word);
            self.padded.push(' ');
        }
        self.starts.clear();
        self.starts.extend(self.padded.char_indices().map(|(at, _)| at));
        self.starts.push(self.padded.len());
    }

    fn words(&self, before: usize, after: usize, previous: Option<usize>, each: &mut impl FnMut(NgramKind, u64)) {
        const { assert!(MAX_WORDS == 2) }
        each(NgramKind::Word, self.hash(NgramKind::Word, before + 1, after));
        if let Some(previous) = previous {
            each(NgramKind::Word, self.hash(NgramKind::Word, previous + 1, after));
        }
    }

    fn characters(&self, before: usize, after: usize, each: &mut impl FnMut(NgramKind, u64)) {
        let end = after + 1;
        for length in CHARACTERS {
            if length >= end - before {
                // The complete word with its spaces counts only once.
                return each(NgramKind::Character, self.hash(NgramKind::Character, before, end));
            }
            for start in before..=end - length {
                each(
                    NgramKind::Character,
                    self.hash(NgramKind::Character, start, start + length),
                );
            }
        }
    }

    fn hash(&self, kind: NgramKind, from: usize, to: usize) -> u64 {
        xxh3_64_with_seed(&self.padded.as_bytes()[self.starts[from]..self.starts[to]], kind.seed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hashes(text: &str, kind: NgramKind) -> Vec<u64> {
        let mut found = Vec::new();
        Ngrams::default().each(text, |of, hash| {
            if of == kind {
                found.push(hash);
            }
        });
        found.sort_unstable();
        found
    }

    fn expected(ngrams: &[&str], kind: NgramKind) -> Vec<u64> {
        let mut hashes: Vec<u64> = ngrams
            .iter()
            .map(|ngram| xxh3_64_with_seed(ngram.as_bytes(), kind.seed()))
            .collect();
        hashes.sort_unstable();
        hashes
    }

    /// The expected values are those of `CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2))` and
    /// `CountVectorizer(analyzer="char_wb", ngram_range=(2, 5))` of scikit-learn 1.9.1.
    #[test]
    fn ngrams_match_scikit_learn() {
        assert_eq!(
            hashes("so happy so", NgramKind::Word),
            expected(&["so", "happy", "so", "so happy", "happy so"], NgramKind::Word)
        );
        assert_eq!(
            hashes("a été", NgramKind::Character),
            expected(
                &[
                    " a", "a ", " a ", " é", "ét", "té", "é ", " ét", "été", "té ", " été", "été ", " été "
                ],
                NgramKind::Character
            )
        );
        assert_eq!(
            hashes("abcd", NgramKind::Character),
            expected(
                &[
                    " a", "ab", "bc", "cd", "d ", " ab", "abc", "bcd", "cd ", " abc", "abcd", "bcd ", " abcd", "abcd "
                ],
                NgramKind::Character
            )
        );
    }

    #[test]
    fn short_ngrams_of_both_kinds_differ() {
        let letters = || (b' '..=b'z').map(char::from);
        let short = letters()
            .flat_map(|one| letters().flat_map(move |two| letters().map(move |three| format!("{one}{two}{three}"))));
        let mut all = Vec::new();
        for text in short {
            for kind in NgramKind::ALL {
                all.extend([1, 2, 3].map(|length| {
                    (
                        xxh3_64_with_seed(&text.as_bytes()[..length], kind.seed()),
                        kind,
                        text[..length].to_owned(),
                    )
                }));
            }
        }
        all.sort_unstable();
        all.dedup();
        assert!(all.is_sorted_by(|one, other| one.0 < other.0));
    }

    #[test]
    fn a_text_without_words_has_none_and_extra_spaces_are_ignored() {
        assert!(hashes(" \t ", NgramKind::Word).is_empty() && hashes("", NgramKind::Character).is_empty());
        for kind in NgramKind::ALL {
            assert_eq!(hashes("  so\t happy ", kind), hashes("so happy", kind));
        }
    }
}
