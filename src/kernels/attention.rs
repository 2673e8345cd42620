//! Self-attention.

use pulp::{Simd, WithSimd};

use super::{
    BLOCK, Product, Quantization, Quantized,
    vector::{exp, largest, quantize_row, sum},
};

/// Quantises the context of self-attention.
pub struct AttentionQuantize<'a> {
    /// A row has a token's queries, then its keys, then its values, each of all heads.
    pub product: Product<'a>,
    /// Added to the scores of each token of each post.
    pub mask: &'a [f32],
    /// The sizes.
    pub shape: AttentionShape,
    /// How the rows become bytes.
    pub quantization: Quantization,
    /// Buffers, kept between calls.
    pub scratch: &'a mut AttentionScratch,
    /// The bytes.
    pub out: Quantized<'a>,
}

/// The sizes of attention over a batch.
#[derive(Debug, Clone, Copy)]
pub struct AttentionShape {
    /// Posts of the batch.
    pub posts: usize,
    /// Tokens of a post, including padding.
    pub tokens: usize,
    /// Heads of the layer.
    pub heads: usize,
    /// Columns of a head; a multiple of [`BLOCK`].
    pub head_width: usize,
}

/// Buffers of [`AttentionQuantize`] for one post.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// The post's queries, keys and values.
    rows: Vec<f32>,
    /// A head's keys, one column per token.
    keys: Vec<f32>,
    scores: Vec<f32>,
    mask: Vec<f32>,
    context: Vec<f32>,
}

impl WithSimd for AttentionQuantize<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Self {
            product,
            mask,
            shape,
            quantization,
            scratch,
            out,
        } = self;
        let AttentionShape {
            posts,
            tokens,
            heads,
            head_width,
        } = shape;
        let width = heads * head_width;
        scratch.resize(shape);
        let outputs = out
            .bytes
            .chunks_exact_mut(tokens * width)
            .zip(out.steps.chunks_exact_mut(tokens));
        for (post, (bytes, steps)) in (0..posts).zip(outputs) {
            for (token, row) in scratch.rows.chunks_exact_mut(3 * width).take(tokens).enumerate() {
                product.row(post * tokens + token, row);
            }
            scratch.mask[..tokens].copy_from_slice(&mask[post * tokens..][..tokens]);
            for head in 0..heads {
                attend(simd, shape, head, scratch);
            }
            let rows = scratch.context.chunks_exact(width).zip(bytes.chunks_exact_mut(width));
            for ((row, bytes), step) in rows.zip(steps) {
                *step = quantize_row(simd, row, quantization, bytes);
            }
        }
    }
}

impl AttentionScratch {
    /// Sizes the buffers for a batch. What is not overwritten for every post, which are the rows and columns after the last
    /// token, is finite, and has no weight.
    fn resize(&mut self, shape: AttentionShape) {
        let width = shape.heads * shape.head_width;
        let rows = shape.tokens.next_multiple_of(QUERIES);
        let columns = shape.tokens.next_multiple_of(BLOCK);
        for (buffer, length, value) in [
            (&mut self.rows, rows * 3 * width, 0.0),
            (&mut self.keys, columns * shape.head_width, 0.0),
            (&mut self.scores, columns * QUERIES, 0.0),
            (&mut self.mask, columns, f32::MIN),
            (&mut self.context, rows * width, 0.0),
        ] {
            buffer.clear();
            buffer.resize(length, value);
        }
    }
}

/// Queries that are computed together.
const QUERIES: usize = 4;

