//! Linear models over n-grams: what logistic regression, support vector machine and naive Bayes all come to.
//!
//! Such a folder has `linear.safetensors` in the place of an ONNX file and of a tokenizer, and `"model_type":
//! "moodstream-linear"` in its `config.json`. `moodstream-lab compare --export` writes them. A text's tokens are the columns of
//! its n-grams, and a label's logit is its intercept and the sum of its weights times the n-grams' TF-IDF.

mod file;
mod ngrams;
mod vectorizer;

use std::ops::Range;

use self::vectorizer::Squares;
pub use self::{
    ngrams::{NgramKind, Ngrams},
    vectorizer::{ByHash, Feature, Scratch, Vectorizer},
};

/// The `model_type` of such a folder's `config.json`.
pub const MODEL_TYPE: &str = "moodstream-linear";

/// The file of a folder's weights.
pub const FILE: &str = "linear.safetensors";

/// Labels whose weights a processor's vector unit takes together: each n-gram's weights fill a multiple of it.
const LANES: usize = 8;

/// A linear model.
#[derive(Debug, Clone, PartialEq)]
pub struct LinearModel {
    vectorizer: Vectorizer,
    labels: usize,
    /// Those of each feature in turn, one a label, filled up with zeros to `stride`.
    weights: Vec<f32>,
    stride: usize,
    intercepts: Vec<f32>,
}

/// Memory of [`LinearModel::logits`], used again from text to text.
#[derive(Debug, Default)]
pub struct Sums {
    kinds: [Vec<f32>; NgramKind::ALL.len()],
}

impl LinearModel {
    /// `weights` has, of each of the vectorizer's features in turn, the weight for each label; `intercepts` one number a label.
    /// `None` where their counts don't go together.
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

    /// What it searches texts for.
    #[must_use]
    pub const fn vectorizer(&self) -> &Vectorizer {
        &self.vectorizer
    }

    /// How many labels it has.
    #[must_use]
    pub const fn labels(&self) -> usize {
        self.labels
    }

    /// The weights of a feature, one a label.
    fn weights_of(&self, column: usize) -> &[f32] {
        &self.weights[self.row(column)][..self.labels]
    }

    fn row(&self, column: usize) -> Range<usize> {
        column * self.stride..(column + 1) * self.stride
    }

    /// Adds a text's logits to `logits`, one a label. `columns` are those that [`Vectorizer::columns`] finds in the text.
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
