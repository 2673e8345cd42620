//! A text becomes token ids.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use serde_json::Value;
use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};

use super::ModelError;

/// Bytes of a text looked at, for each token it may become: far above what any language needs
/// (4 to 6 in English), so that a text without end costs no more than a long one.
const BYTES_PER_TOKEN: usize = 64;

/// The tokenizer of a model folder: cheap to clone, safe to share.
#[derive(Clone)]
pub struct Tokenizer {
    pipeline: PipelineTokenizer,
    options: EncodeOptions,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// A text that does not start with a space is given one.
    prefix_space: bool,
    max_tokens: usize,
}

/// A tokenizer that fails on a text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the tokenizer fails on this text: {0}")]
pub struct TokenizeError(String);

impl Tokenizer {
    /// Reads `tokenizer.json`, of any version. What it says about truncation and padding is not heeded:
    /// batching decides these.
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
                "the vocabulary has the id {largest}, but the model's embedding has {rows} rows (vocab_size in config.json): tokenizer and model do not belong together"
            )));
        }
        let prefix_space = take_prefix_space(&mut json);
        match_added_tokens_as_written(&mut json, path);
        if prefix_space && has_words_added(&json) {
            tracing::warn!(
                tokenizer = %path.display(),
                "this tokenizer adds a space before each text and has words of its own: after such a word the space is missing"
            );
        }
        // Upgrading panics on none of the shapes we know of, but the files come from anywhere.
        let pipeline = catch_unwind(AssertUnwindSafe(|| {
            tokenizers::canonicalize_value(&mut json).map_err(|error| error.to_string())?;
            tokenizers::from_json(&json.to_string()).map_err(|error| error.to_string())
        }))
        .unwrap_or_else(|_| Err("the tokenizer library panics on it".to_owned()))
        .map_err(|reason| invalid(format!("not a tokenizer that can be read: {reason}")))?;

        let frame = &pipeline.get_post_processor().single;
        let ids = |run: &[(PipelineToken, u8)]| run.iter().map(|&(id, _)| u32::from(id)).collect::<Vec<u32>>();
        let (prefix, suffix) = (ids(&frame.prefix), ids(&frame.suffix));
        let special = prefix.len() + suffix.len();
        if max_tokens <= special {
            return Err(ModelError::MaxTokens { max_tokens, special });
        }
        let options = EncodeOptions {
            add_special_tokens: false,
            // A post that holds "</s>" holds four characters, not an end of text.
            encode_special_tokens: true,
            padding: Override::Off,
            truncation: Override::Off,
        };
        let tokenizer = Self {
            pipeline,
            options,
            prefix,
            suffix,
            prefix_space,
            max_tokens,
        };
        // Some steps are read and then can't be run: better known now than with the first post.
        tokenizer.encode("so happy today, 24/7!").map_err(|TokenizeError(reason)| {
            invalid(match reason.contains("system-regex") {
                true => "its `Split` step has an expression that the tokenizer library can't run; it runs those of GPT-2, \
                         cl100k, o200k and their like: use a tokenizer.json with one of these"
                    .to_owned(),
                false => format!("a tokenizer that can't be run: {reason}"),
            })
        })?;
        Ok(tokenizer)
    }

    /// Most tokens a text becomes, special tokens included.
    #[must_use]
    pub const fn max_tokens(&self) -> usize {
        self.max_tokens
    }

    /// The token ids of a text, special tokens included, cut to [`Tokenizer::max_tokens`].
    ///
    /// # Errors
    /// The tokenizer library fails or panics on the text.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        let text = &text[..text.floor_char_boundary(self.max_tokens * BYTES_PER_TOKEN)];
        let spaced = (self.prefix_space && !text.is_empty() && !text.starts_with(' ')).then(|| format!(" {text}"));
        let text = spaced.as_deref().unwrap_or(text);
        let mut tokens = Vec::with_capacity(text.len() / 3);
        catch_unwind(AssertUnwindSafe(|| {
            self.pipeline.encode_into(text, &self.options, &mut tokens)
        }))
        .map_err(|_| TokenizeError("it panics".to_owned()))?
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

/// Whether a byte-level pre-tokenizer wants a space before each text; the library does not do that any more,
/// so it is told no, and [`Tokenizer::encode`] does it.
fn take_prefix_space(json: &mut Value) -> bool {
    let is = |value: &Value, kind: &str| value.get("type").and_then(Value::as_str) == Some(kind);
    let Some(pre_tokenizer) = json.get_mut("pre_tokenizer") else {
        return false;
    };
    // In a sequence it adds the space to each piece that the steps before it made; where it is the first, that is the text.
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

/// Has added tokens matched in the text as it is written, where a Metaspace step follows: the library (1.0.0-rc.3) puts the
/// step's `▁` before a token that it matches in the normalised text, the reference library does not. A difference is left
/// only for tokens that the normaliser changes.
fn match_added_tokens_as_written(json: &mut Value, path: &Path) {
    let holds = |part: &str, kind: &str| {
        json.get(part)
            .is_some_and(|value| value.to_string().contains(&format!("\"{kind}\"")))
    };
    if !holds("pre_tokenizer", "Metaspace") {
        return;
    }
    let lowers = holds("normalizer", "Lowercase");
    let tokens = json.get_mut("added_tokens").and_then(Value::as_array_mut);
    for token in tokens.into_iter().flatten().filter_map(Value::as_object_mut) {
        let normalized = token.get("normalized").and_then(Value::as_bool) == Some(true);
        let written = token.get("content").and_then(Value::as_str).unwrap_or_default();
        if !normalized {
            continue;
        }
        if lowers && written.chars().any(char::is_alphabetic) {
            tracing::warn!(
                tokenizer = %path.display(),
                token = written,
                "added tokens of lower-casing tokenizers of this kind may get an extra piece in front"
            );
        } else {
            token.insert("normalized".to_owned(), Value::Bool(false));
        }
    }
}

/// Whether tokens were added that are not special: these are matched in texts.
fn has_words_added(json: &Value) -> bool {
    let tokens = json.get("added_tokens").and_then(Value::as_array);
    tokens
        .into_iter()
        .flatten()
        .any(|token| token.get("special").and_then(Value::as_bool) == Some(false))
}

/// The largest id in a `tokenizer.json`: the vocabulary is a map (BPE, WordPiece, WordLevel) or a list (Unigram).
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
