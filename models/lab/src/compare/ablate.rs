//! Measures the effect of each step of cleaning and training by leaving out one at a time.
//!
//! If only texts change, the split is the same, and each variation is compared with all steps on the same test posts.

use std::fmt::Write as _;

use indicatif::ProgressBar;
use moodstream::clean::Steps;
use serde::Serialize;

use super::{
    Args, Fitted,
    balance::Balance,
    cross_validate, features,
    parts::{Input, Parts, Post},
    progress,
    report::{Difference, Folds, Interval},
    significance,
    trained::Kind,
};
use crate::{data::LabelMap, metrics::Spread};

/// The results of all variations.
#[derive(Debug, Clone, Serialize)]
pub struct Ablation {
    /// The variations, by model.
    pub variations: Vec<Variation>,
}

/// One way of cleaning and training, with one model.
#[derive(Debug, Clone, Serialize)]
pub struct Variation {
    /// The difference from all steps.
    pub name: String,
    /// The model.
    pub model: String,
    /// Labels.
    pub labels: usize,
    /// Training posts, including copies.
    pub train_posts: usize,
    /// Posts of the test part.
    pub test_posts: usize,
    /// The macro-F1 over the folds; `null` for merged sets, which would have other folds.
    pub cv: Option<Folds>,
    /// The macro-F1 on the test part.
    pub macro_f1: f64,
    /// The accuracy on the test part.
    pub accuracy: f64,
    /// The bootstrap's 95 % interval of the macro-F1.
    pub interval: Interval,
    /// The comparison with all steps; `null` if the test posts are not the same.
    pub against_whole: Option<Difference>,
}

/// A variation to run.
struct Trial<'a> {
    name: &'static str,
    parts: &'a Parts,
    balance: Balance,
    folds: bool,
    /// The position of the trial that it is compared with.
    against: Option<usize>,
}

/// Runs all variations.
pub(super) fn run(args: &Args, map: &LabelMap) -> anyhow::Result<Ablation> {
    let mut kinds = args.models.clone();
    kinds.sort_unstable();
    kinds.dedup();
    let identity = LabelMap::identity();
    let input = args.input(&identity);
    let with = |steps: Steps| Parts::read(&Input { steps, ..input.clone() });
    let whole = with(Steps::ALL)?;
    let stop_words = with(Steps {
        stop_words: false,
        ..Steps::ALL
    })?;
    let forms = with(Steps {
        lemmas: false,
        ..Steps::ALL
    })?;
    let emoji = with(Steps {
        emoji_words: false,
        ..Steps::ALL
    })?;
    let copies = Parts::read(&Input {
        deduplicate: false,
        ..input.clone()
    })?;
    let trial = |name, parts, against| Trial {
        name,
        parts,
        balance: Balance::AsIs,
        folds: true,
        against,
    };
    let mut trials = vec![
        trial("all steps", &whole, None),
        trial("stop words kept", &stop_words, Some(0)),
        trial("words not lemmatised", &forms, Some(0)),
        trial("no words for emoji", &emoji, Some(0)),
        Trial {
            balance: Balance::OverSampled,
            ..trial("minorities over-sampled", &whole, Some(0))
        },
        trial("duplicates kept", &copies, None),
    ];
    let grouped;
    let merged;
    if args.labels_map.is_some() {
        grouped = Parts::read(&args.input(map))?;
        let group = trials.len();
        trials.push(trial("labels grouped", &grouped, None));
        if !args.merge.is_empty() {
            merged = merge(args, map, &grouped)?;
            trials.push(Trial {
                folds: false,
                ..trial("labels grouped, another set merged in", &merged, Some(group))
            });
        }
    }

    let steps = trials
        .iter()
        .map(|trial| kinds.len() * (1 + if trial.folds { usize::from(args.folds) } else { 0 }));
    let progress = progress(steps.sum::<usize>() as u64);
    let mut answers: Vec<Vec<Vec<usize>>> = Vec::new();
    let mut variations = Vec::new();
    for trial in &trials {
        let (predicted, mut found) = try_one(args, &kinds, trial, &answers, &progress);
        answers.push(predicted);
        variations.append(&mut found);
    }
    progress.finish_and_clear();
    Ok(Ablation { variations })
}

