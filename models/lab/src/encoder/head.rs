//! RoBERTa's classification head on the state of `<s>` or the mean of all states, and the losses.

use serde::{Deserialize, Serialize};

use super::kernels::{LinearBackward, Write, add, linear};
use super::layer::pair;
use super::{Encoder, Gradient, Packed, Pass};

/// The loss, which also determines how logits become scores.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// Cross-entropy of a distribution over the classes.
    Softmax,
    /// Binary cross-entropy, averaged over the classes.
    Sigmoid,
}

/// Which of a post's states the head sees.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Pooling {
    /// The state of the first token, `<s>`.
    #[default]
    Cls,
    /// The mean of all states, for which sentence encoders are trained.
    Mean,
}

/// The function between the two products of the head.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HeadActivation {
    /// The hyperbolic tangent.
    #[default]
    Tanh,
    /// ReLU: DistilBERT's.
    Relu,
}

impl HeadActivation {
    fn apply(self, x: f32) -> f32 {
        match self {
            Self::Tanh => x.tanh(),
            Self::Relu => x.max(0.0),
        }
    }

    /// The slope where the function's value is `y`.
    fn slope(self, y: f32) -> f32 {
        match self {
            Self::Tanh => 1.0 - y * y,
            Self::Relu if y > 0.0 => 1.0,
            Self::Relu => 0.0,
        }
    }
}

/// The target of a post.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// A share (softmax) or a probability (sigmoid) for each class.
    pub shares: &'a [f32],
    /// The weight of the post.
    pub weight: f32,
    /// With sigmoid, the weight of each class, 0 if it is not known whether the post has it; empty for equal weights.
    /// Ignored with softmax.
    pub classes: &'a [f32],
    /// A teacher's scores, which add a second loss.
    pub soft: Option<SoftTarget<'a>>,
}

/// A teacher's scores of a post, which those of the model should approach (Hinton et al. 2015). The loss is `weight` times
/// T² times the Kullback-Leibler divergence (softmax) or the binary cross-entropy averaged over the classes (sigmoid), with
/// the logits divided by the temperature T. T² keeps the gradient's size about the same for any temperature.
#[derive(Debug, Clone, Copy)]
pub struct SoftTarget<'a> {
    /// The teacher's scores by [`soften`].
    pub scores: &'a [f32],
    /// The temperature T.
    pub temperature: f32,
    /// The weight of this loss. [`Target::weight`] is not applied to it.
    pub weight: f32,
}

/// A teacher's scores as if its logits were divided by `temperature`.
#[must_use]
pub fn soften(scores: &[f64], loss: Loss, temperature: f32) -> Vec<f32> {
    // The logits are not known, but the softmax of ln(p) / T depends on p alone, and so does a sigmoid, which is the softmax
    // of two classes.
    let power = |score: f64| score.powf(1.0 / f64::from(temperature));
    let total: f64 = scores.iter().map(|&score| power(score)).sum();
    let softened = |&score: &f64| match loss {
        Loss::Softmax => power(score) / total,
        Loss::Sigmoid => power(score) / (power(score) + power(1.0 - score)),
    };
    scores.iter().map(|score| softened(score) as f32).collect()
}

/// The first place of dropout in the head, beyond those of the layers.
const SITE: usize = 1 << 20;

/// The head's buffers.
#[derive(Debug, Default)]
pub struct Head {
    pooled: Vec<f32>,
    dense: Vec<f32>,
    dropped: Vec<f32>,
    logits: Vec<f32>,
    d_logits: Vec<f32>,
    d_pooled: Vec<f32>,
}

