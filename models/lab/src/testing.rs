//! Helpers that the tests of several modules share.

#![allow(clippy::unwrap_used)]

use std::{
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

use crate::encoder::{Encoder, HeadActivation, Pooling, Shape};

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
