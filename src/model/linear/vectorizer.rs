//! Which of a text's n-grams are features, and what they are worth: TF-IDF.
//!
//! As `TfidfVectorizer(sublinear_tf=True)` of scikit-learn, once over words and once over characters, side by side
//! (`FeatureUnion`): an n-gram that occurs `n` times in a text has the value `(1 + ln n) · idf`; each kind's values are scaled
//! to the length 1.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::ngrams::{NgramKind, Ngrams};

/// A map from hashes, which are spread already.
pub type ByHash<V> = HashMap<u64, V, BuildHasherDefault<Unhashed>>;

/// A hasher of what is a hash.
#[derive(Debug, Default)]
pub struct Unhashed(u64);

impl Hasher for Unhashed {
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

/// An n-gram that counts.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feature {
    /// What it is made of.
    pub kind: NgramKind,
    /// Its hash.
    pub hash: u64,
    /// Its inverse document frequency.
    pub idf: f32,
}

/// The features that texts are searched for, each with its column.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectorizer {
    features: Vec<Feature>,
    columns: ByHash<u32>,
}

impl Vectorizer {
    /// Searches for these features, whose hashes differ. Their order is that of the columns; with the most frequent first, what
    /// is often used of the weights lies together.
    #[must_use]
    pub fn new(features: Vec<Feature>) -> Self {
        let columns = (0..).zip(&features).map(|(column, feature)| (feature.hash, column));
        Self {
            columns: columns.collect(),
            features,
        }
    }

    /// The features, in the order of the columns.
    #[must_use]
    pub fn features(&self) -> &[Feature] {
        &self.features
    }

    /// The columns of a text's features into `found`, which is cleared: in rising order, each as often as it occurs.
    pub fn columns(&self, text: &str, ngrams: &mut Ngrams, found: &mut Vec<u32>) {
        found.clear();
        ngrams.each(text, |_, hash| found.extend(self.columns.get(&hash)));
        found.sort_unstable();
    }

    /// The value of a column that occurs so often in a text, not yet scaled.
    #[inline]
    pub(super) fn value(&self, column: u32, occurs: usize) -> (NgramKind, f32) {
        let Feature { kind, idf, .. } = self.features[column as usize];
        let weight = if occurs == 1 { 1.0 } else { 1.0 + (occurs as f32).ln() };
        (kind, weight * idf)
    }

    /// The columns of a text's features with their values. `scratch` is used again from text to text.
    pub fn row<'s>(&self, text: &str, scratch: &'s mut Scratch) -> &'s [(u32, f32)] {
        let Scratch { ngrams, found, row } = scratch;
        self.columns(text, ngrams, found);
        row.clear();
        let mut squares = Squares::default();
        for same in found.chunk_by(|one, other| one == other) {
            let (kind, value) = self.value(same[0], same.len());
            squares.add(kind, value);
            row.push((same[0], value));
        }
        let scales = squares.scales();
        for (column, value) in row.iter_mut() {
            *value *= scales[self.features[*column as usize].kind as usize];
        }
        row
    }
}

/// The squared length of each kind's values.
#[derive(Debug, Default)]
pub(super) struct Squares([f32; NgramKind::ALL.len()]);

impl Squares {
    #[inline]
    pub(super) fn add(&mut self, kind: NgramKind, value: f32) {
        self.0[kind as usize] += value * value;
    }

    /// What each kind's values are multiplied by; 0 where it has none.
    pub(super) fn scales(self) -> [f32; NgramKind::ALL.len()] {
        self.0
            .map(|square| if square > 0.0 { square.sqrt().recip() } else { 0.0 })
    }
}

/// Memory of [`Vectorizer::row`].
#[derive(Debug, Default)]
pub struct Scratch {
    ngrams: Ngrams,
    found: Vec<u32>,
    row: Vec<(u32, f32)>,
}
