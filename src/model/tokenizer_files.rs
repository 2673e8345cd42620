//! Creates a `tokenizer.json` from the vocabulary files of older models: byte-level BPE (RoBERTa, GPT-2) or WordPiece
//! (BERT). The result equals the reference library's conversion.
//!
//! Source: `transformers/convert_slow_tokenizer.py` of Hugging Face's transformers describes the conversion.

use std::{collections::BTreeMap, path::Path};

use serde_json::{Value, json};

use super::{
    error::{ModelError, TokenizerError},
    files::read,
};

/// Returns the folder's `tokenizer.json`, or one created from its vocabulary files.
pub(super) fn tokenizer_json(folder: &Path, model_type: Option<&str>) -> Result<Vec<u8>, ModelError> {
    let has = |name: &str| folder.join(name).is_file();
    if has("tokenizer.json") {
        return read(&folder.join("tokenizer.json"));
    }
    let made = if has("vocab.json") && has("merges.txt") {
        byte_level_bpe(folder)?
    } else if has("vocab.txt") && !has("bpe.codes") {
        word_piece(folder, model_type)?
    } else {
        let found = [
            "sentencepiece.bpe.model",
            "spiece.model",
            "tokenizer.model",
            "bpe.codes",
            "vocab.txt",
            "vocab.json",
            "merges.txt",
        ]
        .into_iter()
        .filter(|name| has(name))
        .collect::<Vec<_>>();
        return Err(ModelError::NoTokenizer {
            folder: folder.to_owned(),
            found: match found.is_empty() {
                true => "and no vocabulary files".to_owned(),
                false => format!("only {}", found.join(", ")),
            },
        });
    };
    tracing::info!(folder = %folder.display(), "no tokenizer.json: using the vocabulary files");
    Ok(made.to_string().into_bytes())
}

fn json_of(path: &Path) -> Result<Value, ModelError> {
    serde_json::from_slice(&read(path)?)
        .map_err(TokenizerError::Json)
        .map_err(ModelError::invalid(path))
}

/// Returns a setting of the optional `tokenizer_config.json`.
fn setting(folder: &Path, name: &str) -> Option<bool> {
    json_of(&folder.join("tokenizer_config.json"))
        .ok()?
        .get(name)?
        .as_bool()
}

fn text_of(path: &Path) -> Result<String, ModelError> {
    String::from_utf8(read(path)?)
        .map_err(TokenizerError::Utf8)
        .map_err(ModelError::invalid(path))
}

/// Adds the tokens of the optional `added_tokens.json` to a vocabulary.
fn added(folder: &Path, vocabulary: &mut BTreeMap<String, u64>) {
    if let Ok(Value::Object(tokens)) = json_of(&folder.join("added_tokens.json")) {
        let ids = tokens.into_iter().filter_map(|(token, id)| Some((token, id.as_u64()?)));
        vocabulary.extend(ids);
    }
}

fn special(tokens: &[&str], vocabulary: &BTreeMap<String, u64>) -> Vec<Value> {
    let mut known: Vec<(u64, &str)> = tokens
        .iter()
        .filter_map(|token| Some((*vocabulary.get(*token)?, *token)))
        .collect();
    known.sort_unstable();
    known
        .into_iter()
        .map(|(id, content)| {
            // The mask token includes the preceding space, so that it can replace a word.
            json!({"id": id, "content": content, "single_word": false, "lstrip": content == "<mask>", "rstrip": false,
                   "normalized": false, "special": true})
        })
        .collect()
}

/// Converts `vocab.json` and `merges.txt`.
fn byte_level_bpe(folder: &Path) -> Result<Value, ModelError> {
    let vocab_path = folder.join("vocab.json");
    let mut vocabulary: BTreeMap<String, u64> = serde_json::from_value(json_of(&vocab_path)?)
        .map_err(TokenizerError::Vocabulary)
        .map_err(ModelError::invalid(&vocab_path))?;
    let model_vocabulary = vocabulary.clone();
    added(folder, &mut vocabulary);
    let merges_path = folder.join("merges.txt");
    let merges = text_of(&merges_path)?;
    let merges = merges
        .lines()
        .enumerate()
        .filter(|(number, line)| !(line.trim().is_empty() || *number == 0 && line.starts_with("#version")))
        .map(|(number, line)| match line.trim_end().split_once(' ') {
            Some((left, right)) => Ok(json!([left, right])),
            None => Err(TokenizerError::Merge(number + 1)),
        })
        .collect::<Result<Vec<Value>, _>>()
        .map_err(ModelError::invalid(&merges_path))?;
    let prefix_space = setting(folder, "add_prefix_space").unwrap_or(false);
    let frame = |token: &str| vocabulary.get(token).map(|id| json!([token, id]));
    let post_processor = match (frame("</s>"), frame("<s>")) {
        (Some(sep), Some(cls)) => json!({"type": "RobertaProcessing", "sep": sep, "cls": cls, "trim_offsets": true,
                                         "add_prefix_space": prefix_space}),
        _ => json!({"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": false, "use_regex": true}),
    };
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": special(&["<s>", "<pad>", "</s>", "<unk>", "<mask>", "<|endoftext|>"], &vocabulary),
        "normalizer": null,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": true, "use_regex": true},
        "post_processor": post_processor,
        "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
        "model": {"type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": "",
                  "end_of_word_suffix": "", "fuse_unk": false, "byte_fallback": false, "ignore_merges": false,
                  "vocab": model_vocabulary, "merges": merges},
    }))
}

/// Converts `vocab.txt`, which has one token per line. Ids are zero-based line numbers.
fn word_piece(folder: &Path, model_type: Option<&str>) -> Result<Value, ModelError> {
    let path = folder.join("vocab.txt");
    let mut vocabulary: BTreeMap<String, u64> = text_of(&path)?
        .lines()
        .zip(0..)
        .map(|(token, id)| (token.to_owned(), id))
        .collect();
    let model_vocabulary = vocabulary.clone();
    added(folder, &mut vocabulary);
    let (cls, sep) = match model_type {
        Some("mpnet") => ("<s>", "</s>"),
        _ => ("[CLS]", "[SEP]"),
    };
    let id = |token: &str| {
        let id = vocabulary.get(token).copied();
        id.ok_or_else(|| TokenizerError::NotWordPiece(token.to_owned()))
            .map_err(ModelError::invalid(&path))
    };
    let (cls_id, sep_id) = (id(cls)?, id(sep)?);
    id("[UNK]")?;
    let lower = setting(folder, "do_lower_case").unwrap_or(true);
    let strip_accents = setting(folder, "strip_accents");
    let chinese = setting(folder, "tokenize_chinese_chars").unwrap_or(true);
    let frame = |token: &str, id: u64| json!({"id": token, "ids": [id], "tokens": [token]});
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": special(
            &["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<s>", "<pad>", "</s>", "<mask>"],
            &vocabulary,
        ),
        "normalizer": {"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": chinese,
                       "strip_accents": strip_accents, "lowercase": lower},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": cls, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                       {"SpecialToken": {"id": sep, "type_id": 0}}],
            "pair": [{"SpecialToken": {"id": cls, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
                     {"SpecialToken": {"id": sep, "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}},
                     {"SpecialToken": {"id": sep, "type_id": 1}}],
            "special_tokens": {cls: frame(cls, cls_id), sep: frame(sep, sep_id)},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": model_vocabulary},
    }))
}