/// Computes the context of a head of a post.
#[inline(always)]
fn attend<S: Simd>(simd: S, shape: AttentionShape, head: usize, scratch: &mut AttentionScratch) {
    let AttentionShape {
        tokens,
        heads,
        head_width,
        ..
    } = shape;
    let width = heads * head_width;
    let AttentionScratch {
        rows,
        keys,
        scores,
        mask,
        context,
    } = scratch;
    let columns = mask.len();
    let place = head * head_width;
    for (token, row) in rows.chunks_exact(3 * width).take(tokens).enumerate() {
        for (keys, key) in keys.chunks_exact_mut(columns).zip(&row[width + place..][..head_width]) {
            keys[token] = *key;
        }
    }
    let keys = Matrix {
        elements: keys,
        stride: columns,
        columns,
    };
    let values = Matrix {
        elements: &rows[2 * width + place..],
        stride: 3 * width,
        columns: head_width,
    };
    let queries = rows.chunks_exact(QUERIES * 3 * width);
    for (queries, context) in queries.zip(context.chunks_exact_mut(QUERIES * width)) {
        let queries = Factors {
            elements: &queries[place..],
            stride: 3 * width,
            depth: head_width,
        };
        multiply(simd, queries, keys, scores, columns);
        let mut sums = [0.0; QUERIES];
        for (scores, sum) in scores.chunks_exact_mut(columns).zip(&mut sums) {
            *sum = exponentials(simd, scores, mask);
        }
        let weights = Factors {
            elements: scores,
            stride: columns,
            depth: tokens,
        };
        multiply(simd, weights, values, &mut context[place..], width);
        for (query, sum) in sums.into_iter().enumerate() {
            let reciprocal = 1.0 / sum;
            for value in &mut context[query * width + place..][..head_width] {
                *value *= reciprocal;
            }
        }
    }
}

/// [`QUERIES`] rows of `depth` elements, `stride` apart.
#[derive(Clone, Copy)]
struct Factors<'a> {
    elements: &'a [f32],
    stride: usize,
    depth: usize,
}

/// A matrix whose rows are `stride` apart.
#[derive(Clone, Copy)]
struct Matrix<'a> {
    elements: &'a [f32],
    stride: usize,
    /// A multiple of [`BLOCK`].
    columns: usize,
}

/// Writes the products of the factors and a matrix to rows of `out`, which are `out_stride` apart.
#[inline(always)]
fn multiply<S: Simd>(simd: S, factors: Factors<'_>, matrix: Matrix<'_>, out: &mut [f32], out_stride: usize) {
    let mut first = 0;
    while first + 2 * S::F32_LANES <= matrix.columns {
        multiply_columns::<S, 2>(simd, factors, matrix, first, out, out_stride);
        first += 2 * S::F32_LANES;
    }
    if first < matrix.columns {
        multiply_columns::<S, 1>(simd, factors, matrix, first, out, out_stride);
    }
}

/// [`multiply`] for `N` vectors of columns, whose sums stay in registers.
#[inline(always)]
fn multiply_columns<S: Simd, const N: usize>(
    simd: S,
    factors: Factors<'_>,
    matrix: Matrix<'_>,
    first: usize,
    out: &mut [f32],
    out_stride: usize,
) {
    let Factors {
        elements,
        stride,
        depth,
    } = factors;
    let [f0, f1, f2, f3] = [0, 1, 2, 3].map(|query| elements[query * stride..][..depth].iter());
    let mut sums = [[simd.splat_f32s(0.0); N]; QUERIES];
    let rows = matrix.elements[first..].chunks(matrix.stride);
    for ((((f0, f1), f2), f3), row) in f0.zip(f1).zip(f2).zip(f3).zip(rows) {
        let row = S::as_simd_f32s(&row[..N * S::F32_LANES]).0;
        let factors = [*f0, *f1, *f2, *f3];
        for query in 0..QUERIES {
            let factor = simd.splat_f32s(factors[query]);
            for column in 0..N {
                sums[query][column] = simd.mul_add_f32s(factor, row[column], sums[query][column]);
            }
        }
    }
    for (query, sums) in sums.iter().enumerate() {
        let out = &mut out[query * out_stride + first..][..N * S::F32_LANES];
        S::as_mut_simd_f32s(out).0.copy_from_slice(sums);
    }
}

/// Replaces scores with `exp(score + mask - largest)`, and returns their sum.
#[inline(always)]
fn exponentials<S: Simd>(simd: S, scores: &mut [f32], mask: &[f32]) -> f32 {
    for (score, mask) in scores.iter_mut().zip(mask) {
        *score += mask;
    }
    let largest = largest(simd, scores);
    for score in scores.iter_mut() {
        *score = exp(*score - largest);
    }
    sum(simd, scores)
}
