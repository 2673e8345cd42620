//! The mean of the weights over the last steps of a run, which is often better than the weights of the last step.

use crate::{
    encoder::{Encoder, Weights},
    optim::move_towards,
};

/// The running mean of the weights after several steps.
#[derive(Debug)]
pub(crate) struct Average {
    pub(crate) weights: Weights,
    /// How many steps have been added.
    pub(crate) steps: u64,
}

impl Default for Average {
    fn default() -> Self {
        let weights = Weights {
            words: Vec::new(),
            dense: Vec::new(),
        };
        Self { weights, steps: 0 }
    }
}

impl Average {
    /// Adds the weights after a step.
    pub(crate) fn add(&mut self, weights: &Weights) {
        self.steps += 1;
        if self.steps == 1 {
            self.weights.clone_from(weights);
            return;
        }
        let share = 1.0 / self.steps as f32;
        move_towards(&mut self.weights.words, &weights.words, share);
        move_towards(&mut self.weights.dense, &weights.dense, share);
    }

    /// `encoder` with the mean as its weights; unchanged before the first step.
    pub(crate) fn of(&self, encoder: &Encoder) -> Encoder {
        let weights = if self.steps == 0 {
            &encoder.weights
        } else {
            &self.weights
        };
        Encoder {
            shape: encoder.shape.clone(),
            layout: encoder.layout.clone(),
            weights: weights.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing;

    #[test]
    fn the_average_is_the_mean_of_the_added_weights() {
        let mut encoder = testing::tiny();
        let mut average = Average::default();
        encoder.weights.words.fill(7.0);
        assert_eq!(average.of(&encoder).weights.words[0].to_bits(), 7.0_f32.to_bits());
        for value in [1.0, 2.0, 6.0, 7.0] {
            encoder.weights.words.fill(value);
            encoder.weights.dense.fill(-value);
            average.add(&encoder.weights);
        }
        let mean = average.of(&encoder).weights;
        assert!(mean.words.iter().all(|value| (value - 4.0).abs() < 1e-6));
        assert!(mean.dense.iter().all(|value| (value + 4.0).abs() < 1e-6));
    }
}
