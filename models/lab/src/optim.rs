//! AdamW over flat buffers. Clipping, moments, bias correction, decay and step are fused into one pass over memory.

use std::ops::Range;

use crate::encoder::{Encoder, Frozen, Gradient, Tensor};

/// The settings of AdamW.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Decay of the first moment.
    pub beta1: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
    /// Decoupled weight decay of matrices, in units of the learning rate.
    pub weight_decay: f32,
    /// The global gradient norm above which the gradient is scaled down.
    pub clip: f32,
    /// The head's learning rate as a factor on the encoder's.
    pub head_factor: f32,
    /// The word embeddings' learning rate as a factor on the encoder's.
    pub words_factor: f32,
    /// A layer's learning rate as a factor on that of the layer above it; the embeddings count as the lowest layer.
    pub layer_decay: f32,
    /// The weights that are not trained.
    pub frozen: Frozen,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.999,
            epsilon: 1e-8,
            weight_decay: 0.01,
            clip: 1.0,
            head_factor: 1.0,
            words_factor: 1.0,
            layer_decay: 1.0,
            frozen: Frozen::default(),
        }
    }
}

/// AdamW. The moments of a word embedding are only updated in steps whose batch has the word ("lazy" Adam), so the cost of
/// a step depends on the batch and not on the vocabulary.
#[derive(Debug, Clone)]
pub struct AdamW {
    /// The settings.
    pub settings: Settings,
    /// Steps taken.
    pub steps: u64,
    pub(crate) dense: Moments,
    pub(crate) words: Moments,
    segments: Vec<Segment>,
}

#[derive(Debug, Clone)]
pub(crate) struct Moments {
    pub(crate) first: Vec<f32>,
    pub(crate) second: Vec<f32>,
}

#[derive(Debug, Clone)]
struct Segment {
    place: Range<usize>,
    decays: bool,
    /// The factor on the learning rate of a step.
    factor: f32,
}

/// The constants of one step for one segment.
#[derive(Clone, Copy)]
struct Step {
    scale: f32,
    beta1: f32,
    beta2: f32,
    rate: f32,
    root_correction: f32,
    epsilon: f32,
    keep: f32,
}

impl AdamW {
    /// Starts with moments of zero for `encoder`.
    #[must_use]
    pub fn new(encoder: &Encoder, settings: Settings) -> Self {
        let zero = |length| Moments {
            first: vec![0.0; length],
            second: vec![0.0; length],
        };
        let segments = encoder.layout.tensors.iter();
        let below_top = |tensor: &Tensor| (encoder.shape.layers - encoder.layout.depth(tensor)) as i32;
        let Frozen { words, layers } = settings.frozen;
        let words = if words { 0 } else { encoder.weights.words.len() };
        let is_frozen = |tensor: &Tensor| layers > 0 && !tensor.is_head() && encoder.layout.depth(tensor) <= layers;
        Self {
            settings,
            steps: 0,
            dense: zero(encoder.weights.dense.len()),
            words: zero(words),
            segments: segments
                .filter(|tensor| !is_frozen(tensor))
                .map(|tensor| Segment {
                    place: tensor.place.clone(),
                    decays: tensor.decays(),
                    factor: if tensor.is_head() {
                        settings.head_factor
                    } else {
                        settings.layer_decay.powi(below_top(tensor))
                    },
                })
                .collect(),
        }
    }

    /// Takes one step with the sum of `gradients` (one for each thread; the first is overwritten) at the learning rate
    /// `rate`, and returns the gradient's norm before clipping.
    pub fn step(&mut self, encoder: &mut Encoder, gradients: &mut [Gradient], rate: f32) -> f32 {
        let Some((first, rest)) = gradients.split_first_mut() else {
            return 0.0;
        };
        let workers = rest.len() + 1;
        for other in &*rest {
            first.add_words(other);
        }
        let others: Vec<&[f32]> = rest.iter().map(|gradient| gradient.dense.as_slice()).collect();
        let square = sum_up(&mut first.dense, &others, workers) + sum_up(&mut first.words, &[], 1);
        let norm = square.sqrt() as f32;
        if !norm.is_finite() {
            return norm;
        }
        self.steps += 1;
        let Settings {
            beta1,
            beta2,
            epsilon,
            weight_decay,
            clip,
            words_factor,
            layer_decay,
            ..
        } = self.settings;
        let scale = if clip > 0.0 && norm > clip { clip / norm } else { 1.0 };
        let steps = self.steps.min(1 << 30) as i32;
        let step = |decays: bool, factor: f32| {
            let rate = rate * factor;
            Step {
                scale,
                beta1,
                beta2,
                rate: rate / (1.0 - beta1.powi(steps)),
                root_correction: (1.0 - beta2.powi(steps)).sqrt().recip(),
                epsilon,
                keep: if decays { 1.0 - rate * weight_decay } else { 1.0 },
            }
        };
        self.step_dense(encoder, &first.dense, workers, step);
        if self.settings.frozen.words {
            return norm;
        }
        let words_factor = words_factor * layer_decay.powi(encoder.shape.layers as i32);
        let (hidden, step) = (encoder.shape.hidden, step(false, words_factor));
        for (&id, gradient) in first.ids.iter().zip(first.words.chunks_exact(hidden)) {
            let place = id as usize * hidden..(id as usize + 1) * hidden;
            step.apply(
                &mut encoder.weights.words[place.clone()],
                gradient,
                &mut self.words.first[place.clone()],
                &mut self.words.second[place],
            );
        }
        norm
    }

