//! What can be wrong with a model folder.

use std::{io, path::PathBuf};

use super::options::{Precision, Provider};

/// Makes a tokenizer.json from what older models have, with the library that they were published for.
const TOKENIZER_COMMAND: &str = "make one with `python -c \"import sys, transformers; transformers.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])\" FOLDER`";

/// Why a model folder can't be used: one line that says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The folder is absent, or is a file.
    #[error("model folder {} is not a directory: `model.path` must name a folder with config.json, tokenizer.json and an ONNX file", .0.display())]
    NoFolder(PathBuf),
    /// The folder is no model's.
    #[error("{} has no config.json: `model.path` must name a folder with config.json, tokenizer.json and an ONNX file", .0.display())]
    NoConfig(PathBuf),
    /// A file can't be read.
    #[error("{} can't be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is a pointer of Git LFS: it was not fetched.
    #[error("{} is a pointer of Git LFS, not the file itself: run `git lfs pull` in {}", path.display(), path.parent().unwrap_or(path).display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// No tokenizer that can be read.
    #[error("{} has no tokenizer.json, {found}: {TOKENIZER_COMMAND}", folder.display())]
    NoTokenizer {
        /// The model folder.
        folder: PathBuf,
        /// What of a tokenizer there is.
        found: String,
    },
    /// Weights, but no ONNX file.
    #[error(
        "{} has weights ({weights}), but no ONNX file: run `moodstream-lab export --checkpoint {} --out DIR`",
        folder.display(),
        folder.display()
    )]
    NotExported {
        /// The model folder.
        folder: PathBuf,
        /// The file of the weights.
        weights: String,
    },
    /// Neither an ONNX file nor weights to make one of.
    #[error(
        "{} and its onnx/ have no ONNX file: export the model with `optimum-cli export onnx --model NAME --task text-classification DIR` (pip install optimum-onnx), or set `model.path` to the folder that has one",
        folder.display()
    )]
    NothingToRun {
        /// The model folder.
        folder: PathBuf,
    },
    /// ONNX files, but none of the precision or name asked for.
    #[error(
        "no ONNX file for precision {precision} on {provider} in {} or its onnx/: {found}; choose another `model.precision`, or name the file with `model.file`",
        folder.display()
    )]
    NoOnnx {
        /// The model folder.
        folder: PathBuf,
        /// The precision asked for.
        precision: Precision,
        /// The provider asked for.
        provider: Provider,
        /// The ONNX files that are there.
        found: String,
    },
    /// A file does not say what it should.
    #[error("{}: {detail}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it and what to do.
        detail: String,
    },
    /// Neither file nor setting says how logits become scores.
    #[error(
        "{} has no `problem_type`, and guessing it would give wrong scores: write problem_type = \"single_label_classification\" (softmax) or \"multi_label_classification\" (sigmoid) into moodstream.toml beside it, or set `model.problem_type`",
        config.display()
    )]
    NoProblemType {
        /// The model's `config.json`.
        config: PathBuf,
    },
    /// A setting that no model could fulfil.
    #[error("`max_tokens` is {max_tokens}, but the special tokens alone take {special}: set it to at least {}", special + 1)]
    MaxTokens {
        /// The setting, or the model's own limit where that is lower.
        max_tokens: usize,
        /// Tokens that the tokenizer puts around every text.
        special: usize,
    },
}
