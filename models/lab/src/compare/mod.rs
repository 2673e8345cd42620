//! Trains, tunes and evaluates classical classifiers, and evaluates model folders on the same posts.
//!
//! All candidates use the same stratified split, and the same stratified folds of its training part. For each fold, features
//! are selected, hyperparameters tuned and models trained on the other folds only. Then this is done once with the whole
//! training part, and the models are evaluated on the test part. Hyperparameters are tuned with inner folds, which share the
//! features of their training part, and the size of a forest with out-of-bag rows. Model folders are evaluated on the same
//! test posts with the service's classifier.

mod ablate;
mod balance;
mod bayes;
mod candidate;
mod evaluate;
mod export;
mod features;
mod forest;
mod lanes;
mod linear;
mod logistic;
mod page;
#[cfg(test)]
mod parity;
mod parts;
mod report;
mod significance;
mod sparse;
mod svc;
#[cfg(test)]
mod testing;
mod trained;

use std::{
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::ensure;
use indicatif::{ProgressBar, ProgressStyle};
use moodstream::{clean::Steps, model::linear::Vectorizer};
use rayon::prelude::*;

pub use self::{
    ablate::{Ablation, Variation},
    parts::Removed,
    report::{Data, Difference, Folds, Interval, ModelReport, Report, TestFigures},
    trained::{Hyperparameters, Kind},
};
use self::{
    balance::Balance,
    candidate::TrainingSet,
    export::Export,
    parts::{Input, Parts, Post},
    trained::Trained,
};
use crate::{
    data::{Format, LabelMap},
    files,
};

/// The command line arguments.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Labelled files to train on; without --test, a share of their posts becomes the test part
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    train: Vec<PathBuf>,
    /// Labelled files of the test part; training posts that are near duplicates of its posts are left out
    #[arg(long, value_name = "FILE", num_args = 1..)]
    test: Vec<PathBuf>,
    /// Format of the files, if it can't be detected
    #[arg(long, value_enum, default_value_t)]
    format: Format,
    /// Mapping file for the labels of the files and of the model folders
    #[arg(long, value_name = "FILE")]
    labels_map: Option<PathBuf>,
    /// Classical models to compare; the most frequent label is always included
    #[arg(
        long,
        value_enum,
        value_delimiter = ',',
        default_value = "lr,svc,forest,stack,bayes",
        default_value_if("ablate", "true", "svc")
    )]
    models: Vec<Kind>,
    /// Model folders to evaluate on the test part with the service's classifier
    #[arg(long, value_name = "DIR")]
    folder: Vec<PathBuf>,
    /// Folds of the cross-validation
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(2..=100))]
    folds: u16,
    /// Share of the posts that becomes the test part, without --test
    #[arg(long, value_name = "SHARE", default_value_t = 0.2, value_parser = share)]
    test_share: f64,
    /// An n-gram is a feature if at least this many training posts have it
    #[arg(long, value_name = "POSTS", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    min_posts: u32,
    /// Seed of the split, the folds and the forest
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The ONNX Runtime library, for --folder [default: lib/libonnxruntime.so under $MOODSTREAM_RUNTIME or .runtime]
    #[arg(long, value_name = "FILE", env = "ORT_DYLIB_PATH")]
    onnxruntime: Option<PathBuf>,
    /// Instead of models, compare ways of cleaning and training, leaving out one step at a time
    #[arg(long, conflicts_with_all = ["folder", "write_parts"])]
    ablate: bool,
    /// With --ablate: labelled files to add to the training part after mapping labels
    #[arg(long, value_name = "FILE", num_args = 1.., requires_all = ["ablate", "labels_map"])]
    merge: Vec<PathBuf>,
    /// Write this model, trained on the training part, as a folder for the service: lr, svc or bayes
    #[arg(long, value_enum, value_name = "MODEL", requires = "out", conflicts_with = "ablate")]
    export: Option<Kind>,
    /// Model folder to write with --export; must not exist
    #[arg(long, value_name = "DIR", requires = "export")]
    out: Option<PathBuf>,
    /// Folder for the cleaned parts as train.tsv and test.tsv, for comparison with other tools
    #[arg(long, value_name = "DIR")]
    write_parts: Option<PathBuf>,
    /// File for the figures; without --ablate, a page with charts is written beside it as .html
    #[arg(long, value_name = "FILE")]
    json: PathBuf,
}