impl Head {
    /// Logits, `posts x labels`, from the states of the pass.
    pub fn forward(&mut self, encoder: &Encoder, posts: &Packed, pass: &Pass) -> &[f32] {
        let (hidden, count) = (encoder.shape.hidden, posts.count());
        let (layout, weights) = (&encoder.layout, &encoder.weights.dense);
        self.pooled.clear();
        for post in posts.posts() {
            let states = &pass.states()[post.start * hidden..post.end * hidden];
            let (first, others) = states.split_at(hidden);
            let start = self.pooled.len();
            self.pooled.extend_from_slice(first);
            if encoder.shape.pooling == Pooling::Mean {
                let mean = &mut self.pooled[start..];
                for state in others.chunks_exact(hidden) {
                    add(mean, state);
                }
                divide(mean, post.len());
            }
        }
        pass.hidden.at(SITE).apply(&mut self.pooled);
        self.dense.resize(count * hidden, 0.0);
        let (matrix, bias) = (&weights[layout.dense.clone()], &weights[layout.dense_bias.clone()]);
        linear(&mut self.dense, &self.pooled, matrix, bias, count);
        for state in &mut self.dense {
            *state = encoder.shape.head_activation.apply(*state);
        }
        self.dropped.clone_from(&self.dense);
        pass.hidden.at(SITE + 1).apply(&mut self.dropped);
        self.logits.resize(count * encoder.shape.labels, 0.0);
        let (matrix, bias) = (&weights[layout.out.clone()], &weights[layout.out_bias.clone()]);
        linear(&mut self.logits, &self.dropped, matrix, bias, count);
        &self.logits
    }

    /// The summed loss of the logits of the last [`Head::forward`]. `share` multiplies the
    /// gradient: 1 over the weight of the whole batch makes it that of the batch's mean.
    pub fn loss<'a>(&mut self, loss: Loss, targets: impl Iterator<Item = Target<'a>>, share: f32) -> f64 {
        self.d_logits.resize(self.logits.len(), 0.0);
        let labels = self.logits.len();
        let mut total = 0.0;
        let mut start = 0;
        for target in targets {
            let place = start..start + target.shares.len();
            start = place.end.min(labels);
            let (logits, d) = (&self.logits[place.clone()], &mut self.d_logits[place]);
            total += match loss {
                Loss::Softmax => cross_entropy(logits, target.shares, d),
                Loss::Sigmoid => binary_cross_entropy(logits, target.shares, target.classes, d),
            } * f64::from(target.weight);
            for d in &mut *d {
                *d *= share * target.weight;
            }
            if let Some(soft) = target.soft {
                total += soft.loss(loss, logits, share, d);
            }
        }
        total
    }

    /// R-Drop's loss (Wu et al. 2021, eq. 3) times `weight`: each two consecutive posts are the same post with two dropout
    /// masks, and the loss is the mean of the Kullback-Leibler divergences of their softmax in both directions. Its gradient
    /// times `share` is added to that of the last [`Head::loss`].
    pub fn divergence(&mut self, classes: usize, weight: f32, share: f32) -> f64 {
        let (mut total, pair) = (0.0, 2 * classes);
        for (logits, d) in self.logits.chunks_exact(pair).zip(self.d_logits.chunks_exact_mut(pair)) {
            let (a, b) = logits.split_at(classes);
            let (d_a, d_b) = d.split_at_mut(classes);
            total += half_divergence(a, b, weight * share, d_a) + half_divergence(b, a, weight * share, d_b);
        }
        f64::from(weight * total)
    }

    /// The backward pass of the last [`Head::loss`]: adds the head's gradients, and sets `d` to the gradient of the pass's
    /// states.
    pub fn backward(
        &mut self,
        encoder: &Encoder,
        posts: &Packed,
        pass: &Pass,
        d: &mut Vec<f32>,
        gradient: &mut Gradient,
    ) {
        let (hidden, labels, count) = (encoder.shape.hidden, encoder.shape.labels, posts.count());
        let (layout, weights) = (&encoder.layout, &encoder.weights.dense);
        let matrix = &weights[layout.out.clone()];
        let back = LinearBackward {
            d_out: &self.d_logits,
            x: &self.dropped,
            w: matrix,
            rows: count,
        };
        let [d_w, d_bias] = pair(&mut gradient.dense, &layout.out, &layout.out_bias);
        back.weights(d_w, d_bias);
        self.d_pooled.resize(count * hidden, 0.0);
        back.input(&mut self.d_pooled, Write::Replace, labels);
        pass.hidden.at(SITE + 1).apply(&mut self.d_pooled);
        for (d, state) in self.d_pooled.iter_mut().zip(&self.dense) {
            *d *= encoder.shape.head_activation.slope(*state);
        }
        let d_dense = std::mem::take(&mut self.d_pooled);
        let matrix = &weights[layout.dense.clone()];
        let back = LinearBackward {
            d_out: &d_dense,
            x: &self.pooled,
            w: matrix,
            rows: count,
        };
        let [d_w, d_bias] = pair(&mut gradient.dense, &layout.dense, &layout.dense_bias);
        back.weights(d_w, d_bias);
        let d_pooled = &mut self.dropped;
        back.input(d_pooled, Write::Replace, hidden);
        pass.hidden.at(SITE).apply(d_pooled);
        d.clear();
        d.resize(posts.len() * hidden, 0.0);
        for (post, row) in posts.posts().zip(d_pooled.chunks_exact_mut(hidden)) {
            let states = match encoder.shape.pooling {
                Pooling::Cls => post.start..post.start + 1,
                Pooling::Mean => {
                    divide(row, post.len());
                    post
                }
            };
            for d in d[states.start * hidden..states.end * hidden].chunks_exact_mut(hidden) {
                d.copy_from_slice(row);
            }
        }
        self.d_pooled = d_dense;
    }
}

