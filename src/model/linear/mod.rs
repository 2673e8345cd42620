//! Linear models over n-grams: the common form of logistic regression, linear support vector machines and naive Bayes.
//!
//! The folder of such a model has `linear.safetensors` instead of an ONNX file and a tokenizer, and `"model_type":
//! "moodstream-linear"` in its `config.json`. `moodstream-lab compare --export` writes it. A text's tokens are the columns of
//! its n-grams. The logit of a label is its intercept plus the sum of its weights times the TF-IDF of the n-grams.

mod file;
mod ngrams;
mod vectorizer;

use std::ops::Range;

use self::vectorizer::Squares;
pub use self::{
    ngrams::{NgramKind, Ngrams},
    vectorizer::{ByHash, Feature, Scratch, Vectorizer},
};

/// The `model_type` in the `config.json` of a linear model.
pub const MODEL_TYPE: &str = "moodstream-linear";

/// The name of the weights file.
pub const FILE: &str = "linear.safetensors";

/// The number of weights that one vector instruction processes: each row of weights is padded to a multiple of it.
const LANES: usize = 8;

/// A linear model.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearModel {
    vectorizer: Vectorizer,
    labels: usize,
    /// One row per feature, with one weight per label, padded with zeros to `stride`.
    weights: Vec<f32>,
    stride: usize,
    intercepts: Vec<f32>,
}

/// Buffers of [`LinearModel::logits`], reused between texts.
#[derive(Debug, Default)]
pub struct Sums {
    kinds: [Vec<f32>; NgramKind::ALL.len()],
}

impl LinearModel {
    /// Creates a model. `weights` has one row per feature of the vectorizer, with one weight per label; `intercepts` has one
    /// element per label. Returns `None` if the lengths do not match.
    #[must_use]
    pub fn new(vectorizer: Vectorizer, weights: &[f32], intercepts: Vec<f32>) -> Option<Self> {
        let labels = intercepts.len();
        if labels == 0 || weights.len() != vectorizer.features().len().checked_mul(labels)? {
            return None;
        }
        let stride = labels.next_multiple_of(LANES);
        let mut padded = Vec::with_capacity(vectorizer.features().len() * stride);
        for row in weights.chunks_exact(labels) {
            padded.extend_from_slice(row);
            padded.resize(padded.len().next_multiple_of(stride), 0.0);
        }
        Some(Self {
            vectorizer,
            labels,
            weights: padded,
            stride,
            intercepts,
        })
    }

    /// The vectorizer, which finds the features in a text.
    #[must_use]
    pub const fn vectorizer(&self) -> &Vectorizer {
        &self.vectorizer
    }

    /// The number of labels.
    #[must_use]
    pub const fn labels(&self) -> usize {
        self.labels
    }

    /// Returns the weights of a feature, one per label.
    fn weights_of(&self, column: usize) -> &[f32] {
        &self.weights[self.row(column)][..self.labels]
    }

    fn row(&self, column: usize) -> Range<usize> {
        column * self.stride..(column + 1) * self.stride
    }

    /// Appends a text's logits to `logits`, one per label. `columns` is the result of [`Vectorizer::columns`] for the text.
    pub fn logits(&self, columns: &[u32], sums: &mut Sums, logits: &mut Vec<f32>) {
        for sum in &mut sums.kinds {
            sum.clear();
            sum.resize(self.stride, 0.0);
        }
        let mut squares = Squares::default();
        for same in columns.chunk_by(|one, other| one == other) {
            let (kind, value) = self.vectorizer.value(same[0], same.len());
            squares.add(kind, value);
            let weights = self.weights[self.row(same[0] as usize)].as_chunks::<LANES>().0;
            let sums = sums.kinds[kind as usize].as_chunks_mut::<LANES>().0;
            for (sums, weights) in sums.iter_mut().zip(weights) {
                for lane in 0..LANES {
                    sums[lane] += value * weights[lane];
                }
            }
        }
        let scales = squares.scales();
        logits.extend(self.intercepts.iter().enumerate().map(|(label, intercept)| {
            let kinds = sums.kinds.iter().zip(scales);
            intercept + kinds.map(|(sum, scale)| scale * sum[label]).sum::<f32>()
        }));
    }
}

#[cfg(test)]
mod tests;
