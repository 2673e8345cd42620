//! Errors of opening a model folder and its tokenizer.

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use safetensors::{Dtype, SafeTensorError};

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
    #[error("{} is not valid", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong and how to fix it.
        source: InvalidFile,
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

impl ModelError {
    /// Returns a function that adds the path to what is wrong with a file.
    pub(super) fn invalid<E: Into<InvalidFile>>(path: &Path) -> impl Fn(E) -> Self {
        move |error| Self::Invalid {
            path: path.to_owned(),
            source: error.into(),
        }
    }
}

/// What is wrong with a file of a model folder, by the kind of file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidFile {
    /// `config.json`.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `moodstream.toml`.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// `tokenizer.json`, or the vocabulary files of an older model.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// `linear.safetensors`.
    #[error(transparent)]
    Linear(#[from] LinearFileError),
}

/// What is wrong with a `config.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is empty.
    #[error("the file is empty: fetch it again")]
    Empty,
    /// The file is not JSON.
    #[error("not JSON")]
    Json(#[source] serde_json::Error),
    /// The file is JSON, but not an object.
    #[error("not a model configuration: that is a JSON object with id2label among its members")]
    NotAnObject,
    /// A member has the wrong type.
    #[error("{name}")]
    Member {
        /// The member.
        name: &'static str,
        /// The cause.
        source: serde_json::Error,
    },
    /// There are no labels.
    #[error("id2label is missing or empty: it must name the label of each logit")]
    NoLabels,
    /// The labels' ids are not 0 to `labels` - 1.
    #[error("id2label has the id {id:?}; with {labels} labels the ids must be 0 to {}", labels - 1)]
    LabelId {
        /// The id.
        id: String,
        /// The number of labels.
        labels: usize,
    },
    /// Two spellings of one id, such as `0` and `00`.
    #[error("id2label names an id twice; with {labels} labels the ids must be 0 to {}", labels - 1)]
    RepeatedLabelId {
        /// The number of labels.
        labels: usize,
    },
    /// The label of an id is blank.
    #[error("id2label gives {0} an empty label")]
    EmptyLabel(String),
    /// Two ids have the same label.
    #[error("id2label has the label {0:?} twice")]
    RepeatedLabel(Arc<str>),
    /// The model is trained for another task than classification.
    #[error(
        "problem_type {0:?} is not a classification: it must be \"single_label_classification\" or \"multi_label_classification\""
    )]
    ProblemType(String),
    /// The only label of a single-label model.
    #[error("softmax over the single label {0:?} always gives 1, so the model can't distinguish anything")]
    SingleLabel(Arc<str>),
    /// The model has no positions.
    #[error("max_position_embeddings leaves no position for a token")]
    NoPositions,
    /// Settings for ONNX models with a linear model.
    #[error(
        "a linear model has no ONNX file and runs on the CPU in fp32: remove `model.file`, `model.provider` and `model.precision`"
    )]
    LinearOptions,
}

/// What is wrong with a `moodstream.toml`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// The file is not UTF-8.
    #[error("not UTF-8")]
    Utf8(#[source] std::str::Utf8Error),
    /// The file is not TOML, or has an unknown field or a value of the wrong type.
    #[error("{0}")]
    Toml(String),
    /// A label that the model does not have.
    #[error("{place} names {label:?}, which is not a label of the model ({labels})")]
    UnknownLabel {
        /// The setting.
        place: String,
        /// The label.
        label: Arc<str>,
        /// The labels of the model, separated by commas.
        labels: String,
    },
    /// A threshold that is not a score.
    #[error("the threshold of {label:?} is {threshold}: it must be between 0 and 1")]
    Threshold {
        /// The label.
        label: Arc<str>,
        /// The threshold.
        threshold: f64,
    },
    /// An unknown language.
    #[error("languages names {0:?}, which is not a registered BCP 47 tag")]
    Language(Arc<str>),
    /// A macro-F1 outside 0 to 1.
    #[error("languages gives {language:?} the macro-F1 {macro_f1}: it must be between 0 and 1")]
    MacroF1 {
        /// The language.
        language: Arc<str>,
        /// Its figure.
        macro_f1: f64,
    },
    /// A temperature that logits can't be divided by.
    #[error("temperature is {0}: it must be above 0")]
    Temperature(f64),
    /// A name that can't be part of a model id.
    #[error("name is {0:?}: it must not be empty or contain `@` or control characters")]
    Name(String),
}

