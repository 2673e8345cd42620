//! Judging on the test part, once for each model.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Instant,
};

use moodstream::{
    classify::ClassifyOptions,
    clean::Profile,
    model::{ModelFolder, ModelOptions, linear::Scratch},
};

use super::{
    Learnt,
    parts::Parts,
    report::Entry,
    sparse::Rows,
    trained::{Buffer, Trained},
};
use crate::{
    data::{Example, LabelMap},
    evaluate,
};

/// Bytes of a feature beside its weights: its hash and its inverse document frequency.
const FEATURE_BYTES: usize = 12;

/// A classical model on the test part. It is timed on one thread, post by post, cleaning included.
pub(super) fn classical(learnt: &Learnt, trained: &Trained, folds: &[f64], parts: &Parts) -> Entry {
    let (mut scratch, mut buffer) = (Scratch::default(), Buffer::default());
    let start = Instant::now();
    let answers: Vec<usize> = parts
        .test
        .iter()
        .map(|post| {
            let cleaned = Profile::Classical.clean(&post.example.text);
            let mut rows = Rows::new(learnt.vectorizer.features().len());
            rows.push(learnt.vectorizer.row(&cleaned, &mut scratch).iter().copied());
            trained.model.predict_one(rows.row(0), &mut buffer)
        })
        .collect();
    let seconds = start.elapsed().as_secs_f64();
    let vocabulary = match trained.model.has_features() {
        true => FEATURE_BYTES * learnt.vectorizer.features().len(),
        false => 0,
    };
    Entry {
        name: trained.kind.name().to_owned(),
        labels: parts.labels.clone(),
        answers,
        chosen: Some(trained.chosen),
        folds: folds.to_vec(),
        train_seconds: Some(
            trained.seconds
                + if trained.model.has_features() {
                    learnt.seconds
                } else {
                    0.0
                },
        ),
        posts_per_second: parts.test.len() as f64 / seconds.max(f64::MIN_POSITIVE),
        bytes: (trained.model.bytes() + vocabulary) as u64,
    }
}

/// A model folder on the test part, in the runtime that serves it.
pub(super) fn folder(
    path: &Path,
    onnxruntime: Option<&PathBuf>,
    map: &LabelMap,
    parts: &Parts,
) -> anyhow::Result<Entry> {
    let options = ModelOptions::default();
    let runtime = ClassifyOptions {
        onnxruntime: onnxruntime.cloned(),
        ..ClassifyOptions::default()
    };
    let examples: Vec<Example> = parts.test.iter().map(|post| post.example.clone()).collect();
    let (evaluation, emotions) = evaluate::judge(path, &options, &runtime, &examples, map)?;
    // The folder's labels that the posts don't have come behind theirs.
    let mut labels = parts.labels.clone();
    let places: Vec<usize> = evaluation
        .report
        .classes
        .iter()
        .map(|class| {
            labels
                .iter()
                .position(|label| *label == class.label)
                .unwrap_or_else(|| {
                    labels.push(class.label.clone());
                    labels.len() - 1
                })
        })
        .collect();
    Ok(Entry {
        name: evaluation.model,
        labels,
        answers: emotions.into_iter().map(|emotion| places[emotion]).collect(),
        chosen: None,
        folds: Vec::new(),
        train_seconds: None,
        posts_per_second: evaluation.speed.posts_per_second,
        bytes: bytes(path, &options)?,
    })
}

/// Bytes of the files that serving reads.
fn bytes(path: &Path, options: &ModelOptions) -> anyhow::Result<u64> {
    let folder = ModelFolder::open(path, options)?;
    let files = [
        folder.weights().file().to_owned(),
        path.join("tokenizer.json"),
        path.join("config.json"),
    ];
    let sizes = files.iter().map(|file| fs::metadata(file).map_or(0, |data| data.len()));
    Ok(sizes.sum())
}
