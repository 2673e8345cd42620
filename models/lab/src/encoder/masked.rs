//! The masked-language-model head: a linear layer, then the word embeddings, computed for the masked tokens only.

use super::kernels::{LinearBackward, View, Write, linear, product};
use super::layer::pair;
use super::{Encoder, Gradient, Pass};

/// A masked token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masked {
    /// Its position among the packed tokens.
    pub at: usize,
    /// The original token id.
    pub id: u32,
}

/// The head's buffers.
#[derive(Debug, Default)]
pub struct MaskedHead {
    states: Vec<f32>,
    mapped: Vec<f32>,
    logits: Vec<f32>,
    d_mapped: Vec<f32>,
    d_states: Vec<f32>,
}

impl MaskedHead {
    /// The summed cross-entropy of the masked tokens, given the states of `pass`. Adds the gradients of the linear layer and
    /// the embeddings, and to `d` that of the states; all gradients are multiplied by `share`. The linear layer is stored in
    /// the place of a classifier's first matrix, see [`Encoder::with_masked_head`].
    pub fn learn(
        &mut self,
        encoder: &Encoder,
        pass: &Pass,
        masked: &[Masked],
        share: f32,
        d: &mut [f32],
        gradient: &mut Gradient,
    ) -> f64 {
        let (hidden, vocabulary) = (encoder.shape.hidden, encoder.shape.vocabulary);
        let (words, count) = (View::new(&encoder.weights.words, vocabulary, hidden), masked.len());
        self.states.clear();
        for token in masked {
            self.states
                .extend_from_slice(&pass.states()[token.at * hidden..][..hidden]);
        }
        let layout = &encoder.layout;
        let matrix = &encoder.weights.dense[layout.dense.clone()];
        let bias = &encoder.weights.dense[layout.dense_bias.clone()];
        self.mapped.resize(count * hidden, 0.0);
        linear(&mut self.mapped, &self.states, matrix, bias, count);
        let mapped = View::new(&self.mapped, count, hidden);
        self.logits.resize(count * vocabulary, 0.0);
        product(&mut self.logits, Write::Replace, mapped, words.transposed());
        let mut loss = 0.0;
        for (token, logits) in masked.iter().zip(self.logits.chunks_exact_mut(vocabulary)) {
            let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let total: f32 = logits.iter().map(|logit| (logit - top).exp()).sum();
            loss += f64::from(total.ln() + top - logits[token.id as usize]);
            for logit in &mut *logits {
                *logit = share * (*logit - top).exp() / total;
            }
            logits[token.id as usize] -= share;
        }
        let d_logits = View::new(&self.logits, count, vocabulary);
        product(gradient.all_words(), Write::Add, d_logits.transposed(), mapped);
        self.d_mapped.resize(count * hidden, 0.0);
        product(&mut self.d_mapped, Write::Replace, d_logits, words);
        let back = LinearBackward {
            d_out: &self.d_mapped,
            x: &self.states,
            w: matrix,
            rows: count,
        };
        let [d_matrix, d_bias] = pair(&mut gradient.dense, &layout.dense, &layout.dense_bias);
        back.weights(d_matrix, d_bias);
        self.d_states.resize(count * hidden, 0.0);
        back.input(&mut self.d_states, Write::Replace, hidden);
        for (token, row) in masked.iter().zip(self.d_states.chunks_exact(hidden)) {
            for (sum, value) in d[token.at * hidden..][..hidden].iter_mut().zip(row) {
                *sum += value;
            }
        }
        loss
    }
}
