//! Tunes and trains the candidates on the rows of one training part.

use std::time::Instant;

use rayon::prelude::*;

use super::{
    balance::Balance,
    bayes,
    forest::{Forest, Tuned, highest},
    linear::Linear,
    logistic, parts,
    sparse::Rows,
    svc,
    trained::{Hyperparameters, Kind, Model, Stack, Trained, joined},
};
use crate::metrics;

/// Values of `C` for tuning logistic regression, in rising order.
const LOGISTIC_C: [f64; 4] = [0.3, 1.0, 3.0, 10.0];
/// Values of `C` for tuning the support vector machine, in rising order.
const SVC_C: [f64; 4] = [0.03, 0.1, 0.3, 1.0];
/// Values of the smoothing for tuning naive Bayes.
const SMOOTHING: [f64; 5] = [0.01, 0.03, 0.1, 0.3, 1.0];
/// Numbers of trees for tuning a forest.
const TREES: [usize; 2] = [50, 100];
/// Depths for tuning a forest.
const DEPTHS: [Option<usize>; 3] = [Some(30), Some(100), None];
/// Folds within a training part for tuning linear models.
const INNER_FOLDS: usize = 3;
/// `C` of the regression on top of the stack: scikit-learn's default.
const STACK_C: f64 = 1.0;

/// How precisely the optimum of a linear model is computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// Enough to compare hyperparameters.
    Tuning,
    /// With the tolerance of scikit-learn.
    Final,
}

impl Effort {
    const fn logistic_tolerance(self) -> f64 {
        match self {
            Self::Tuning => 10.0 * logistic::TOLERANCE,
            Self::Final => logistic::TOLERANCE,
        }
    }

    const fn svc_tolerance(self) -> f64 {
        match self {
            Self::Tuning => 100.0 * svc::TOLERANCE,
            Self::Final => svc::TOLERANCE,
        }
    }
}

/// The rows that candidates are trained on.
#[derive(Clone, Copy)]
pub(super) struct TrainingSet<'a> {
    pub(super) rows: &'a Rows,
    pub(super) truth: &'a [usize],
    pub(super) classes: usize,
    pub(super) balance: Balance,
    pub(super) seed: u64,
}

