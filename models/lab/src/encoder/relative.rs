//! Relative positions in attention, as MPNet has them: what a token's score of another gains by how far the other stands
//! behind it, for each head, the same in all layers.
//!
//! Distances share the rows of a table, the buckets, as in T5 (Raffel et al. 2020, section 2.1): near ones have a bucket
//! each, farther ones share them by the logarithm of the distance, and those from [`FARTHEST`] on share the last.

use super::{Encoder, Packed};

/// The distance from which on all share a bucket; `transformers` has it fixed for MPNet.
const FARTHEST: f32 = 128.0;

/// The buckets of a table where its configuration is silent, as `transformers` has it.
pub const DEFAULT_BUCKETS: usize = 32;

/// How many buckets a table may have.
pub const BUCKETS: std::ops::RangeInclusive<usize> = 4..=256;

/// The bucket of the token `distance` behind the one that asks, out of `buckets`: the lower half is for those before.
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

/// The table of a pass, spread over all distances between tokens of its posts.
#[derive(Debug, Default)]
pub(super) struct Relative {
    /// The longest post's tokens.
    longest: usize,
    /// For each head the gains of the distances from `1 - longest` to `longest - 1`; empty without relative positions.
    gains: Vec<f32>,
}

impl Relative {
    /// Spreads the encoder's table for the posts.
    pub(super) fn spread(&mut self, encoder: &Encoder, posts: &Packed) {
        let (heads, buckets) = (encoder.shape.heads, encoder.shape.relative_buckets);
        self.gains.clear();
        if buckets == 0 {
            return;
        }
        self.longest = posts.posts().map(|post| post.len()).max().unwrap_or(0);
        let table = &encoder.weights.dense[encoder.layout.relative.clone()];
        for head in 0..heads {
            let distances = distances(self.longest);
            self.gains
                .extend(distances.map(|distance| table[bucket(distance, buckets) * heads + head]));
        }
    }

    /// Adds to a head's scores of a post, `length x length`, what they gain.
    pub(super) fn add(&self, scores: &mut [f32], length: usize, head: usize) {
        for (row, scores) in self.rows(length, head).zip(scores.chunks_exact_mut(length)) {
            super::kernels::add(scores, &self.gains[row]);
        }
    }

    /// Adds the gradient of a head's scores to that of the gains, which is as long as [`Self::zeros`] makes it.
    pub(super) fn add_back(&self, d_gains: &mut [f32], d_scores: &[f32], length: usize, head: usize) {
        for (row, d_scores) in self.rows(length, head).zip(d_scores.chunks_exact(length)) {
            super::kernels::add(&mut d_gains[row], d_scores);
        }
    }

    /// Makes `d_gains` the gradient of the gains before anything is known of it.
    pub(super) fn zeros(&self, d_gains: &mut Vec<f32>) {
        d_gains.clear();
        d_gains.resize(self.gains.len(), 0.0);
    }

    /// Adds the gradient of the gains to that of the encoder's table, `buckets x heads`.
    pub(super) fn gather(&self, d_gains: &[f32], buckets: usize, table: &mut [f32]) {
        let width = (2 * self.longest).saturating_sub(1).max(1);
        let heads = d_gains.len() / width;
        for (head, d_gains) in d_gains.chunks_exact(width).enumerate() {
            for (distance, d_gain) in distances(self.longest).zip(d_gains) {
                table[bucket(distance, buckets) * heads + head] += d_gain;
            }
        }
    }

    /// Where the gains of each token's row of scores lie; no rows without relative positions.
    fn rows(&self, length: usize, head: usize) -> impl Iterator<Item = std::ops::Range<usize>> + use<> {
        let width = (2 * self.longest).saturating_sub(1);
        let first = head * width + self.longest;
        let rows = if self.gains.is_empty() { 0 } else { length };
        (1..=rows).map(move |token| first - token..first - token + length)
    }
}

/// From the longest way back to the longest ahead.
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
