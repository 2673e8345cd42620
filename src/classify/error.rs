//! Errors of graphs, backends and batches.

use super::fault::ModelFault;
use crate::model::{NotFinite, TokenizeError};

/// Why the ONNX Runtime library can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LibraryError {
    /// The path does not exist or can't be followed.
    #[error("{0}")]
    Path(std::io::Error),
    /// The library can't be loaded, or is too old.
    #[error("{}", loader_message(.0))]
    Load(ort::LoadDynamicError),
    /// The library's environment can't be created.
    #[error("{0}")]
    Environment(ort::Error),
}

/// The message of a dynamic loader's error omits its source, which says what is wrong.
fn loader_message(error: &ort::LoadDynamicError) -> String {
    match error {
        ort::LoadDynamicError::Dlopen { error: cause, .. } => match std::error::Error::source(cause) {
            Some(reason) => reason.to_string(),
            None => cause.to_string(),
        },
        _ => error.to_string(),
    }
}

/// Why a graph is not usable as a sequence classifier.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GraphError {
    /// An unknown input.
    #[error(
        "the graph has the input {0:?}, but an encoder has input_ids, attention_mask and optionally token_type_ids and position_ids: export it for text-classification"
    )]
    Input(String),
    /// An input of the wrong type.
    #[error("the input {name:?} is {found}, not a tensor of int64 or int32: export it again")]
    InputType {
        /// The input.
        name: String,
        /// Its type.
        found: String,
    },
    /// A required input is missing.
    #[error("the graph has no input {0:?}: export it for text-classification")]
    NoInput(&'static str),
    /// There are several outputs, none of which is called `logits`.
    #[error("none of the graph's outputs ({0}) is called \"logits\": export it for text-classification")]
    NoLogits(String),
    /// An output that is not a tensor of floats.
    #[error("the output {name:?} is {found}, not a tensor of floats")]
    OutputType {
        /// The output.
        name: String,
        /// Its type.
        found: String,
    },
    /// The numbers of logits and labels differ.
    #[error("the output {name:?} has {found} logits per text, but id2label in config.json names {labels} labels")]
    Labels {
        /// The output.
        name: String,
        /// Logits per text.
        found: i64,
        /// Labels in `config.json`.
        labels: usize,
    },
    /// Logits of an unexpected shape.
    #[error("the output {name:?} has the shape {found}, not [texts, labels]: export it for text-classification")]
    Shape {
        /// The output.
        name: String,
        /// Its shape.
        found: String,
    },
    /// ONNX Runtime panicked while loading it.
    #[error("loading it panicked")]
    Panic,
    /// The model failed on a plain text, or its output is not valid scores.
    #[error("it failed on a plain text: {0}")]
    Probe(BatchError),
    /// The model failed on a prepared batch.
    #[error("{0}")]
    Run(BackendError),
    /// A thread that runs batches panicked.
    #[error("its thread panicked")]
    Thread,
    /// The tokenizer failed on a text.
    #[error("{0}")]
    Tokenizer(TokenizeError),
}

/// Why a batch has no logits.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// ONNX Runtime failed.
    #[error("{}", one_line(&.0.to_string()))]
    Runtime(ort::Error),
    /// A token of a linear model is not one of its n-grams.
    #[error("an n-gram's column is not below {features}")]
    Ngram {
        /// The number of n-grams of the model.
        features: usize,
    },
}

/// Why a batch has no predictions.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BatchError {
    /// The model failed.
    #[error("{0}")]
    Backend(BackendError),
    /// The number of logits is not that of texts and labels.
    #[error("{logits} logits for {texts} texts of {labels} labels")]
    Logits {
        /// The number of logits.
        logits: usize,
        /// The number of texts in the batch.
        texts: usize,
        /// The number of the model's labels.
        labels: usize,
    },
    /// A logit is NaN or infinite.
    #[error("{0}")]
    NotFinite(NotFinite),
}

impl From<BatchError> for ModelFault {
    fn from(error: BatchError) -> Self {
        let reason = error.to_string().into();
        match error {
            BatchError::Backend(_) | BatchError::Logits { .. } => Self::Inference(reason),
            BatchError::NotFinite(_) => Self::NotFinite(reason),
        }
    }
}

/// Joins the lines of ONNX Runtime's long messages and truncates them.
pub(super) fn one_line(message: &str) -> String {
    const MOST: usize = 400;
    let mut line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    if line.len() > MOST {
        line.truncate(line.floor_char_boundary(MOST));
        line.push_str(" ...");
    }
    line
}
