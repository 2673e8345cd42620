//! Errors of opening a model folder and its tokenizer.

use std::{io, path::PathBuf};

use super::options::{Precision, Provider};

/// Creates a tokenizer.json from the vocabulary files of older models, using the library that they were published for.
const TOKENIZER_COMMAND: &str = "make one with `python -c \"import sys, transformers; transformers.AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[1])\" FOLDER`";

/// Why a model folder can't be used. The message is one line that says what is wrong, where, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// The folder does not exist, or is a file.
    #[error("model folder {} is not a directory: `model.path` must name a folder with config.json, tokenizer.json and an ONNX file", .0.display())]
    NoFolder(PathBuf),
    /// The folder does not contain a model.
    #[error("{} has no config.json: `model.path` must name a folder with config.json, tokenizer.json and an ONNX file", .0.display())]
    NoConfig(PathBuf),
    /// A file can't be read.
    #[error("{} can't be read", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is a Git LFS pointer: its content was not fetched.
    #[error("{} is a Git LFS pointer instead of the file: run `git lfs pull` in {}", path.display(), path.parent().unwrap_or(path).display())]
    LfsPointer {
        /// The file.
        path: PathBuf,
    },
    /// There is no readable tokenizer.
    #[error("{} has no tokenizer.json, {found}: {TOKENIZER_COMMAND}", folder.display())]
    NoTokenizer {
        /// The model folder.
        folder: PathBuf,
        /// The tokenizer files that were found.
        found: String,
    },
    /// There are weights, but no ONNX file.
    #[error(
        "{} has weights ({weights}), but no ONNX file: run `moodstream-lab export --checkpoint {} --out DIR`",
        folder.display(),
        folder.display()
    )]
    NotExported {
        /// The model folder.
        folder: PathBuf,
        /// The file with the weights.
        weights: String,
    },
    /// There is neither an ONNX file nor a file with weights to export.
    #[error(
        "{} and its onnx/ have no ONNX file: export the model with `optimum-cli export onnx --model NAME --task text-classification DIR` (pip install optimum-onnx), or set `model.path` to the folder that has one",
        folder.display()
    )]
    NothingToRun {
        /// The model folder.
        folder: PathBuf,
    },
    /// There are ONNX files, but none with the requested precision or name.
    #[error(
        "no ONNX file for precision {precision} on {provider} in {} or its onnx/: {found}; choose another `model.precision`, or name the file with `model.file`",
        folder.display()
    )]
    NoOnnx {
        /// The model folder.
        folder: PathBuf,
        /// The requested precision.
        precision: Precision,
        /// The requested provider.
        provider: Provider,
        /// The ONNX files that were found.
        found: String,
    },
    /// A file has invalid content.
    #[error("{}: {detail}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong and how to fix it.
        detail: String,
    },
    /// Neither a file nor a setting specifies how logits become scores.
    #[error(
        "{} has no `problem_type`, and a wrong guess would give wrong scores: write problem_type = \"single_label_classification\" (softmax) or \"multi_label_classification\" (sigmoid) into moodstream.toml in the same folder, or set `model.problem_type`",
        config.display()
    )]
    NoProblemType {
        /// The model's `config.json`.
        config: PathBuf,
    },
    /// A setting that leaves no room for a text.
    #[error("`max_tokens` is {max_tokens}, but the special tokens alone take {special}: set it to at least {}", special + 1)]
    MaxTokens {
        /// The setting, or the model's own limit if it is lower.
        max_tokens: usize,
        /// The number of special tokens that the tokenizer adds to every text.
        special: usize,
    },
}

/// Why a `tokenizer.json` can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubwordsError {
    /// The library does not accept it.
    #[error("{0}")]
    Library(tokenizers::Error),
    /// An added token without id or content.
    #[error("an added token has no id or no content")]
    AddedToken,
    /// A normalisation step that the library can't read.
    #[error("its {0} step can't be read")]
    Step(&'static str),
    /// The library panicked.
    #[error("the tokenizer library panicked on it")]
    Panic,
}
