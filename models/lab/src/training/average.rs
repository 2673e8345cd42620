//! The mean of the weights over the end of a run, which often judges better than where the last step left them.

use crate::{
    encoder::{Encoder, Weights},
    optim::move_towards,
};

/// The mean of the weights after each of some steps.
#[derive(Debug)]
pub(crate) struct Average {
    pub(crate) weights: Weights,
    /// How many steps it is the mean of.
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
    /// Takes in the weights as a step has left them.
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

    /// `encoder` with the mean for its weights; as it is where there is none yet.
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
    fn it_is_the_mean_of_all_that_was_added() {
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