impl Args {
    /// The files and model folders that are read.
    fn inputs(&self) -> Vec<PathBuf> {
        let data = self.train.iter().chain(&self.test).chain(&self.merge);
        data.chain(&self.labels_map).chain(&self.folder).cloned().collect()
    }

    /// The files that are written, without the exported folder.
    fn outputs(&self, page: &Path) -> Vec<PathBuf> {
        let mut files = vec![self.json.clone()];
        if !self.ablate {
            files.push(page.to_owned());
        }
        // Where the folder does not exist yet, nothing in it can be replaced.
        let parts = self.write_parts.iter().filter(|folder| folder.is_dir());
        files.extend(parts.flat_map(|folder| parts::FILES.map(|name| folder.join(name))));
        files
    }

    /// The files and the settings of the split.
    fn input<'a>(&'a self, map: &'a LabelMap) -> Input<'a> {
        Input {
            train: &self.train,
            test: &self.test,
            format: self.format,
            map,
            test_share: self.test_share,
            folds: usize::from(self.folds),
            seed: self.seed,
            steps: Steps::ALL,
            deduplicate: true,
        }
    }
}

/// A share between 0 and 1, both excluded.
fn share(text: &str) -> Result<f64, ShareError> {
    match text.parse() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err(ShareError),
    }
}

/// Not a share.
#[derive(Debug, thiserror::Error)]
#[error("expected a number above 0 and below 1")]
struct ShareError;

/// Runs the step: prints a table, and writes the figures as JSON and a page with charts.
///
/// # Errors
///
/// When the data is invalid (the error names file, row and label), a model folder can't be run, or the output can't be
/// written.
pub fn run(args: Args) -> anyhow::Result<()> {
    let map = match &args.labels_map {
        Some(path) => LabelMap::read(path)?,
        None => LabelMap::identity(),
    };
    let page = args.json.with_extension("html");
    ensure!(
        args.ablate || page != args.json,
        "{}: the page would overwrite the figures: use a name that ends in .json",
        args.json.display()
    );
    files::check_outputs(&args.outputs(&page), &args.inputs())?;
    if args.ablate {
        let ablation = ablate::run(&args, &map)?;
        print!("{}", ablation.table());
        files::write(&args.json, &serde_json::to_vec_pretty(&ablation)?)?;
        return Ok(());
    }
    let parts = Parts::read(&args.input(&map))?;
    for folder in &args.folder {
        evaluate::check_folder(folder, args.onnxruntime.as_ref(), &map, &parts)?;
    }
    let export = match (args.export, &args.out) {
        (Some(kind), Some(out)) => Some(Export::begin(kind, out)?),
        _ => None,
    };
    if let Some(folder) = &args.write_parts {
        parts.write(folder)?;
    }
    let (report, fitted) = compare(&args, &map, &parts)?;
    if let Some(export) = export {
        export.write(&fitted, &parts, &report)?;
    }
    print!("{}", report.table());
    files::write(&args.json, &serde_json::to_vec_pretty(&report)?)?;
    files::write(&page, page::page(&report).as_bytes())?;
    Ok(())
}

