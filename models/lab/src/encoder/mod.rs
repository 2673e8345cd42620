//! A RoBERTa or MPNet encoder with a classification head: forward and backward passes on the CPU.
//!
//! The gradients are written by hand for this architecture, which is much faster than automatic differentiation: posts are
//! packed without padding, operations that are bound by memory are fused, the gradient of the word embeddings is sparse, and
//! a batch is split over threads that share only the weights. The tests compare the gradients with finite differences.

mod dropout;
mod head;
mod kernels;
mod layer;
mod masked;
mod pass;
mod relative;
mod weights;

pub use head::{Head, HeadActivation, Loss, Pooling, SoftTarget, Target, soften};
pub(crate) use layer::Product;
pub use masked::{Masked, MaskedHead};
pub use pass::{Pass, Rates};
pub use relative::{BUCKETS, DEFAULT_BUCKETS, bucket};
pub use weights::{Frozen, Gradient, Layout, Tensor, Weights};

use std::ops::Range;

/// The sizes and options of an encoder.
#[derive(Debug, Clone, PartialEq)]
pub struct Shape {
    /// Width of a token's state.
    pub hidden: usize,
    /// Attention heads; divides `hidden`.
    pub heads: usize,
    /// Transformer layers.
    pub layers: usize,
    /// Width of the feed-forward layer.
    pub intermediate: usize,
    /// Rows of the position table.
    pub positions: usize,
    /// Position of a post's first token: RoBERTa's tables start at 2, BERT's at 0.
    pub first_position: usize,
    /// Buckets of MPNet's relative positions; 0 without relative positions.
    pub relative_buckets: usize,
    /// Words in the vocabulary.
    pub vocabulary: usize,
    /// Which of a post's states the head sees.
    pub pooling: Pooling,
    /// The function between the two products of the head.
    pub head_activation: HeadActivation,
    /// Classes of the head; 0 for a bare encoder.
    pub labels: usize,
    /// The layer norms' epsilon.
    pub epsilon: f32,
}

impl Shape {
    /// The same shape with another number of classes.
    #[must_use]
    pub fn with_labels(self, labels: usize) -> Self {
        Self { labels, ..self }
    }

    /// The longest post in tokens, including special tokens.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.positions - self.first_position
    }
}

/// An encoder.
#[derive(Debug, Clone)]
pub struct Encoder {
    /// The architecture.
    pub shape: Shape,
    /// The places of the tensors in the weights.
    pub layout: Layout,
    /// The weights.
    pub weights: Weights,
}

impl Encoder {
    /// An encoder of that shape with all weights zero.
    #[must_use]
    pub fn zeros(shape: Shape) -> Self {
        let layout = Layout::new(&shape);
        let weights = Weights {
            words: vec![0.0; shape.vocabulary * shape.hidden],
            dense: vec![0.0; layout.length],
        };
        Self { shape, layout, weights }
    }

    /// The encoder with a new head for `labels` classes: matrices from a normal distribution with deviation 0.02, biases zero.
    #[must_use]
    pub fn with_head(self, labels: usize, rng: &mut impl rand::Rng) -> Self {
        let mut fresh = Self::zeros(self.shape.with_labels(labels));
        fresh.weights.words = self.weights.words;
        let body = fresh.layout.dense.start;
        fresh.weights.dense[..body].copy_from_slice(&self.weights.dense[..body]);
        for place in [fresh.layout.dense.clone(), fresh.layout.out.clone()] {
            for weight in &mut fresh.weights.dense[place] {
                *weight = 0.02 * normal(rng);
            }
        }
        fresh
    }
}

impl Encoder {
    /// The encoder with the matrix of a [`MaskedHead`], a tenth of the identity, so that all words have about the same
    /// probability at first.
    #[must_use]
    pub fn with_masked_head(self) -> Self {
        let mut fresh = self.without_head();
        let (hidden, start) = (fresh.shape.hidden, fresh.layout.dense.start);
        for row in 0..hidden {
            fresh.weights.dense[start + row * (hidden + 1)] = 0.1;
        }
        fresh
    }

    /// The encoder without classes; its head is zero.
    #[must_use]
    pub fn without_head(self) -> Self {
        let mut bare = Self::zeros(self.shape.with_labels(0));
        bare.weights.words = self.weights.words;
        let body = bare.layout.dense.start;
        bare.weights.dense[..body].copy_from_slice(&self.weights.dense[..body]);
        bare
    }
}

/// A sample of the standard normal distribution (Box and Muller).
pub(crate) fn normal(rng: &mut impl rand::Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    (radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()) as f32
}

/// Posts of different lengths, one after another without padding.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    ids: Vec<u32>,
    /// The end of each post in `ids`.
    ends: Vec<usize>,
}

impl Packed {
    /// Appends a post's token ids. An empty post is ignored, since it has no state to classify.
    pub fn push(&mut self, ids: &[u32]) {
        if ids.is_empty() {
            return;
        }
        self.ids.extend_from_slice(ids);
        self.ends.push(self.ids.len());
    }

    /// All token ids.
    #[must_use]
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// The number of tokens.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no posts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The number of posts.
    #[must_use]
    pub fn count(&self) -> usize {
        self.ends.len()
    }

    /// The token range of each post.
    pub fn posts(&self) -> impl Iterator<Item = Range<usize>> + '_ {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| start..end)
    }

    /// The sum of the squared lengths.
    fn squares(&self) -> usize {
        self.posts().map(|post| post.len() * post.len()).sum()
    }
}

impl<'a> FromIterator<&'a [u32]> for Packed {
    fn from_iter<I: IntoIterator<Item = &'a [u32]>>(posts: I) -> Self {
        let mut packed = Self::default();
        for post in posts {
            packed.push(post);
        }
        packed
    }
}

#[cfg(test)]
mod tests;
