//! A linear classifier: the result of the support vector machine, logistic regression and naive Bayes.

use super::{
    lanes::{LANES, Lane, blocks, dot},
    sparse::{Row, Rows},
};

/// A weight for each feature and class, and an intercept for each class.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Linear {
    /// Classes.
    pub(super) classes: usize,
    /// `weights[block][feature]`, eight classes a block.
    pub(super) weights: Vec<Vec<Lane>>,
    /// `intercepts[block]`.
    pub(super) intercepts: Vec<Lane>,
}

impl Linear {
    /// All zero.
    pub(super) fn zeros(classes: usize, features: usize) -> Self {
        Self {
            classes,
            weights: vec![vec![[0.0; LANES]; features]; blocks(classes)],
            intercepts: vec![[0.0; LANES]; blocks(classes)],
        }
    }

    /// Computes the score of each class into `scores`, which is cleared first.
    pub(crate) fn scores(&self, row: Row<'_>, scores: &mut Vec<f64>) {
        scores.clear();
        for (weights, intercepts) in self.weights.iter().zip(&self.intercepts) {
            scores.extend(dot(*intercepts, row, weights));
        }
        scores.truncate(self.classes);
    }

    /// The scores of all rows.
    pub(crate) fn all_scores(&self, rows: &Rows) -> Vec<Vec<f64>> {
        let mut scores = Vec::new();
        rows.iter()
            .map(|row| {
                self.scores(row, &mut scores);
                scores.clone()
            })
            .collect()
    }

    /// The weight of a feature for a class.
    pub(crate) fn weight(&self, feature: usize, class: usize) -> f64 {
        self.weights[class / LANES][feature][class % LANES]
    }

    /// The intercept of a class.
    pub(crate) fn intercept(&self, class: usize) -> f64 {
        self.intercepts[class / LANES][class % LANES]
    }

    /// Features.
    pub(crate) fn features(&self) -> usize {
        self.weights.first().map_or(0, Vec::len)
    }

    /// Classes.
    pub(crate) const fn classes(&self) -> usize {
        self.classes
    }
}