    fn step_dense(
        &mut self,
        encoder: &mut Encoder,
        gradient: &[f32],
        workers: usize,
        step: impl Fn(bool, f32) -> Step + Sync,
    ) {
        let share = gradient.len().div_ceil(workers).max(1);
        let parts = encoder.weights.dense.chunks_mut(share).zip(gradient.chunks(share)).zip(
            self.dense
                .first
                .chunks_mut(share)
                .zip(self.dense.second.chunks_mut(share)),
        );
        let (segments, step) = (&self.segments, &step);
        std::thread::scope(|scope| {
            for (index, ((weights, gradient), (first, second))) in parts.enumerate() {
                scope.spawn(move || {
                    let (start, end) = (index * share, index * share + weights.len());
                    for segment in segments {
                        let (from, to) = (segment.place.start.max(start), segment.place.end.min(end));
                        if from < to {
                            let place = from - start..to - start;
                            step(segment.decays, segment.factor).apply(
                                &mut weights[place.clone()],
                                &gradient[place.clone()],
                                &mut first[place.clone()],
                                &mut second[place],
                            );
                        }
                    }
                });
            }
        });
    }
}

/// Adds `others` to `sum`, on `workers` threads, and returns the sum of squares.
fn sum_up(sum: &mut [f32], others: &[&[f32]], workers: usize) -> f64 {
    let share = sum.len().div_ceil(workers).max(1);
    std::thread::scope(|scope| {
        let parts: Vec<_> = sum
            .chunks_mut(share)
            .enumerate()
            .map(|(index, sum)| {
                scope.spawn(move || {
                    let start = index * share;
                    for other in others {
                        pulp::Arch::new().dispatch(|| {
                            for (sum, value) in sum.iter_mut().zip(&other[start..]) {
                                *sum += value;
                            }
                        });
                    }
                    square_sum(sum)
                })
            })
            .collect();
        parts.into_iter().map(|part| part.join().unwrap_or(f64::NAN)).sum()
    })
}

fn square_sum(values: &[f32]) -> f64 {
    pulp::Arch::new().dispatch(|| {
        values
            .chunks(4096)
            .map(|chunk| {
                let mut lanes = [0.0_f32; 16];
                let (whole, rest) = chunk.as_chunks::<16>();
                for values in whole {
                    for (lane, value) in lanes.iter_mut().zip(values) {
                        *lane += value * value;
                    }
                }
                let rest: f32 = rest.iter().map(|value| value * value).sum();
                f64::from(lanes.iter().sum::<f32>() + rest)
            })
            .sum()
    })
}

/// Moves each element of `mean` towards that of `values` by `share` of the difference.
pub(crate) fn move_towards(mean: &mut [f32], values: &[f32], share: f32) {
    pulp::Arch::new().dispatch(|| {
        for (mean, value) in mean.iter_mut().zip(values) {
            *mean += share * (value - *mean);
        }
    });
}

