//! Measures how often the int8 model gives the same label as the checkpoint.

use std::path::Path;
use std::sync::Arc;

use moodstream::classify::{Classifier as Service, ClassifyOptions};
use moodstream::model::{ModelFolder, ModelOptions, Precision, ProblemType};

use super::classifier::Classifier;
use super::texts::CheckpointTokenizer;
use crate::encoder::{Head, Packed, Pass};

/// Texts that go through the encoder at once.
const CHUNK: usize = 64;

/// The share of `texts` with the same label from the encoder of `model` and from the service running the int8 file of
/// `folder`.
///
/// # Errors
///
/// When the service can't run the folder, in one line.
pub(crate) fn measure(
    folder: &Path,
    model: &Classifier,
    tokenizer: &CheckpointTokenizer,
    texts: Vec<Arc<str>>,
) -> anyhow::Result<f64> {
    let mut exact = Vec::with_capacity(texts.len());
    let (mut pass, mut head) = (Pass::default(), Head::default());
    for chunk in texts.chunks(CHUNK) {
        let ids = tokenizer.encode_all(chunk)?;
        let posts: Packed = ids.iter().map(Vec::as_slice).collect();
        pass.infer(&model.encoder, &posts, |_, _| ());
        let logits = head.forward(&model.encoder, &posts, &pass);
        exact.extend(logits.chunks_exact(model.labels()).map(|logits| argmax(logits.iter())));
    }
    // The label with the highest score is the same with softmax and sigmoid, so it doesn't matter which the checkpoint has.
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
        same += u32::from(argmax(prediction?.scores.iter()) == exact);
    }
    Ok(f64::from(same) / count)
}

/// The index of the largest value: the label.
fn argmax<'v, V: Copy + Into<f64> + 'v>(values: impl Iterator<Item = &'v V>) -> Option<usize> {
    let values = values.map(|&value| value.into()).enumerate();
    values.max_by(|a, b| a.1.total_cmp(&b.1)).map(|(index, _)| index)
}
