//! Converts logits into a [`Prediction`].

use std::sync::Arc;

use super::{Prediction, ProblemType};

/// Scores are multiples of 2⁻²⁰. A double can sum 2³³ of them without rounding, so sums don't depend on the order.
const STEPS: f64 = (1u32 << 20) as f64;

/// A NaN or infinite logit, which means that the model failed on the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the logit of label {label} is not finite")]
pub struct NotFinite {
    /// The index of the label.
    pub label: usize,
}

/// Converts a model's logits into predictions.
#[derive(Debug, Clone)]
pub struct Postprocessor {
    labels: Arc<[Arc<str>]>,
    problem_type: ProblemType,
    temperature: f64,
    thresholds: Vec<f64>,
    fallback: Option<usize>,
}

impl Postprocessor {
    /// Creates a postprocessor with one threshold per label, in the order of the labels. `fallback` is the index of a label.
    pub(super) fn new(
        labels: Arc<[Arc<str>]>,
        problem_type: ProblemType,
        temperature: f64,
        thresholds: Vec<f64>,
        fallback: Option<usize>,
    ) -> Self {
        debug_assert_eq!(labels.len(), thresholds.len());
        Self {
            labels,
            problem_type,
            temperature,
            thresholds,
            fallback,
        }
    }

    /// The index of the label that is predicted if no label reaches its threshold.
    #[must_use]
    pub fn fallback(&self) -> Option<usize> {
        self.fallback
    }

    /// The number of labels, which is the number of logits per text.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.labels.len()
    }

    /// Converts the logits of one text, one per label.
    ///
    /// With softmax, the emotion is the label with the highest score. With sigmoid, it is the label with the
    /// highest score among those that reach their threshold. If there is none, it is the fallback label, or
    /// without one the label with the highest score. Ties go to the first label.
    ///
    /// # Errors
    /// Returns [`NotFinite`] if a logit is NaN or infinite.
    pub fn decode(&self, logits: &[f32]) -> Result<Prediction, NotFinite> {
        debug_assert_eq!(logits.len(), self.labels.len());
        if let Some(label) = logits.iter().position(|logit| !logit.is_finite()) {
            return Err(NotFinite { label });
        }
        let scaled = logits.iter().map(|&logit| f64::from(logit) / self.temperature);
        let scores: Arc<[f64]> = match self.problem_type {
            ProblemType::SingleLabelClassification => softmax(scaled.collect()).into_iter().map(quantise).collect(),
            ProblemType::MultiLabelClassification => scaled.map(|x| quantise(1.0 / (1.0 + (-x).exp()))).collect(),
        };
        let emotion = match self.problem_type {
            ProblemType::SingleLabelClassification => highest(&scores, |_| true),
            ProblemType::MultiLabelClassification => highest(&scores, |label| scores[label] >= self.thresholds[label])
                .or(self.fallback)
                .or_else(|| highest(&scores, |_| true)),
        }
        .unwrap_or_default();
        Ok(Prediction {
            emotion: self.labels[emotion].clone(),
            score: scores[emotion],
            scores,
        })
    }
}

fn softmax(mut x: Vec<f64>) -> Vec<f64> {
    let highest = x.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut sum = 0.0;
    for value in &mut x {
        *value = (*value - highest).exp();
        sum += *value;
    }
    for value in &mut x {
        *value /= sum;
    }
    x
}

fn quantise(score: f64) -> f64 {
    (score * STEPS).round() / STEPS
}

/// Returns the index of the highest score among the eligible labels; the first one if there are ties.
fn highest(scores: &[f64], counts: impl Fn(usize) -> bool) -> Option<usize> {
    let mut best: Option<usize> = None;
    for label in (0..scores.len()).filter(|&label| counts(label)) {
        if best.is_none_or(|best| scores[label] > scores[best]) {
            best = Some(label);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    fn postprocessor(problem_type: ProblemType, thresholds: [f64; 3], fallback: Option<usize>) -> Postprocessor {
        let labels: Arc<[Arc<str>]> = ["anger", "joy", "neutral"].map(Arc::from).into();
        Postprocessor::new(labels, problem_type, 1.0, thresholds.to_vec(), fallback)
    }

    #[test]
    fn multi_label_takes_the_highest_that_reaches_its_threshold() {
        let multi = postprocessor(ProblemType::MultiLabelClassification, [0.9, 0.3, 0.5], Some(2));
        // anger's .73 is below its threshold of .9; joy's .38 reaches .3
        let prediction = multi.decode(&[1.0, -0.5, -3.0]).unwrap();
        assert_eq!(&*prediction.emotion, "joy");
        assert_eq!(prediction.score, prediction.scores[1]);
        let prediction = multi.decode(&[1.0, -3.0, -3.0]).unwrap();
        assert_eq!(
            &*prediction.emotion, "neutral",
            "no label reaches its threshold: the fallback"
        );
        let prediction = postprocessor(ProblemType::MultiLabelClassification, [0.9; 3], None)
            .decode(&[1.0, -3.0, -3.0])
            .unwrap();
        assert_eq!(&*prediction.emotion, "anger", "no fallback: the highest");
    }

    #[test]
    fn sigmoid_scores_do_not_compete() {
        let prediction = postprocessor(ProblemType::MultiLabelClassification, [0.5; 3], None)
            .decode(&[0.0, 0.0, 100.0])
            .unwrap();
        assert_eq!(*prediction.scores, [0.5, 0.5, 1.0]);
    }

    #[test]
    fn equal_scores_go_to_the_first_label() {
        let prediction = postprocessor(ProblemType::SingleLabelClassification, [0.5; 3], None)
            .decode(&[1.0, 1.0, 1.0])
            .unwrap();
        assert_eq!(&*prediction.emotion, "anger");
    }

    #[test]
    fn logits_that_are_not_finite_are_an_error() {
        let single = postprocessor(ProblemType::SingleLabelClassification, [0.5; 3], None);
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            assert_eq!(single.decode(&[0.0, bad, 0.0]), Err(NotFinite { label: 1 }));
        }
    }

    proptest! {
        #[test]
        fn scores_are_probabilities_on_the_grid(logits in prop::array::uniform3(-1e30f32..1e30), multi: bool, temperature in 0.01f64..100.0) {
            let problem_type = if multi { ProblemType::MultiLabelClassification } else { ProblemType::SingleLabelClassification };
            let mut postprocessor = postprocessor(problem_type, [0.5; 3], Some(2));
            postprocessor.temperature = temperature;
            let prediction = postprocessor.decode(&logits).unwrap();
            for score in prediction.scores.iter() {
                prop_assert!((0.0..=1.0).contains(score));
                prop_assert_eq!((score * STEPS).fract(), 0.0);
            }
            if !multi {
                let sum: f64 = prediction.scores.iter().sum();
                prop_assert!((sum - 1.0).abs() <= 3.0 / STEPS);
            }
        }
    }
}
