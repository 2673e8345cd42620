//! The masked-language-model head: the word embeddings themselves, at the masked tokens alone.

use super::kernels::{View, Write, product};
use super::{Encoder, Gradient, Pass};

/// A token to be told from its surroundings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Masked {
    /// Where it stands among the packed tokens.
    pub at: usize,
    /// What it was.
    pub id: u32,
}

/// The head's buffers.
#[derive(Debug, Default)]
pub struct MaskedHead {
    states: Vec<f32>,
    logits: Vec<f32>,
    d_states: Vec<f32>,
}

impl MaskedHead {
    /// The summed cross-entropy of the masked tokens over the whole vocabulary, given the states of
    /// `pass`. Adds the gradient of the embeddings, and makes `d` that of the states. `share`
    /// multiplies the gradients.
    pub fn learn(
        &mut self,
        encoder: &Encoder,
        pass: &Pass,
        masked: &[Masked],
        share: f32,
        d: &mut Vec<f32>,
        gradient: &mut Gradient,
    ) -> f64 {
        let (hidden, vocabulary) = (encoder.shape.hidden, encoder.shape.vocabulary);
        let (words, count) = (View::new(&encoder.weights.words, vocabulary, hidden), masked.len());
        self.states.clear();
        for token in masked {
            self.states
                .extend_from_slice(&pass.states()[token.at * hidden..][..hidden]);
        }
        let states = View::new(&self.states, count, hidden);
        self.logits.resize(count * vocabulary, 0.0);
        product(&mut self.logits, Write::Replace, states, words.transposed());
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
        product(gradient.all_words(), Write::Add, d_logits.transposed(), states);
        self.d_states.resize(count * hidden, 0.0);
        product(&mut self.d_states, Write::Replace, d_logits, words);
        d.clear();
        d.resize(pass.states().len(), 0.0);
        for (token, row) in masked.iter().zip(self.d_states.chunks_exact(hidden)) {
            d[token.at * hidden..][..hidden].copy_from_slice(row);
        }
        loss
    }
}
