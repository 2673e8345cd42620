//! One step of fine-tuning: the targets of a batch and the gradient of its loss.

use std::iter::repeat_n;

use anyhow::Result;
use rand::{SeedableRng, rngs::StdRng};

use super::{
    Journal,
    args::{Args, ClassWeights},
    data::Example,
};
use crate::{
    encoder::{Encoder, Gradient, Head, Loss, Packed, Pass, Rates, SoftTarget, Target},
    training::Training,
};

/// What a step needs besides the weights.
pub(super) struct FineTuner {
    pub(super) loss: Loss,
    classes: usize,
    smoothing: f32,
    r_drop: f32,
    /// The weight of the teacher's scores, 0 without a teacher, and their temperature.
    soft: (f32, f32),
    /// The weight of a post by its label; with a sigmoid head, the weight of a label where a post has it.
    class_weights: Vec<f32>,
    workers: Vec<FineTuneWorker>,
}

/// A [`Target`] that owns its numbers.
struct OwnedTarget {
    shares: Vec<f32>,
    weight: f32,
    classes: Vec<f32>,
}

/// One thread's buffers.
#[derive(Default)]
struct FineTuneWorker {
    pass: Pass,
    head: Head,
    d: Vec<f32>,
}

impl FineTuner {
    /// For posts of `classes` classes, and `base` with a head for them.
    pub(super) fn new(args: &Args, base: Encoder, classes: usize, train: &[Example]) -> (Self, Encoder) {
        let loss = args.head.loss();
        let mut encoder = base.with_head(classes, &mut StdRng::seed_from_u64(args.common.seed));
        let counts = counts(train, classes);
        if loss == Loss::Sigmoid {
            // The head starts from the labels' frequencies, so that it need not learn first that most are rare.
            let place = encoder.layout.out_bias.clone();
            let known = known(train, classes);
            for (bias, (&count, known)) in encoder.weights.dense[place].iter_mut().zip(counts.iter().zip(known)) {
                let share = ((count as f32 + 0.5) / (known as f32 + 1.0)).clamp(1e-4, 1.0 - 1e-4);
                *bias = (share / (1.0 - share)).ln();
            }
        }
        let tuner = Self {
            loss,
            classes,
            smoothing: args.label_smoothing,
            r_drop: args.r_drop,
            soft: (
                args.teacher.as_ref().map_or(0.0, |_| args.distill_weight),
                args.distill_temperature,
            ),
            class_weights: class_weights(args.class_weights, &counts),
            workers: (0..args.common.threads).map(|_| FineTuneWorker::default()).collect(),
        };
        (tuner, encoder)
    }

    /// Takes a step with a batch, and returns the summed loss and weight of its posts.
    pub(super) fn step(
        &mut self,
        training: &mut Training<'_, Journal>,
        batch: &[&Example],
        rate: f32,
    ) -> Result<(f64, f64)> {
        let targets: Vec<OwnedTarget> = batch.iter().map(|example| self.target(example)).collect();
        let (loss, r_drop, (soft, temperature)) = (self.loss, self.r_drop, self.soft);
        let hard = 1.0 - soft;
        let weight: f64 = targets
            .iter()
            .map(|target| f64::from(hard * target.weight + soft))
            .sum();
        let share = (1.0 / weight.max(1e-9)) as f32;
        let passes = if r_drop > 0.0 { 2 } else { 1 };
        let sum = training.learn(&mut self.workers, rate, |worker, part, encoder, gradient| {
            // A batch is ordered by length: this way all threads have about as much work.
            let mine = || {
                let posts = (part.index..batch.len()).step_by(part.threads);
                posts.flat_map(|post| repeat_n(post, passes))
            };
            let posts: Packed = mine().map(|post| batch[post].ids.as_slice()).collect();
            let targets = mine().map(|post| Target {
                shares: &targets[post].shares,
                weight: hard * targets[post].weight,
                classes: &targets[post].classes,
                soft: (soft > 0.0).then(|| SoftTarget {
                    scores: &batch[post].soft,
                    temperature,
                    weight: soft,
                }),
            });
            let dropout = (part.rates, part.seed);
            worker.learn(encoder, &posts, targets, (loss, r_drop, share), dropout, gradient)
        })?;
        Ok((sum, weight))
    }

    fn target(&self, example: &Example) -> OwnedTarget {
        let (classes, smoothing) = (self.classes, self.smoothing);
        if self.loss == Loss::Softmax && example.labels.is_empty() {
            // A post without labels: its cross-entropy with no shares is 0.
            return OwnedTarget {
                shares: vec![0.0; classes],
                weight: 1.0,
                classes: Vec::new(),
            };
        }
        let (mass, floor) = match self.loss {
            Loss::Softmax => (1.0 / example.labels.len() as f32, smoothing / classes as f32),
            Loss::Sigmoid => (1.0, smoothing / 2.0),
        };
        let mut shares = vec![floor; classes];
        for &label in &example.labels {
            shares[label] += mass * (1.0 - smoothing);
        }
        let weights = example.labels.iter().map(|&label| self.class_weights[label]);
        if self.loss == Loss::Softmax {
            let weight = weights.sum::<f32>() / example.labels.len() as f32;
            return OwnedTarget {
                shares,
                weight,
                classes: Vec::new(),
            };
        }
        let mut class_weights = vec![1.0; classes];
        for (&label, weight) in example.labels.iter().zip(weights) {
            class_weights[label] = weight;
        }
        for &label in &example.unknown {
            class_weights[label] = 0.0;
        }
        OwnedTarget {
            shares,
            weight: 1.0,
            classes: class_weights,
        }
    }
}

