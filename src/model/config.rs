//! Hugging Face's `config.json`, reduced to what serving needs.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Map, Value};

use super::{ModelError, ProblemType, error::ConfigError};

/// Model families that number positions from `pad_token_id + 1`, so that two of the embedding's rows are never used.
const OFFSET_POSITIONS: &[&str] = &[
    "roberta",
    "xlm-roberta",
    "xlm-roberta-xl",
    "camembert",
    "roberta-prelayernorm",
    "data2vec-text",
    "longformer",
    "mpnet",
    "xmod",
    "ibert",
];

/// The members of `config.json`.
struct Raw(Map<String, Value>);

impl Raw {
    fn parse(bytes: &[u8]) -> Result<Self, ConfigError> {
        // Windows editors prepend a byte order mark.
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        if bytes.trim_ascii().is_empty() {
            return Err(ConfigError::Empty);
        }
        match serde_json::from_slice(bytes).map_err(ConfigError::Json)? {
            Value::Object(members) => Ok(Self(members)),
            _ => Err(ConfigError::NotAnObject),
        }
    }

    /// Returns a member, or `None` if it is absent or null.
    fn member<T: DeserializeOwned>(&mut self, name: &'static str) -> Result<Option<T>, ConfigError> {
        match self.0.remove(name) {
            None => Ok(None),
            Some(value) => serde_json::from_value(value).map_err(|source| ConfigError::Member { name, source }),
        }
    }

    /// Returns the labels by id, from `id2label` or else from the inverted `label2id`.
    fn labels(&mut self) -> Result<BTreeMap<String, String>, ConfigError> {
        if let Some(labels) = self.member::<Labels>("id2label")? {
            return Ok(labels.by_id());
        }
        let ids: Option<BTreeMap<String, usize>> = self.member("label2id")?;
        Ok(ids
            .into_iter()
            .flatten()
            .map(|(label, id)| (id.to_string(), label))
            .collect())
    }
}

/// `id2label`: an object by id, or a list in id order.
#[derive(Debug, Deserialize)]
#[serde(
    untagged,
    expecting = "id2label must be an object of ids and labels, or a list of labels"
)]
enum Labels {
    ById(BTreeMap<String, String>),
    InOrder(Vec<String>),
}

impl Labels {
    fn by_id(self) -> BTreeMap<String, String> {
        match self {
            Self::ById(labels) => labels,
            Self::InOrder(labels) => labels
                .into_iter()
                .enumerate()
                .map(|(id, label)| (id.to_string(), label))
                .collect(),
        }
    }
}

/// The parsed `config.json`.
#[derive(Debug)]
pub(super) struct Config {
    /// The labels, in the order of the logits.
    pub(super) labels: Vec<Arc<str>>,
    /// How logits become scores, if the file says so.
    pub(super) problem_type: Option<ProblemType>,
    /// The maximum number of tokens in a text, including special tokens, or `None` if the model has no limit.
    pub(super) max_tokens: Option<usize>,
    /// The id of padding tokens. Defaults to 0, which is safe because padding is masked.
    pub(super) pad_id: u32,
    /// The position of a text's first token, for models that take `position_ids`.
    pub(super) first_position: u32,
    /// The number of rows of the embedding.
    pub(super) vocab_size: Option<usize>,
    /// The model family, such as `roberta`.
    pub(super) model_type: Option<String>,
}

impl Config {
    /// Parses the content of the file at `path`.
    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, ModelError> {
        let config = Self::from_json(bytes).map_err(ModelError::invalid(path))?;
        if config.labels.iter().all(|label| label.starts_with("LABEL_")) {
            tracing::warn!(
                config = %path.display(),
                "the labels have no names (LABEL_0 ...): write the emotion names into id2label"
            );
        }
        Ok(config)
    }

    fn from_json(bytes: &[u8]) -> Result<Self, ConfigError> {
        let mut raw = Raw::parse(bytes)?;
        let labels = labels(raw.labels()?)?;
        let problem_type: Option<String> = raw.member("problem_type")?;
        let model_type: Option<String> = raw.member("model_type")?;
        let problem_type = match problem_type.as_deref() {
            None => None,
            Some("single_label_classification") => Some(ProblemType::SingleLabelClassification),
            Some("multi_label_classification") => Some(ProblemType::MultiLabelClassification),
            Some(other) => return Err(ConfigError::ProblemType(other.to_owned())),
        };
        let offset = model_type
            .as_deref()
            .is_some_and(|family| OFFSET_POSITIONS.contains(&family));
        // Exporters omit the value if it is the family's default, 1.
        let pad_id = raw.member("pad_token_id")?.unwrap_or(u32::from(offset));
        let first_position = if offset { pad_id.saturating_add(1) } else { 0 };
        let positions: Option<usize> = raw.member("max_position_embeddings")?;
        let max_tokens = positions.map(|rows| rows.saturating_sub(first_position as usize));
        if max_tokens == Some(0) {
            return Err(ConfigError::NoPositions);
        }
        Ok(Self {
            labels,
            problem_type,
            max_tokens,
            pad_id,
            first_position,
            vocab_size: raw.member("vocab_size")?,
            model_type,
        })
    }
}

