//! Added tokens, for tokenizers that prepend a space (or `▁`) to a text.
//!
//! The reference library splits a text at its added tokens first, and then prepends a space to each piece in between. The
//! library used here (1.0.0-rc.3) prepends it during normalisation. The space is then wrongly inserted before an added token
//! that is matched in normalised text, and missing after such a token. For tokenizers with both features, this module
//! therefore splits at the added tokens itself.

use std::sync::Arc;

use serde_json::{Value, json};
use tokenizers::{
    normalizers::metaspace::MetaspaceNormalizer,
    pipeline::{
        EncodeOptions, Normalizer as _, PipelineNormalizer, PipelineToken, PipelineTokenizer, Segment,
        SpecialSegmentIterator, normalize_all,
    },
};

use super::error::SubwordsError;

/// The normalisation step that prepends the space, in the library's version of `tokenizer.json`.
const SPACES: &str = "MetaspaceNormalizer";

/// The added tokens of a tokenizer that are matched in texts, that is, those that are not special.
#[derive(Clone)]
pub(super) struct AddedTokens {
    /// Finds the tokens and normalises text, without prepending spaces. Its token ids are indices into `ids`.
    finder: PipelineTokenizer,
    ids: Arc<[u32]>,
    spaces: MetaspaceNormalizer,
}

/// Adds a step that prepends a space to each text, as a byte-level pre-tokenizer with `add_prefix_space` does.
pub(super) fn add_prefix_space(json: &mut Value) {
    let step = json!({"type": SPACES, "replacement": " ", "prepend": "always", "drop_whitespace": false});
    let mut steps = steps(json);
    steps.push(step);
    json["normalizer"] = json!({"type": "Sequence", "normalizers": steps});
}

/// Returns the normalisation steps in order.
fn steps(json: &Value) -> Vec<Value> {
    match json.pointer("/normalizer/normalizers").and_then(Value::as_array) {
        Some(steps) => steps.clone(),
        None => json
            .get("normalizer")
            .filter(|step| !step.is_null())
            .cloned()
            .into_iter()
            .collect(),
    }
}

impl AddedTokens {
    /// Moves added tokens and normalisation out of a `tokenizer.json` in the library's version. Returns `None` and changes
    /// nothing if the library already produces the reference's ids: there is no added token to match, or no space is
    /// prepended.
    pub(super) fn take(json: &mut Value) -> Result<Option<Self>, SubwordsError> {
        let tokens = json
            .get("added_tokens")
            .and_then(Value::as_array)
            .cloned()
            .unwrap_or_default();
        let is_searched_for = |token: &Value| token.get("special").and_then(Value::as_bool) == Some(false);
        let mut steps = steps(json);
        let puts_spaces = steps.last().and_then(|step| step.get("type")?.as_str()) == Some(SPACES);
        if !puts_spaces || !tokens.iter().any(is_searched_for) {
            return Ok(None);
        }
        // The finder's model contains only the added tokens, so that they have ids.
        let mut ids = Vec::new();
        let mut vocabulary = serde_json::Map::new();
        let mut numbered = Vec::new();
        for mut token in tokens {
            let id = token
                .get("id")
                .and_then(Value::as_u64)
                .and_then(|id| u32::try_from(id).ok());
            let content = token.get("content").and_then(Value::as_str).map(str::to_owned);
            let (Some(id), Some(content)) = (id, content) else {
                return Err(SubwordsError::AddedToken);
            };
            token["id"] = json!(ids.len());
            vocabulary.insert(content, json!(ids.len()));
            ids.push(id);
            numbered.push(token);
        }
        let finder = |steps: &[Value]| {
            let finder = json!({
                "version": json["version"], "added_tokens": numbered, "pre_tokenizer": null, "post_processor": null,
                "decoder": null, "normalizer": {"type": "Sequence", "normalizers": steps},
                "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": ""},
            });
            tokenizers::from_json(&finder.to_string()).map_err(SubwordsError::Library)
        };
        let spaces = match finder(&steps)?.get_normalizers().last() {
            Some(PipelineNormalizer::Metaspace(spaces)) => spaces.clone(),
            _ => return Err(SubwordsError::Step(SPACES)),
        };
        steps.pop();
        let finder = finder(&steps)?;
        json["added_tokens"] = json!([]);
        json["normalizer"] = Value::Null;
        Ok(Some(Self {
            finder,
            ids: ids.into(),
            spaces,
        }))
    }

    /// Appends the tokens of a text. `rest` encodes the text between added tokens.
    pub(super) fn encode_into(
        &self,
        text: &str,
        rest: &PipelineTokenizer,
        options: &EncodeOptions,
        tokens: &mut Vec<PipelineToken>,
    ) -> tokenizers::Result<()> {
        let added = self.finder.get_added_vocabulary();
        let found = |place: u32| self.ids.get(place as usize).copied().map(PipelineToken::from);
        for segment in SpecialSegmentIterator::new(text, added, false, options.encode_special_tokens) {
            let (text, start) = match segment {
                Segment::Text { text, input_offset } => (text, input_offset),
                Segment::SpecialToken(place) => {
                    tokens.extend(found(place));
                    continue;
                }
            };
            let normalised = normalize_all(self.finder.get_normalizers(), text, start)?;
            for segment in SpecialSegmentIterator::new(&normalised, added, true, options.encode_special_tokens) {
                match segment {
                    Segment::SpecialToken(place) => tokens.extend(found(place)),
                    Segment::Text { text, input_offset } => {
                        let spaced = self.spaces.normalize(text, start + input_offset)?;
                        rest.encode_into(&spaced, options, tokens)?;
                    }
                }
            }
        }
        Ok(())
    }
}
