//! TF-IDF: which n-grams of a text are features, and their values.
//!
//! Equivalent to a `FeatureUnion` of two of scikit-learn's `TfidfVectorizer(sublinear_tf=True)`, one over words and one over
//! characters. An n-gram that occurs `n` times in a text has the value `(1 + ln n) · idf`. The values of each kind are scaled
//! to unit length.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
};

use super::ngrams::{NgramKind, Ngrams};

/// A map keyed by values that are already hashes.
pub type ByHash<V> = HashMap<u64, V, BuildHasherDefault<Unhashed>>;

/// A hasher that returns its 64-bit input.
#[derive(Debug, Default)]
pub struct Unhashed(u64);

impl Hasher for Unhashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        // Only 64-bit keys are used. Others work, but are poorly distributed.
        for &byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// An n-gram with a weight.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Feature {
    /// Its kind.
    pub kind: NgramKind,
    /// Its hash.
    pub hash: u64,
    /// Its inverse document frequency.
    pub idf: f32,
}

/// Finds the features in texts. Each feature has a column.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectorizer {
    features: Vec<Feature>,
    columns: ByHash<u32>,
}

impl Vectorizer {
    /// Creates a vectorizer. The features' hashes must differ; their order is the order of the columns. For locality of
    /// memory access, the most frequent features should come first.
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

    /// Replaces the content of `found` with the columns of a text's features in ascending order, once per occurrence.
    pub fn columns(&self, text: &str, ngrams: &mut Ngrams, found: &mut Vec<u32>) {
        found.clear();
        ngrams.each(text, |_, hash| found.extend(self.columns.get(&hash)));
        found.sort_unstable();
    }

    /// Returns the unscaled value of a column that occurs `occurs` times in a text.
    #[inline]
    pub(super) fn value(&self, column: u32, occurs: usize) -> (NgramKind, f32) {
        let Feature { kind, idf, .. } = self.features[column as usize];
        let weight = if occurs == 1 { 1.0 } else { 1.0 + (occurs as f32).ln() };
        (kind, weight * idf)
    }

    /// Returns the columns of a text's features with their values. `scratch` is reused between texts.
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

/// The squared norm of the values of each kind.
#[derive(Debug, Default)]
pub(super) struct Squares([f32; NgramKind::ALL.len()]);

impl Squares {
    #[inline]
    pub(super) fn add(&mut self, kind: NgramKind, value: f32) {
        self.0[kind as usize] += value * value;
    }

    /// Returns the factor by which each kind's values are scaled; 0 if there are none.
    pub(super) fn scales(self) -> [f32; NgramKind::ALL.len()] {
        self.0
            .map(|square| if square > 0.0 { square.sqrt().recip() } else { 0.0 })
    }
}

/// Buffers of [`Vectorizer::row`].
#[derive(Debug, Default)]
pub struct Scratch {
    ngrams: Ngrams,
    found: Vec<u32>,
    row: Vec<(u32, f32)>,
}