/// Trains and evaluates all candidates.
fn compare(args: &Args, map: &LabelMap, parts: &Parts) -> anyhow::Result<(Report, Fitted)> {
    let mut kinds = vec![Kind::Majority];
    kinds.extend(&args.models);
    kinds.extend(args.export);
    kinds.sort_unstable();
    kinds.dedup();
    let folds = usize::from(args.folds);
    let progress = progress((kinds.len() * (folds + 1) + args.folder.len()) as u64);

    let fold_f1 = cross_validate(args, parts, &kinds, Balance::AsIs, &progress);
    progress.set_message("the whole training part");
    let all: Vec<&Post> = parts.train.iter().collect();
    let fitted = Fitted::on(&all, parts.labels.len(), &kinds, Balance::AsIs, args, &progress);
    ensure!(
        !fitted.vectorizer.features().is_empty(),
        "no n-gram is in {} training posts: lower --min-posts",
        args.min_posts
    );
    let mut entries = Vec::new();
    for (at, trained) in fitted.candidates.iter().enumerate() {
        let folds: Vec<f64> = fold_f1.iter().map(|fold| fold[at]).collect();
        entries.push(evaluate::classical(&fitted, trained, &folds, parts));
    }
    for folder in &args.folder {
        progress.set_message(folder.display().to_string());
        entries.push(evaluate::folder(folder, args.onnxruntime.as_ref(), map, parts)?);
        progress.inc(1);
    }
    progress.finish_and_clear();
    let report = Report::new(args, parts, fitted.vectorizer.features().len(), entries);
    Ok((report, fitted))
}

/// Features and the models trained on them.
struct Fitted {
    vectorizer: Vectorizer,
    candidates: Vec<Trained>,
    /// Seconds for selecting the features and computing the rows.
    seconds: f64,
}

impl Fitted {
    /// Selects features of the posts and trains models on them.
    fn on(
        posts: &[&Post],
        classes: usize,
        kinds: &[Kind],
        balance: Balance,
        args: &Args,
        progress: &ProgressBar,
    ) -> Self {
        let start = Instant::now();
        let texts: Vec<&str> = posts.iter().map(|post| post.cleaned.as_str()).collect();
        let vectorizer = features::fit(&texts, args.min_posts);
        let rows = features::rows(&vectorizer, &texts);
        let truth: Vec<usize> = posts.iter().map(|post| post.class).collect();
        let seconds = start.elapsed().as_secs_f64();
        let training = TrainingSet {
            rows: &rows,
            truth: &truth,
            classes,
            balance,
            seed: args.seed,
        };
        Self {
            candidates: training.train(kinds, &|_| progress.inc(1)),
            vectorizer,
            seconds,
        }
    }
}

/// The macro-F1 of each candidate on each fold, `[fold][candidate]`.
fn cross_validate(
    args: &Args,
    parts: &Parts,
    kinds: &[Kind],
    balance: Balance,
    progress: &ProgressBar,
) -> Vec<Vec<f64>> {
    progress.set_message("cross-validation");
    let (folds, classes) = (usize::from(args.folds), parts.labels.len());
    let truth: Vec<usize> = parts.train.iter().map(|post| post.class).collect();
    let fold_of = parts::folds(&truth, classes, folds, args.seed);
    (0..folds)
        .into_par_iter()
        .map(|fold| {
            let posts = parts.train.iter().zip(&fold_of);
            let (left_out, kept): (Vec<_>, Vec<_>) = posts.partition(|(_, of)| **of == fold);
            let posts = |pairs: Vec<(_, _)>| -> Vec<&Post> {
                pairs.into_iter().map(|(post, _): (&Post, &usize)| post).collect()
            };
            let (left_out, kept) = (posts(left_out), posts(kept));
            let fitted = Fitted::on(&kept, classes, kinds, balance, args, progress);
            let texts: Vec<&str> = left_out.iter().map(|post| post.cleaned.as_str()).collect();
            let truth: Vec<usize> = left_out.iter().map(|post| post.class).collect();
            let rows = features::rows(&fitted.vectorizer, &texts);
            let candidates = fitted.candidates.iter();
            candidates
                .map(|trained| candidate::macro_f1(&truth, &trained.model.predict(&rows), classes))
                .collect()
        })
        .collect()
}

fn progress(length: u64) -> ProgressBar {
    let bar = ProgressBar::new(length);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} {elapsed} {msg}") {
        bar.set_style(style);
    }
    bar
}
