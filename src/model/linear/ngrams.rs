//! The n-grams of a cleaned text, as numbers.
//!
//! Two kinds, as the vectorisers of scikit-learn make them from a text whose words stand between single spaces:
//!
//! - words: each word, and each two that follow each other (`ngram_range=(1, 2)`, words of any length);
//! - characters: each 2 to 5 that follow each other within a word and the space on either side of it
//!   (`analyzer="char_wb"`, `ngram_range=(2, 5)`).
//!
//! An n-gram is known by 64 bits of its XXH3 hash alone: of 200,000 n-grams two are the same with a probability of 1 in 10⁹.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Most words of a word n-gram.
const MAX_WORDS: usize = 2;
/// Fewest and most characters of a character n-gram.
const CHARACTERS: std::ops::RangeInclusive<usize> = 2..=5;

/// What an n-gram is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NgramKind {
    /// Words.
    Word,
    /// Characters.
    Character,
}

impl NgramKind {
    /// Both kinds, in the order of their numbers in a file.
    pub const ALL: [Self; 2] = [Self::Word, Self::Character];

    /// The same bytes are another n-gram as a word than as characters. XXH3 mixes a seed with a short input by adding and
    /// exclusive or alone: seeds that differ in a few low bits would make `so` as a word the `sn` of characters.
    const fn seed(self) -> u64 {
        match self {
            Self::Word => 0x9E37_79B9_7F4A_7C15,
            Self::Character => 0xC2B2_AE3D_27D4_EB4F,
        }
    }
}

/// What making n-grams needs memory for, to be used again from text to text.
#[derive(Debug, Default, Clone)]
pub struct Ngrams {
    padded: String,
    /// Where the characters of the padded text begin, and its end.
    starts: Vec<usize>,
}

impl Ngrams {
    /// Calls `each` with every n-gram of `text`, as often as it occurs. White space of any kind and length parts words.
    pub fn each(&mut self, text: &str, mut each: impl FnMut(NgramKind, u64)) {
        self.pad(text);
        // Positions among `starts` of the spaces: one before each word, and one after the last.
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

    /// One space before, between and after the words.
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
                // The whole word with its spaces, once.
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

    /// What `CountVectorizer(token_pattern=r"\S+", ngram_range=(1, 2))` and
    /// `CountVectorizer(analyzer="char_wb", ngram_range=(2, 5))` of scikit-learn 1.9.1 make of the same texts.
    #[test]
    fn ngrams_are_those_of_scikit_learn() {
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
    fn a_text_without_words_has_none_and_spaces_do_not_count() {
        assert!(hashes(" \t ", NgramKind::Word).is_empty() && hashes("", NgramKind::Character).is_empty());
        for kind in NgramKind::ALL {
            assert_eq!(hashes("  so\t happy ", kind), hashes("so happy", kind));
        }
    }
}
