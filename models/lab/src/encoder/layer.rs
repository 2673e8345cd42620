//! One transformer layer, post-norm as in BERT and RoBERTa, over packed posts.

use super::dropout::Dropout;
use super::kernels::{
    LinearBackward, Norm, View, Write, add, add_columns, gelu, layer_norm, layer_norm_backward, linear, product,
    product_strided, repeat_row, scale_by, softmax, softmax_backward,
};
use super::relative::Relative;
use super::weights::LayerPlaces;
use super::{Packed, Shape};

/// What the forward pass of a layer keeps for the backward pass.
#[derive(Debug, Default)]
pub(super) struct Tape {
    /// The layer's input, written by the layer below.
    pub(super) input: Vec<f32>,
    query: Vec<f32>,
    key: Vec<f32>,
    value: Vec<f32>,
    /// Attention weights before dropout: a square matrix for each post and head.
    attention: Vec<f32>,
    context: Vec<f32>,
    attended_normal: Vec<f32>,
    attended_reciprocals: Vec<f32>,
    attended: Vec<f32>,
    /// The derivative of GELU, in blocks.
    slope: Vec<f32>,
    /// The inner activations, in blocks.
    inner: Vec<f32>,
    normal: Vec<f32>,
    reciprocals: Vec<f32>,
}

/// One of the four matrix products of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Product {
    /// Into queries, keys and values.
    QueryKeyValue,
    /// From attention's context back to the width of the encoder.
    AttentionOutput,
    /// Into the feed-forward part.
    Intermediate,
    /// Out of the feed-forward part, after GELU.
    Output,
}

/// The inputs of a layer's products in a forward pass.
pub(crate) struct LayerInputs<'a> {
    tape: &'a Tape,
    shape: &'a Shape,
    tokens: usize,
}

impl<'a> LayerInputs<'a> {
    pub(super) fn new(tape: &'a Tape, shape: &'a Shape, tokens: usize) -> Self {
        Self { tape, shape, tokens }
    }

    /// Appends the input of `product` for one token.
    pub(crate) fn append(&self, product: Product, token: usize, out: &mut Vec<f32>) {
        let hidden = token * self.shape.hidden..(token + 1) * self.shape.hidden;
        match product {
            Product::QueryKeyValue => out.extend_from_slice(&self.tape.input[hidden]),
            Product::AttentionOutput => out.extend_from_slice(&self.tape.context[hidden]),
            Product::Intermediate => out.extend_from_slice(&self.tape.attended[hidden]),
            Product::Output => {
                let width = block_width(self.shape);
                for block in self.tape.inner.chunks_exact(self.tokens * width) {
                    out.extend_from_slice(&block[token * width..(token + 1) * width]);
                }
            }
        }
    }
}

/// The width of a block of the feed-forward layer. Products whose results are as wide as the inner layer run at half
/// speed, since their rows lie a multiple of the cache's stride apart.
fn block_width(shape: &Shape) -> usize {
    if shape.intermediate.is_multiple_of(shape.hidden) {
        shape.hidden
    } else {
        shape.intermediate
    }
}

/// Buffers that are reused by every layer.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    a: Vec<f32>,
    b: Vec<f32>,
    c: Vec<f32>,
    inner: Vec<f32>,
    dropped: Vec<f32>,
    d_attention: Vec<f32>,
    /// The gradient of the relative positions' bias, summed over all layers.
    pub(super) d_bias: Vec<f32>,
}

/// A layer with its weights: a view for one pass.
pub(super) struct Layer<'a> {
    pub(super) shape: &'a Shape,
    pub(super) places: &'a LayerPlaces,
    pub(super) weights: &'a [f32],
    pub(super) relative: &'a Relative,
    pub(super) dropout: Dropout,
    pub(super) attention_dropout: Dropout,
    pub(super) index: usize,
}

/// The number of places in a layer where dropout is applied.
const SITES: usize = 3;

