//! Converts texts into token ids.

use std::{path::Path, sync::Arc};

use serde_json::Value;

use super::{
    error::{ModelError, TokenizeError, TokenizerError},
    linear::{LinearModel, Ngrams},
    subwords::{Subwords, largest_id},
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

impl Tokenizer {
    /// Reads a `tokenizer.json` of any version. Its truncation and padding settings are ignored, since batching
    /// determines both.
    pub(super) fn parse(
        path: &Path,
        bytes: &[u8],
        max_tokens: usize,
        vocab_size: Option<usize>,
    ) -> Result<Self, ModelError> {
        let invalid = ModelError::invalid(path);
        let mut json: Value = serde_json::from_slice(bytes)
            .map_err(TokenizerError::Json)
            .map_err(&invalid)?;
        if let (Some(rows), Some(largest)) = (vocab_size, largest_id(&json))
            && largest >= rows as u64
        {
            return Err(invalid(TokenizerError::VocabularySize { id: largest, rows }));
        }
        if let Some((token, inner)) = word_in_word(&json) {
            return Err(invalid(TokenizerError::AddedTokens {
                token: token.to_owned(),
                inner: inner.to_owned(),
            }));
        }
        let subwords = Subwords::from_json(&mut json)
            .map_err(TokenizerError::Subwords)
            .map_err(&invalid)?;
        let special = subwords.special_tokens();
        if max_tokens <= special {
            return Err(ModelError::MaxTokens { max_tokens, special });
        }
        let tokenizer = Self {
            kind: Kind::Subwords(Box::new(subwords)),
            max_bytes: max_tokens * BYTES_PER_TOKEN,
            max_tokens,
        };
        // Some steps can be read but not run. Find out at startup rather than with the first post.
        tokenizer.encode("so happy today, 24/7!").map_err(|error| {
            invalid(match error.reason.contains("system-regex") {
                true => TokenizerError::Split,
                false => TokenizerError::Run(error),
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
            Kind::Subwords(subwords) => subwords.encode(text, self.max_tokens),
            Kind::Ngrams(model) => {
                let mut columns = Vec::new();
                model.vectorizer().columns(text, &mut Ngrams::default(), &mut columns);
                Ok(columns)
            }
        }
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("max_tokens", &self.max_tokens)
            .finish_non_exhaustive()
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
