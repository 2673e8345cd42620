//! Added tokens in texts, for tokenizers that put a space (or `▁`) before a text.
//!
//! The reference library finds added tokens first and then puts a space before each piece of text between them. The library
//! used here (1.0.0-rc.3) puts it there while it normalises, so that it stands before an added token that is matched in
//! normalised text, and is missing after one. So where a tokenizer has both, added tokens are found here.

use std::sync::Arc;

use serde_json::{Value, json};
use tokenizers::{
    normalizers::metaspace::MetaspaceNormalizer,
    pipeline::{
        EncodeOptions, Normalizer as _, PipelineNormalizer, PipelineToken, PipelineTokenizer, Segment,
        SpecialSegmentIterator, normalize_all,
    },
};

/// What puts the space there, in a `tokenizer.json` of the library's own version.
const SPACES: &str = "MetaspaceNormalizer";

/// The added tokens of a tokenizer that are matched in texts: those that are not special.
#[derive(Clone)]
pub(super) struct AddedTokens {
    /// Finds the tokens and normalises text, all but the spaces. An id of it is a place in `ids`.
    finder: PipelineTokenizer,
    ids: Arc<[u32]>,
    spaces: MetaspaceNormalizer,
}

/// Adds the step that puts a space before each text, as a byte-level pre-tokenizer with `add_prefix_space` does.
pub(super) fn add_prefix_space(json: &mut Value) {
    let step = json!({"type": SPACES, "replacement": " ", "prepend": "always", "drop_whitespace": false});
    let mut steps = steps(json);
    steps.push(step);
    json["normalizer"] = json!({"type": "Sequence", "normalizers": steps});
}

/// The steps of normalisation, in order.
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
    /// Takes added tokens and normalisation out of a `tokenizer.json` of the library's own version. None, and nothing taken,
    /// where the library gives the ids of the reference: it has no token that texts are searched for, or puts no space.
    pub(super) fn take(json: &mut Value) -> Result<Option<Self>, String> {
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
        // The finder's model holds nothing but the tokens, for their ids.
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
                return Err("an added token has no id or no content".to_owned());
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
            tokenizers::from_json(&finder.to_string()).map_err(|error| error.to_string())
        };
        let spaces = match finder(&steps)?.get_normalizers().last() {
            Some(PipelineNormalizer::Metaspace(spaces)) => spaces.clone(),
            _ => return Err(format!("its {SPACES} step can't be read")),
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

    /// Appends the tokens of a text, which `rest` makes of what stands between the added ones.
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
