//! Linear models in the classifier.

#[path = "../support/linear.rs"]
mod tiny;

use std::path::Path;

use moodstream::{
    classify::{Classifier, ClassifyOptions},
    model::{ModelFolder, ModelOptions, Precision, Provider},
};
use proptest::prelude::*;

use super::classify::{classify, open_error};

fn classifier(folder: &Path, max_batch_posts: usize) -> Classifier {
    let folder = ModelFolder::open(folder, &ModelOptions::default()).unwrap();
    let options = ClassifyOptions {
        sessions: 2,
        cache_entries: 0,
        max_batch_posts,
        ..ClassifyOptions::default()
    };
    Classifier::start(&folder, &options).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// Scores are bit-identical: only a text's own n-grams affect them.
    #[test]
    fn a_text_s_scores_do_not_depend_on_its_neighbours(
        texts in prop::collection::vec("(so |not )?(happy|angry|lonely|miss|é+|x{1,40})( day| day day)?|[a-z ]{0,300}", 1..40)
    ) {
        let folder = tempfile::tempdir().unwrap();
        tiny::write_folder(folder.path());
        let (together, alone) = (classifier(folder.path(), 0), classifier(folder.path(), 1));
        let beside = classify(&together, &texts);
        for (text, beside) in texts.iter().zip(beside) {
            prop_assert_eq!(&classify(&alone, &[text])[0], &beside, "{}", text);
        }
    }
}

#[test]
fn an_arbitrarily_long_text_costs_no_more_than_a_long_one() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path());
    let options = ModelOptions::default();
    let opened = ModelFolder::open(folder.path(), &options).unwrap();
    let tokens = |text: &str| opened.tokenizer().encode(text).unwrap().len();
    assert_eq!(tokens(&"happy ".repeat(1 << 20)), tokens(&"happy ".repeat(4_096)));
    assert!(tokens(&"happy ".repeat(1 << 20)) <= opened.tokenizer().max_tokens());
    let answers = classify(
        &classifier(folder.path(), 0),
        &["happy ".repeat(1 << 20), String::new()],
    );
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
}

#[test]
fn options_that_linear_models_lack_are_refused_in_one_line() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path());
    let default = ModelOptions::default;
    for options in [
        ModelOptions {
            provider: Provider::Cuda,
            ..default()
        },
        ModelOptions {
            precision: Precision::Int8,
            ..default()
        },
        ModelOptions {
            file: Some("model.onnx".into()),
            ..default()
        },
    ] {
        let said = open_error(folder.path(), &options);
        assert!(
            said.contains("a linear model has no ONNX file") && said.lines().count() == 1,
            "{said}"
        );
    }
    let config = folder.path().join("config.json");
    let changed = std::fs::read_to_string(&config)
        .unwrap()
        .replace("\"sadness\"", "\"sadness\", \"3\": \"calm\"");
    std::fs::write(&config, changed).unwrap();
    let said = open_error(folder.path(), &default());
    assert!(
        said.contains("linear.safetensors") && said.contains("the labels of config.json"),
        "{said}"
    );
}

#[test]
fn weights_and_settings_change_a_linear_model_s_id() {
    let folder = tempfile::tempdir().unwrap();
    tiny::write_folder(folder.path());
    let id = || {
        ModelFolder::open(folder.path(), &ModelOptions::default())
            .unwrap()
            .info()
            .id
            .to_string()
    };
    let first = id();
    assert_eq!(first, id());
    let file = folder.path().join("linear.safetensors");
    let mut bytes = std::fs::read(&file).unwrap();
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    std::fs::write(&file, bytes).unwrap();
    assert!(first.starts_with("tiny-linear@") && first != id(), "{first}");
}
