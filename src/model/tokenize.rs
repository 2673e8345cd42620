//! Converts texts into token ids.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::Arc,
};

use serde_json::Value;
use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};

use super::{
    ModelError,
    added_tokens::{self, AddedTokens},
    linear::{LinearModel, Ngrams},
};

/// The number of a text's bytes that are tokenised, per possible token. It is far above what any language needs
/// (4 to 6 in English), and bounds the cost of an arbitrarily long text.
const BYTES_PER_TOKEN: usize = 64;
/// The maximum number of n-grams per byte of text: a word of `n` letters has at most `4 n`.
const NGRAMS_PER_BYTE: usize = 4;

/// The tokenizer of a model folder. It is cheap to clone and can be shared between threads.
#[derive(Clone)]
pub struct Tokenizer {
    kind: Kind,
    /// The number of bytes to which texts are truncated.
    max_bytes: usize,
    max_tokens: usize,
}

#[derive(Clone)]
enum Kind {
    Subwords(Box<Subwords>),
    /// The n-grams of a linear model. Token ids are columns of its weights.
    Ngrams(Arc<LinearModel>),
}

/// The subword tokenizer of an encoder.
#[derive(Clone)]
struct Subwords {
    pipeline: PipelineTokenizer,
    options: EncodeOptions,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// Set if the library would not produce the reference's ids. `pipeline` then has no added tokens.
    added: Option<AddedTokens>,
    max_tokens: usize,
}

/// The tokenizer failed on a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the tokenizer failed on this text: {0}")]
pub struct TokenizeError(String);

impl Tokenizer {
    /// Reads a `tokenizer.json` of any version. Its truncation and padding settings are ignored, since batching
    /// determines both.
    pub(super) fn parse(
        path: &Path,
        bytes: &[u8],
        max_tokens: usize,
        vocab_size: Option<usize>,
    ) -> Result<Self, ModelError> {
        let invalid = |detail: String| ModelError::Invalid {
            path: path.to_owned(),
            detail,
        };
        let mut json: Value = serde_json::from_slice(bytes).map_err(|error| invalid(format!("not JSON: {error}")))?;
        if let (Some(rows), Some(largest)) = (vocab_size, largest_id(&json))
            && largest >= rows as u64
        {
            return Err(invalid(format!(
                "the vocabulary has the id {largest}, but the model's embedding has {rows} rows (vocab_size in config.json): the tokenizer does not belong to this model"
            )));
        }
        if let Some((word, within)) = word_in_word(&json) {
            return Err(invalid(format!(
                "the added token {word:?} is for whole words (single_word) and holds another, {within:?}: the tokenizer library \
                 cuts words that begin or end so otherwise than the one that trained the model; take one of the two out"
            )));
        }
        let prefix_space = take_prefix_space(&mut json);
        // Upgrading does not panic on any known file, but files may come from anywhere.
        let (pipeline, added) = catch_unwind(AssertUnwindSafe(|| {
            tokenizers::canonicalize_value(&mut json).map_err(|error| error.to_string())?;
            if prefix_space {
                added_tokens::add_prefix_space(&mut json);
            }
            let added = AddedTokens::take(&mut json)?;
            let pipeline = tokenizers::from_json(&json.to_string()).map_err(|error| error.to_string())?;
            Ok((pipeline, added))
        }))
        .unwrap_or_else(|_| Err("the tokenizer library panicked on it".to_owned()))
        .map_err(|reason| invalid(format!("not a readable tokenizer: {reason}")))?;

        let frame = &pipeline.get_post_processor().single;
        let ids = |run: &[(PipelineToken, u8)]| run.iter().map(|&(id, _)| u32::from(id)).collect::<Vec<u32>>();
        let (prefix, suffix) = (ids(&frame.prefix), ids(&frame.suffix));
        let special = prefix.len() + suffix.len();
        if max_tokens <= special {
            return Err(ModelError::MaxTokens { max_tokens, special });
        }
        let options = EncodeOptions {
            add_special_tokens: false,
            // A literal "</s>" in a post is four ordinary characters rather than the end-of-text token.
            encode_special_tokens: true,
            padding: Override::Off,
            truncation: Override::Off,
        };
        let tokenizer = Self {
            kind: Kind::Subwords(Box::new(Subwords {
                pipeline,
                options,
                prefix,
                suffix,
                added,
                max_tokens,
            })),
            max_bytes: max_tokens * BYTES_PER_TOKEN,
            max_tokens,
        };
        // Some steps can be read but not run. Find out at startup rather than with the first post.
        tokenizer.encode("so happy today, 24/7!").map_err(|TokenizeError(reason)| {
            invalid(match reason.contains("system-regex") {
                true => "its `Split` step has an expression that the tokenizer library can't run; it runs those of GPT-2, \
                         cl100k, o200k and their like: use a tokenizer.json with one of these"
                    .to_owned(),
                false => format!("the tokenizer can't be run: {reason}"),
            })
        })?;
        Ok(tokenizer)
    }

