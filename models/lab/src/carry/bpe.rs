//! A byte-level BPE vocabulary, trained on text that an old tokenizer has cut into pieces, and written as `tokenizer.json`.
//!
//! An encoder knows the tokens that it was trained on, so the new vocabulary keeps the boundaries of the old one: BPE is
//! trained on each old piece as a word, so no token spans two pieces. The normaliser puts spaces between words and
//! punctuation, as BERT's does. A token that starts with a space is then a piece that starts a word, any other one a piece
//! that continues a word, and both have rows of their own in the old embeddings.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow, ensure};
use serde_json::{Value, json};
use tokenizers::{Trainer, trainers::BpeTrainer, vocab::bucket_added_vocabulary::AddedToken};
use unicode_normalization::{UnicodeNormalization, char::is_combining_mark};

/// The special tokens, with the ids of RoBERTa, except for `<mask>`.
pub(super) const SPECIAL: [&str; 5] = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"];

/// How often a pair of tokens must occur to be merged.
pub(super) const MIN_FREQUENCY: u64 = 2;

/// A trained vocabulary.
pub(super) struct Vocabulary {
    /// Tokens by id, in the byte-level alphabet.
    pub(super) tokens: Vec<String>,
    merges: Vec<(String, String)>,
}

impl Vocabulary {
    /// Trains on texts, which are normalised and split into words as the new tokenizer does it. `pieces` cuts a word, which
    /// starts with a space unless it continues another, into old pieces.
    pub(super) fn train(
        texts: &[impl AsRef<str> + Sync],
        size: usize,
        pieces: impl Fn(&str) -> Result<Vec<String>> + Sync,
    ) -> Result<Self> {
        let alphabet = alphabet();
        ensure!(
            size >= SPECIAL.len() + alphabet.len(),
            "a vocabulary of {size} is too small for all bytes: use at least 1000"
        );
        let special = SPECIAL.map(|token| AddedToken {
            content: token.to_owned(),
            single_word: false,
            lstrip: false,
            rstrip: false,
            normalized: false,
            special: true,
        });
        let mut trainer = BpeTrainer::builder()
            .vocab_size(size)
            .min_frequency(MIN_FREQUENCY)
            .show_progress(false)
            .special_tokens(special.to_vec())
            .initial_alphabet(alphabet.iter().copied().collect())
            .build();
        let letters = |piece: &str| -> String { piece.bytes().map(|byte| alphabet[usize::from(byte)]).collect() };
        let cut = |text: &str| -> tokenizers::Result<Vec<String>> {
            let text = normalise(text);
            let cut: Result<Vec<Vec<String>>> = split(&text).map(&pieces).collect();
            Ok(cut?.iter().flatten().map(|piece| letters(piece)).collect())
        };
        trainer
            .feed(texts.iter(), cut)
            .map_err(|error| anyhow!("can't count words: {error}"))?;
        let (vocabulary, merges, _) = trainer
            .train_vocab()
            .map_err(|error| anyhow!("can't train BPE: {error}"))?;
        let by_id: BTreeMap<u32, String> = vocabulary.into_iter().map(|(token, id)| (id, token)).collect();
        let tokens: Vec<String> = by_id.into_values().collect();
        ensure!(
            tokens.iter().zip(SPECIAL).all(|(token, special)| token == special),
            "the BPE trainer moved the special tokens"
        );
        Ok(Self { tokens, merges })
    }

    /// The bytes of each token; `None` for a special token.
    pub(super) fn surfaces(&self) -> Vec<Option<Vec<u8>>> {
        let letters = letters();
        self.tokens
            .iter()
            .enumerate()
            .map(|(id, token)| {
                if id < SPECIAL.len() {
                    None
                } else {
                    surface_in(token, &letters)
                }
            })
            .collect()
    }

