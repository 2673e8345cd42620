//! A model folder: manifest, labels, groups, thresholds, tokenizer.

use std::sync::Arc;

/// What is known of a model once its folder was read: goes with every row it labels.
#[derive(Debug, Clone)]
pub struct ModelInfo {
    /// `name@` and the first eight hex digits of a hash over the model file and what changes its answers.
    pub id: Arc<str>,
    /// The labels, in the order of the scores.
    pub labels: Arc<[Arc<str>]>,
}

/// A post's emotion.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    /// The emotion's label.
    pub emotion: Arc<str>,
    /// Its score, in `0..=1`, a multiple of 2⁻²⁰ so that sums in double precision are exact in any order.
    pub score: f64,
    /// All scores, in the order of [`ModelInfo::labels`], each in `0..=1` and a multiple of 2⁻²⁰.
    pub scores: Arc<[f64]>,
}