impl TrainingSet<'_> {
    /// Tunes and trains the candidates `kinds`. `done` is called after each.
    pub(super) fn train(&self, kinds: &[Kind], done: &(impl Fn(Kind) + Sync)) -> Vec<Trained> {
        let needed =
            |kind| kinds.contains(&kind) || (kinds.contains(&Kind::Stack) && [Kind::Svc, Kind::Forest].contains(&kind));
        let mut trained: Vec<Trained> = Vec::new();
        for kind in [
            Kind::Majority,
            Kind::Bayes,
            Kind::Lr,
            Kind::Svc,
            Kind::Forest,
            Kind::Stack,
        ] {
            if !needed(kind) {
                continue;
            }
            let next = match kind {
                Kind::Majority => self.majority(),
                Kind::Bayes => self.linear_with(kind, &SMOOTHING),
                Kind::Lr => self.linear_with(kind, &LOGISTIC_C),
                Kind::Svc => self.linear_with(kind, &SVC_C),
                Kind::Forest => self.forest_with(&TREES, &DEPTHS),
                Kind::Stack => match self.stack(&trained) {
                    Some(stack) => stack,
                    None => continue,
                },
            };
            trained.push(next);
            done(kind);
        }
        trained.retain(|trained| kinds.contains(&trained.kind));
        trained
    }

    fn majority(&self) -> Trained {
        let mut counts = vec![0.0; self.classes];
        self.truth.iter().for_each(|&class| counts[class] += 1.0);
        Trained {
            kind: Kind::Majority,
            model: Model::Majority(highest(&counts)),
            chosen: Hyperparameters::default(),
            seconds: 0.0,
            out_of_fold: Vec::new(),
        }
    }

    /// Tunes a linear model over `grid` and trains it.
    pub(super) fn linear_with(&self, kind: Kind, grid: &[f64]) -> Trained {
        let start = Instant::now();
        let (value, out_of_fold) = self.tune(kind, grid);
        let model = self.linear_at(kind, value, Effort::Final, None);
        let (c, smoothing) = match kind {
            Kind::Bayes => (None, Some(value)),
            _ => (Some(value), None),
        };
        Trained {
            kind,
            model: Model::Linear(model),
            chosen: Hyperparameters {
                c,
                smoothing,
                ..Hyperparameters::default()
            },
            seconds: start.elapsed().as_secs_f64(),
            out_of_fold,
        }
    }

    /// Trains a linear model with this `C` or smoothing; a regression starts from `start`.
    pub(super) fn linear_at(&self, kind: Kind, value: f64, effort: Effort, start: Option<&Linear>) -> Linear {
        if self.balance == Balance::AsIs {
            return fit(kind, self.rows, self.truth, self.classes, value, effort, start);
        }
        let positions = self.positions();
        let truth: Vec<usize> = positions.iter().map(|&at| self.truth[at]).collect();
        let rows = self.rows.select(&positions);
        fit(kind, &rows, &truth, self.classes, value, effort, start)
    }

    /// The rows that a model is trained on.
    fn positions(&self) -> Vec<usize> {
        self.balance.positions(self.truth, self.classes, self.seed)
    }

    /// The value of the grid with the best mean macro-F1 over the inner folds, and its out-of-fold scores of all rows.
    fn tune(&self, kind: Kind, grid: &[f64]) -> (f64, Vec<Vec<f64>>) {
        let inner = self.inner_folds();
        // For each fold and value: the scores of the validation rows, and their macro-F1.
        let tried: Vec<Vec<(Vec<Vec<f64>>, f64)>> = inner
            .par_iter()
            .map(|fold| {
                let mut last: Option<Linear> = None;
                grid.iter()
                    .map(|&value| {
                        let linear = fold
                            .training(self)
                            .linear_at(kind, value, Effort::Tuning, last.as_ref());
                        let scores = linear.all_scores(&fold.validation);
                        let predicted: Vec<usize> = scores.iter().map(|scores| highest(scores)).collect();
                        last = Some(linear);
                        (scores, macro_f1(&fold.validation_truth, &predicted, self.classes))
                    })
                    .collect()
            })
            .collect();
        let means: Vec<f64> = (0..grid.len())
            .map(|value| tried.iter().map(|fold| fold[value].1).sum::<f64>())
            .collect();
        let best = highest(&means);
        let mut out_of_fold = vec![Vec::new(); self.truth.len()];
        for (fold, mut tried) in inner.iter().zip(tried) {
            let scores = std::mem::take(&mut tried[best].0);
            fold.places
                .iter()
                .zip(scores)
                .for_each(|(&at, scores)| out_of_fold[at] = scores);
        }
        (grid[best], out_of_fold)
    }

    fn inner_folds(&self) -> Vec<InnerFold> {
        let of = parts::folds(self.truth, self.classes, INNER_FOLDS, self.seed ^ 1);
        (0..INNER_FOLDS)
            .map(|fold| {
                let (places, kept): (Vec<usize>, Vec<usize>) = (0..self.truth.len()).partition(|&at| of[at] == fold);
                let truth = |places: &[usize]| places.iter().map(|&at| self.truth[at]).collect();
                InnerFold {
                    rows: self.rows.select(&kept),
                    truth: truth(&kept),
                    validation: self.rows.select(&places),
                    validation_truth: truth(&places),
                    places,
                }
            })
            .collect()
    }

    /// Trains a forest of the best of these sizes.
    pub(super) fn forest_with(&self, trees: &[usize], depths: &[Option<usize>]) -> Trained {
        let start = Instant::now();
        let Tuned {
            forest,
            size,
            out_of_bag,
            ..
        } = Forest::tuned(
            self.rows,
            self.truth,
            self.classes,
            &self.positions(),
            trees,
            depths,
            self.seed,
        );
        let out_of_fold = out_of_bag
            .iter()
            .map(|probabilities| probabilities.iter().copied().map(f64::from).collect());
        Trained {
            kind: Kind::Forest,
            chosen: Hyperparameters {
                trees: Some(size.trees),
                depth: size.depth,
                ..Hyperparameters::default()
            },
            seconds: start.elapsed().as_secs_f64(),
            out_of_fold: out_of_fold.collect(),
            model: Model::Forest(forest),
        }
    }

    /// Trains the stack on a support vector machine and a forest that are trained already; its time includes theirs. The
    /// regression is trained on out-of-fold scores of the machine and out-of-bag scores of the forest.
    pub(super) fn stack(&self, trained: &[Trained]) -> Option<Trained> {
        let of = |kind| trained.iter().find(|trained| trained.kind == kind);
        let (svc, forest) = (of(Kind::Svc)?, of(Kind::Forest)?);
        let (Model::Linear(machine), Model::Forest(trees)) = (&svc.model, &forest.model) else {
            return None;
        };
        let start = Instant::now();
        // A row in the bag of every tree has no out-of-bag score; with 100 trees that is one row in 10^20.
        let known: Vec<usize> = (0..self.truth.len())
            .filter(|&at| !forest.out_of_fold[at].is_empty())
            .collect();
        let of_known = |scores: &[Vec<f64>]| -> Vec<Vec<f64>> { known.iter().map(|&at| scores[at].clone()).collect() };
        let below = joined(&of_known(&forest.out_of_fold), &of_known(&svc.out_of_fold));
        let truth: Vec<usize> = known.iter().map(|&at| self.truth[at]).collect();
        let top = logistic::train(&below, &truth, self.classes, logistic::Settings::new(STACK_C), None);
        let stack = Stack {
            forest: trees.clone(),
            svc: machine.clone(),
            top,
        };
        Some(Trained {
            kind: Kind::Stack,
            model: Model::Stack(Box::new(stack)),
            chosen: Hyperparameters {
                c: svc.chosen.c,
                ..forest.chosen
            },
            seconds: svc.seconds + forest.seconds + start.elapsed().as_secs_f64(),
            out_of_fold: Vec::new(),
        })
    }
}

