//! Runs texts through the service's classifier.

use std::{sync::Arc, time::Instant};

use anyhow::Context as _;
use moodstream::{
    classify::{Classifier, ClassifyOptions},
    clean::Profile,
    model::ModelFolder,
};
use serde::{Deserialize, Serialize};

use crate::data::Example;

/// Texts of a window, as in the service.
const WINDOW: usize = 1_024;

/// The predictions for each text.
#[derive(Debug, Clone)]
pub struct Served {
    /// The emotion: its position among the model's labels.
    pub emotions: Vec<usize>,
    /// All scores, in the order of the model's labels.
    pub scores: Vec<Vec<f64>>,
    /// The speed.
    pub speed: Speed,
}

/// The speed of classification, including cleaning and tokenising, but not loading.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// Seconds of wall clock.
    pub seconds: f64,
    /// Posts a second.
    pub posts_per_second: f64,
    /// Tokens a second without padding; equal texts are computed once.
    pub tokens_per_second: f64,
    /// The share of the computed tokens that was padding.
    pub padding_share: f64,
}

/// Cleans and classifies all texts in windows, as the service does, but without its cache.
///
/// # Errors
///
/// When the model can't be started or fails on a text; the error names its file and row.
pub fn serve(folder: &ModelFolder, options: &ClassifyOptions, examples: &[Example]) -> anyhow::Result<Served> {
    let profile = Profile::from_name(&folder.info().profile)?;
    let options = ClassifyOptions {
        cache_entries: 0,
        ..options.clone()
    };
    let classifier = Arc::new(Classifier::start(folder, &options)?);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .context("can't start a runtime")?;

    let start = Instant::now();
    let texts: Vec<Arc<str>> = examples
        .iter()
        .map(|example| profile.clean(&example.text).into())
        .collect();
    let answers = runtime.block_on(async {
        let windows: Vec<_> = texts
            .chunks(WINDOW)
            .map(|window| {
                let (classifier, window) = (Arc::clone(&classifier), window.to_vec());
                tokio::spawn(async move { classifier.classify(window).await })
            })
            .collect();
        let mut answers = Vec::with_capacity(texts.len());
        for window in windows {
            answers.extend(window.await.context("a window's task ended early")?);
        }
        anyhow::Ok(answers)
    })?;
    let seconds = start.elapsed().as_secs_f64();

    let mut served = Served {
        emotions: Vec::with_capacity(answers.len()),
        scores: Vec::with_capacity(answers.len()),
        speed: Speed {
            seconds,
            posts_per_second: examples.len() as f64 / seconds,
            tokens_per_second: classifier.stats().tokens as f64 / seconds,
            padding_share: classifier.stats().padding_share(),
        },
    };
    for (answer, example) in answers.into_iter().zip(examples) {
        let prediction = answer.with_context(|| example.origin.to_string())?;
        let emotion = folder
            .info()
            .labels
            .iter()
            .position(|label| *label == prediction.emotion);
        served
            .emotions
            .push(emotion.context("the classifier gave a label that the model does not have")?);
        served.scores.push(prediction.scores.to_vec());
    }
    Ok(served)
}