/// The grouped parts with the posts of further files added to the training part, without duplicates.
fn merge(args: &Args, map: &LabelMap, grouped: &Parts) -> anyhow::Result<Parts> {
    let mut merged = grouped.clone();
    merged.add(&args.input(map), &args.merge)?;
    Ok(merged)
}

fn try_one(
    args: &Args,
    kinds: &[Kind],
    trial: &Trial<'_>,
    answers: &[Vec<Vec<usize>>],
    progress: &ProgressBar,
) -> (Vec<Vec<usize>>, Vec<Variation>) {
    progress.set_message(trial.name);
    let (parts, classes) = (trial.parts, trial.parts.labels.len());
    let fold_f1 = match trial.folds {
        true => cross_validate(args, parts, kinds, trial.balance, progress),
        false => Vec::new(),
    };
    let posts: Vec<&Post> = parts.train.iter().collect();
    let fitted = Fitted::on(&posts, classes, kinds, trial.balance, args, progress);
    let trained_on: Vec<usize> = posts.iter().map(|post| post.class).collect();
    let train_posts = trial.balance.positions(&trained_on, classes, args.seed).len();
    let texts: Vec<&str> = parts.test.iter().map(|post| post.cleaned.as_str()).collect();
    let truth: Vec<usize> = parts.test.iter().map(|post| post.class).collect();
    let rows = features::rows(&fitted.vectorizer, &texts);
    let mut all = Vec::new();
    let mut variations = Vec::new();
    for (at, trained) in fitted.candidates.iter().enumerate() {
        let predicted = trained.model.predict(&rows);
        let score = significance::macro_f1(&truth, &predicted, classes, args.seed);
        let folds: Vec<f64> = fold_f1.iter().map(|fold| fold[at]).collect();
        let against_whole = trial.against.map(|whole| {
            let difference = significance::difference(&truth, &predicted, &answers[whole][at], classes, args.seed);
            Difference::new(&difference, significance::holm(&[difference.p])[0])
        });
        let right = truth
            .iter()
            .zip(&predicted)
            .filter(|(truth, predicted)| truth == predicted)
            .count();
        variations.push(Variation {
            name: trial.name.to_owned(),
            model: trained.kind.name().to_owned(),
            labels: classes,
            train_posts,
            test_posts: truth.len(),
            cv: Spread::of(&folds).map(|spread| Folds {
                mean: spread.mean,
                sd: spread.deviation,
                folds,
            }),
            macro_f1: score.value,
            accuracy: right as f64 / truth.len().max(1) as f64,
            interval: score.interval(),
            against_whole,
        });
        all.push(predicted);
    }
    (all, variations)
}

impl Ablation {
    /// The variations as a table in Markdown.
    #[must_use]
    pub fn table(&self) -> String {
        let mut out = "| variation | model | labels | posts to train, to test | macro-F1, cross-validated | on the test part, 95 % | accuracy | against all steps |\n|---|---|---|---|---|---|---|---|\n".to_owned();
        for Variation {
            name,
            model,
            labels,
            train_posts,
            test_posts,
            cv,
            macro_f1,
            accuracy,
            interval,
            against_whole,
        } in &self.variations
        {
            let folds = cv
                .as_ref()
                .map_or(String::new(), |cv| format!("{:.4} ± {:.4}", cv.mean, cv.sd));
            let against = against_whole.map_or(String::new(), |against| {
                let chance = if against.differs { "" } else { ", may be chance" };
                format!("{:+.4} (p {:.4}{chance})", against.difference, against.p)
            });
            let _ = writeln!(
                out,
                "| {name} | {model} | {labels} | {train_posts}, {test_posts} | {folds} | {macro_f1:.4} ({:.4}-{:.4}) | {accuracy:.4} | {against} |",
                interval.low, interval.high
            );
        }
        out
    }
}