impl Layer<'_> {
    fn at(&self, place: &std::ops::Range<usize>) -> &[f32] {
        &self.weights[place.clone()]
    }

    fn site(&self, site: usize) -> usize {
        1 + self.index * SITES + site
    }

    pub(super) fn forward(&self, posts: &Packed, tape: &mut Tape, out: &mut Vec<f32>) {
        let (rows, hidden, inner) = (posts.len(), self.shape.hidden, self.shape.intermediate);
        let size = rows * hidden;
        let places = self.places;
        for buffer in [&mut tape.query, &mut tape.key, &mut tape.value, &mut tape.context] {
            buffer.resize(size, 0.0);
        }
        for buffer in [&mut tape.attended_normal, &mut tape.attended, &mut tape.normal, out] {
            buffer.resize(size, 0.0);
        }
        tape.attended_reciprocals.resize(rows, 0.0);
        tape.reciprocals.resize(rows, 0.0);
        tape.slope.resize(rows * inner, 0.0);
        tape.inner.resize(rows * inner, 0.0);

        for (out, matrix, bias) in [
            (&mut tape.query, &places.query, &places.query_bias),
            (&mut tape.key, &places.key, &places.key_bias),
            (&mut tape.value, &places.value, &places.value_bias),
        ] {
            linear(out, &tape.input, self.at(matrix), self.at(bias), rows);
        }
        self.attend(posts, tape);
        linear(
            &mut tape.attended_normal,
            &tape.context,
            self.at(&places.attention_output),
            self.at(&places.attention_output_bias),
            rows,
        );
        self.dropout.at(self.site(1)).apply(&mut tape.attended_normal);
        add(&mut tape.attended_normal, &tape.input);
        let norm = self.norm(&places.attention_norm_scale, &places.attention_norm_shift);
        layer_norm(
            &mut tape.attended,
            &mut tape.attended_normal,
            &mut tape.attended_reciprocals,
            norm,
        );

        let block = block_width(self.shape);
        repeat_row(&mut tape.normal, self.at(&places.down_bias));
        for (index, bias) in self.at(&places.up_bias).chunks_exact(block).enumerate() {
            let part = index * rows * block..(index + 1) * rows * block;
            let matrix = index * block * hidden..(index + 1) * block * hidden;
            let slope = &mut tape.slope[part.clone()];
            linear(slope, &tape.attended, &self.at(&places.up)[matrix.clone()], bias, rows);
            let inner = &mut tape.inner[part];
            gelu(inner, slope);
            let down = View::new(&self.at(&places.down)[matrix], block, hidden);
            product(&mut tape.normal, Write::Add, View::new(inner, rows, block), down);
        }
        self.dropout.at(self.site(2)).apply(&mut tape.normal);
        add(&mut tape.normal, &tape.attended);
        let norm = self.norm(&places.scale, &places.shift);
        layer_norm(out, &mut tape.normal, &mut tape.reciprocals, norm);
    }

    fn norm(&self, scale: &std::ops::Range<usize>, shift: &std::ops::Range<usize>) -> Norm<'_> {
        Norm {
            scale: self.at(scale),
            shift: self.at(shift),
            epsilon: self.shape.epsilon,
        }
    }

    fn attend(&self, posts: &Packed, tape: &mut Tape) {
        let (hidden, heads) = (self.shape.hidden, self.shape.heads);
        let width = hidden / heads;
        let scale = (width as f32).sqrt().recip();
        tape.attention.resize(posts.squares() * heads, 0.0);
        let dropout = self.attention_dropout.at(self.site(0));
        let mut dropped = Vec::new();
        let mut start = 0;
        for (index, post) in posts.posts().enumerate() {
            let length = post.len();
            for head in 0..heads {
                let first = post.start * hidden + head * width;
                let view = |buffer| View::strided(buffer, length, width, hidden);
                let attention = &mut tape.attention[start..start + length * length];
                start += length * length;
                let (query, key) = (view(&tape.query[first..]), view(&tape.key[first..]));
                product_strided(attention, length, Write::Replace, scale, query, key.transposed());
                self.relative.add(attention, length, head);
                softmax(attention, length);
                dropped.clear();
                dropped.extend_from_slice(attention);
                dropout.at(index * heads + head).apply(&mut dropped);
                let context = &mut tape.context[first..];
                let attention = View::new(&dropped, length, length);
                product_strided(
                    context,
                    hidden,
                    Write::Replace,
                    1.0,
                    attention,
                    view(&tape.value[first..]),
                );
            }
        }
    }

    /// Turns `d` from the gradient of the layer's output into that of its input, and adds the
    /// gradients of the weights to `gradient`.
    pub(super) fn backward(
        &self,
        posts: &Packed,
        tape: &Tape,
        d: &mut Vec<f32>,
        gradient: &mut [f32],
        scratch: &mut Scratch,
    ) {
        let (rows, hidden) = (posts.len(), self.shape.hidden);
        let places = self.places;
        let [d_scale, d_shift] = pair(gradient, &places.scale, &places.shift);
        layer_norm_backward(
            d,
            &tape.normal,
            &tape.reciprocals,
            self.at(&places.scale),
            d_scale,
            d_shift,
        );

        let block = block_width(self.shape);
        let d_out = &mut scratch.a;
        d_out.clone_from(d);
        self.dropout.at(self.site(2)).apply(d_out);
        add_columns(&mut gradient[places.down_bias.clone()], d_out);
        scratch.inner.resize(rows * block, 0.0);
        for index in 0..self.shape.intermediate / block {
            let part = index * rows * block..(index + 1) * rows * block;
            let matrix = index * block * hidden..(index + 1) * block * hidden;
            let d_out = View::new(d_out, rows, hidden);
            let inner = View::new(&tape.inner[part.clone()], rows, block);
            product(
                &mut gradient[places.down.clone()][matrix.clone()],
                Write::Add,
                inner.transposed(),
                d_out,
            );
            let down = View::new(&self.at(&places.down)[matrix.clone()], block, hidden);
            product(&mut scratch.inner, Write::Replace, d_out, down.transposed());
            scale_by(&mut scratch.inner, &tape.slope[part]);
            let up = &self.at(&places.up)[matrix.clone()];
            let back = LinearBackward {
                d_out: &scratch.inner,
                x: &tape.attended,
                w: up,
                rows,
            };
            let [d_up, d_bias] = pair(gradient, &places.up, &places.up_bias);
            back.weights(&mut d_up[matrix], &mut d_bias[index * block..(index + 1) * block]);
            back.input(d, Write::Add, block);
        }

        let [d_scale, d_shift] = pair(gradient, &places.attention_norm_scale, &places.attention_norm_shift);
        let scale = self.at(&places.attention_norm_scale);
        layer_norm_backward(
            d,
            &tape.attended_normal,
            &tape.attended_reciprocals,
            scale,
            d_scale,
            d_shift,
        );
        d_out.clone_from(d);
        self.dropout.at(self.site(1)).apply(d_out);
        let back = LinearBackward {
            d_out,
            x: &tape.context,
            w: self.at(&places.attention_output),
            rows,
        };
        let [d_w, d_bias] = pair(gradient, &places.attention_output, &places.attention_output_bias);
        back.weights(d_w, d_bias);
        let d_context = &mut scratch.inner;
        d_context.resize(rows * hidden, 0.0);
        back.input(d_context, Write::Replace, hidden);

        self.attend_backward(posts, tape, scratch);
        let parts = [
            (&scratch.a, &places.query, &places.query_bias),
            (&scratch.b, &places.key, &places.key_bias),
            (&scratch.c, &places.value, &places.value_bias),
        ];
        for (d_out, matrix, bias) in parts {
            let back = LinearBackward {
                d_out,
                x: &tape.input,
                w: self.at(matrix),
                rows,
            };
            let [d_w, d_bias] = pair(gradient, matrix, bias);
            back.weights(d_w, d_bias);
            back.input(d, Write::Add, hidden);
        }
    }

    /// From the gradient of the context in `scratch.inner` to those of query, key and value in
    /// `scratch.a`, `b` and `c`.
    fn attend_backward(&self, posts: &Packed, tape: &Tape, scratch: &mut Scratch) {
        let (hidden, heads) = (self.shape.hidden, self.shape.heads);
        let width = hidden / heads;
        let scale = (width as f32).sqrt().recip();
        let dropout = self.attention_dropout.at(self.site(0));
        let Scratch {
            a,
            b,
            c,
            inner,
            dropped,
            d_attention,
            d_bias,
        } = scratch;
        for buffer in [&mut *a, &mut *b, &mut *c] {
            buffer.resize(posts.len() * hidden, 0.0);
        }
        let mut start = 0;
        for (index, post) in posts.posts().enumerate() {
            let length = post.len();
            for head in 0..heads {
                let first = post.start * hidden + head * width;
                let attention = &tape.attention[start..start + length * length];
                start += length * length;
                let view = |buffer| View::strided(buffer, length, width, hidden);
                let d_context = view(&inner[first..]);
                let dropout = dropout.at(index * heads + head);

                dropped.clear();
                dropped.extend_from_slice(attention);
                dropout.apply(dropped);
                let kept = View::new(dropped, length, length).transposed();
                product_strided(&mut c[first..], hidden, Write::Replace, 1.0, kept, d_context);

                d_attention.resize(length * length, 0.0);
                product(
                    d_attention,
                    Write::Replace,
                    d_context,
                    view(&tape.value[first..]).transposed(),
                );
                dropout.apply(d_attention);
                softmax_backward(d_attention, attention, length);
                self.relative.add_back(d_bias, d_attention, length, head);
                let d_scores = View::new(d_attention, length, length);
                let key = view(&tape.key[first..]);
                product_strided(&mut a[first..], hidden, Write::Replace, scale, d_scores, key);
                let query = view(&tape.query[first..]);
                product_strided(
                    &mut b[first..],
                    hidden,
                    Write::Replace,
                    scale,
                    d_scores.transposed(),
                    query,
                );
            }
        }
    }
}

/// Two adjacent tensors of a gradient; the first ends where the second starts.
pub(super) fn pair<'a>(
    gradient: &'a mut [f32],
    first: &std::ops::Range<usize>,
    second: &std::ops::Range<usize>,
) -> [&'a mut [f32]; 2] {
    let (head, tail) = gradient[first.start..second.end].split_at_mut(second.start - first.start);
    [&mut head[..first.len()], tail]
}
