//! The forward and backward pass of one thread.

use super::dropout::Dropout;
use super::kernels::{Norm, layer_norm, layer_norm_backward};
use super::layer::{Layer, LayerInputs, Scratch, Tape, pair};
use super::relative::Relative;
use super::{Encoder, Gradient, Packed};

/// Dropout rates of a training pass; zero to infer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    /// After the embeddings, attention and the feed-forward part of each layer, and in the head.
    pub hidden: f32,
    /// On the attention weights.
    pub attention: f32,
}

/// Buffers of one thread, with what the forward pass keeps for the backward pass.
#[derive(Debug)]
pub struct Pass {
    tapes: Vec<Tape>,
    out: Vec<f32>,
    normal: Vec<f32>,
    reciprocals: Vec<f32>,
    relative: Relative,
    scratch: Scratch,
    pub(super) hidden: Dropout,
    attention: Dropout,
}

impl Default for Pass {
    fn default() -> Self {
        let off = Dropout::new(0.0, 0);
        Self {
            tapes: Vec::new(),
            out: Vec::new(),
            normal: Vec::new(),
            reciprocals: Vec::new(),
            relative: Relative::default(),
            scratch: Scratch::default(),
            hidden: off,
            attention: off,
        }
    }
}

impl Pass {
    /// The last layer's states, `tokens x hidden`. Token ids must be below the vocabulary's size
    /// and posts no longer than [`super::Shape::longest`]. `seed` determines the dropout masks.
    pub fn forward(&mut self, encoder: &Encoder, posts: &Packed, rates: Rates, seed: u64) -> &[f32] {
        self.hidden = Dropout::new(rates.hidden, seed);
        self.attention = Dropout::new(rates.attention, seed);
        self.tapes.resize_with(encoder.shape.layers, Tape::default);
        self.run(encoder, posts, |_, _| ())
    }

    /// As [`Self::forward`] without dropout, for a pass that is not followed by [`Self::backward`]: all layers share the
    /// buffers of one. `watch` is called with the inputs of each layer's products, lowest layer first.
    pub(crate) fn infer(
        &mut self,
        encoder: &Encoder,
        posts: &Packed,
        watch: impl FnMut(usize, LayerInputs<'_>),
    ) -> &[f32] {
        self.hidden = Dropout::new(0.0, 0);
        self.attention = Dropout::new(0.0, 0);
        self.tapes.resize_with(1, Tape::default);
        self.run(encoder, posts, watch)
    }

    fn run(&mut self, encoder: &Encoder, posts: &Packed, mut watch: impl FnMut(usize, LayerInputs<'_>)) -> &[f32] {
        self.relative.spread(encoder, posts);
        let mut out = std::mem::take(&mut self.out);
        self.embed(encoder, posts, &mut out);
        let last = self.tapes.len().saturating_sub(1);
        for index in 0..encoder.shape.layers {
            let tape = &mut self.tapes[index.min(last)];
            std::mem::swap(&mut tape.input, &mut out);
            let layer = layer(encoder, index, (self.hidden, self.attention), &self.relative);
            layer.forward(posts, tape, &mut out);
            watch(index, LayerInputs::new(tape, &encoder.shape, posts.len()));
        }
        self.out = out;
        &self.out
    }

    /// The states that the last [`Pass::forward`] returned.
    #[must_use]
    pub fn states(&self) -> &[f32] {
        &self.out
    }

    fn embed(&mut self, encoder: &Encoder, posts: &Packed, out: &mut Vec<f32>) {
        let (hidden, first) = (encoder.shape.hidden, encoder.shape.first_position);
        let (words, dense) = (&encoder.weights.words, &encoder.weights.dense);
        let positions = &dense[encoder.layout.positions.clone()];
        self.normal.resize(posts.len() * hidden, 0.0);
        self.reciprocals.resize(posts.len(), 0.0);
        out.resize(posts.len() * hidden, 0.0);
        for post in posts.posts() {
            let rows = self.normal[post.start * hidden..post.end * hidden].chunks_exact_mut(hidden);
            for ((row, &id), position) in rows.zip(&posts.ids()[post]).zip(first..) {
                let word = &words[id as usize * hidden..][..hidden];
                let position = &positions[position * hidden..][..hidden];
                for ((sum, word), position) in row.iter_mut().zip(word).zip(position) {
                    *sum = word + position;
                }
            }
        }
        let norm = Norm {
            scale: &dense[encoder.layout.scale.clone()],
            shift: &dense[encoder.layout.shift.clone()],
            epsilon: encoder.shape.epsilon,
        };
        layer_norm(out, &mut self.normal, &mut self.reciprocals, norm);
        self.hidden.at(0).apply(out);
    }

    /// The backward pass of the last [`Pass::forward`], over the same posts: consumes `d`, the gradient of its states, and adds
    /// to `gradient` what is not frozen.
    pub fn backward(&mut self, encoder: &Encoder, posts: &Packed, d: &mut Vec<f32>, gradient: &mut Gradient) {
        self.relative.zeros(&mut self.scratch.d_bias);
        let frozen = gradient.frozen().layers;
        for index in (frozen..encoder.shape.layers).rev() {
            let layer = layer(encoder, index, (self.hidden, self.attention), &self.relative);
            layer.backward(posts, &self.tapes[index], d, &mut gradient.dense, &mut self.scratch);
        }
        if frozen > 0 {
            return;
        }
        let layout = &encoder.layout;
        let table = &mut gradient.dense[layout.relative.clone()];
        self.relative
            .gather(&self.scratch.d_bias, encoder.shape.relative_buckets, table);
        self.hidden.at(0).apply(d);
        let scale = &encoder.weights.dense[layout.scale.clone()];
        let [d_scale, d_shift] = pair(&mut gradient.dense, &layout.scale, &layout.shift);
        layer_norm_backward(d, &self.normal, &self.reciprocals, scale, d_scale, d_shift);

        let (hidden, first) = (encoder.shape.hidden, encoder.shape.first_position);
        for post in posts.posts() {
            let rows = d[post.start * hidden..post.end * hidden].chunks_exact(hidden);
            for ((row, &id), position) in rows.zip(&posts.ids()[post]).zip(first..) {
                let at = layout.positions.start + position * hidden;
                for (sum, value) in gradient.dense[at..at + hidden].iter_mut().zip(row) {
                    *sum += value;
                }
                if gradient.frozen().words {
                    continue;
                }
                for (sum, value) in gradient.word(id).iter_mut().zip(row) {
                    *sum += value;
                }
            }
        }
    }
}

fn layer<'a>(
    encoder: &'a Encoder,
    index: usize,
    (hidden, attention): (Dropout, Dropout),
    relative: &'a Relative,
) -> Layer<'a> {
    Layer {
        shape: &encoder.shape,
        places: &encoder.layout.layers[index],
        weights: &encoder.weights.dense,
        relative,
        dropout: hidden,
        attention_dropout: attention,
        index,
    }
}
