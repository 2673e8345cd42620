//! A checkpoint's `config.json`: the one place that reads, checks and writes it.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{
    Checkpoint, CheckpointError,
    config_error::{ConfigError, ConfigFault},
};
use crate::encoder::{BUCKETS, DEFAULT_BUCKETS, HeadActivation, Loss, Pooling, Shape};

/// The architecture of a checkpoint, which decides the names of its tensors and how positions are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Family {
    /// RoBERTa, or CamemBERT, which differs in name only: the first position is `pad_token_id + 1`.
    #[default]
    Roberta,
    /// RoBERTa with a vocabulary of many languages.
    XlmRoberta,
    /// MPNet: RoBERTa without token types, with relative positions in attention.
    MpNet,
    /// BERT: the first position is 0, and token types are an input.
    Bert,
    /// DistilBERT: BERT without token types, with ReLU in the head.
    DistilBert,
}

impl Family {
    fn from_model_type(name: &str) -> Option<Self> {
        match name {
            "roberta" | "camembert" => Some(Self::Roberta),
            "xlm-roberta" => Some(Self::XlmRoberta),
            "mpnet" => Some(Self::MpNet),
            "bert" => Some(Self::Bert),
            "distilbert" => Some(Self::DistilBert),
            _ => None,
        }
    }

    /// Whether positions start after the padding token's id.
    pub(crate) fn skips_padding(self) -> bool {
        matches!(self, Self::Roberta | Self::XlmRoberta | Self::MpNet)
    }
}

/// What `config.json` says, checked.
#[derive(Debug, Clone)]
pub(crate) struct Config {
    /// The file.
    pub(crate) path: PathBuf,
    pub(crate) family: Family,
    /// The encoder without a head: whether there is one, only the tensors say.
    pub(crate) shape: Shape,
    pub(crate) pad_token_id: i64,
    /// Names of the classes in the order of the logits; empty where the file has none.
    pub(crate) labels: Vec<String>,
    /// How the head was trained, where the file says it.
    pub(crate) loss: Option<Loss>,
}

/// The members that are read. The aliases are DistilBERT's names.
#[derive(Debug, Deserialize)]
struct Members {
    model_type: String,
    #[serde(alias = "dim")]
    hidden_size: usize,
    #[serde(alias = "n_layers")]
    num_hidden_layers: usize,
    #[serde(alias = "n_heads")]
    num_attention_heads: usize,
    #[serde(alias = "hidden_dim")]
    intermediate_size: usize,
    #[serde(alias = "activation", default = "gelu")]
    hidden_act: String,
    /// The default is that of `transformers`.
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f32,
    max_position_embeddings: usize,
    vocab_size: usize,
    pad_token_id: Option<u32>,
    position_embedding_type: Option<String>,
    relative_attention_num_buckets: Option<usize>,
    #[serde(default)]
    classifier_pooling: Pooling,
    #[serde(default)]
    id2label: BTreeMap<String, String>,
    problem_type: Option<String>,
}

fn gelu() -> String {
    "gelu".to_owned()
}

fn layer_norm_eps() -> f32 {
    1e-12
}

const SINGLE_LABEL: &str = "single_label_classification";
const MULTI_LABEL: &str = "multi_label_classification";

/// The largest supported size, so that products of two sizes don't overflow.
const LARGEST_SIZE: usize = 1 << 24;

impl Config {
    /// Reads `config.json` of the folder `checkpoint`.
    pub(crate) fn read(checkpoint: &Path) -> Result<Self, CheckpointError> {
        let path = checkpoint.join("config.json");
        let text = fs::read_to_string(&path).map_err(|source| CheckpointError::Read {
            path: path.clone(),
            source,
        })?;
        let parsed = serde_json::from_str(&text).map_err(ConfigFault::from);
        parsed
            .and_then(|members| Self::check(&path, members))
            .map_err(|fault| ConfigError { path, fault }.into())
    }

    fn check(path: &Path, members: Members) -> Result<Self, ConfigFault> {
        let unsupported = |member, value: &str, supported| ConfigFault::Unsupported {
            member,
            value: value.to_owned(),
            supported,
        };
        let Some(family) = Family::from_model_type(&members.model_type) else {
            let supported = "roberta, xlm-roberta, camembert, mpnet, bert and distilbert are";
            return Err(unsupported("model_type", &members.model_type, supported));
        };
        if members.hidden_act != "gelu" {
            return Err(unsupported("hidden_act", &members.hidden_act, "gelu is"));
        }
        let positions = members.position_embedding_type.as_deref().unwrap_or("absolute");
        if positions != "absolute" {
            return Err(unsupported("position_embedding_type", positions, "absolute is"));
        }
        let shape = members.shape(family)?;
        Ok(Self {
            path: path.to_owned(),
            family,
            shape,
            pad_token_id: members.pad_token_id(family).into(),
            labels: members.labels()?,
            loss: match members.problem_type.as_deref() {
                Some(SINGLE_LABEL) => Some(Loss::Softmax),
                Some(MULTI_LABEL) => Some(Loss::Sigmoid),
                _ => None,
            },
        })
    }

    /// Checks that the lab trains checkpoints of this kind.
    pub(crate) fn check_trainable(&self) -> Result<(), CheckpointError> {
        if self.family == Family::DistilBert {
            return Err(self.error(ConfigFault::OnlyExported));
        }
        if self.family.skips_padding() && self.pad_token_id != 1 {
            return Err(self.error(ConfigFault::Padding(self.pad_token_id)));
        }
        Ok(())
    }

    /// An error about this file.
    pub(crate) fn error(&self, fault: ConfigFault) -> CheckpointError {
        let path = self.path.clone();
        ConfigError { path, fault }.into()
    }
}

