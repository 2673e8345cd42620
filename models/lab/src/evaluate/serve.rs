//! Runs texts through the service's classifier.

use std::{sync::Arc, time::Instant};

use anyhow::Context as _;
use moodstream::{
    classify::{Classifier, ClassifyOptions, ModelFault},
    clean::Profile,
    model::{ModelFolder, Prediction},
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
    let server = Server::start(folder, options)?;
    let start = Instant::now();
    let answers = server.classify(examples.iter().map(|example| example.text.as_str()))?;
    let seconds = start.elapsed().as_secs_f64();

    let stats = server.classifier.stats();
    let mut served = Served {
        emotions: Vec::with_capacity(answers.len()),
        scores: Vec::with_capacity(answers.len()),
        speed: Speed {
            seconds,
            posts_per_second: examples.len() as f64 / seconds,
            tokens_per_second: stats.tokens as f64 / seconds,
            padding_share: stats.padding_share(),
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

/// The service's classifier without its cache, for raw texts.
pub(crate) struct Server {
    classifier: Arc<Classifier>,
    runtime: tokio::runtime::Runtime,
    profile: Profile,
}

impl Server {
    /// Loads the model.
    ///
    /// # Errors
    ///
    /// When the model can't be started.
    pub(crate) fn start(folder: &ModelFolder, options: &ClassifyOptions) -> anyhow::Result<Self> {
        let profile = Profile::from_name(&folder.info().profile)?;
        let options = ClassifyOptions {
            cache_entries: 0,
            ..options.clone()
        };
        Ok(Self {
            classifier: Arc::new(Classifier::start(folder, &options)?),
            runtime: tokio::runtime::Builder::new_current_thread()
                .build()
                .context("can't start a runtime")?,
            profile,
        })
    }

    /// Cleans and classifies all texts in windows, and returns the answers in the order of the texts.
    ///
    /// # Errors
    ///
    /// When the classifier ends early.
    pub(crate) fn classify<'t>(
        &self,
        texts: impl Iterator<Item = &'t str>,
    ) -> anyhow::Result<Vec<Result<Prediction, ModelFault>>> {
        let texts: Vec<Arc<str>> = texts.map(|text| self.profile.clean(text).into()).collect();
        self.runtime.block_on(async {
            let windows: Vec<_> = texts
                .chunks(WINDOW)
                .map(|window| {
                    let (classifier, window) = (Arc::clone(&self.classifier), window.to_vec());
                    tokio::spawn(async move { classifier.classify(window).await })
                })
                .collect();
            let mut answers = Vec::with_capacity(texts.len());
            for window in windows {
                answers.extend(window.await.context("a window's task ended early")?);
            }
            Ok(answers)
        })
    }
}
