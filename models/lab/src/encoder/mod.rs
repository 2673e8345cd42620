//! A RoBERTa or MPNet encoder with a classification head: forward and backward passes on the CPU.
//!
//! Written for this one architecture instead of on an automatic differentiator, which saves
//! most of what such a library spends in training: posts are packed without padding, each operation that
//! moves memory is fused with its neighbours, the word embeddings' gradient is sparse, and a
//! batch is split over threads that share nothing but the weights. The gradients are checked
//! against finite differences in this module's tests.

mod dropout;
mod head;
mod kernels;
mod layer;
mod masked;
mod pass;
mod relative;
mod weights;

pub use head::{Head, Loss, Pooling, Target};
pub use masked::{Masked, MaskedHead};
pub use pass::{Pass, Rates};
pub use relative::{BUCKETS, DEFAULT_BUCKETS, bucket};
pub use weights::{Frozen, Gradient, Layout, Tensor, Weights};

use std::ops::Range;

/// The numbers that fix an encoder's architecture.
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
    /// Buckets of the distances by which attention is biased: MPNet's; 0 for absolute positions alone.
    pub relative_buckets: usize,
    /// Words in the vocabulary.
    pub vocabulary: usize,
    /// What of a post's states the head sees.
    pub pooling: Pooling,
    /// Classes of the head; 0 for a bare encoder.
    pub labels: usize,
    /// The layer norms' epsilon.
    pub epsilon: f32,
}

impl Shape {
    /// The longest post in tokens, special ones included.
    #[must_use]
    pub fn longest(&self) -> usize {
        self.positions - self.first_position
    }
}

/// An encoder: its shape, and its weights with their places.
#[derive(Debug, Clone)]
pub struct Encoder {
    /// The architecture.
    pub shape: Shape,
    /// Where the weights lie.
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

    /// The same encoder for another number of classes, the head drawn anew: matrices from a
    /// normal distribution of deviation 0.02, biases zero.
    #[must_use]
    pub fn with_head(self, labels: usize, rng: &mut impl rand::Rng) -> Self {
        let mut fresh = Self::zeros(Shape { labels, ..self.shape });
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
    /// The same encoder with the map of a [`MaskedHead`]: a small part of the identity, so that
    /// all words are about as likely at first.
    #[must_use]
    pub fn with_masked_head(self) -> Self {
        let mut fresh = self.without_head();
        let (hidden, start) = (fresh.shape.hidden, fresh.layout.dense.start);
        for row in 0..hidden {
            fresh.weights.dense[start + row * (hidden + 1)] = 0.1;
        }
        fresh
    }

    /// The same encoder without classes, its head zero.
    #[must_use]
    pub fn without_head(self) -> Self {
        let mut bare = Self::zeros(Shape {
            labels: 0,
            ..self.shape
        });
        bare.weights.words = self.weights.words;
        let body = bare.layout.dense.start;
        bare.weights.dense[..body].copy_from_slice(&self.weights.dense[..body]);
        bare
    }
}

/// A draw from the standard normal distribution (Box and Muller).
pub(crate) fn normal(rng: &mut impl rand::Rng) -> f32 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    (radius * (std::f64::consts::TAU * rng.random::<f64>()).cos()) as f32
}

/// Posts of different lengths, one after the other without padding.
#[derive(Debug, Clone, Default)]
pub struct Packed {
    ids: Vec<u32>,
    /// Where each post ends.
    ends: Vec<usize>,
}

impl Packed {
    /// Appends a post's token ids. An empty post would have no state to classify and is left out.
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

    /// Tokens in all.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no posts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Posts in all.
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