impl SoftTarget<'_> {
    /// The loss of a post's logits; adds its gradient times `share` to `d`.
    fn loss(&self, loss: Loss, logits: &[f32], share: f32, d: &mut [f32]) -> f64 {
        let cooled: Vec<f32> = logits.iter().map(|logit| logit / self.temperature).collect();
        let mut slope = vec![0.0; logits.len()];
        let distance = match loss {
            Loss::Softmax => cross_entropy(&cooled, self.scores, &mut slope) - entropy(self.scores),
            Loss::Sigmoid => binary_cross_entropy(&cooled, self.scores, &[], &mut slope),
        };
        for (d, slope) in d.iter_mut().zip(slope) {
            *d += share * self.weight * self.temperature * slope;
        }
        f64::from(self.weight * self.temperature * self.temperature) * distance
    }
}

fn entropy(shares: &[f32]) -> f64 {
    let positive = shares
        .iter()
        .map(|&share| f64::from(share))
        .filter(|&share| share > 0.0);
    -positive.map(|share| share * share.ln()).sum::<f64>()
}

fn divide(values: &mut [f32], by: usize) {
    let share = 1.0 / by as f32;
    for value in values {
        *value *= share;
    }
}

/// Softmax and its cross-entropy with `shares`; `d` becomes the gradient of the logits.
fn cross_entropy(logits: &[f32], shares: &[f32], d: &mut [f32]) -> f64 {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|logit| (logit - top).exp()).sum();
    let log_total = total.ln() + top;
    let mass: f32 = shares.iter().sum();
    let mut loss = 0.0;
    for ((d, logit), share) in d.iter_mut().zip(logits).zip(shares) {
        loss -= f64::from(share * (logit - log_total));
        *d = mass * (logit - log_total).exp() - share;
    }
    loss
}

/// The mean over the classes of the binary cross-entropy of the logits with `shares`, each class weighted by `classes` unless
/// that is empty.
fn binary_cross_entropy(logits: &[f32], shares: &[f32], classes: &[f32], d: &mut [f32]) -> f64 {
    let mut loss = 0.0;
    for (class, ((d, logit), share)) in d.iter_mut().zip(logits).zip(shares).enumerate() {
        let each = classes.get(class).copied().unwrap_or(1.0) / logits.len() as f32;
        // ln(1 + e^-|z|) + max(z, 0) - z y, which never overflows.
        loss += f64::from(each * ((-logit.abs()).exp().ln_1p() + logit.max(0.0) - logit * share));
        *d = each * (1.0 / (1.0 + (-logit).exp()) - share);
    }
    loss
}

/// Half the divergence of the distribution of `a` from that of `b`; adds to `d`, times `share`, the gradient by `a` of
/// half the divergences both ways.
fn half_divergence(a: &[f32], b: &[f32], share: f32, d: &mut [f32]) -> f32 {
    let (a, b) = (log_softmax(a), log_softmax(b));
    let whole: f32 = a.iter().zip(&b).map(|(a, b)| a.exp() * (a - b)).sum();
    for (d, (a, b)) in d.iter_mut().zip(a.iter().zip(&b)) {
        *d += 0.5 * share * (a.exp() * (a - b - whole + 1.0) - b.exp());
    }
    0.5 * whole
}

