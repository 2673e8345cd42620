//! A Unigram vocabulary of SentencePiece with XLM-R's special tokens, read from and written to `tokenizer.json`.

use std::{fs, path::Path};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use crate::{carry, files};

/// The first special tokens; `<mask>` is the last token.
pub(crate) const FIXED: [&str; 4] = ["<s>", "<pad>", "</s>", "<unk>"];
const MASK: &str = "<mask>";

/// The score of a special token as a factor on the lowest score: more than the length of the longest special token.
const SPECIAL_FACTOR: f32 = 10.0;

/// A piece of text and the logarithm of its probability.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Piece {
    pub(crate) text: String,
    pub(crate) score: f32,
}

impl Piece {
    /// Whether it is a special token.
    pub(crate) fn is_special(&self) -> bool {
        self.text == MASK || FIXED.contains(&self.text.as_str())
    }

    /// Its text without the marker of a word's start.
    pub(crate) fn surface(&self) -> &str {
        self.text.strip_prefix('\u{2581}').unwrap_or(&self.text)
    }
}

/// A vocabulary.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Unigram {
    pieces: Vec<Piece>,
}

impl Unigram {
    /// A vocabulary of these pieces. The special tokens get scores so low that text which looks like one, such as `</s>` in a
    /// post, is written with single characters instead.
    ///
    /// # Errors
    ///
    /// When they don't start with [`FIXED`] and end with `<mask>`, or a score is not finite.
    pub(crate) fn new(mut pieces: Vec<Piece>) -> Result<Self> {
        let first = pieces.iter().map(|piece| piece.text.as_str());
        ensure!(
            first.take(FIXED.len()).eq(FIXED) && pieces.last().is_some_and(|last| last.text == MASK),
            "its vocabulary does not start with {} and end with {MASK}",
            FIXED.join(", ")
        );
        ensure!(
            pieces.iter().all(|piece| piece.score.is_finite()),
            "the score of a piece is not finite"
        );
        let ordinary = pieces.iter().filter(|piece| !piece.is_special());
        let least = ordinary.map(|piece| piece.score).fold(-1.0, f32::min);
        for piece in pieces.iter_mut().filter(|piece| piece.is_special()) {
            piece.score = SPECIAL_FACTOR * least;
        }
        Ok(Self { pieces })
    }

    /// Reads a vocabulary that [`Unigram::write`] wrote.
    ///
    /// # Errors
    ///
    /// When the file is absent or has another kind of vocabulary.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        let json: Value = serde_json::from_str(&text).with_context(|| format!("{}: not JSON", path.display()))?;
        let piece = |entry: &Value| {
            Some(Piece {
                text: entry.get(0)?.as_str()?.to_owned(),
                score: entry.get(1)?.as_f64()? as f32,
            })
        };
        let pieces: Option<Vec<Piece>> = match (json.pointer("/model/type"), json.pointer("/model/vocab")) {
            (Some(Value::String(kind)), Some(Value::Array(entries))) if kind == "Unigram" => {
                entries.iter().map(piece).collect()
            }
            _ => None,
        };
        let pieces = pieces.with_context(|| format!("{}: no Unigram vocabulary", path.display()))?;
        Self::new(pieces).with_context(|| path.display().to_string())
    }

    /// The pieces by id.
    pub(crate) fn pieces(&self) -> &[Piece] {
        &self.pieces
    }

    /// Writes `tokenizer.json` and `tokenizer_config.json` into a folder.
    ///
    /// # Errors
    ///
    /// When one can't be written.
    pub(crate) fn write(&self, folder: &Path, longest: usize) -> Result<()> {
        files::write(&folder.join("tokenizer.json"), self.to_json().to_string().as_bytes())?;
        let config = serde_json::to_string_pretty(&carry::tokenizer_config(longest))? + "\n";
        Ok(files::write(&folder.join("tokenizer_config.json"), config.as_bytes())?)
    }

    /// The content of `tokenizer.json`.
    ///
    /// XLM-R normalises with its own table, `nmt_nfkc`. `Nmt` followed by `NFKC` gives the same result for all characters but
    /// U+FF5E, which that table keeps, and some whose decomposition was added to Unicode later. `Nmt` replaces the zero-width
    /// joiner and similar characters with spaces; `WhitespaceSplit` treats several spaces like one.
    pub(crate) fn to_json(&self) -> Value {
        let mask = self.pieces.len() - 1;
        let added: Vec<Value> = FIXED
            .into_iter()
            .enumerate()
            .chain([(mask, MASK)])
            .map(|(id, token)| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": token == MASK,
                    "rstrip": false, "normalized": false, "special": true
                })
            })
            .collect();
        let vocabulary: Vec<Value> = self
            .pieces
            .iter()
            // Through its decimal digits: converted to `f64` directly, it would have twice as many.
            .map(|Piece { text, score }| json!([text, score.to_string().parse::<f64>().unwrap_or_default()]))
            .collect();
        let metaspace =
            json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "always", "split": true});
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": [{"type": "Nmt"}, {"type": "NFKC"}]},
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, metaspace]},
            "post_processor": {
                "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0],
                "trim_offsets": true, "add_prefix_space": false
            },
            "decoder": metaspace,
            "model": {"type": "Unigram", "unk_id": 3, "vocab": vocabulary, "byte_fallback": false}
        })
    }
}