    /// The content of `tokenizer.json`.
    pub(super) fn to_json(&self) -> Value {
        let vocabulary: serde_json::Map<String, Value> = self
            .tokens
            .iter()
            .zip(0_u32..)
            .map(|(token, id)| (token.clone(), id.into()))
            .collect();
        let merges: Vec<[&str; 2]> = self.merges.iter().map(|(a, b)| [a.as_str(), b.as_str()]).collect();
        let added: Vec<Value> = SPECIAL
            .iter()
            .enumerate()
            .map(|(id, token)| {
                json!({
                    "id": id, "content": token, "single_word": false, "lstrip": *token == "<mask>",
                    "rstrip": false, "normalized": false, "special": true
                })
            })
            .collect();
        json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": [
                {"type": "NFKD"}, {"type": "StripAccents"}, {"type": "Lowercase"},
                // Regular expression engines disagree whether joiners are part of a word.
                {"type": "Replace", "pattern": {"String": "\u{200c}"}, "content": ""},
                {"type": "Replace", "pattern": {"String": "\u{200d}"}, "content": ""},
                {"type": "Replace", "pattern": {"Regex": WORD_EDGE}, "content": " "},
                {"type": "Prepend", "prepend": " "}
            ]},
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
            "post_processor": {
                "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0],
                "trim_offsets": true, "add_prefix_space": false
            },
            "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
            "model": {
                "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": true,
                "vocab": vocabulary, "merges": merges
            }
        })
    }
}

/// The content of `tokenizer_config.json`, for RoBERTa's special tokens.
pub(crate) fn tokenizer_config(longest: usize) -> Value {
    json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "cls_token": "<s>",
        "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>",
        "mask_token": "<mask>", "model_max_length": longest, "clean_up_tokenization_spaces": false
    })
}

/// The bytes of a token of a byte-level vocabulary; `None` if it has a character outside the alphabet.
pub(crate) fn surface(token: &str) -> Option<Vec<u8>> {
    surface_in(token, &letters())
}

fn surface_in(token: &str, letters: &BTreeMap<char, u8>) -> Option<Vec<u8>> {
    token.chars().map(|letter| letters.get(&letter).copied()).collect()
}

fn letters() -> BTreeMap<char, u8> {
    (0..=u8::MAX)
        .zip(alphabet())
        .map(|(byte, letter)| (letter, byte))
        .collect()
}

/// GPT-2's alphabet of bytes: printable bytes are themselves, the rest are mapped from U+0100 on.
fn alphabet() -> Vec<char> {
    let mut next = 0x100_u32;
    (0..=u8::MAX)
        .map(|byte| match byte {
            b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => char::from(byte),
            _ => {
                next += 1;
                char::from_u32(next - 1).unwrap_or(char::REPLACEMENT_CHARACTER)
            }
        })
        .collect()
}

/// Where a space is inserted: at the edge of a word, unless there is one.
const WORD_EDGE: &str = r"\b(?=\S)(?<=\S)";

/// Normalises a text as the tokenizer's normaliser does.
fn normalise(text: &str) -> String {
    let plain = text
        .nfkd()
        .filter(|c| !is_combining_mark(*c) && !matches!(c, '\u{200c}' | '\u{200d}'))
        .collect::<String>()
        .to_lowercase();
    let mut spaced = String::with_capacity(plain.len() + plain.len() / 4);
    let mut previous = ' ';
    for c in plain.chars() {
        let is_edge = is_word(previous) != is_word(c) && !previous.is_whitespace() && !c.is_whitespace();
        if is_edge || spaced.is_empty() {
            spaced.push(' ');
        }
        spaced.push(c);
        previous = c;
    }
    spaced
}

/// Whether `\b` treats the character as part of a word.
fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// GPT-2's words: `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let length = word_length(rest);
        let (word, after) = rest.split_at_checked(length)?;
        rest = after;
        (!word.is_empty()).then_some(word)
    })
}

#[derive(PartialEq, Clone, Copy)]
enum Kind {
    Letter,
    Number,
    Space,
    Other,
}

fn kind(c: char) -> Kind {
    // This differs from `\p{L}` and `\p{N}` in rare marks, which doesn't matter for training a vocabulary.
    match c {
        c if c.is_whitespace() => Kind::Space,
        c if c.is_numeric() => Kind::Number,
        c if c.is_alphabetic() => Kind::Letter,
        _ => Kind::Other,
    }
}