    /// Creates the tokenizer of a linear model. Texts are truncated to the length that an encoder with `max_tokens` would see.
    pub(super) fn of_ngrams(model: Arc<LinearModel>, max_tokens: usize) -> Self {
        let max_bytes = max_tokens * BYTES_PER_TOKEN;
        Self {
            kind: Kind::Ngrams(model),
            max_bytes,
            max_tokens: max_bytes * NGRAMS_PER_BYTE,
        }
    }

    /// The maximum number of tokens in a text, including special tokens.
    #[must_use]
    pub const fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// Returns the token ids of a text, including special tokens, truncated to [`Tokenizer::max_tokens`].
    ///
    /// # Errors
    /// Returns an error if the tokenizer library fails or panics.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        let text = &text[..text.floor_char_boundary(self.max_bytes)];
        match &self.kind {
            Kind::Subwords(subwords) => subwords.encode(text),
            Kind::Ngrams(model) => {
                let mut columns = Vec::new();
                model.vectorizer().columns(text, &mut Ngrams::default(), &mut columns);
                Ok(columns)
            }
        }
    }
}

impl Subwords {
    fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        let mut tokens = Vec::with_capacity(text.len() / 3);
        catch_unwind(AssertUnwindSafe(|| match &self.added {
            Some(added) => added.encode_into(text, &self.pipeline, &self.options, &mut tokens),
            None => self.pipeline.encode_into(text, &self.options, &mut tokens),
        }))
        .map_err(|_| TokenizeError("the library panicked".to_owned()))?
        .map_err(|error| TokenizeError(error.to_string()))?;
        let room = self.max_tokens - self.prefix.len() - self.suffix.len();
        let mut ids = Vec::with_capacity(tokens.len().min(room) + self.prefix.len() + self.suffix.len());
        ids.extend_from_slice(&self.prefix);
        ids.extend(tokens.iter().take(room).map(|&token| u32::from(token)));
        ids.extend_from_slice(&self.suffix);
        Ok(ids)
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("max_tokens", &self.max_tokens)
            .finish_non_exhaustive()
    }
}

/// Returns and clears the flag of a byte-level pre-tokenizer to prepend a space to each text. The library no longer
/// supports it, so a normalisation step does it instead.
fn take_prefix_space(json: &mut Value) -> bool {
    let is = |value: &Value, kind: &str| value.get("type").and_then(Value::as_str) == Some(kind);
    let Some(pre_tokenizer) = json.get_mut("pre_tokenizer") else {
        return false;
    };
    // In a sequence, the step sees the pieces made by earlier steps. Only as the first one does it see the complete text.
    let byte_level = match is(pre_tokenizer, "Sequence") {
        true => pre_tokenizer.pointer_mut("/pretokenizers/0"),
        false => Some(pre_tokenizer),
    };
    match byte_level
        .filter(|step| is(step, "ByteLevel"))
        .and_then(|step| step.get_mut("add_prefix_space"))
    {
        Some(wanted) => std::mem::replace(wanted, Value::Bool(false)).as_bool().unwrap_or(false),
        None => false,
    }
}

/// Returns the first added token that matches only whole words (`single_word`) and contains another added token, with
/// that other token.
fn word_in_word(json: &Value) -> Option<(&str, &str)> {
    fn content(token: &Value) -> Option<&str> {
        token.get("content")?.as_str()
    }
    let tokens = json.get("added_tokens")?.as_array()?;
    let is_word = |token: &&Value| token.get("single_word").and_then(Value::as_bool) == Some(true);
    tokens.iter().filter(is_word).filter_map(content).find_map(|word| {
        let mut others = tokens.iter().filter_map(content);
        Some((word, others.find(|other| *other != word && word.contains(other))?))
    })
}

/// Returns the largest id in a `tokenizer.json`. The vocabulary is a map (BPE, WordPiece, WordLevel) or a list (Unigram).
fn largest_id(json: &Value) -> Option<u64> {
    let model = match json.pointer("/model/vocab") {
        Some(Value::Object(vocab)) => vocab.values().filter_map(Value::as_u64).max(),
        Some(Value::Array(vocab)) => (vocab.len() as u64).checked_sub(1),
        _ => None,
    };
    let added: BTreeSet<u64> = json
        .get("added_tokens")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|token| token.get("id").and_then(Value::as_u64))
        .collect();
    model.into_iter().chain(added).max()
}
