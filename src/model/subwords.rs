//! The subword tokenizers of encoders, read from a `tokenizer.json` of any version. Used by the service and the lab.

use std::{
    collections::BTreeSet,
    panic::{AssertUnwindSafe, catch_unwind},
};

use serde_json::Value;
use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};

use super::{
    added_tokens::{self, AddedTokens},
    error::{SubwordsError, TokenizeError},
};

/// How texts are encoded. The file's truncation and padding settings are ignored, since batching determines both.
const OPTIONS: EncodeOptions = EncodeOptions {
    add_special_tokens: false,
    // A literal "</s>" in a post is four ordinary characters rather than the end-of-text token.
    encode_special_tokens: true,
    padding: Override::Off,
    truncation: Override::Off,
};

/// The subword tokenizer of an encoder, with the special tokens that the model was trained with.
#[derive(Clone)]
pub struct Subwords {
    pipeline: PipelineTokenizer,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// Set if the library would not produce the reference's ids. `pipeline` then has no added tokens.
    added: Option<AddedTokens>,
}

impl Subwords {
    /// Creates a tokenizer from a `tokenizer.json`, which is upgraded in place to the library's version.
    ///
    /// # Errors
    /// Returns an error if the library does not support it.
    pub fn from_json(json: &mut Value) -> Result<Self, SubwordsError> {
        let prefix_space = take_prefix_space(json);
        // Upgrading does not panic on any known file, but files may come from anywhere.
        let (pipeline, added) = catch_unwind(AssertUnwindSafe(|| {
            tokenizers::canonicalize_value(json).map_err(|error| SubwordsError::Library(error.into()))?;
            if prefix_space {
                added_tokens::add_prefix_space(json);
            }
            let added = AddedTokens::take(json)?;
            let pipeline = tokenizers::from_json(&json.to_string()).map_err(SubwordsError::Library)?;
            Ok((pipeline, added))
        }))
        .unwrap_or(Err(SubwordsError::Panic))?;
        let frame = &pipeline.get_post_processor().single;
        let ids = |run: &[(PipelineToken, u8)]| run.iter().map(|&(id, _)| u32::from(id)).collect();
        let (prefix, suffix) = (ids(&frame.prefix), ids(&frame.suffix));
        Ok(Self {
            pipeline,
            prefix,
            suffix,
            added,
        })
    }

    /// The number of special tokens around each text.
    #[must_use]
    pub fn special_tokens(&self) -> usize {
        self.prefix.len() + self.suffix.len()
    }

    /// Returns the ids of a text without special tokens.
    ///
    /// # Errors
    /// Returns an error if the library fails or panics on the text.
    pub fn pieces(&self, text: &str) -> Result<Vec<u32>, TokenizeError> {
        Ok(self.tokens(text)?.into_iter().map(u32::from).collect())
    }

    /// Returns the ids of a text with special tokens, truncated to `max_tokens` in total.
    ///
    /// # Errors
    /// Returns an error if the library fails or panics on the text.
    pub fn encode(&self, text: &str, max_tokens: usize) -> Result<Vec<u32>, TokenizeError> {
        let tokens = self.tokens(text)?;
        let room = max_tokens.saturating_sub(self.special_tokens());
        let mut ids = Vec::with_capacity(tokens.len().min(room) + self.special_tokens());
        ids.extend_from_slice(&self.prefix);
        ids.extend(tokens.iter().take(room).map(|&token| u32::from(token)));
        ids.extend_from_slice(&self.suffix);
        Ok(ids)
    }

    fn tokens(&self, text: &str) -> Result<Vec<PipelineToken>, TokenizeError> {
        let fails = |reason: String| TokenizeError { reason };
        let mut tokens = Vec::with_capacity(text.len() / 3);
        catch_unwind(AssertUnwindSafe(|| match &self.added {
            Some(added) => added.encode_into(text, &self.pipeline, &OPTIONS, &mut tokens),
            None => self.pipeline.encode_into(text, &OPTIONS, &mut tokens),
        }))
        .map_err(|_| fails("the library panicked".to_owned()))?
        .map_err(|error| fails(error.to_string()))?;
        Ok(tokens)
    }
}

impl std::fmt::Debug for Subwords {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subwords").finish_non_exhaustive()
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

/// Returns the largest id in a `tokenizer.json`. The vocabulary is a map (BPE, WordPiece, WordLevel) or a list (Unigram).
#[must_use]
pub fn largest_id(json: &Value) -> Option<u64> {
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