impl FineTuneWorker {
    fn learn<'t>(
        &mut self,
        encoder: &Encoder,
        posts: &Packed,
        targets: impl Iterator<Item = Target<'t>>,
        (loss, r_drop, share): (Loss, f32, f32),
        (rates, seed): (Rates, u64),
        gradient: &mut Gradient,
    ) -> f64 {
        if posts.is_empty() {
            return 0.0;
        }
        self.pass.forward(encoder, posts, rates, seed);
        self.head.forward(encoder, posts, &self.pass);
        let sum = if r_drop > 0.0 {
            // The two passes over a post share its weight.
            0.5 * self.head.loss(loss, targets, 0.5 * share) + self.head.divergence(encoder.shape.labels, r_drop, share)
        } else {
            self.head.loss(loss, targets, share)
        };
        self.head.backward(encoder, posts, &self.pass, &mut self.d, gradient);
        self.pass.backward(encoder, posts, &mut self.d, gradient);
        sum
    }
}

fn counts(examples: &[Example], classes: usize) -> Vec<usize> {
    let mut counts = vec![0; classes];
    for label in examples.iter().flat_map(|example| &example.labels) {
        counts[*label] += 1;
    }
    counts
}

/// How many examples there are for each class, without those of which it is not known whether they have it.
fn known(examples: &[Example], classes: usize) -> Vec<usize> {
    let mut known = vec![examples.len(); classes];
    for label in examples.iter().flat_map(|example| &example.unknown) {
        known[*label] -= 1;
    }
    known
}

/// The weights of the classes; their mean over the posts is 1.
fn class_weights(kind: ClassWeights, counts: &[usize]) -> Vec<f32> {
    let raw: Vec<f32> = counts
        .iter()
        .map(|&count| match kind {
            ClassWeights::None => 1.0,
            ClassWeights::Inverse => 1.0 / count.max(1) as f32,
            ClassWeights::Sqrt => 1.0 / (count.max(1) as f32).sqrt(),
        })
        .collect();
    let total: f32 = raw
        .iter()
        .zip(counts)
        .map(|(weight, &count)| weight * count as f32)
        .sum();
    let scale = counts.iter().sum::<usize>() as f32 / total.max(f32::MIN_POSITIVE);
    raw.into_iter().map(|weight| weight * scale).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn class_weights_are_one_on_average() {
        for kind in [ClassWeights::None, ClassWeights::Inverse, ClassWeights::Sqrt] {
            let counts = [100, 10, 1];
            let weights = class_weights(kind, &counts);
            let mean = weights
                .iter()
                .zip(counts)
                .map(|(weight, count)| weight * count as f32)
                .sum::<f32>()
                / 111.0;
            assert!((mean - 1.0).abs() < 1e-5, "{kind:?}: {weights:?}");
        }
        let weights = class_weights(ClassWeights::Inverse, &[100, 10]);
        assert!((weights[1] / weights[0] - 10.0).abs() < 1e-4);
    }

    #[test]
    fn unknown_labels_have_no_weight_and_rare_labels_have_more() {
        let example = |labels: &[usize], unknown: &[usize]| Example {
            ids: vec![0, 2],
            labels: labels.to_vec(),
            unknown: unknown.to_vec(),
            soft: Vec::new(),
        };
        let examples = [
            example(&[0], &[]),
            example(&[0], &[2]),
            example(&[0, 1], &[]),
            example(&[], &[1, 2]),
        ];
        assert_eq!(counts(&examples, 3), [3, 1, 0]);
        assert_eq!(known(&examples, 3), [4, 3, 2]);
        let tuner = |loss| FineTuner {
            loss,
            classes: 3,
            smoothing: 0.0,
            r_drop: 0.0,
            soft: (0.0, 1.0),
            class_weights: vec![0.5, 2.5, 1.0],
            workers: Vec::new(),
        };
        let several = tuner(Loss::Sigmoid);
        let target = several.target(&examples[1]);
        assert_eq!((target.weight, target.shares), (1.0, vec![1.0, 0.0, 0.0]));
        assert_eq!(target.classes, [0.5, 1.0, 0.0]);
        assert_eq!(several.target(&examples[2]).classes, [0.5, 2.5, 1.0]);
        let nothing = several.target(&examples[3]);
        assert_eq!((nothing.weight, nothing.shares), (1.0, vec![0.0; 3]));
        assert_eq!(nothing.classes, [1.0, 0.0, 0.0]);
        assert_eq!(tuner(Loss::Softmax).target(&examples[2]).weight, 1.5);
    }
}
