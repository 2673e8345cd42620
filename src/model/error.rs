//! What can be wrong with a model folder.

use std::{io, path::PathBuf};

use super::options::{Precision, Provider};

/// Why a model folder can't be used: one line that says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The folder is absent, or is a file.
    #[error("model folder {} is not a directory: `model.path` must name a folder with config.json, tokenizer.json and an ONNX file", .0.display())]
    NoFolder(PathBuf),
    /// A file can't be read.
    #[error("{} can't be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// No ONNX file, or none of the precision asked for.
    #[error(
        "no ONNX file for precision {precision} on {provider} in {} (looked for {looked_for}, there and under onnx/): export the model or choose another `precision`",
        folder.display()
    )]
    NoOnnx {
        /// The model folder.
        folder: PathBuf,
        /// The precision asked for.
        precision: Precision,
        /// The provider asked for.
        provider: Provider,
        /// The file names tried.
        looked_for: String,
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
