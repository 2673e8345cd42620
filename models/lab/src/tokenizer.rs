//! A `tokenizer.json`, read to encode with.

use std::{fs, path::Path};

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use tokenizers::pipeline::{EncodeOptions, Override, PipelineToken, PipelineTokenizer};

/// A tokenizer with its special tokens' frame, as the service encodes.
pub struct Tokenizer {
    pipeline: PipelineTokenizer,
    options: EncodeOptions,
    prefix: Vec<u32>,
    suffix: Vec<u32>,
}

impl Tokenizer {
    /// Reads `tokenizer.json` in a folder.
    ///
    /// # Errors
    ///
    /// When the file is absent or holds no tokenizer that the library knows.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{}: not a tokenizer that can be read", path.display()))
    }

    /// Parses the content of a `tokenizer.json`.
    ///
    /// # Errors
    ///
    /// When it is no JSON, or no tokenizer that the library knows.
    pub fn parse(text: &str) -> Result<Self> {
        let json = tokenizers::canonicalize_str(text).map_err(|error| anyhow!("{error}"))?;
        let pipeline = tokenizers::from_json(&json).map_err(|error| anyhow!("{error}"))?;
        let frame = &pipeline.get_post_processor().single;
        let ids = |run: &[(PipelineToken, u8)]| run.iter().map(|&(id, _)| u32::from(id)).collect::<Vec<u32>>();
        let (prefix, suffix) = (ids(&frame.prefix), ids(&frame.suffix));
        let options = EncodeOptions {
            add_special_tokens: false,
            encode_special_tokens: true,
            padding: Override::Off,
            truncation: Override::Off,
        };
        Ok(Self {
            pipeline,
            options,
            prefix,
            suffix,
        })
    }

    /// The ids of a text without special tokens.
    ///
    /// # Errors
    ///
    /// When the library fails on the text.
    pub fn pieces(&self, text: &str) -> Result<Vec<u32>> {
        let mut tokens = Vec::new();
        self.pipeline
            .encode_into(text, &self.options, &mut tokens)
            .map_err(|error| anyhow!("{error}"))?;
        Ok(tokens.into_iter().map(u32::from).collect())
    }

    /// The ids of a text in its frame of special tokens, cut to `longest` in all.
    ///
    /// # Errors
    ///
    /// When the library fails on the text.
    pub fn encode(&self, text: &str, longest: usize) -> Result<Vec<u32>> {
        let room = longest.saturating_sub(self.prefix.len() + self.suffix.len());
        let pieces = self.pieces(text)?;
        let inner = pieces.into_iter().take(room);
        Ok(self
            .prefix
            .iter()
            .copied()
            .chain(inner)
            .chain(self.suffix.iter().copied())
            .collect())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").finish_non_exhaustive()
    }
}

/// The largest id in a `tokenizer.json`: the vocabulary is a map (BPE, WordPiece) or a list (Unigram).
pub(crate) fn largest_id(json: &Value) -> Option<u64> {
    let model = match json.pointer("/model/vocab") {
        Some(Value::Object(vocabulary)) => vocabulary.values().filter_map(Value::as_u64).max(),
        Some(Value::Array(vocabulary)) => (vocabulary.len() as u64).checked_sub(1),
        _ => None,
    };
    let added = json.get("added_tokens").and_then(Value::as_array).into_iter().flatten();
    model
        .into_iter()
        .chain(added.filter_map(|token| token.get("id").and_then(Value::as_u64)))
        .max()
}

/// Copies the tokenizer's files from one checkpoint folder to another.
///
/// # Errors
///
/// When one can't be copied; `tokenizer_config.json` may be absent.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    for file in ["tokenizer.json", "tokenizer_config.json"] {
        let from = from.join(file);
        if from.exists() {
            fs::copy(&from, to.join(file)).with_context(|| format!("can't copy {}", from.display()))?;
        }
    }
    Ok(())
}