/// What is wrong with a `linear.safetensors`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LinearFileError {
    /// The file is too large.
    #[error("it has {bytes} bytes, more than the supported maximum of {max}")]
    TooLarge {
        /// Its size in bytes.
        bytes: u64,
        /// The maximum in bytes.
        max: u64,
    },
    /// The file is not in the safetensors format.
    #[error("not a valid safetensors file")]
    SafeTensors(#[from] SafeTensorError),
    /// The metadata name another format, or none.
    #[error(
        "its format is {}, not {expected:?}: write it again with `moodstream-lab compare --export`",
        found.as_ref().map_or("not named".to_owned(), |format| format!("{format:?}"))
    )]
    Format {
        /// The format of the file.
        found: Option<String>,
        /// The format that this version reads.
        expected: &'static str,
    },
    /// A tensor is missing.
    #[error("it has no tensor `{0}`")]
    NoTensor(&'static str),
    /// `ngrams.hash` is not a vector.
    #[error("`ngrams.hash` has the shape {0:?}, not [features]")]
    HashShape(Vec<usize>),
    /// There are no n-grams, or too many.
    #[error("it has {0} n-grams: the number must be 1 to {max}", max = u32::MAX)]
    Ngrams(usize),
    /// A tensor's type or shape does not match the n-grams and labels.
    #[error(
        "`{name}` is {found:?} with the shape {shape:?}; given its n-grams and the labels of config.json it must be {expected:?} with the shape {expected_shape:?}"
    )]
    Tensor {
        /// The tensor.
        name: &'static str,
        /// Its type.
        found: Dtype,
        /// Its shape.
        shape: Vec<usize>,
        /// The type that it must have.
        expected: Dtype,
        /// The shape that it must have.
        expected_shape: Vec<usize>,
    },
    /// An element that is not a finite number.
    #[error("element {at} of `{name}` is {value}")]
    NotFinite {
        /// The tensor.
        name: &'static str,
        /// The element's index.
        at: usize,
        /// The element.
        value: f32,
    },
    /// An inverse document frequency that is not above 0.
    #[error("element {at} of `ngrams.idf` is {value}, not above 0")]
    Idf {
        /// The element's index.
        at: usize,
        /// The element.
        value: f32,
    },
    /// The same n-gram twice.
    #[error("element {0} of `ngrams.hash` is a duplicate")]
    RepeatedNgram(usize),
    /// An unknown kind of n-gram.
    #[error("element {at} of `ngrams.kind` is {kind}, not 0 or 1")]
    Kind {
        /// The element's index.
        at: usize,
        /// The element.
        kind: u8,
    },
    /// The model has no labels.
    #[error("it has no labels")]
    NoLabels,
}

/// What is wrong with a `tokenizer.json`, or with the vocabulary files of an older model.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// The file is not JSON.
    #[error("not JSON")]
    Json(#[source] serde_json::Error),
    /// The file is not UTF-8.
    #[error("not UTF-8")]
    Utf8(#[source] std::string::FromUtf8Error),
    /// The tokenizer belongs to another model.
    #[error(
        "the vocabulary has the id {id}, but the model's embedding has {rows} rows (vocab_size in config.json): the tokenizer does not belong to this model"
    )]
    VocabularySize {
        /// The largest id.
        id: u64,
        /// The number of rows of the embedding.
        rows: usize,
    },
    /// An added token of whole words contains another added token.
    #[error(
        "the added token {token:?} matches whole words (single_word) and contains another, {inner:?}: the tokenizer library \
         splits such words differently from the one that trained the model; remove one of the two"
    )]
    AddedTokens {
        /// The token that matches whole words.
        token: String,
        /// The token that it contains.
        inner: String,
    },
    /// The library does not accept the file.
    #[error("not a readable tokenizer")]
    Subwords(#[from] SubwordsError),
    /// A `Split` step with an expression that the library can't run.
    #[error(
        "its `Split` step has an expression that the tokenizer library can't run; it runs those of GPT-2, cl100k, o200k and \
         similar models: use a tokenizer.json with one of these"
    )]
    Split,
    /// The library reads the file, but fails on a text.
    #[error("the tokenizer can't be run: {}", .0.reason)]
    Run(TokenizeError),
    /// `vocab.json` is not an object of ids.
    #[error("not a vocabulary of tokens and ids")]
    Vocabulary(#[source] serde_json::Error),
    /// A line of `merges.txt` is not a pair of tokens.
    #[error("line {0} is not a pair of tokens separated by a space")]
    Merge(usize),
    /// `vocab.txt` lacks a token that each WordPiece vocabulary has.
    #[error("it has no {0}, so it is not a WordPiece vocabulary")]
    NotWordPiece(String),
}

/// Why the tokenizer library can't use a `tokenizer.json`.
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

/// The tokenizer failed on a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the tokenizer failed on this text: {reason}")]
pub struct TokenizeError {
    pub(super) reason: String,
}
