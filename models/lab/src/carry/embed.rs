//! Embeddings for new tokens out of those of an old vocabulary.

use std::{collections::HashMap, fs, path::Path};

use anyhow::{Context, Result};
use serde_json::Value;

use super::bpe::{SPECIAL, Vocabulary};
use crate::{encoder::Encoder, tokenizer::Tokenizer};

/// The old vocabulary: a WordPiece tokenizer and the embeddings of its pieces.
pub(super) struct Source<'a> {
    tokenizer: Tokenizer,
    pieces: HashMap<String, u32>,
    encoder: &'a Encoder,
    unknown: u32,
}

/// How often a token was seen to begin a word, and to continue one.
#[derive(Clone, Copy, Default)]
pub(super) struct Starts {
    begins: u32,
    continues: u32,
}

impl<'a> Source<'a> {
    pub(super) fn read(folder: &Path, encoder: &'a Encoder) -> Result<Self> {
        let path = folder.join("tokenizer.json");
        let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        let json: Value = serde_json::from_str(&text).with_context(|| format!("{}: not JSON", path.display()))?;
        let vocabulary = json.pointer("/model/vocab").and_then(Value::as_object);
        let vocabulary = vocabulary.with_context(|| format!("{}: no WordPiece vocabulary", path.display()))?;
        let pieces: HashMap<String, u32> = vocabulary
            .iter()
            .filter_map(|(piece, id)| Some((piece.clone(), u32::try_from(id.as_u64()?).ok()?)))
            .filter(|(_, id)| (*id as usize) < encoder.shape.vocabulary)
            .collect();
        let unknown = pieces.get("[UNK]").copied();
        let unknown = unknown.with_context(|| format!("{}: its vocabulary has no [UNK]", path.display()))?;
        Ok(Self {
            tokenizer: Tokenizer::read(folder)?,
            pieces,
            encoder,
            unknown,
        })
    }

    pub(super) fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The embeddings of the new vocabulary, `tokens x hidden`.
    pub(super) fn embeddings(&self, vocabulary: &Vocabulary, starts: &[Starts]) -> Result<Vec<f32>> {
        let mut words = Vec::with_capacity(vocabulary.tokens.len() * self.encoder.shape.hidden);
        let special = ["[CLS]", "[PAD]", "[SEP]", "[UNK]", "[MASK]"];
        debug_assert_eq!(special.len(), SPECIAL.len());
        for (id, surface) in vocabulary.surfaces().into_iter().enumerate() {
            let row = match surface {
                Some(surface) => self.embedding(&surface, starts[id])?,
                None => self.mean(&self.pieces.get(special[id]).copied().into_iter().collect::<Vec<_>>()),
            };
            words.extend_from_slice(&row);
        }
        Ok(words)
    }

    fn embedding(&self, surface: &[u8], starts: Starts) -> Result<Vec<f32>> {
        // A piece of a character says nothing that the old vocabulary knows.
        let Ok(surface) = std::str::from_utf8(surface) else {
            return Ok(self.mean(&[]));
        };
        let free = self.free(surface.trim())?;
        if surface.starts_with(char::is_whitespace) {
            return Ok(self.mean(&free));
        }
        let Some(continuing) = self.continuing(surface) else {
            return Ok(self.mean(&free));
        };
        let share = f64::from(starts.continues + 1) / f64::from(starts.begins + starts.continues + 2);
        let share = share as f32;
        let (free, continuing) = (self.mean(&free), self.mean(&continuing));
        Ok(free
            .iter()
            .zip(&continuing)
            .map(|(free, continuing)| (1.0 - share) * free + share * continuing)
            .collect())
    }

    /// The old pieces of a text of its own; by the Unicode names of its characters where the old
    /// vocabulary knows none of them.
    fn free(&self, surface: &str) -> Result<Vec<u32>> {
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

    /// The old pieces of letters that continue a word: greedily the longest, as WordPiece does.
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

    /// The mean embedding of the pieces; the unknown word's for none.
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

/// Counts for each token how often it begins a word and continues one.
pub(super) fn word_starts(vocabulary: &Vocabulary, tokenizer: &Tokenizer, texts: &[String]) -> Result<Vec<Starts>> {
    let mut starts = vec![Starts::default(); vocabulary.tokens.len()];
    // The alphabet writes ASCII letters and digits as themselves.
    let begins = |id: u32| vocabulary.tokens[id as usize].starts_with(|c: char| c.is_alphanumeric() && c != 'Ġ');
    let ends = |id: u32| vocabulary.tokens[id as usize].ends_with(|c: char| c.is_alphanumeric() && c != 'Ġ');
    for text in texts {
        let mut previous = None;
        for id in tokenizer.pieces(text)? {
            let continues = previous.is_some_and(ends) && begins(id);
            let seen = &mut starts[id as usize];
            if continues {
                seen.continues += 1;
            } else {
                seen.begins += 1;
            }
            previous = Some(id);
        }
    }
    Ok(starts)
}