fn labels(id2label: BTreeMap<String, String>) -> Result<Vec<Arc<str>>, ConfigError> {
    let count = id2label.len();
    if count == 0 {
        return Err(ConfigError::NoLabels);
    }
    let mut labels: Vec<Option<Arc<str>>> = vec![None; count];
    for (id, label) in id2label {
        let slot = id
            .parse::<usize>()
            .ok()
            .and_then(|index| labels.get_mut(index))
            .ok_or_else(|| ConfigError::LabelId {
                id: id.clone(),
                labels: count,
            })?;
        if label.trim().is_empty() {
            return Err(ConfigError::EmptyLabel(id));
        }
        *slot = Some(label.into());
    }
    let labels: Vec<Arc<str>> = labels.into_iter().flatten().collect();
    if labels.len() != count {
        return Err(ConfigError::RepeatedLabelId { labels: count });
    }
    for (index, label) in labels.iter().enumerate() {
        if labels[..index].contains(label) {
            return Err(ConfigError::RepeatedLabel(Arc::clone(label)));
        }
    }
    Ok(labels)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn parse(json: &str) -> Result<Config, String> {
        Config::parse(Path::new("config.json"), json.as_bytes())
            .map_err(|error| format!("{:#}", anyhow::Error::from(error)))
    }

    #[test]
    fn labels_are_in_the_order_of_their_ids() {
        let many: Vec<String> = (0..12).map(|id| format!("\"{id}\": \"label {id}\"")).collect();
        let config = parse(&format!("{{\"id2label\": {{{}}}}}", many.join(","))).unwrap();
        assert_eq!(&*config.labels[2], "label 2");
        assert_eq!(&*config.labels[11], "label 11");
    }

    #[test]
    fn labels_may_be_a_list() {
        let config = parse(r#"{"id2label": ["joy", "anger"]}"#).unwrap();
        assert_eq!(
            config.labels.iter().map(|label| &**label).collect::<Vec<_>>(),
            ["joy", "anger"]
        );
        assert!(
            parse(r#"{"id2label": "joy"}"#)
                .unwrap_err()
                .contains("or a list of labels")
        );
    }

    #[test]
    fn labels_are_taken_from_label2id_if_id2label_is_absent() {
        let config = parse("\u{feff}{\"label2id\": {\"joy\": 1, \"anger\": 0}}").unwrap();
        assert_eq!(
            config.labels.iter().map(|label| &**label).collect::<Vec<_>>(),
            ["anger", "joy"]
        );
    }

    #[test]
    fn roberta_counts_positions_from_its_padding() {
        let config = parse(
            r#"{"id2label": {"0": "joy"}, "model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}"#,
        )
        .unwrap();
        assert_eq!(
            (config.max_tokens, config.first_position, config.pad_id),
            (Some(512), 2, 1)
        );
        let config = parse(
            r#"{"id2label": {"0": "joy"}, "model_type": "bert", "max_position_embeddings": 512, "pad_token_id": 0}"#,
        )
        .unwrap();
        assert_eq!(
            (config.max_tokens, config.first_position, config.pad_id),
            (Some(512), 0, 0)
        );
    }

    #[test]
    fn damaged_labels_are_refused_with_a_reason() {
        for (json, reason) in [
            ("{}", "id2label is missing"),
            (r#"{"id2label": {"0": "a", "2": "b"}}"#, "has the id \"2\""),
            (r#"{"id2label": {"0": "a", "00": "b"}}"#, "twice"),
            (r#"{"id2label": {"0": "a", "1": "a"}}"#, "twice"),
            (r#"{"id2label": {"0": " "}}"#, "empty label"),
            (
                r#"{"id2label": {"0": "a"}, "problem_type": "regression"}"#,
                "is not a classification",
            ),
            ("[", "not JSON"),
            ("", "the file is empty"),
            ("[]", "not a model configuration"),
            (
                r#"{"id2label": {"0": "a"}, "max_position_embeddings": "514"}"#,
                "max_position_embeddings: invalid type",
            ),
        ] {
            let error = parse(json).unwrap_err();
            assert!(error.contains(reason), "{json}: {error}");
        }
    }
}