impl Members {
    fn pad_token_id(&self, family: Family) -> u32 {
        self.pad_token_id.unwrap_or(u32::from(family.skips_padding()))
    }

    /// The encoder's shape, without labels.
    fn shape(&self, family: Family) -> Result<Shape, ConfigFault> {
        for (member, value) in [
            ("hidden_size", self.hidden_size),
            ("num_attention_heads", self.num_attention_heads),
            ("num_hidden_layers", self.num_hidden_layers),
            ("intermediate_size", self.intermediate_size),
            ("vocab_size", self.vocab_size),
        ] {
            let supported = 1..=LARGEST_SIZE;
            if !supported.contains(&value) {
                return Err(ConfigFault::Size {
                    member,
                    value,
                    supported,
                });
            }
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(ConfigFault::Heads {
                hidden: self.hidden_size,
                heads: self.num_attention_heads,
            });
        }
        let first_position = match family.skips_padding() {
            true => self.pad_token_id(family) as usize + 1,
            false => 0,
        };
        if self.max_position_embeddings <= first_position + 2 {
            return Err(ConfigFault::TooFewPositions {
                positions: self.max_position_embeddings,
                unused: first_position + 2,
            });
        }
        let relative_buckets = match family {
            Family::MpNet => self.relative_attention_num_buckets.unwrap_or(DEFAULT_BUCKETS),
            _ => 0,
        };
        if family == Family::MpNet && !BUCKETS.contains(&relative_buckets) {
            return Err(ConfigFault::Size {
                member: "relative_attention_num_buckets",
                value: relative_buckets,
                supported: BUCKETS,
            });
        }
        Ok(Shape {
            hidden: self.hidden_size,
            heads: self.num_attention_heads,
            layers: self.num_hidden_layers,
            intermediate: self.intermediate_size,
            positions: self.max_position_embeddings,
            first_position,
            relative_buckets,
            pooling: self.classifier_pooling,
            head_activation: match family {
                Family::DistilBert => HeadActivation::Relu,
                _ => HeadActivation::Tanh,
            },
            vocabulary: self.vocab_size,
            labels: 0,
            epsilon: self.layer_norm_eps,
        })
    }

    fn labels(&self) -> Result<Vec<String>, ConfigFault> {
        (0..self.id2label.len())
            .map(|id| {
                let name = self.id2label.get(&id.to_string());
                name.cloned().ok_or(ConfigFault::NoLabel(id))
            })
            .collect()
    }
}

/// The members that are written.
#[derive(Debug, Serialize)]
struct WrittenMembers<'a> {
    architectures: [&'static str; 1],
    model_type: &'static str,
    attention_probs_dropout_prob: f32,
    bos_token_id: u32,
    classifier_dropout: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    classifier_pooling: Option<Pooling>,
    eos_token_id: u32,
    hidden_act: &'static str,
    hidden_dropout_prob: f32,
    hidden_size: usize,
    id2label: BTreeMap<usize, &'a str>,
    initializer_range: f32,
    intermediate_size: usize,
    label2id: BTreeMap<&'a str, usize>,
    layer_norm_eps: f64,
    max_position_embeddings: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    pad_token_id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    position_embedding_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    relative_attention_num_buckets: Option<usize>,
    torch_dtype: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    type_vocab_size: Option<usize>,
    vocab_size: usize,
}

/// The content of `config.json` for a checkpoint that the lab made.
pub(super) fn to_json(checkpoint: &Checkpoint) -> serde_json::Result<String> {
    let shape = &checkpoint.encoder.shape;
    let names = || checkpoint.labels.iter().map(String::as_str).enumerate();
    let classifies = !checkpoint.labels.is_empty();
    let (model_type, model, classifier) = match checkpoint.family {
        Family::MpNet => ("mpnet", "MPNetModel", "MPNetForSequenceClassification"),
        Family::XlmRoberta => ("xlm-roberta", "XLMRobertaModel", "XLMRobertaForSequenceClassification"),
        Family::Roberta | Family::Bert | Family::DistilBert => {
            ("roberta", "RobertaModel", "RobertaForSequenceClassification")
        }
    };
    let relative = checkpoint.family == Family::MpNet;
    let members = WrittenMembers {
        architectures: [if classifies { classifier } else { model }],
        model_type,
        attention_probs_dropout_prob: 0.1,
        bos_token_id: 0,
        classifier_dropout: None,
        classifier_pooling: Some(shape.pooling).filter(|&pooling| classifies && pooling == Pooling::Mean),
        eos_token_id: 2,
        hidden_act: "gelu",
        hidden_dropout_prob: 0.1,
        hidden_size: shape.hidden,
        id2label: names().collect(),
        initializer_range: 0.02,
        intermediate_size: shape.intermediate,
        label2id: names().map(|(id, name)| (name, id)).collect(),
        // By way of its decimal digits, so that 1e-12 is not written as 9.999999960041972e-13.
        layer_norm_eps: shape.epsilon.to_string().parse().unwrap_or(1e-5),
        max_position_embeddings: shape.positions,
        num_attention_heads: shape.heads,
        num_hidden_layers: shape.layers,
        pad_token_id: 1,
        position_embedding_type: (!relative).then_some("absolute"),
        problem_type: checkpoint.loss.filter(|_| classifies).map(|loss| match loss {
            Loss::Softmax => SINGLE_LABEL,
            Loss::Sigmoid => MULTI_LABEL,
        }),
        relative_attention_num_buckets: relative.then_some(shape.relative_buckets),
        torch_dtype: "float32",
        type_vocab_size: (!relative).then_some(1),
        vocab_size: shape.vocabulary,
    };
    Ok(serde_json::to_string_pretty(&members)? + "\n")
}
