//! Helpers that the tests of several modules share.

#![allow(clippy::unwrap_used)]

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use moodstream::model::{
    ProblemType,
    linear::{FILE, Feature, LinearModel, MODEL_TYPE, NgramKind, Ngrams, Vectorizer},
};

use crate::encoder::{Encoder, HeadActivation, Loss, Pooling, Shape};

/// Parses a step's arguments.
pub(crate) fn arguments<A: clap::Args>(
    words: impl IntoIterator<Item = impl Into<OsString> + Clone>,
) -> Result<A, clap::Error> {
    let command = A::augment_args(clap::Command::new("step").no_binary_name(true));
    A::from_arg_matches(&command.try_get_matches_from(words)?)
}

/// An encoder of the smallest shape, all its weights zero.
pub(crate) fn tiny() -> Encoder {
    Encoder::zeros(Shape {
        hidden: 4,
        heads: 1,
        layers: 2,
        intermediate: 4,
        positions: 4,
        first_position: 2,
        relative_buckets: 0,
        pooling: Pooling::default(),
        head_activation: HeadActivation::default(),
        vocabulary: 6,
        labels: 2,
        epsilon: 1e-5,
    })
}

/// Makes a folder with a model that is certain of `labels[i]` if a text has the word `words[i]` of them, and runs without
/// ONNX Runtime.
pub(crate) fn linear_model(folder: &Path, labels: &[&str], words: &[&str], loss: Loss) {
    let mut features = Vec::new();
    for word in words {
        Ngrams::default().each(word, |kind, hash| {
            if kind == NgramKind::Word {
                features.push(Feature { kind, hash, idf: 1.0 });
            }
        });
    }
    assert_eq!(features.len(), labels.len());
    let count = labels.len();
    let weights: Vec<f32> = (0..count * count)
        .map(|at| if at / count == at % count { 40.0 } else { -40.0 })
        .collect();
    let model = LinearModel::new(Vectorizer::new(features), &weights, vec![0.0; count]).unwrap();
    let problem_type = match loss {
        Loss::Softmax => ProblemType::SingleLabelClassification,
        Loss::Sigmoid => ProblemType::MultiLabelClassification,
    };
    let names: serde_json::Map<String, serde_json::Value> = labels
        .iter()
        .enumerate()
        .map(|(at, label)| (at.to_string(), (*label).into()))
        .collect();
    let config = serde_json::json!({"model_type": MODEL_TYPE, "problem_type": problem_type, "id2label": names});
    fs::create_dir_all(folder).unwrap();
    fs::write(folder.join("config.json"), config.to_string()).unwrap();
    fs::write(folder.join(FILE), model.to_bytes().unwrap()).unwrap();
}

/// ONNX Runtime's library; `None` with a message if it is absent.
pub(crate) fn runtime() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.runtime/lib/libonnxruntime.so");
    let library = std::env::var_os("ORT_DYLIB_PATH").map_or(here, PathBuf::from);
    if library.is_file() {
        return Some(library);
    }
    println!("skipped: no ONNX Runtime at {}", library.display());
    None
}

/// A real model and real posts, which are not in the repository, and ONNX Runtime.
pub(crate) struct Real {
    pub(crate) model: PathBuf,
    posts: PathBuf,
    runtime: PathBuf,
}

impl Real {
    /// `None` with a message if something is absent.
    pub(crate) fn find() -> Option<Self> {
        let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
        let found = Self {
            model: shared.join("models/starter"),
            posts: shared.join("data/tweeteval/emotion/val_text.txt"),
            runtime: runtime()?,
        };
        if found.model.is_dir() && found.posts.is_file() {
            return Some(found);
        }
        println!("skipped: {} or its data is not there", found.model.display());
        None
    }

    /// Runs a step on the posts and `model`, and returns the JSON that it writes.
    pub(crate) fn figures<A: clap::Args>(
        &self,
        step: fn(A) -> anyhow::Result<()>,
        model: &Path,
        more: &[&OsStr],
    ) -> serde_json::Value {
        let folder = tempfile::tempdir().unwrap();
        let json = folder.path().join("out.json");
        let mut words: Vec<&OsStr> = more.to_vec();
        for (name, path) in [
            ("--onnxruntime", self.runtime.as_path()),
            ("--model", model),
            ("--data", &self.posts),
            ("--json", &json),
        ] {
            words.extend([OsStr::new(name), path.as_os_str()]);
        }
        step(arguments(words).unwrap()).unwrap();
        serde_json::from_slice(&fs::read(&json).unwrap()).unwrap()
    }
}