impl Step {
    fn apply(self, weights: &mut [f32], gradient: &[f32], first: &mut [f32], second: &mut [f32]) {
        pulp::Arch::new().dispatch(|| {
            let moments = first.iter_mut().zip(second);
            for ((weight, gradient), (first, second)) in weights.iter_mut().zip(gradient).zip(moments) {
                let gradient = gradient * self.scale;
                *first += (1.0 - self.beta1) * (gradient - *first);
                *second += (1.0 - self.beta2) * (gradient * gradient - *second);
                let root = second.sqrt() * self.root_correction + self.epsilon;
                *weight = *weight * self.keep - self.rate * *first / root;
            }
        });
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::float_cmp)]

    use super::*;
    use crate::testing;

    fn encoder() -> Encoder {
        let mut encoder = testing::tiny();
        encoder.weights.dense.fill(1.0);
        encoder.weights.words.fill(1.0);
        encoder
    }

    #[test]
    fn the_length_of_the_first_step_is_the_learning_rate() {
        let mut encoder = encoder();
        let settings = Settings {
            weight_decay: 0.1,
            clip: 0.0,
            head_factor: 2.0,
            ..Settings::default()
        };
        let mut optimiser = AdamW::new(&encoder, settings);
        let mut gradients = vec![Gradient::new(&encoder.shape, &encoder.layout); 3];
        for gradient in &mut gradients {
            gradient.dense.fill(0.5);
            gradient.word(3).fill(-0.5);
        }
        optimiser.step(&mut encoder, &mut gradients, 0.01);
        let dense = &encoder.weights.dense;
        let layer = &encoder.layout.layers[0];
        // Adam's first step is the sign of the gradient; decay adds a tenth of the rate.
        assert!((dense[layer.query.start] - (1.0 - 0.001 - 0.01)).abs() < 1e-6);
        assert!((dense[layer.query_bias.start] - (1.0 - 0.01)).abs() < 1e-6);
        assert!((dense[encoder.layout.dense.start] - (1.0 - 0.002 - 0.02)).abs() < 1e-6);
        let words: Vec<f32> = encoder.weights.words.iter().step_by(4).copied().collect();
        assert!((words[3] - 1.01).abs() < 1e-6);
        assert_eq!(
            (words[2], words[4]),
            (1.0, 1.0),
            "words that are not in the batch don't change"
        );
    }

    #[test]
    fn frozen_weights_do_not_change_and_frozen_words_have_no_moments() {
        let mut encoder = encoder();
        let settings = Settings {
            frozen: Frozen { words: true, layers: 1 },
            ..Settings::default()
        };
        let mut optimiser = AdamW::new(&encoder, settings);
        assert!(optimiser.words.first.is_empty() && optimiser.words.second.is_empty());
        let mut gradients = vec![Gradient::new(&encoder.shape, &encoder.layout).freezing(settings.frozen)];
        gradients[0].dense.fill(1.0);
        optimiser.step(&mut encoder, &mut gradients, 0.01);
        assert!(encoder.weights.words.iter().all(|&word| word == 1.0));
        let (below, above) = encoder.weights.dense.split_at(encoder.layout.layers[1].query.start);
        assert!(below.iter().all(|&weight| weight == 1.0));
        assert!(above.iter().all(|&weight| weight < 1.0));
    }

    #[test]
    fn lower_layers_have_lower_learning_rates() {
        let mut encoder = encoder();
        let settings = Settings {
            weight_decay: 0.0,
            clip: 0.0,
            head_factor: 3.0,
            layer_decay: 0.5,
            ..Settings::default()
        };
        let mut optimiser = AdamW::new(&encoder, settings);
        let mut gradients = vec![Gradient::new(&encoder.shape, &encoder.layout)];
        gradients[0].dense.fill(1.0);
        gradients[0].word(3).fill(1.0);
        optimiser.step(&mut encoder, &mut gradients, 0.01);
        let (layout, dense) = (&encoder.layout, &encoder.weights.dense);
        for (place, rate) in [
            (layout.out_bias.start, 0.03),
            (layout.dense.start, 0.03),
            (layout.layers[1].shift.start, 0.01),
            (layout.layers[1].query.start, 0.01),
            (layout.layers[0].shift.start, 0.005),
            (layout.layers[0].query.start, 0.005),
            (layout.shift.start, 0.0025),
            (layout.positions.start, 0.0025),
        ] {
            assert!((1.0 - dense[place] - rate).abs() < 1e-6, "{place}: {}", dense[place]);
        }
        assert!((1.0 - encoder.weights.words[12] - 0.0025).abs() < 1e-6);
    }

    #[test]
    fn large_gradients_are_clipped_and_not_finite_ones_ignored() {
        let mut encoder = encoder();
        let mut optimiser = AdamW::new(
            &encoder,
            Settings {
                clip: 1.0,
                ..Settings::default()
            },
        );
        let mut gradients = vec![Gradient::new(&encoder.shape, &encoder.layout)];
        gradients[0].dense[0] = 300.0;
        gradients[0].word(1)[0] = 400.0;
        let norm = optimiser.step(&mut encoder, &mut gradients, 0.01);
        assert!((norm - 500.0).abs() < 1e-2);
        assert!((optimiser.dense.first[0] - 0.06).abs() < 1e-6, "0.1 of 300 / 500");

        let before = encoder.weights.dense.clone();
        gradients[0].dense[1] = f32::NAN;
        assert!(!optimiser.step(&mut encoder, &mut gradients, 0.01).is_finite());
        assert_eq!(encoder.weights.dense, before);
    }
}