fn log_softmax(logits: &[f32]) -> Vec<f32> {
    let top = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let total: f32 = logits.iter().map(|logit| (logit - top).exp()).sum();
    logits.iter().map(|logit| logit - top - total.ln()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 3] = [0.3, -1.2, 0.7];

    /// The loss of one post's logits, and its slope.
    fn loss_of(logits: [f32; 3], kind: Loss, target: Target<'_>) -> (f64, Vec<f32>) {
        let mut head = Head {
            logits: logits.to_vec(),
            ..Head::default()
        };
        let loss = head.loss(kind, [target].into_iter(), 1.0);
        (loss, head.d_logits)
    }

    /// A target of a teacher's scores alone.
    fn soft(scores: &[f32], temperature: f32, weight: f32) -> Target<'_> {
        Target {
            shares: &[1.0, 0.0, 0.0],
            weight: 0.0,
            classes: &[],
            soft: Some(SoftTarget {
                scores,
                temperature,
                weight,
            }),
        }
    }

    #[test]
    fn the_slope_of_a_teachers_loss_agrees_with_finite_differences() {
        for (kind, scores) in [
            (Loss::Softmax, [0.2, 0.5, 0.3]),
            (Loss::Softmax, [0.0, 1.0, 0.0]),
            (Loss::Sigmoid, [0.9, 0.0, 0.4]),
        ] {
            let target = soft(&scores, 2.5, 0.7);
            let (_, slope) = loss_of(LOGITS, kind, target);
            for (place, found) in slope.into_iter().enumerate() {
                let moved = |by: f32| {
                    let mut logits = LOGITS;
                    logits[place] += by;
                    loss_of(logits, kind, target).0
                };
                let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
                assert!(
                    (difference - f64::from(found)).abs() < 1e-3,
                    "{kind:?}: {difference} {found}"
                );
            }
        }
    }

    #[test]
    fn a_teachers_loss_is_least_where_the_scores_agree() {
        let softmax: Vec<f64> = log_softmax(&LOGITS).iter().map(|&log| f64::from(log).exp()).collect();
        let sigmoid = LOGITS.map(|logit| 1.0 / (1.0 + (-f64::from(logit)).exp()));
        for temperature in [1.0, 2.0, 5.0] {
            for (kind, scores) in [(Loss::Softmax, &softmax[..]), (Loss::Sigmoid, &sigmoid)] {
                let scores = soften(scores, kind, temperature);
                let (loss, slope) = loss_of(LOGITS, kind, soft(&scores, temperature, 1.0));
                assert!(
                    slope.iter().all(|d| d.abs() < 1e-5),
                    "{kind:?} {temperature}: {slope:?}"
                );
                // The divergence is 0 there, the binary cross-entropy the entropy of the scores.
                assert!(kind == Loss::Sigmoid || loss.abs() < 1e-5, "{temperature}: {loss}");
            }
        }
    }

    #[test]
    fn certain_scores_are_labels_at_any_temperature() {
        for temperature in [1.0, 2.0] {
            for kind in [Loss::Softmax, Loss::Sigmoid] {
                assert_eq!(soften(&[0.0, 1.0, 0.0], kind, temperature), [0.0, 1.0, 0.0]);
            }
        }
        let label = Target {
            shares: &[0.0, 1.0, 0.0],
            weight: 1.0,
            classes: &[],
            soft: None,
        };
        for kind in [Loss::Softmax, Loss::Sigmoid] {
            let certain = soft(&[0.0, 1.0, 0.0], 1.0, 1.0);
            assert_eq!(loss_of(LOGITS, kind, certain), loss_of(LOGITS, kind, label));
        }
    }

    #[test]
    fn the_slope_of_the_divergence_agrees_with_finite_differences() {
        let mut head = Head {
            logits: vec![0.3, -1.2, 0.7, 1.0, 0.1, -0.4],
            d_logits: vec![0.0; 6],
            ..Head::default()
        };
        head.divergence(3, 2.0, 1.0);
        let slope = head.d_logits.clone();
        for (place, found) in slope.into_iter().enumerate() {
            let mut moved = |by: f32| {
                head.logits[place] += by;
                let divergence = head.divergence(3, 2.0, 0.0);
                head.logits[place] -= by;
                divergence
            };
            let difference = (moved(1e-2) - moved(-1e-2)) / 2e-2;
            assert!((difference - f64::from(found)).abs() < 1e-3, "{difference} {found}");
        }
        head.logits.copy_within(..3, 3);
        assert!(head.divergence(3, 2.0, 0.0).abs() < 1e-6);
    }
}
