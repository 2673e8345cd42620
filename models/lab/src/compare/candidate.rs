//! The candidates: each tuned and trained on the rows of one training part.

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
    trained::{Chosen, Kind, Model, Stack, Trained, joined},
};
use crate::metrics;

/// Values of `C` that logistic regression is tuned over, in rising order.
const LOGISTIC_C: [f64; 4] = [0.3, 1.0, 3.0, 10.0];
/// Values of `C` that the support vector machine is tuned over, in rising order.
const SVC_C: [f64; 4] = [0.03, 0.1, 0.3, 1.0];
/// Values of the smoothing that naive Bayes is tuned over.
const SMOOTHING: [f64; 5] = [0.01, 0.03, 0.1, 0.3, 1.0];
/// Numbers of trees that a forest is tuned over.
const TREES: [usize; 2] = [50, 100];
/// Depths that a forest is tuned over.
const DEPTHS: [Option<usize>; 3] = [Some(30), Some(100), None];
/// Folds within a training part, on which linear models are tuned.
const INNER_FOLDS: usize = 3;
/// `C` of the regression on top of the stack: scikit-learn's default.
const STACK_C: f64 = 1.0;

/// How closely the optimum of a linear model is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effort {
    /// Enough to choose between values.
    Tuning,
    /// As scikit-learn does it.
    Kept,
}

impl Effort {
    const fn logistic_tolerance(self) -> f64 {
        match self {
            Self::Tuning => 10.0 * logistic::TOLERANCE,
            Self::Kept => logistic::TOLERANCE,
        }
    }

    const fn svc_tolerance(self) -> f64 {
        match self {
            Self::Tuning => 100.0 * svc::TOLERANCE,
            Self::Kept => svc::TOLERANCE,
        }
    }
}

/// What candidates are trained on.
#[derive(Clone, Copy)]
pub(super) struct Training<'a> {
    pub(super) rows: &'a Rows,
    pub(super) truth: &'a [usize],
    pub(super) classes: usize,
    pub(super) balance: Balance,
    pub(super) seed: u64,
}

