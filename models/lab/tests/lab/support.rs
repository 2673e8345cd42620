//! Helpers of the black-box tests.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

/// The lab's binary.
pub(crate) fn lab() -> Command {
    Command::new(env!("CARGO_BIN_EXE_moodstream-lab"))
}

/// A tiny checkpoint of random weights that `transformers` wrote.
pub(crate) fn fixture(family: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/parity")
        .join(family)
}

/// The ONNX Runtime library; prints a message if there is none.
pub(crate) fn runtime() -> Option<PathBuf> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.runtime/lib/libonnxruntime.so");
    let library = std::env::var_os("ORT_DYLIB_PATH").map_or(here, PathBuf::from);
    if library.is_file() {
        return Some(library);
    }
    eprintln!("skipped: no ONNX Runtime at {}", library.display());
    None
}

/// Labelled posts in the words of the fixtures; the first word determines the label.
pub(crate) fn posts(count: usize, seed: u64) -> String {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut posts = String::new();
    for _ in 0..count {
        let label = rng.random_range(0..3);
        posts += &format!("w{}", 5 + label);
        for _ in 0..rng.random_range(0..6) {
            posts += &format!(" w{}", rng.random_range(20..30));
        }
        posts += &format!("\t{}\n", ["joy", "anger", "fear"][label]);
    }
    posts
}
