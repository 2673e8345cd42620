//! The figures of a comparison as JSON and as a table.

use std::{fmt::Write as _, path::PathBuf};

use serde::Serialize;

use super::{
    Args,
    parts::{Parts, Removed},
    significance::{self, Bootstrap},
    trained::Hyperparameters,
};
use crate::metrics::{self, ClassReport, Spread};

/// The predictions of a model and what else is known about it.
pub(super) struct Contender {
    pub(super) name: String,
    /// The posts' labels, followed by those that only this model has.
    pub(super) labels: Vec<String>,
    /// The prediction for each test post.
    pub(super) predicted: Vec<usize>,
    pub(super) chosen: Option<Hyperparameters>,
    /// The macro-F1 on each fold; empty for a model folder.
    pub(super) folds: Vec<f64>,
    pub(super) train_seconds: Option<f64>,
    pub(super) posts_per_second: f64,
    pub(super) bytes: u64,
}

/// A comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The posts.
    pub data: Data,
    /// The name of the model with the highest macro-F1 on the test part.
    pub best: String,
    /// The models, in the order of their macro-F1 on the test part.
    pub models: Vec<ModelReport>,
}

/// The posts of a comparison.
#[derive(Debug, Clone, Serialize)]
pub struct Data {
    /// The names of the files.
    pub train: Vec<String>,
    /// The names of the files of the test part; empty if it was split off.
    pub test: Vec<String>,
    /// Training posts.
    pub train_posts: usize,
    /// Test posts.
    pub test_posts: usize,
    /// The labels.
    pub labels: Vec<String>,
    /// Posts left out.
    pub removed: Removed,
    /// Features of the classical models that were trained on the whole training part.
    pub features: usize,
    /// The least number of training posts with an n-gram that is a feature.
    pub min_posts: u32,
    /// The seed of splits, folds and forests.
    pub seed: u64,
}

/// One model.
#[derive(Debug, Clone, Serialize)]
pub struct ModelReport {
    /// `lr`, `svc`, `forest`, `stack`, `bayes`, `majority`, or a folder's model id.
    pub name: String,
    /// The hyperparameters tuned on the whole training part; `null` for a folder.
    pub settings: Option<Hyperparameters>,
    /// The macro-F1 over the folds of the training part; `null` for a folder.
    pub cv: Option<Folds>,
    /// The figures on the test part.
    pub test: TestFigures,
    /// The comparison with the best model; `null` for the best.
    pub against_best: Option<Difference>,
    /// Seconds of wall clock for training, including selecting features and tuning; `null` for a folder.
    pub train_seconds: Option<f64>,
    /// Posts a second, including cleaning: of a classical model on one thread, of a folder with the service's sessions.
    pub posts_per_second: f64,
    /// Bytes of weights and vocabulary, or of the folder's files that the service reads.
    pub bytes: u64,
}

/// A figure over folds.
#[derive(Debug, Clone, Serialize)]
pub struct Folds {
    /// The mean.
    pub mean: f64,
    /// The standard deviation of the sample.
    pub sd: f64,
    /// The figure of each fold.
    pub folds: Vec<f64>,
}

/// The bounds of a 95 % interval.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Interval {
    /// The lower one.
    pub low: f64,
    /// The upper one.
    pub high: f64,
}

/// The figures on the test part. Macro averages are over the labels that occur in it; weighted averages are weighted by
/// posts.
#[derive(Debug, Clone, Serialize)]
pub struct TestFigures {
    /// The share of posts with a right prediction.
    pub accuracy: f64,
    /// Mean precision.
    pub macro_precision: f64,
    /// Mean recall.
    pub macro_recall: f64,
    /// Mean F1.
    pub macro_f1: f64,
    /// The bootstrap's 95 % interval of the macro-F1.
    pub macro_f1_interval: Interval,
    /// Weighted mean precision.
    pub weighted_precision: f64,
    /// Weighted mean recall: the accuracy.
    pub weighted_recall: f64,
    /// Weighted mean F1.
    pub weighted_f1: f64,
    /// The figures by label.
    pub classes: Vec<ClassReport>,
    /// `confusion[truth][predicted]`, in the order of `classes`.
    pub confusion: Vec<Vec<u64>>,
}