impl Training<'_> {
    /// Trains the candidates `kinds`, each tuned. `done` hears of each that is.
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
            chosen: Chosen::default(),
            seconds: 0.0,
            unseen: Vec::new(),
        }
    }

    /// A linear model, tuned over `grid`.
    pub(super) fn linear_with(&self, kind: Kind, grid: &[f64]) -> Trained {
        let start = Instant::now();
        let (value, unseen) = self.tune(kind, grid);
        let model = self.linear_at(kind, value, Effort::Kept, None);
        let (c, smoothing) = match kind {
            Kind::Bayes => (None, Some(value)),
            _ => (Some(value), None),
        };
        Trained {
            kind,
            model: Model::Linear(model),
            chosen: Chosen {
                c,
                smoothing,
                ..Chosen::default()
            },
            seconds: start.elapsed().as_secs_f64(),
            unseen,
        }
    }

    /// A linear model with this `C` or smoothing; a regression begins with `start`.
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

    /// The value of the grid with the best mean macro-F1 over inner folds, and the scores that its models give to the rows
    /// that they did not see.
    fn tune(&self, kind: Kind, grid: &[f64]) -> (f64, Vec<Vec<f64>>) {
        let inner = self.inner();
        // By fold, then by value: scores of the rows left out, and their macro-F1.
        let tried: Vec<Vec<(Vec<Vec<f64>>, f64)>> = inner
            .par_iter()
            .map(|fold| {
                let mut last: Option<Linear> = None;
                grid.iter()
                    .map(|&value| {
                        let linear = fold
                            .training(self)
                            .linear_at(kind, value, Effort::Tuning, last.as_ref());
                        let scores = linear.all_scores(&fold.left_out);
                        let said: Vec<usize> = scores.iter().map(|scores| highest(scores)).collect();
                        last = Some(linear);
                        (scores, macro_f1(&fold.left_out_truth, &said, self.classes))
                    })
                    .collect()
            })
            .collect();
        let means: Vec<f64> = (0..grid.len())
            .map(|value| tried.iter().map(|fold| fold[value].1).sum::<f64>())
            .collect();
        let best = highest(&means);
        let mut unseen = vec![Vec::new(); self.truth.len()];
        for (fold, mut tried) in inner.iter().zip(tried) {
            let scores = std::mem::take(&mut tried[best].0);
            fold.places
                .iter()
                .zip(scores)
                .for_each(|(&at, scores)| unseen[at] = scores);
        }
        (grid[best], unseen)
    }

    fn inner(&self) -> Vec<Inner> {
        let of = parts::folds(self.truth, self.classes, INNER_FOLDS, self.seed ^ 1);
        (0..INNER_FOLDS)
            .map(|fold| {
                let (places, kept): (Vec<usize>, Vec<usize>) = (0..self.truth.len()).partition(|&at| of[at] == fold);
                let truth = |places: &[usize]| places.iter().map(|&at| self.truth[at]).collect();
                Inner {
                    rows: self.rows.select(&kept),
                    truth: truth(&kept),
                    left_out: self.rows.select(&places),
                    left_out_truth: truth(&places),
                    places,
                }
            })
            .collect()
    }

    /// A forest of one of these sizes.
    pub(super) fn forest_with(&self, trees: &[usize], depths: &[Option<usize>]) -> Trained {
        let start = Instant::now();
        let Tuned {
            forest, size, unseen, ..
        } = Forest::tuned(
            self.rows,
            self.truth,
            self.classes,
            &self.positions(),
            trees,
            depths,
            self.seed,
        );
        let unseen = unseen
            .iter()
            .map(|chances| chances.iter().copied().map(f64::from).collect());
        Trained {
            kind: Kind::Forest,
            chosen: Chosen {
                trees: Some(size.trees),
                depth: size.depth,
                ..Chosen::default()
            },
            seconds: start.elapsed().as_secs_f64(),
            unseen: unseen.collect(),
            model: Model::Forest(forest),
        }
    }

    /// The stack on a machine and a forest that are trained already; their time is a part of its own. The regression on top
    /// learns from scores of rows by models that did not see them: of the machine's by inner folds, of the forest's out of bag.
    pub(super) fn stack(&self, trained: &[Trained]) -> Option<Trained> {
        let of = |kind| trained.iter().find(|trained| trained.kind == kind);
        let (svc, forest) = (of(Kind::Svc)?, of(Kind::Forest)?);
        let (Model::Linear(machine), Model::Forest(trees)) = (&svc.model, &forest.model) else {
            return None;
        };
        let start = Instant::now();
        // A row that every tree saw has no out-of-bag score; there is one in 10^20 of 100 trees.
        let known: Vec<usize> = (0..self.truth.len())
            .filter(|&at| !forest.unseen[at].is_empty())
            .collect();
        let of_known = |scores: &[Vec<f64>]| -> Vec<Vec<f64>> { known.iter().map(|&at| scores[at].clone()).collect() };
        let below = joined(&of_known(&forest.unseen), &of_known(&svc.unseen));
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
            chosen: Chosen {
                c: svc.chosen.c,
                ..forest.chosen
            },
            seconds: svc.seconds + forest.seconds + start.elapsed().as_secs_f64(),
            unseen: Vec::new(),
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

/// A fold within a training part.
struct Inner {
    rows: Rows,
    truth: Vec<usize>,
    left_out: Rows,
    left_out_truth: Vec<usize>,
    /// Where the rows left out stand in the training part.
    places: Vec<usize>,
}

impl Inner {
    fn training(&self, whole: &Training<'_>) -> Training<'_> {
        Training {
            rows: &self.rows,
            truth: &self.truth,
            classes: whole.classes,
            balance: whole.balance,
            seed: whole.seed,
        }
    }
}

/// The macro-F1 of the classes `said` against `truth`.
pub(super) fn macro_f1(truth: &[usize], said: &[usize], classes: usize) -> f64 {
    let labels: Vec<String> = (0..classes).map(|class| class.to_string()).collect();
    metrics::single_label(&labels, truth, said).macro_f1
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
    fn every_candidate_learns_and_says_the_same_of_one_row_as_of_all() {
        let (rows, truth) = random_rows(11, 300, 40, 4);
        let training = Training {
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
            let said = trained.model.predict(&rows);
            let one_by_one: Vec<usize> = rows
                .iter()
                .map(|row| trained.model.predict_one(row, &mut buffer))
                .collect();
            assert_eq!(said, one_by_one, "{:?}", trained.kind);
            let right = said.iter().zip(&truth).filter(|(said, truth)| said == truth).count();
            assert!(
                trained.kind == Kind::Majority || right > 150,
                "{:?}: {right}",
                trained.kind
            );
        }
    }

    #[test]
    fn a_stack_alone_is_the_stack_beside_its_parts() {
        let (rows, truth) = random_rows(12, 120, 30, 3);
        let training = Training {
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
    fn over_sampling_puts_no_copy_of_a_row_where_models_are_tuned() {
        // Each row has a feature of its own: one that a model did not see is told from no other.
        let truth: Vec<usize> = (0..60).map(|at| usize::from(at % 6 == 0)).collect();
        let mut rows = Rows::new(60);
        (0..60).for_each(|at| rows.push([(at, 1.0)]));
        let training = Training {
            rows: &rows,
            truth: &truth,
            classes: 2,
            balance: Balance::OverSampled,
            seed: 1,
        };
        for kind in [Kind::Svc, Kind::Lr] {
            let mut unseen = training.linear_with(kind, &[0.1, 10.0]).unseen;
            assert_eq!(unseen.len(), 60);
            unseen.sort_by(|one, other| one[0].total_cmp(&other[0]));
            unseen.dedup();
            assert!(unseen.len() <= INNER_FOLDS, "{kind:?}: {unseen:?}");
        }
    }
}
