//! How often int8 gives the label that the checkpoint gives, measured in the runtime that will serve it.

use std::path::Path;
use std::sync::Arc;

use moodstream::classify::{Classifier as Service, ClassifyOptions};
use moodstream::model::{ModelFolder, ModelOptions, Precision, ProblemType};

use super::checkpoint::Classifier;
use super::forward::{self, Tokens, argmax};
use super::texts::CheckpointTokenizer;

/// The share of `texts` that get the same label from `model`'s own arithmetic and from the int8 file of `folder`.
///
/// # Errors
///
/// What kept the service from running the folder, in one line.
pub(crate) fn measure(
    folder: &Path,
    model: &Classifier,
    tokenizer: &CheckpointTokenizer,
    texts: Vec<Arc<str>>,
) -> anyhow::Result<f64> {
    let mut exact = Vec::with_capacity(texts.len());
    for chunk in texts.chunks(64) {
        let mut tokens = Tokens::default();
        for text in chunk {
            tokens.push(&tokenizer.encode(text)?);
        }
        let logits = forward::logits(model, &tokens, |_, _, _| ());
        exact.extend(logits.rows().into_iter().map(argmax));
    }
    // The order of the labels is the same under softmax and sigmoid, so a checkpoint that doesn't say may be either.
    let problem_type = Some(ProblemType::SingleLabelClassification);
    let options = ModelOptions {
        precision: Precision::Int8,
        problem_type,
        ..ModelOptions::default()
    };
    let service = Service::start(&ModelFolder::open(folder, &options)?, &ClassifyOptions::default())?;
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    let count = texts.len().max(1) as f64;
    let mut same = 0_u32;
    for (prediction, exact) in runtime.block_on(service.classify(texts)).into_iter().zip(exact) {
        let label = prediction?
            .scores
            .iter()
            .enumerate()
            .max_by(|a, b| a.1.total_cmp(b.1))
            .map(|(index, _)| index);
        same += u32::from(label == Some(exact));
    }
    Ok(f64::from(same) / count)
}
