//! Texts become sparse rows: TF-IDF of word 1-2-grams and character 2-5-grams.
//!
//! As `TfidfVectorizer(sublinear_tf=True)` of scikit-learn, once over words and once over characters, side by side
//! (`FeatureUnion`): an n-gram that occurs `n` times in a text has the value `(1 + ln n) · idf`, where
//! `idf = 1 + ln((1 + texts) / (1 + texts that have it))`; each kind's values are scaled to the length 1.

use std::{collections::HashMap, hash::BuildHasherDefault};

use super::{
    ngrams::{Kind, Ngrams},
    sparse::Rows,
};

/// Hashes are spread already.
type ByHash<V> = HashMap<u64, V, BuildHasherDefault<Unhashed>>;

/// A hasher of what is a hash.
#[derive(Default)]
pub(crate) struct Unhashed(u64);

impl std::hash::Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only 64-bit keys are put in; any others are spread poorly, but right.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// A feature of the rows.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Feature {
    /// What it is made of.
    pub(crate) kind: Kind,
    /// Its n-gram's hash.
    pub(crate) hash: u64,
    /// Its inverse document frequency.
    pub(crate) idf: f32,
}

/// The features that texts are searched for.
#[derive(Debug, Clone)]
pub(crate) struct Vectorizer {
    features: Vec<Feature>,
    columns: ByHash<u32>,
}

impl Vectorizer {
    /// Takes every n-gram that at least `min_texts` of the texts have. The most frequent come first, so that what is
    /// often used of the weights lies together.
    pub(crate) fn fit<T: AsRef<str>>(texts: &[T], min_texts: u32) -> Self {
        struct Seen {
            kind: Kind,
            texts: u32,
            last: u32,
        }
        let mut seen: ByHash<Seen> = ByHash::default();
        let mut ngrams = Ngrams::default();
        for (at, text) in (1..).zip(texts) {
            ngrams.each(text.as_ref(), |kind, hash| {
                let seen = seen.entry(hash).or_insert(Seen {
                    kind,
                    texts: 0,
                    last: 0,
                });
                if seen.last != at {
                    seen.last = at;
                    seen.texts += 1;
                }
            });
        }
        let mut kept: Vec<(u32, Kind, u64)> = seen
            .into_iter()
            .filter(|(_, seen)| seen.texts >= min_texts)
            .map(|(hash, seen)| (seen.texts, seen.kind, hash))
            .collect();
        kept.sort_unstable_by_key(|&(texts, kind, hash)| (std::cmp::Reverse(texts), kind, hash));
        let all = texts.len() as f64;
        let features = kept.into_iter().map(|(texts, kind, hash)| Feature {
            kind,
            hash,
            idf: (1.0 + ((1.0 + all) / (1.0 + f64::from(texts))).ln()) as f32,
        });
        Self::new(features.collect())
    }

    fn new(features: Vec<Feature>) -> Self {
        let columns = (0..).zip(&features).map(|(column, feature)| (feature.hash, column));
        Self {
            columns: columns.collect(),
            features,
        }
    }

    /// The features, in the order of the columns.
    pub(crate) fn features(&self) -> &[Feature] {
        &self.features
    }

    /// The rows of `texts`.
    pub(crate) fn rows<T: AsRef<str>>(&self, texts: &[T]) -> Rows {
        let mut rows = Rows::new(self.features.len());
        let mut scratch = Scratch::default();
        for text in texts {
            self.push_row(text.as_ref(), &mut scratch, &mut rows);
        }
        rows
    }

    /// Adds the row of one text.
    pub(crate) fn push_row(&self, text: &str, scratch: &mut Scratch, rows: &mut Rows) {
        let Scratch { ngrams, found, row } = scratch;
        found.clear();
        ngrams.each(text, |_, hash| found.extend(self.columns.get(&hash)));
        found.sort_unstable();
        row.clear();
        let mut squares = [0.0_f32; Kind::ALL.len()];
        for same in found.chunk_by(|one, other| one == other) {
            let Feature { kind, idf, .. } = self.features[same[0] as usize];
            let value = (1.0 + (same.len() as f32).ln()) * idf;
            squares[kind as usize] += value * value;
            row.push((same[0], value));
        }
        let scales = squares.map(|square| if square > 0.0 { square.sqrt().recip() } else { 0.0 });
        rows.push(
            row.iter()
                .map(|&(column, value)| (column, value * scales[self.features[column as usize].kind as usize])),
        );
    }
}

/// Memory of [`Vectorizer::push_row`], used again from text to text.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    ngrams: Ngrams,
    found: Vec<u32>,
    row: Vec<(u32, f32)>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SO_SO_HAPPY_WORDS: [f32; 4] = [0.325_918_6, 0.428_543_8, 0.428_543_8, 0.725_587_7];
    const HAPPY_DAY_WORDS: [f32; 3] = [0.473_629_6, 0.622_766, 0.622_766];
    const SAD_CHARACTERS: [f32; 10] = [
        0.245_735_25,
        0.323_112_33,
        0.323_112_33,
        0.323_112_33,
        0.323_112_33,
        0.323_112_33,
        0.323_112_33,
        0.323_112_33,
        0.323_112_33,
        0.323_112_33,
    ];

    /// The values are those of scikit-learn 1.9.1: `TfidfVectorizer(sublinear_tf=True)` on
    /// the same three texts, with `token_pattern=r"\S+", ngram_range=(1, 2)` and `analyzer="char_wb", ngram_range=(2, 5)`.
    #[test]
    fn values_are_those_of_scikit_learn() {
        let texts = ["so so happy", "happy day", "sad"];
        let vectorizer = Vectorizer::fit(&texts, 1);
        let rows = vectorizer.rows(&texts);
        assert_eq!(rows.width(), 49);
        let values = |at: usize, kind: Kind| {
            let mut values: Vec<f32> = rows
                .row(at)
                .iter()
                .filter(|&(column, _)| vectorizer.features()[column as usize].kind == kind)
                .map(|(_, value)| value)
                .collect();
            values.sort_by(f32::total_cmp);
            values
        };
        let near = |found: Vec<f32>, expected: &[f32]| {
            assert_eq!(found.len(), expected.len(), "{found:?}");
            for (found, expected) in found.iter().zip(expected) {
                assert!((found - expected).abs() < 1e-6, "{found} is not {expected}");
            }
        };
        near(values(0, Kind::Word), &SO_SO_HAPPY_WORDS);
        near(values(1, Kind::Word), &HAPPY_DAY_WORDS);
        near(values(2, Kind::Character), &SAD_CHARACTERS);
        // Texts of n-grams that were never seen have no features.
        assert!(vectorizer.rows(&["zzz"]).row(0).columns.is_empty());
    }

    #[test]
    fn rare_ngrams_are_left_out_and_frequent_ones_come_first() {
        let vectorizer = Vectorizer::fit(&["a b", "a c", "a b"], 2);
        let words = vectorizer
            .features()
            .iter()
            .filter(|feature| feature.kind == Kind::Word);
        // `a`, `b` and `a b`, but not `c`.
        assert_eq!(words.count(), 3);
        assert!(vectorizer.features().is_sorted_by(|one, other| one.idf <= other.idf));
    }
}