/// The comparison of a model with another, usually the best.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Difference {
    /// Its macro-F1 less that of the other.
    pub difference: f64,
    /// The paired bootstrap's 95 % interval of that.
    pub interval: Interval,
    /// The p-value of the paired bootstrap.
    pub p: f64,
    /// Whether the difference is significant at 5 % over all comparisons (Holm).
    pub differs: bool,
}

impl Report {
    pub(super) fn new(args: &Args, parts: &Parts, features: usize, mut contenders: Vec<Contender>) -> Self {
        let truth: Vec<usize> = parts.test.iter().map(|post| post.class).collect();
        let seed = args.seed;
        let labels = contenders
            .iter()
            .map(|contender| contender.labels.len())
            .max()
            .unwrap_or(0);
        let reached = |contender: &Contender| significance::macro_f1(&truth, &contender.predicted, labels, seed);
        let mut scored: Vec<(Bootstrap, Contender)> = contenders
            .drain(..)
            .map(|contender| (reached(&contender), contender))
            .collect();
        scored.sort_by(|one, other| other.0.value.total_cmp(&one.0.value));

        let best = scored
            .first()
            .map_or(Vec::new(), |(_, contender)| contender.predicted.clone());
        let differences: Vec<Bootstrap> = scored
            .iter()
            .skip(1)
            .map(|(_, contender)| significance::difference(&truth, &contender.predicted, &best, labels, seed))
            .collect();
        let p: Vec<f64> = differences.iter().map(|difference| difference.p).collect();
        let against = differences
            .iter()
            .zip(significance::holm(&p))
            .map(|(difference, differs)| Difference::new(difference, differs));
        let against = std::iter::once(None).chain(against.map(Some));
        let models: Vec<ModelReport> = scored
            .into_iter()
            .zip(against)
            .map(|((score, contender), against_best)| model_report(&truth, score, contender, against_best))
            .collect();
        Self {
            data: Data {
                train: names(&args.train),
                test: names(&args.test),
                train_posts: parts.train.len(),
                test_posts: parts.test.len(),
                labels: parts.labels.clone(),
                removed: parts.removed.clone(),
                features,
                min_posts: args.min_posts,
                seed,
            },
            best: models.first().map(|model| model.name.clone()).unwrap_or_default(),
            models,
        }
    }

