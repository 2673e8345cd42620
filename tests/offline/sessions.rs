//! Sessions of one model: weights that they share, and graphs with fused operators.

use std::{fs, path::Path, process::Command};

use moodstream::{
    classify::{Classifier, ClassifyOptions},
    model::{ModelFolder, ModelOptions, Precision, Prediction},
};

use crate::{
    classify::{classify, fixture, uncached},
    labelled_posts::evaluated_texts,
};

/// The warning if each session has its own weights.
const NOT_SHARED: &str = "sessions can't share the weights";

#[test]
fn fused_operators_predict_as_the_graph_without_them_and_texts_alone_as_together() {
    let texts = evaluated_texts();
    for model in ["emotion-roberta-6x384", "emotion-xlm-roberta-12x384-multilingual"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("models").join(model);
        let int8 = ModelOptions {
            precision: Precision::Int8,
            ..ModelOptions::default()
        };
        let folder = ModelFolder::open(path, &int8).unwrap();
        let predict = |fused_operators: bool, max_batch_posts: usize| -> Vec<Prediction> {
            let options = ClassifyOptions {
                fused_operators,
                max_batch_posts,
                ..uncached()
            };
            let classifier = Classifier::start(&folder, &options).unwrap();
            classify(&classifier, &texts).into_iter().map(Result::unwrap).collect()
        };
        let (fused, plain, alone) = (predict(true, 8), predict(false, 8), predict(true, 1));
        let difference = |a: &Prediction, b: &Prediction| {
            let scores = a.scores.iter().zip(b.scores.iter());
            scores.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
        };
        // The last layers are products of floats, whose sums may depend on the batch in their last digits.
        let largest = fused
            .iter()
            .zip(&alone)
            .map(|(a, b)| difference(a, b))
            .fold(0.0, f64::max);
        assert!(largest < 1e-5, "{model}: {largest}");
        let mean = fused.iter().zip(&plain).map(|(a, b)| difference(a, b)).sum::<f64>() / texts.len() as f64;
        assert!(mean < 0.01, "{model}: {mean}");
        let same = fused.iter().zip(&plain).filter(|(a, b)| a.emotion == b.emotion).count();
        assert!(same * 100 >= texts.len() * 98, "{model}: {same} of {}", texts.len());
    }
}

#[test]
fn sessions_that_share_weights_predict_exactly_as_one_with_its_own() {
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/emotion-roberta-6x384");
    let models = [
        (fixture(), Precision::Fp32),
        (fixture(), Precision::Fp16),
        (shipped.clone(), Precision::Int8),
        (shipped, Precision::Fp16),
    ];
    for (folder, precision) in models {
        let options = ModelOptions {
            precision,
            ..ModelOptions::default()
        };
        let folder = ModelFolder::open(folder, &options).unwrap();
        let start = |sessions| Classifier::start(&folder, &ClassifyOptions { sessions, ..uncached() }).unwrap();
        // Eight batches at least, so that both sessions run some.
        let posts: Vec<String> = (0..64).map(|n| format!("{n} {}", "so happy ".repeat(n % 9))).collect();
        assert_eq!(classify(&start(1), &posts), classify(&start(2), &posts), "{precision}");
    }
}

#[test]
fn without_a_temporary_folder_each_session_has_its_own_weights() {
    let output = Command::new(env!("CARGO_BIN_EXE_moodstream"))
        .args(["classify", "so happy", "--model"])
        .arg(fixture())
        .env("MOODSTREAM_CLASSIFY__SESSIONS", "2")
        .env("TMPDIR", "/nowhere")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(log.contains(NOT_SHARED) && log.contains("/nowhere"), "{log}");
}

#[test]
fn a_damaged_model_is_reported_once_and_not_as_weights_that_cannot_be_shared() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["config.json", "tokenizer.json"] {
        fs::copy(fixture().join(file), folder.path().join(file)).unwrap();
    }
    fs::write(folder.path().join("model.onnx"), "no ONNX").unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_moodstream"))
        .args(["classify", "so happy", "--model"])
        .arg(folder.path())
        .env("MOODSTREAM_CLASSIFY__SESSIONS", "2")
        .output()
        .unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert_eq!(log.matches("it is not an ONNX file").count(), 1, "{log}");
    assert!(!log.contains(NOT_SHARED), "{log}");
}
