//! Model folders that other exporters wrote, run by the service.

use std::{fs, path::Path, sync::Arc};

use crate::support::{fixture, runtime};
use moodstream::{
    classify::{Classifier, ClassifyOptions},
    model::{ModelFolder, ModelOptions, Precision, ProblemType},
};
use serde::Deserialize;

#[derive(Deserialize)]
struct Expected {
    input_ids: Vec<Vec<i64>>,
    attention_mask: Vec<Vec<i64>>,
    logits: Vec<Vec<f64>>,
}

fn softmax(logits: &[f64]) -> Vec<f64> {
    let all: f64 = logits.iter().map(|logit| logit.exp()).sum();
    logits.iter().map(|logit| logit.exp() / all).collect()
}

/// The largest difference between the scores of the folder's model and those that `transformers` computes from the
/// exported checkpoint.
fn largest_difference(folder: &Path, precision: Precision, library: &Path) -> f64 {
    let expected = fs::read(fixture("roberta").join("expected.json")).unwrap();
    let expected: Expected = serde_json::from_slice(&expected).unwrap();
    let options = ModelOptions {
        precision,
        problem_type: Some(ProblemType::SingleLabelClassification),
        ..ModelOptions::default()
    };
    let folder = ModelFolder::open(folder, &options).unwrap();
    let classifier = Classifier::start(
        &folder,
        &ClassifyOptions {
            sessions: 1,
            onnxruntime: Some(library.to_owned()),
            ..ClassifyOptions::default()
        },
    )
    .unwrap();
    // The fixture's vocabulary has a word for each id.
    let texts: Vec<Arc<str>> = expected
        .input_ids
        .iter()
        .zip(&expected.attention_mask)
        .map(|(ids, mask)| {
            let length = mask.iter().sum::<i64>() as usize;
            let words: Vec<String> = ids[1..length - 1].iter().map(|id| format!("w{id}")).collect();
            words.join(" ").into()
        })
        .collect();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let predictions = runtime.block_on(classifier.classify(texts));
    let mut largest = 0.0_f64;
    for (prediction, logits) in predictions.into_iter().zip(&expected.logits) {
        for (score, truth) in prediction.unwrap().scores.iter().zip(softmax(logits)) {
            largest = largest.max((score - truth).abs());
        }
    }
    largest
}

#[test]
fn models_exported_by_optimum_and_onnxruntime_are_served() {
    let Some(library) = runtime() else { return };
    let exporters = fixture("../exporters");
    for (folder, precision, bound) in [
        ("optimum", Precision::Fp32, 1e-5),
        ("optimum", Precision::Int8, 0.1),
        ("onnxruntime", Precision::Fp32, 1e-5),
        ("onnxruntime", Precision::Fp16, 1e-2),
    ] {
        let difference = largest_difference(&exporters.join(folder), precision, &library);
        assert!(difference < bound, "{folder} {precision:?}: {difference}");
    }
}