fn word_length(text: &str) -> usize {
    for suffix in ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d"] {
        if text.starts_with(suffix) {
            return suffix.len();
        }
    }
    let run = |text: &str, of: Kind| text.find(|c| kind(c) != of).unwrap_or(text.len());
    let body = text.strip_prefix(' ').unwrap_or(text);
    if let Some(first) = body.chars().next().map(kind)
        && first != Kind::Space
    {
        return text.len() - body.len() + run(body, first);
    }
    let spaces = run(text, Kind::Space);
    match text[..spaces].char_indices().next_back() {
        // The last space before a word belongs to the word.
        Some((last, _)) if spaces < text.len() && last > 0 => last,
        _ => spaces,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::tokenizer;

    #[test]
    fn words_are_split_as_gpt2_does() {
        let words: Vec<&str> = split("i'm  so happy!! 12 x\n\n y").collect();
        assert_eq!(
            words,
            ["i", "'m", " ", " so", " happy", "!!", " 12", " x", "\n\n", " y"]
        );
    }

    #[test]
    fn a_trained_vocabulary_encodes_text() {
        let texts: Vec<String> = ["So happy today 😀", "so Happy!", "today I am so happy 😀"]
            .map(str::to_owned)
            .to_vec();
        let vocabulary = Vocabulary::train(&texts, 300, |word| Ok(vec![word.to_owned()])).unwrap();
        let tokenizer = tokenizer::parse(&vocabulary.to_json().to_string()).unwrap();
        let ids = tokenizer.encode("SO happy 😀", 64).unwrap();
        assert_eq!((ids[0], ids[ids.len() - 1]), (0, 2));
        assert_eq!(read(&vocabulary, &ids).concat(), " so happy 😀");
        assert!(ids.len() < 8, "merges are used: {ids:?}");
    }

    /// The text of each token but the first and last.
    fn read(vocabulary: &Vocabulary, ids: &[u32]) -> Vec<String> {
        let surfaces = vocabulary.surfaces();
        let inner = &ids[1..ids.len() - 1];
        let bytes = inner.iter().map(|&id| surfaces[id as usize].clone().unwrap());
        bytes
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .collect()
    }

    #[test]
    fn no_token_spans_two_pieces() {
        let texts = vec![
            "#running, #don't".to_owned(),
            "run running".to_owned(),
            "running run".to_owned(),
        ];
        let pieces = |word: &str| {
            let (stem, end) = word.split_at(word.find("ning").unwrap_or(word.len()));
            Ok([stem, end]
                .iter()
                .filter(|piece| !piece.is_empty())
                .map(|&piece| piece.to_owned())
                .collect())
        };
        let vocabulary = Vocabulary::train(&texts, 300, pieces).unwrap();
        let tokenizer = tokenizer::parse(&vocabulary.to_json().to_string()).unwrap();
        let ids = tokenizer.encode("#Running run", 64).unwrap();
        assert_eq!(read(&vocabulary, &ids), [" #", " run", "ning", " run"]);
    }

    #[test]
    fn the_trainer_normalises_texts_like_the_tokenizer() {
        let vocabulary = Vocabulary::train(&["a a".to_owned()], 300, |word| Ok(vec![word.to_owned()])).unwrap();
        let tokenizer = tokenizer::parse(&vocabulary.to_json().to_string()).unwrap();
        for text in [
            "#Happy!!! it's 5pm",
            "Café, naïve",
            "so😀sad 😢 ❤️ 🤦🏽\u{200d}♀️ it",
            "@user: \"ok\"...",
            "ﬁne \u{1d4ef}un",
            "a_b  c",
            "ПРИВЕТ, мир",
            "x",
            "!",
        ] {
            let ids = tokenizer.encode(text, 500).unwrap();
            let surfaces = vocabulary.surfaces();
            let bytes: Vec<u8> = ids[1..ids.len() - 1]
                .iter()
                .flat_map(|&id| surfaces[id as usize].clone().unwrap())
                .collect();
            assert_eq!(String::from_utf8(bytes).unwrap(), normalise(text), "{text}");
        }
    }
}
