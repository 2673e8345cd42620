//! Embeddings of new tokens, made from those of an old vocabulary.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context, Result};
use moodstream::model::{Subwords, largest_id};
use serde_json::Value;

use super::bpe::{SPECIAL, Vocabulary};
use crate::{
    encoder::Encoder,
    tokenizer,
    training::{ensure_known, ensure_known_id},
};

/// The old vocabulary: a WordPiece tokenizer and the embeddings of its pieces.
pub(super) struct OldVocabulary<'a> {
    tokenizer: Subwords,
    pieces: HashMap<String, u32>,
    /// The text of a piece, by its id.
    surfaces: HashMap<u32, String>,
    encoder: &'a Encoder,
    unknown: u32,
}

impl<'a> OldVocabulary<'a> {
    pub(super) fn read(folder: &Path, encoder: &'a Encoder) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        let json: Value = serde_json::from_str(&text).with_context(|| format!("{}: not JSON", path.display()))?;
        let vocabulary = json.pointer("/model/vocab").and_then(Value::as_object);
        let vocabulary = vocabulary.with_context(|| format!("{}: no WordPiece vocabulary", path.display()))?;
        let pieces: HashMap<String, u32> = vocabulary
            .iter()
            .filter_map(|(piece, id)| Some((piece.clone(), u32::try_from(id.as_u64()?).ok()?)))
            .collect();
        // The tokens of an empty text are the special tokens, which the vocabulary need not list.
        let tokenizer = tokenizer::read(folder)?;
        ensure_known_id(largest_id(&json).unwrap_or(0), encoder.shape.vocabulary, folder)?;
        ensure_known(tokenizer.encode("", 0)?.iter(), &encoder.shape, folder)?;
        let unknown = pieces.get("[UNK]").copied();
        let unknown = unknown.with_context(|| format!("{}: its vocabulary has no [UNK]", path.display()))?;
        Ok(Self {
            tokenizer,
            surfaces: pieces
                .iter()
                .filter(|(_, id)| **id != unknown)
                .map(|(piece, &id)| (id, piece.strip_prefix("##").unwrap_or(piece).to_owned()))
                .collect(),
            pieces,
            encoder,
            unknown,
        })
    }

    pub(super) fn tokenizer(&self) -> &Subwords {
        &self.tokenizer
    }

    /// Cuts one of the new tokenizer's words into old pieces, which the new vocabulary is trained on. The piece that starts a
    /// word has a space before it. A word that the old vocabulary doesn't know is cut into characters.
    pub(super) fn cut(&self, word: &str) -> Result<Vec<String>> {
        let trimmed = word.trim();
        let begins = word.starts_with(char::is_whitespace);
        let ids = if begins {
            self.tokenizer.pieces(trimmed)?
        } else {
            self.continuing(trimmed).unwrap_or_default()
        };
        let surfaces: Option<Vec<&str>> = ids.iter().map(|id| self.surfaces.get(id).map(String::as_str)).collect();
        let whole = surfaces.filter(|surfaces| !surfaces.is_empty() && surfaces.concat() == trimmed);
        let letters = || {
            trimmed
                .char_indices()
                .map(|(at, c)| &trimmed[at..at + c.len_utf8()])
                .collect()
        };
        let mut pieces: Vec<String> = whole.unwrap_or_else(letters).into_iter().map(str::to_owned).collect();
        if let Some(first) = pieces.first_mut().filter(|_| begins) {
            first.insert(0, ' ');
        }
        Ok(pieces)
    }

    /// The embeddings of the new vocabulary, `tokens x hidden`.
    pub(super) fn embeddings(&self, vocabulary: &Vocabulary) -> Result<Vec<f32>> {
        let mut words = Vec::with_capacity(vocabulary.tokens.len() * self.encoder.shape.hidden);
        let special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"];
        debug_assert_eq!(special.len(), SPECIAL.len());
        for (id, surface) in vocabulary.surfaces().into_iter().enumerate() {
            let row = match surface {
                Some(surface) => self.embedding(&surface)?,
                None => self.mean(&self.pieces.get(special[id]).copied().into_iter().collect::<Vec<_>>()),
            };
            words.extend_from_slice(&row);
        }
        Ok(words)
    }

    fn embedding(&self, surface: &[u8]) -> Result<Vec<f32>> {
        // The old vocabulary has no tokens for parts of a character.
        let Ok(surface) = std::str::from_utf8(surface) else {
            return Ok(self.mean(&[]));
        };
        let continuing = if surface.starts_with(char::is_whitespace) {
            None
        } else {
            self.continuing(surface)
        };
        Ok(match continuing {
            Some(pieces) => self.mean(&pieces),
            None => self.mean(&self.separate(surface.trim())?),
        })
    }

    /// The old pieces of a text that doesn't continue a word, or those of the Unicode names of its characters if the old
    /// vocabulary doesn't know it.
    fn separate(&self, surface: &str) -> Result<Vec<u32>> {
        let pieces = self.known(surface)?;
        if !pieces.is_empty() {
            return Ok(pieces);
        }
        let names: Vec<String> = surface
            .chars()
            .filter(|c| !matches!(c, '\u{fe0f}' | '\u{200d}'))
            .filter_map(unicode_names2::name)
            .map(|name| name.to_string().to_lowercase())
            .collect();
        self.known(&names.join(" "))
    }

    fn known(&self, text: &str) -> Result<Vec<u32>> {
        let mut pieces = self.tokenizer.pieces(text)?;
        pieces.retain(|&id| id != self.unknown);
        Ok(pieces)
    }

    /// The old pieces of letters that continue a word: the longest first, as WordPiece does.
    fn continuing(&self, surface: &str) -> Option<Vec<u32>> {
        if surface.is_empty() || !surface.chars().all(char::is_alphanumeric) {
            return None;
        }
        let mut pieces = Vec::new();
        let mut rest = surface;
        while !rest.is_empty() {
            let ends = rest.char_indices().map(|(at, c)| at + c.len_utf8());
            let (end, id) = ends
                .rev()
                .find_map(|end| Some((end, *self.pieces.get(&format!("##{}", &rest[..end]))?)))?;
            pieces.push(id);
            rest = &rest[end..];
        }
        Some(pieces)
    }

    /// The mean embedding of the pieces; that of the unknown token if there are none.
    fn mean(&self, pieces: &[u32]) -> Vec<f32> {
        let pieces = if pieces.is_empty() {
            std::slice::from_ref(&self.unknown)
        } else {
            pieces
        };
        let hidden = self.encoder.shape.hidden;
        let mut mean = vec![0.0; hidden];
        for &id in pieces {
            let row = &self.encoder.weights.words[id as usize * hidden..][..hidden];
            for (sum, value) in mean.iter_mut().zip(row) {
                *sum += value / pieces.len() as f32;
            }
        }
        mean
    }
}
