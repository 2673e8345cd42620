//! Evaluates each model on the test part.

use std::{
    collections::HashSet,
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
    Fitted,
    parts::Parts,
    report::Contender,
    sparse::Rows,
    trained::{Buffer, Trained},
};
use crate::{
    data::{Example, LabelMap},
    evaluate,
};

/// Bytes of a feature besides its weights: its hash and its inverse document frequency.
const FEATURE_BYTES: usize = 12;

/// Evaluates a classical model. Its speed is measured on one thread, post by post, including cleaning.
pub(super) fn classical(fitted: &Fitted, trained: &Trained, folds: &[f64], parts: &Parts) -> Contender {
    let (mut scratch, mut buffer) = (Scratch::default(), Buffer::default());
    let start = Instant::now();
    let predicted: Vec<usize> = parts
        .test
        .iter()
        .map(|post| {
            let cleaned = Profile::Classical.clean(&post.example.text);
            let mut rows = Rows::new(fitted.vectorizer.features().len());
            rows.push(fitted.vectorizer.row(&cleaned, &mut scratch).iter().copied());
            trained.model.predict_one(rows.row(0), &mut buffer)
        })
        .collect();
    let seconds = start.elapsed().as_secs_f64();
    let vocabulary = match trained.model.has_features() {
        true => FEATURE_BYTES * fitted.vectorizer.features().len(),
        false => 0,
    };
    Contender {
        name: trained.kind.name().to_owned(),
        labels: parts.labels.clone(),
        predicted,
        chosen: Some(trained.chosen),
        folds: folds.to_vec(),
        train_seconds: Some(
            trained.seconds
                + if trained.model.has_features() {
                    fitted.seconds
                } else {
                    0.0
                },
        ),
        posts_per_second: parts.test.len() as f64 / seconds.max(f64::MIN_POSITIVE),
        bytes: (trained.model.bytes() + vocabulary) as u64,
    }
}

/// Checks before anything is trained that a model folder can be evaluated: it runs, and has the labels of the posts.
pub(super) fn check_folder(
    path: &Path,
    onnxruntime: Option<&PathBuf>,
    map: &LabelMap,
    parts: &Parts,
) -> anyhow::Result<()> {
    // One post of each label.
    let mut seen = HashSet::new();
    let examples = parts.test.iter().filter(|post| seen.insert(post.class));
    let examples: Vec<Example> = examples.map(|post| post.example.clone()).collect();
    let runtime = classify_options(onnxruntime);
    evaluate::evaluate(path, &ModelOptions::default(), &runtime, &examples, map)?;
    Ok(())
}

fn classify_options(onnxruntime: Option<&PathBuf>) -> ClassifyOptions {
    ClassifyOptions {
        onnxruntime: onnxruntime.cloned(),
        ..ClassifyOptions::default()
    }
}

/// Evaluates a model folder with the service's classifier.
pub(super) fn folder(
    path: &Path,
    onnxruntime: Option<&PathBuf>,
    map: &LabelMap,
    parts: &Parts,
) -> anyhow::Result<Contender> {
    let options = ModelOptions::default();
    let runtime = classify_options(onnxruntime);
    let examples: Vec<Example> = parts.test.iter().map(|post| post.example.clone()).collect();
    let (evaluation, emotions) = evaluate::evaluate(path, &options, &runtime, &examples, map)?;
    // The folder's labels that the posts don't have come after those of the posts.
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
    Ok(Contender {
        name: evaluation.model,
        labels,
        predicted: emotions.into_iter().map(|emotion| places[emotion]).collect(),
        chosen: None,
        folds: Vec::new(),
        train_seconds: None,
        posts_per_second: evaluation.speed.posts_per_second,
        bytes: bytes(path, &options)?,
    })
}

/// Bytes of the files that the service reads.
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
