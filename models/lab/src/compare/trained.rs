//! Trained models of every kind, and their predictions.

use serde::Serialize;

use super::{
    forest::{Forest, highest},
    linear::Linear,
    sparse::{Row, Rows},
};

/// A kind of classical model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// The most frequent label for every post: the baseline.
    #[value(skip)]
    Majority,
    /// Multinomial naive Bayes.
    Bayes,
    /// Multinomial logistic regression.
    Lr,
    /// Linear support vector machine, one label against all others.
    Svc,
    /// Random forest.
    Forest,
    /// Logistic regression on the scores of a forest and a support vector machine.
    Stack,
}

impl Kind {
    /// The name in tables and JSON.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Majority => "majority",
            Self::Bayes => "bayes",
            Self::Lr => "lr",
            Self::Svc => "svc",
            Self::Forest => "forest",
            Self::Stack => "stack",
        }
    }
}

/// Hyperparameters, as tuned or given.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Hyperparameters {
    /// Of logistic regression and the support vector machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub c: Option<f64>,
    /// Of naive Bayes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub smoothing: Option<f64>,
    /// Of a forest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trees: Option<usize>,
    /// Of a forest: `None` if it is unlimited.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<usize>,
}

/// A trained model.
#[derive(Debug, Clone)]
pub(super) enum Model {
    /// Always the same class.
    Majority(usize),
    /// Scores by a weight for each feature and class.
    Linear(Linear),
    Forest(Forest),
    Stack(Box<Stack>),
}

/// A forest and a support vector machine, and the regression on their scores.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    pub(super) forest: Forest,
    pub(super) svc: Linear,
    pub(super) top: Linear,
}

impl Model {
    /// The class of each row.
    pub(super) fn predict(&self, rows: &Rows) -> Vec<usize> {
        match self {
            Self::Majority(class) => vec![*class; rows.len()],
            Self::Linear(linear) => linear.all_scores(rows).iter().map(|scores| highest(scores)).collect(),
            Self::Forest(forest) => forest
                .probabilities(rows)
                .iter()
                .map(|probabilities| highest(probabilities))
                .collect(),
            Self::Stack(stack) => {
                let below = joined(&stack.forest.probabilities(rows), &stack.svc.all_scores(rows));
                stack
                    .top
                    .all_scores(&below)
                    .iter()
                    .map(|scores| highest(scores))
                    .collect()
            }
        }
    }

    /// The class of one row. `buffer` is reused between rows.
    pub(super) fn predict_one(&self, row: Row<'_>, buffer: &mut Buffer) -> usize {
        let Buffer { dense, scores } = buffer;
        match self {
            Self::Majority(class) => *class,
            Self::Linear(linear) => {
                linear.scores(row, scores);
                highest(scores)
            }
            Self::Forest(forest) => highest(&forest.probabilities_of(row, dense)),
            Self::Stack(stack) => {
                stack.svc.scores(row, scores);
                let below = joined(&[stack.forest.probabilities_of(row, dense)], &[std::mem::take(scores)]);
                stack.top.scores(below.row(0), scores);
                highest(scores)
            }
        }
    }

    /// The size of its weights as 32-bit numbers in bytes, without the vocabulary.
    pub(super) fn bytes(&self) -> usize {
        let linear = |linear: &Linear, features: usize| 4 * linear.classes() * (features + 1);
        match self {
            Self::Majority(_) => 4,
            Self::Linear(one) => linear(one, one.features()),
            Self::Forest(forest) => forest.bytes(),
            Self::Stack(stack) => {
                stack.forest.bytes()
                    + linear(&stack.svc, stack.svc.features())
                    + linear(&stack.top, stack.top.features())
            }
        }
    }

    /// Whether it uses the text.
    pub(super) const fn has_features(&self) -> bool {
        !matches!(self, Self::Majority(_))
    }
}

/// Buffers of [`Model::predict_one`].
#[derive(Debug, Default)]
pub(super) struct Buffer {
    dense: Vec<f32>,
    scores: Vec<f64>,
}

/// A trained candidate.
#[derive(Debug, Clone)]
pub(super) struct Trained {
    pub(super) kind: Kind,
    pub(super) model: Model,
    pub(super) chosen: Hyperparameters,
    /// Seconds of wall clock, including tuning.
    pub(super) seconds: f64,
    /// The scores of each training row by models that were not trained on it; empty for the majority and the stack.
    pub(super) out_of_fold: Vec<Vec<f64>>,
}

/// The scores of two models as features of a third.
pub(super) fn joined(one: &[Vec<f64>], other: &[Vec<f64>]) -> Rows {
    let width = one.first().map_or(0, Vec::len) + other.first().map_or(0, Vec::len);
    let mut rows = Rows::new(width);
    for (one, other) in one.iter().zip(other) {
        rows.push((0..).zip(one.iter().chain(other).map(|&score| score as f32)));
    }
    rows
}
