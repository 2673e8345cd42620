//! MPNet's relative positions: a bias of the attention scores for each head and distance between two tokens, the same in all
//! layers.
//!
//! Distances share the rows of a table, the buckets, as in T5 (Raffel et al. 2020, section 2.1): small distances have a
//! bucket each, larger ones share buckets by their logarithm, and those from [`FARTHEST`] on share the last.

use super::{Encoder, Packed};

/// The distance from which on all share a bucket; a constant of MPNet in `transformers`.
const FARTHEST: f32 = 128.0;

/// The default number of buckets in `transformers`.
pub const DEFAULT_BUCKETS: usize = 32;

/// The numbers of buckets that are supported.
pub const BUCKETS: std::ops::RangeInclusive<usize> = 4..=256;

/// The bucket, out of `buckets`, of a key `distance` tokens after the query; the lower half is for keys before it.
#[must_use]
pub fn bucket(distance: isize, buckets: usize) -> usize {
    let half = buckets / 2;
    let (side, steps) = (if distance > 0 { half } else { 0 }, distance.unsigned_abs());
    let exact = half / 2;
    if steps < exact {
        return side + steps;
    }
    let spread = (half - exact) as f32 / (FARTHEST / exact as f32).ln();
    let farther = ((steps as f32 / exact as f32).ln() * spread) as usize;
    side + (exact + farther).min(half - 1)
}

/// The bias for all distances between tokens of a pass.
#[derive(Debug, Default)]
pub(super) struct Relative {
    /// The length of the longest post.
    longest: usize,
    /// For each head, the bias of the distances from `1 - longest` to `longest - 1`; empty without relative positions.
    bias: Vec<f32>,
}

impl Relative {
    /// Computes the bias for the posts from the encoder's table.
    pub(super) fn spread(&mut self, encoder: &Encoder, posts: &Packed) {
        let (heads, buckets) = (encoder.shape.heads, encoder.shape.relative_buckets);
        self.bias.clear();
        if buckets == 0 {
            return;
        }
        self.longest = posts.posts().map(|post| post.len()).max().unwrap_or(0);
        let table = &encoder.weights.dense[encoder.layout.relative.clone()];
        for head in 0..heads {
            let distances = distances(self.longest);
            self.bias
                .extend(distances.map(|distance| table[bucket(distance, buckets) * heads + head]));
        }
    }

    /// Adds the bias to a head's scores of a post, `length x length`.
    pub(super) fn add(&self, scores: &mut [f32], length: usize, head: usize) {
        for (row, scores) in self.rows(length, head).zip(scores.chunks_exact_mut(length)) {
            super::kernels::add(scores, &self.bias[row]);
        }
    }

    /// Adds the gradient of a head's scores to that of the bias, which must have the length that [`Self::zeros`] gives it.
    pub(super) fn add_back(&self, d_bias: &mut [f32], d_scores: &[f32], length: usize, head: usize) {
        for (row, d_scores) in self.rows(length, head).zip(d_scores.chunks_exact(length)) {
            super::kernels::add(&mut d_bias[row], d_scores);
        }
    }

    /// Sets the gradient of the bias to zero.
    pub(super) fn zeros(&self, d_bias: &mut Vec<f32>) {
        d_bias.clear();
        d_bias.resize(self.bias.len(), 0.0);
    }

    /// Adds the gradient of the bias to that of the encoder's table, `buckets x heads`.
    pub(super) fn gather(&self, d_bias: &[f32], buckets: usize, table: &mut [f32]) {
        let width = (2 * self.longest).saturating_sub(1).max(1);
        let heads = d_bias.len() / width;
        for (head, d_bias) in d_bias.chunks_exact(width).enumerate() {
            for (distance, d) in distances(self.longest).zip(d_bias) {
                table[bucket(distance, buckets) * heads + head] += d;
            }
        }
    }

    /// The places of the bias of each token's row of scores; no rows without relative positions.
    fn rows(&self, length: usize, head: usize) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let width = (2 * self.longest).saturating_sub(1);
        let first = head * width + self.longest;
        let rows = if self.bias.is_empty() { 0 } else { length };
        (1..=rows).map(move |token| first - token..first - token + length)
    }
}

/// All distances between tokens of a post of that length.
fn distances(longest: usize) -> impl Iterator<Item = isize> {
    1 - longest.cast_signed()..longest.cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_those_of_transformers() {
        // MPNetEncoder.relative_position_bucket of transformers 4.51 for these distances, with 32 buckets.
        let expected = [
            (-500, 15),
            (-128, 15),
            (-127, 15),
            (-91, 15),
            (-90, 14),
            (-64, 14),
            (-46, 13),
            (-32, 12),
            (-12, 9),
            (-11, 8),
            (-8, 8),
            (-7, 7),
            (-1, 1),
            (0, 0),
            (1, 17),
            (7, 23),
            (8, 24),
            (16, 26),
            (33, 28),
            (100, 31),
        ];
        for (distance, bucket_) in expected {
            assert_eq!(bucket(distance, 32), bucket_, "{distance}");
        }
    }
}
