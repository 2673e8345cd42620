//! Sparse rows of texts: TF-IDF of word 1-2-grams and character 2-5-grams, computed as in the service.
//!
//! Fitting selects the n-grams and computes `idf = 1 + ln((1 + texts) / (1 + texts with the n-gram))`.

use moodstream::model::linear::{ByHash, Feature, NgramKind, Ngrams, Scratch, Vectorizer};

use super::sparse::Rows;

/// Selects every n-gram that at least `min_texts` of the texts have. The most frequent come first, so that frequently used
/// weights are close together in memory.
pub(crate) fn fit<T: AsRef<str>>(texts: &[T], min_texts: u32) -> Vectorizer {
    struct Seen {
        kind: NgramKind,
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
    let mut kept: Vec<(u32, NgramKind, u64)> = seen
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
    Vectorizer::new(features.collect())
}

/// The rows of `texts`.
pub(crate) fn rows<T: AsRef<str>>(vectorizer: &Vectorizer, texts: &[T]) -> Rows {
    let mut rows = Rows::new(vectorizer.features().len());
    let mut scratch = Scratch::default();
    for text in texts {
        rows.push(vectorizer.row(text.as_ref(), &mut scratch).iter().copied());
    }
    rows
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

    /// The expected values are those of scikit-learn 1.9.1: `TfidfVectorizer(sublinear_tf=True)` on
    /// the same texts, with `token_pattern=r"\S+", ngram_range=(1, 2)` and `analyzer="char_wb", ngram_range=(2, 5)`.
    #[test]
    fn values_are_those_of_scikit_learn() {
        let texts = ["so so happy", "happy day", "sad"];
        let vectorizer = fit(&texts, 1);
        let found = rows(&vectorizer, &texts);
        assert_eq!(found.width(), 49);
        let values = |at: usize, kind: NgramKind| {
            let mut values: Vec<f32> = found
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
        near(values(0, NgramKind::Word), &SO_SO_HAPPY_WORDS);
        near(values(1, NgramKind::Word), &HAPPY_DAY_WORDS);
        near(values(2, NgramKind::Character), &SAD_CHARACTERS);
        // A text with unknown n-grams only has no features.
        assert!(rows(&vectorizer, &["zzz"]).row(0).columns.is_empty());
    }

    #[test]
    fn rare_ngrams_are_left_out_and_frequent_ones_come_first() {
        let vectorizer = fit(&["a b", "a c", "a b"], 2);
        let words = vectorizer
            .features()
            .iter()
            .filter(|feature| feature.kind == NgramKind::Word);
        // `a`, `b` and `a b`, but not `c`.
        assert_eq!(words.count(), 3);
        assert!(vectorizer.features().is_sorted_by(|one, other| one.idf <= other.idf));
    }
}