    /// The comparison as a table for a terminal.
    #[must_use]
    pub fn table(&self) -> String {
        let Data {
            train_posts,
            test_posts,
            labels,
            removed,
            features,
            ..
        } = &self.data;
        let mut out = format!(
            "{train_posts} training posts, {test_posts} test posts, {} labels, {features} features\nleft out: {} without a label, \
             {} with several, {} without words{}, {} duplicates of a test post, {} other duplicates, {} with contradictory labels\n\n",
            labels.len(),
            removed.without_label,
            removed.several_labels,
            removed.empty,
            removed
                .first_empty
                .as_ref()
                .map_or(String::new(), |first| format!(" (the first: {first})")),
            removed.leaked_from_test,
            removed.duplicates,
            removed.contradictory
        );
        let width = self
            .models
            .iter()
            .map(|model| model.name.chars().count())
            .max()
            .unwrap_or(0)
            .max(5);
        let _ = writeln!(
            out,
            "{:width$}  {:>15}  {:>8}  {:>20}  {:>20}  {:>15}  {:>8}  {:>8}  {:>8}",
            "", "cross-validated", "", "macro", "weighted", "95 % of", "training", "posts", ""
        );
        let _ = writeln!(
            out,
            "{:width$}  {:>15}  {:>8}  {:>6} {:>6} {:>6}  {:>6} {:>6} {:>6}  {:>15}  {:>8}  {:>8}  {:>8}  against the best",
            "model",
            "macro-F1",
            "accuracy",
            "prec.",
            "recall",
            "F1",
            "prec.",
            "recall",
            "F1",
            "macro-F1",
            "seconds",
            "a second",
            "MB"
        );
        for ModelReport {
            name,
            cv,
            test,
            against_best,
            train_seconds,
            posts_per_second,
            bytes,
            ..
        } in &self.models
        {
            let folds = cv
                .as_ref()
                .map_or("-".to_owned(), |cv| format!("{:.4} ± {:.4}", cv.mean, cv.sd));
            let seconds = train_seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1}"));
            let against = match against_best {
                None => "the best".to_owned(),
                Some(Difference {
                    difference, p, differs, ..
                }) => format!(
                    "{difference:+.4}, p {p:.4}{}",
                    if *differs { "" } else { ", may be chance" }
                ),
            };
            let _ = writeln!(
                out,
                "{name:width$}  {folds:>15}  {:8.4}  {:6.4} {:6.4} {:6.4}  {:6.4} {:6.4} {:6.4}  {:>15}  {seconds:>8}  {posts_per_second:8.0}  {:8.1}  {against}",
                test.accuracy,
                test.macro_precision,
                test.macro_recall,
                test.macro_f1,
                test.weighted_precision,
                test.weighted_recall,
                test.weighted_f1,
                format!("{:.4}-{:.4}", test.macro_f1_interval.low, test.macro_f1_interval.high),
                *bytes as f64 / 1e6,
            );
        }
        out
    }
}

fn names(files: &[PathBuf]) -> Vec<String> {
    let name = |file: &PathBuf| file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    files.iter().map(name).collect()
}

impl Bootstrap {
    /// The bounds of the interval.
    pub(super) const fn interval(&self) -> Interval {
        Interval {
            low: self.low,
            high: self.high,
        }
    }
}

impl Difference {
    pub(super) const fn new(difference: &Bootstrap, differs: bool) -> Self {
        Self {
            difference: difference.value,
            interval: difference.interval(),
            p: difference.p,
            differs,
        }
    }
}

fn model_report(
    truth: &[usize],
    score: Bootstrap,
    contender: Contender,
    against_best: Option<Difference>,
) -> ModelReport {
    let report = metrics::single_label(&contender.labels, truth, &contender.predicted);
    let occurring: Vec<&ClassReport> = report.classes.iter().filter(|class| class.support > 0).collect();
    let mean = |of: fn(&ClassReport) -> f64| {
        occurring.iter().map(|class| of(class)).sum::<f64>() / occurring.len().max(1) as f64
    };
    let weighted = |of: fn(&ClassReport) -> f64| {
        let sum: f64 = occurring.iter().map(|class| of(class) * class.support as f64).sum();
        sum / truth.len().max(1) as f64
    };
    let test = TestFigures {
        accuracy: report.accuracy,
        macro_precision: mean(|class| class.precision),
        macro_recall: mean(|class| class.recall),
        macro_f1: report.macro_f1,
        macro_f1_interval: score.interval(),
        weighted_precision: weighted(|class| class.precision),
        weighted_recall: weighted(|class| class.recall),
        weighted_f1: report.weighted_f1,
        confusion: report.confusion.clone().unwrap_or_default(),
        classes: report.classes.clone(),
    };
    ModelReport {
        name: contender.name,
        settings: contender.chosen,
        cv: Spread::of(&contender.folds).map(|spread| Folds {
            mean: spread.mean,
            sd: spread.deviation,
            folds: contender.folds,
        }),
        test,
        against_best,
        train_seconds: contender.train_seconds,
        posts_per_second: contender.posts_per_second,
        bytes: contender.bytes,
    }
}