fn fit(
    kind: Kind,
    rows: &Rows,
    truth: &[usize],
    classes: usize,
    value: f64,
    effort: Effort,
    start: Option<&Linear>,
) -> Linear {
    match kind {
        Kind::Bayes => bayes::train(rows, truth, classes, value),
        Kind::Svc => {
            let settings = svc::Settings {
                tolerance: effort.svc_tolerance(),
                ..svc::Settings::new(value)
            };
            svc::train(rows, truth, classes, settings)
        }
        _ => {
            let settings = logistic::Settings {
                c: value,
                tolerance: effort.logistic_tolerance(),
            };
            logistic::train(rows, truth, classes, settings, start)
        }
    }
}

/// A fold within a training part: rows to train on and rows to validate on.
struct InnerFold {
    rows: Rows,
    truth: Vec<usize>,
    validation: Rows,
    validation_truth: Vec<usize>,
    /// The positions of the validation rows in the training part.
    places: Vec<usize>,
}

impl InnerFold {
    fn training(&self, whole: &TrainingSet<'_>) -> TrainingSet<'_> {
        TrainingSet {
            rows: &self.rows,
            truth: &self.truth,
            classes: whole.classes,
            balance: whole.balance,
            seed: whole.seed,
        }
    }
}

/// The macro-F1 of the classes `predicted`.
pub(super) fn macro_f1(truth: &[usize], predicted: &[usize], classes: usize) -> f64 {
    let labels: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    metrics::single_label(&labels, truth, predicted).macro_f1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::compare::{testing::random_rows, trained::Buffer};

    const ALL: [Kind; 6] = [
        Kind::Majority,
        Kind::Bayes,
        Kind::Lr,
        Kind::Svc,
        Kind::Forest,
        Kind::Stack,
    ];

    #[test]
    fn every_candidate_learns_and_predicts_the_same_for_one_row_as_for_all() {
        let (rows, truth) = random_rows(11, 300, 40, 4);
        let training = TrainingSet {
            rows: &rows,
            truth: &truth,
            classes: 4,
            balance: Balance::AsIs,
            seed: 1,
        };
        let trained = training.train(&ALL, &|_| {});
        assert_eq!(trained.iter().map(|trained| trained.kind).collect::<Vec<_>>(), ALL);
        let mut buffer = Buffer::default();
        for trained in &trained {
            let predicted = trained.model.predict(&rows);
            let one_by_one: Vec<usize> = rows
                .iter()
                .map(|row| trained.model.predict_one(row, &mut buffer))
                .collect();
            assert_eq!(predicted, one_by_one, "{:?}", trained.kind);
            let right = predicted
                .iter()
                .zip(&truth)
                .filter(|(predicted, truth)| predicted == truth)
                .count();
            assert!(
                trained.kind == Kind::Majority || right > 150,
                "{:?}: {right}",
                trained.kind
            );
        }
    }

    #[test]
    fn a_stack_is_the_same_with_and_without_its_parts_among_the_candidates() {
        let (rows, truth) = random_rows(12, 120, 30, 3);
        let training = TrainingSet {
            rows: &rows,
            truth: &truth,
            classes: 3,
            balance: Balance::AsIs,
            seed: 1,
        };
        let alone = training.train(&[Kind::Stack], &|_| {});
        let beside = training.train(&ALL, &|_| {});
        assert_eq!(alone.len(), 1);
        assert_eq!(alone[0].model.predict(&rows), beside[5].model.predict(&rows));
    }

    #[test]
    fn over_sampling_puts_no_copy_of_a_row_into_a_validation_fold() {
        // Each row has its own feature, so a model gives the same scores to all rows that it was not trained on.
        let truth: Vec<usize> = (0..60).map(|at| usize::from(at % 6 == 0)).collect();
        let mut rows = Rows::new(60);
        (0..60).for_each(|at| rows.push([(at, 1.0)]));
        let training = TrainingSet {
            rows: &rows,
            truth: &truth,
            classes: 2,
            balance: Balance::OverSampled,
            seed: 1,
        };
        for kind in [Kind::Svc, Kind::Lr] {
            let mut out_of_fold = training.linear_with(kind, &[0.1, 10.0]).out_of_fold;
            assert_eq!(out_of_fold.len(), 60);
            out_of_fold.sort_by(|one, other| one[0].total_cmp(&other[0]));
            out_of_fold.dedup();
            assert!(out_of_fold.len() <= INNER_FOLDS, "{kind:?}: {out_of_fold:?}");
        }
    }
}
