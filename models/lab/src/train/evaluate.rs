//! Evaluates a model on labelled posts.

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::data::Example;
use crate::encoder::{Encoder, Head, Loss, Packed, Pass, Rates};

/// Figures on one labelled set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// Mean of the classes' F1.
    pub macro_f1: f64,
    /// Softmax: the share of posts given one of their labels. Sigmoid: of posts given all of them and no other.
    pub accuracy: f64,
    /// F1 of each class.
    pub f1: Vec<f64>,
    /// Posts by true class (rows) and predicted class (columns); empty for a sigmoid head.
    pub confusion: Vec<Vec<u64>>,
}

/// Posts of one pass.
const BATCH: usize = 64;

/// A post's classes and logits.
#[derive(Debug, Clone)]
pub(super) struct Scored {
    pub(super) labels: Vec<usize>,
    /// Classes that are not evaluated, because it is not known whether the post has them.
    pub(super) unknown: Vec<usize>,
    pub(super) logits: Vec<f32>,
}

/// The logits of all examples, computed on `threads` threads, in no particular order.
///
/// # Errors
///
/// When a thread panics.
pub(super) fn score(encoder: &Encoder, examples: &[Example], threads: usize) -> Result<Vec<Scored>> {
    let mut order: Vec<&Example> = examples.iter().collect();
    order.sort_by_key(|example| example.ids.len());
    let chunks: Vec<&[&Example]> = order.chunks(BATCH).collect();
    let labels = encoder.shape.labels;
    let scored: Vec<_> = std::thread::scope(|scope| {
        let workers: Vec<_> =
            (0..threads)
                .map(|worker| {
                    let chunks = chunks.iter().skip(worker).step_by(threads);
                    scope.spawn(move || {
                        let mut scored = Vec::new();
                        let (mut pass, mut head) = (Pass::default(), Head::default());
                        for chunk in chunks {
                            let posts: Packed = chunk.iter().map(|example| example.ids.as_slice()).collect();
                            pass.forward(encoder, &posts, Rates::default(), 0);
                            let logits = head.forward(encoder, &posts, &pass);
                            scored.extend(chunk.iter().zip(logits.chunks_exact(labels)).map(|(example, logits)| {
                                Scored {
                                    labels: example.labels.clone(),
                                    unknown: example.unknown.clone(),
                                    logits: logits.to_vec(),
                                }
                            }));
                        }
                        scored
                    })
                })
                .collect();
        workers.into_iter().map(|worker| worker.join().ok()).collect()
    });
    let scored: Option<Vec<Vec<Scored>>> = scored.into_iter().collect();
    let scored = scored.context("a thread panicked during the evaluation on the validation posts (see above)")?;
    Ok(scored.concat())
}

/// Evaluates scored posts of `labels` classes. With softmax, a post with several labels is right when the prediction is
/// one of them, else it counts as a post of its first label. With sigmoid, a class is predicted when its probability is
/// at least one half, and unknown classes are left out.
pub(super) fn evaluate(posts: &[Scored], labels: usize, loss: Loss) -> Figures {
    let mut tally = Tally::new(labels);
    for post in posts {
        tally.count(post, loss);
    }
    tally.figures(loss)
}

struct Tally {
    hits: Vec<u64>,
    predicted: Vec<u64>,
    truly: Vec<u64>,
    confusion: Vec<Vec<u64>>,
    right: u64,
    posts: u64,
}

impl Tally {
    fn new(labels: usize) -> Self {
        let zero = vec![0; labels];
        Self {
            hits: zero.clone(),
            predicted: zero.clone(),
            truly: zero.clone(),
            confusion: vec![zero; labels],
            right: 0,
            posts: 0,
        }
    }

    fn count(&mut self, post: &Scored, loss: Loss) {
        let Scored {
            labels: truth,
            unknown,
            logits,
        } = post;
        self.posts += 1;
        match loss {
            Loss::Softmax => {
                let top = logits
                    .iter()
                    .enumerate()
                    .max_by(|a, b| a.1.total_cmp(b.1))
                    .map_or(0, |(class, _)| class);
                let truth = if truth.contains(&top) { top } else { truth[0] };
                self.predicted[top] += 1;
                self.truly[truth] += 1;
                self.confusion[truth][top] += 1;
                if truth == top {
                    self.hits[top] += 1;
                    self.right += 1;
                }
            }
            Loss::Sigmoid => {
                let mut exact = true;
                for (class, &logit) in logits.iter().enumerate().filter(|(class, _)| !unknown.contains(class)) {
                    let (is, predicted) = (truth.contains(&class), logit >= 0.0);
                    self.truly[class] += u64::from(is);
                    self.predicted[class] += u64::from(predicted);
                    self.hits[class] += u64::from(is && predicted);
                    exact &= is == predicted;
                }
                self.right += u64::from(exact);
            }
        }
    }

    fn figures(self, loss: Loss) -> Figures {
        let classes = self.hits.iter().zip(&self.predicted).zip(&self.truly);
        let f1: Vec<f64> = classes
            .map(|((&hits, &predicted), &truly)| 2.0 * hits as f64 / ((predicted + truly).max(1)) as f64)
            .collect();
        Figures {
            macro_f1: f1.iter().sum::<f64>() / f1.len().max(1) as f64,
            accuracy: self.right as f64 / self.posts.max(1) as f64,
            f1,
            confusion: if loss == Loss::Softmax {
                self.confusion
            } else {
                Vec::new()
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scored(labels: &[usize], unknown: &[usize], logits: [f32; 2]) -> Scored {
        Scored {
            labels: labels.to_vec(),
            unknown: unknown.to_vec(),
            logits: logits.to_vec(),
        }
    }

    #[test]
    fn figures_of_a_softmax_head() {
        let mut tally = Tally::new(2);
        for (truth, logits) in [
            (&[0][..], [1.0, 0.0]),
            (&[0], [0.0, 1.0]),
            (&[1], [0.0, 1.0]),
            (&[0, 1], [0.0, 1.0]),
        ] {
            tally.count(&scored(truth, &[], logits), Loss::Softmax);
        }
        let figures = tally.figures(Loss::Softmax);
        assert!((figures.accuracy - 0.75).abs() < 1e-12);
        assert!((figures.f1[0] - 2.0 / 3.0).abs() < 1e-12, "one hit, one miss");
        assert!((figures.f1[1] - 0.8).abs() < 1e-12, "two hits, one false alarm");
        assert_eq!(figures.confusion, [[1, 1], [0, 2]]);
    }

    #[test]
    fn figures_of_a_sigmoid_head() {
        let mut tally = Tally::new(2);
        tally.count(&scored(&[0, 1], &[], [1.0, -1.0]), Loss::Sigmoid);
        tally.count(&scored(&[1], &[], [-1.0, 2.0]), Loss::Sigmoid);
        // The first class is unknown, so its prediction is neither right nor wrong.
        let before = (tally.predicted[0], tally.truly[0]);
        tally.count(&scored(&[], &[0], [3.0, -2.0]), Loss::Sigmoid);
        assert_eq!(
            (tally.predicted[0], tally.truly[0], tally.right),
            (before.0, before.1, 2)
        );
        let figures = tally.figures(Loss::Sigmoid);
        assert!((figures.accuracy - 2.0 / 3.0).abs() < 1e-12);
        assert!((figures.f1[0] - 1.0).abs() < 1e-12);
        assert!((figures.f1[1] - 2.0 / 3.0).abs() < 1e-12);
    }
}
