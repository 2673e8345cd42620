//! A Hugging Face classifier checkpoint, read into one shape whatever family it is of.
//!
//! RoBERTa, XLM-R, MPNet, BERT and DistilBERT are the same post-norm encoder; they differ in the names of their tensors,
//! in how positions are counted, in whether attention looks at them again, and in what stands between the last states and
//! the logits. Everything that follows here sees only [`Classifier`].

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use ndarray::{Array1, Array2, Axis};
use safetensors::SafeTensors;
use serde::Deserialize;

use super::error::ExportError;
use crate::checkpoint::File;
use crate::encoder::{self, Pooling};

/// What the names of a checkpoint's tensors, its positions and its head follow from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Family {
    /// RoBERTa and XLM-R: positions count real tokens, from `pad_token_id + 1` on; no use of token types.
    Roberta,
    /// MPNet: as RoBERTa, without types; attention scores gain by how far apart two tokens stand.
    MpNet,
    /// BERT: positions from 0 on; token types are an input.
    Bert,
    /// DistilBERT: positions from 0 on; no token types.
    DistilBert,
}

/// The function between the two products of the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeadActivation {
    Tanh,
    Relu,
}

/// `y = x W + b`, with `W` as `[inputs, outputs]`: the transpose of how a checkpoint holds it.
#[derive(Debug, Clone)]
pub(crate) struct Linear {
    pub(crate) weight: Array2<f32>,
    pub(crate) bias: Array1<f32>,
}

/// The gain and offset of a layer normalisation.
#[derive(Debug, Clone)]
pub(crate) struct LayerNorm {
    pub(crate) gain: Array1<f32>,
    pub(crate) offset: Array1<f32>,
}

/// One layer of the encoder.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) attention_output: Linear,
    pub(crate) attention_norm: LayerNorm,
    pub(crate) intermediate: Linear,
    pub(crate) output: Linear,
    pub(crate) output_norm: LayerNorm,
}

/// A classifier's weights and the numbers that shape its arithmetic.
#[derive(Debug, Clone)]
pub struct Classifier {
    pub(crate) family: Family,
    pub(crate) heads: usize,
    pub(crate) norm_epsilon: f32,
    pub(crate) pad_token_id: i64,
    /// `[vocabulary, width]`
    pub(crate) word_embeddings: Array2<f32>,
    /// `[positions, width]`; a token type that is the same for every token is already added.
    pub(crate) position_embeddings: Array2<f32>,
    /// `[types, width]`, where they are an input of the model.
    pub(crate) type_embeddings: Option<Array2<f32>>,
    /// `[heads, 2 max_tokens - 1]`, where there are any: what attention scores gain in every layer by how far behind the
    /// token that asks another stands, from `1 - max_tokens` to `max_tokens - 1`.
    pub(crate) relative: Option<Array2<f32>>,
    pub(crate) embedding_norm: LayerNorm,
    pub(crate) layers: Vec<Layer>,
    /// What of a text's states the head sees.
    pub(crate) pooling: Pooling,
    pub(crate) head_dense: Linear,
    pub(crate) head_activation: HeadActivation,
    pub(crate) head_output: Linear,
}

impl Classifier {
    /// Reads `config.json` and `model.safetensors` of the folder `checkpoint`.
    ///
    /// # Errors
    ///
    /// The file, field or tensor that is absent, has another shape than the rest calls for, or asks for arithmetic
    /// that this exporter doesn't write (another activation, another kind of positions).
    pub fn open(checkpoint: &Path) -> Result<Self, ExportError> {
        let config = Config::read(&checkpoint.join("config.json"))?;
        let path = checkpoint.join("model.safetensors");
        let bytes = fs::read(&path).map_err(|source| ExportError::Read {
            path: path.clone(),
            source,
        })?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|source| ExportError::Invalid {
            path: path.clone(),
            why: format!("not a safetensors file: {source}"),
        })?;
        let file = File {
            path: &path,
            tensors: &tensors,
        };
        Weights { file }.classifier(&config)
    }

    /// Entries of the vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.word_embeddings.nrows()
    }

    /// Width of the encoder.
    #[must_use]
    pub fn width(&self) -> usize {
        self.word_embeddings.ncols()
    }

    /// How many labels it tells apart.
    #[must_use]
    pub fn labels(&self) -> usize {
        self.head_output.bias.len()
    }

    /// The longest input, in tokens.
    #[must_use]
    pub fn max_tokens(&self) -> usize {
        self.position_embeddings.nrows().saturating_sub(self.first_position())
    }

    /// The position of the first real token.
    pub(crate) fn first_position(&self) -> usize {
        match self.family {
            Family::Roberta | Family::MpNet => usize::try_from(self.pad_token_id).unwrap_or(0) + 1,
            Family::Bert | Family::DistilBert => 0,
        }
    }
}

/// `config.json`, as far as the arithmetic depends on it. The second names are DistilBERT's.
#[derive(Debug, Deserialize)]
struct RawConfig {
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
    #[serde(default = "layer_norm_eps")]
    layer_norm_eps: f32,
    vocab_size: usize,
    pad_token_id: Option<i64>,
    position_embedding_type: Option<String>,
    relative_attention_num_buckets: Option<usize>,
    #[serde(default)]
    classifier_pooling: Pooling,
    id2label: Option<BTreeMap<String, String>>,
}

impl RawConfig {
    fn relative_buckets(&self) -> usize {
        self.relative_attention_num_buckets.unwrap_or(encoder::DEFAULT_BUCKETS)
    }
}

fn gelu() -> String {
    "gelu".to_owned()
}

/// What `transformers` takes where the configuration is silent.
fn layer_norm_eps() -> f32 {
    1e-12
}

struct Config {
    raw: RawConfig,
    path: PathBuf,
    family: Family,
}

impl Config {
    fn read(path: &Path) -> Result<Self, ExportError> {
        let invalid = |why: String| ExportError::Invalid {
            path: path.to_owned(),
            why,
        };
        let text = fs::read_to_string(path).map_err(|source| ExportError::Read {
            path: path.to_owned(),
            source,
        })?;
        let raw: RawConfig = serde_json::from_str(&text).map_err(|source| invalid(source.to_string()))?;
        let family = match raw.model_type.as_str() {
            "roberta" | "xlm-roberta" | "camembert" => Family::Roberta,
            "mpnet" => Family::MpNet,
            "bert" => Family::Bert,
            "distilbert" => Family::DistilBert,
            other => {
                return Err(invalid(format!(
                    "model_type is `{other}`: only roberta, xlm-roberta, camembert, mpnet, bert and distilbert can be exported"
                )));
            }
        };
        if raw.hidden_act != "gelu" {
            return Err(invalid(format!(
                "hidden_act is `{}`: only gelu can be exported",
                raw.hidden_act
            )));
        }
        if let Some(kind) = raw
            .position_embedding_type
            .as_deref()
            .filter(|&kind| kind != "absolute")
        {
            return Err(invalid(format!(
                "position_embedding_type is `{kind}`: only absolute can be exported"
            )));
        }
        if raw.num_attention_heads == 0 || !raw.hidden_size.is_multiple_of(raw.num_attention_heads) {
            return Err(invalid(format!(
                "hidden_size {} is no multiple of num_attention_heads {}",
                raw.hidden_size, raw.num_attention_heads
            )));
        }
        let buckets = raw.relative_buckets();
        if family == Family::MpNet && !encoder::BUCKETS.contains(&buckets) {
            return Err(invalid(format!(
                "relative_attention_num_buckets is {buckets}: it must be from {} to {}",
                encoder::BUCKETS.start(),
                encoder::BUCKETS.end()
            )));
        }
        Ok(Self {
            raw,
            path: path.to_owned(),
            family,
        })
    }
}

struct Weights<'a> {
    file: File<'a>,
}

impl Weights<'_> {
    fn classifier(&self, config: &Config) -> Result<Classifier, ExportError> {
        let raw = &config.raw;
        let width = raw.hidden_size;
        let prefix = match config.family {
            Family::Roberta => "roberta",
            Family::MpNet => "mpnet",
            Family::Bert => "bert",
            Family::DistilBert => "distilbert",
        };
        let embeddings = format!("{prefix}.embeddings");
        let word_embeddings = self.matrix(&format!("{embeddings}.word_embeddings.weight"), raw.vocab_size, width)?;
        let positions = self.file.rows(&format!("{embeddings}.position_embeddings.weight"))?;
        let mut position_embeddings =
            self.matrix(&format!("{embeddings}.position_embeddings.weight"), positions, width)?;
        let types_name = format!("{embeddings}.token_type_embeddings.weight");
        let type_embeddings = match config.family {
            Family::DistilBert | Family::MpNet => None,
            Family::Bert => Some(self.matrix(&types_name, self.file.rows(&types_name)?, width)?),
            Family::Roberta => {
                // Every token is of type 0, so its embedding is a constant of each position.
                position_embeddings += &self.matrix(&types_name, self.file.rows(&types_name)?, width)?.row(0);
                None
            }
        };
        let layers = (0..raw.num_hidden_layers)
            .map(|index| self.layer(config, index))
            .collect::<Result<_, _>>()?;

        let (dense, output, head_activation) = match config.family {
            Family::Roberta | Family::MpNet => ("classifier.dense", "classifier.out_proj", HeadActivation::Tanh),
            Family::Bert => ("bert.pooler.dense", "classifier", HeadActivation::Tanh),
            Family::DistilBert => ("pre_classifier", "classifier", HeadActivation::Relu),
        };
        let labels = self.file.rows(&format!("{output}.weight"))?;
        if let Some(named) = raw
            .id2label
            .as_ref()
            .map(BTreeMap::len)
            .filter(|&named| named != labels)
        {
            return Err(ExportError::Invalid {
                path: config.path.clone(),
                why: format!("id2label names {named} labels, but tensor `{output}.weight` has {labels} rows"),
            });
        }
        let mut model = Classifier {
            family: config.family,
            heads: raw.num_attention_heads,
            norm_epsilon: raw.layer_norm_eps,
            pad_token_id: raw.pad_token_id.unwrap_or(match config.family {
                Family::Roberta | Family::MpNet => 1,
                Family::Bert | Family::DistilBert => 0,
            }),
            relative: None,
            pooling: raw.classifier_pooling,
            word_embeddings,
            position_embeddings,
            type_embeddings,
            embedding_norm: self.norm(&format!("{embeddings}.LayerNorm"), width)?,
            layers,
            head_dense: self.linear(dense, width, width)?,
            head_activation,
            head_output: self.linear(output, width, labels)?,
        };
        if config.family == Family::MpNet {
            model.relative = Some(self.relative(raw, model.max_tokens())?);
        }
        Ok(model)
    }

    /// The table of MPNet's buckets, `[buckets, heads]`, spread over distances.
    fn relative(&self, raw: &RawConfig, max_tokens: usize) -> Result<Array2<f32>, ExportError> {
        let buckets = raw.relative_buckets();
        let name = "mpnet.encoder.relative_attention_bias.weight";
        let table = self.matrix(name, buckets, raw.num_attention_heads)?;
        let farthest = max_tokens.cast_signed();
        let rows: Vec<usize> = (1 - farthest..farthest)
            .map(|distance| encoder::bucket(distance, buckets))
            .collect();
        Ok(table.select(Axis(0), &rows).reversed_axes())
    }

    fn layer(&self, config: &Config, index: usize) -> Result<Layer, ExportError> {
        let (width, inner) = (config.raw.hidden_size, config.raw.intermediate_size);
        let (layer, names) = match config.family {
            Family::Roberta => (format!("roberta.encoder.layer.{index}"), &BERT_NAMES),
            Family::MpNet => (format!("mpnet.encoder.layer.{index}"), &MPNET_NAMES),
            Family::Bert => (format!("bert.encoder.layer.{index}"), &BERT_NAMES),
            Family::DistilBert => (format!("distilbert.transformer.layer.{index}"), &DISTILBERT_NAMES),
        };
        let linear = |part: &str, inputs, outputs| self.linear(&format!("{layer}.{part}"), inputs, outputs);
        let norm = |part: &str| self.norm(&format!("{layer}.{part}"), width);
        Ok(Layer {
            query: linear(names.query, width, width)?,
            key: linear(names.key, width, width)?,
            value: linear(names.value, width, width)?,
            attention_output: linear(names.attention_output, width, width)?,
            attention_norm: norm(names.attention_norm)?,
            intermediate: linear(names.intermediate, width, inner)?,
            output: linear(names.output, inner, width)?,
            output_norm: norm(names.output_norm)?,
        })
    }

    fn linear(&self, name: &str, inputs: usize, outputs: usize) -> Result<Linear, ExportError> {
        let stored = self.matrix(&format!("{name}.weight"), outputs, inputs)?;
        let weight = stored.t().as_standard_layout().into_owned();
        Ok(Linear {
            weight,
            bias: self.vector(&format!("{name}.bias"), outputs)?,
        })
    }

    fn norm(&self, name: &str, width: usize) -> Result<LayerNorm, ExportError> {
        Ok(LayerNorm {
            gain: self.vector(&format!("{name}.weight"), width)?,
            offset: self.vector(&format!("{name}.bias"), width)?,
        })
    }

    fn matrix(&self, name: &str, rows: usize, columns: usize) -> Result<Array2<f32>, ExportError> {
        let values = self.file.values(name, &[rows, columns])?;
        // There are as many as the shape says, so this keeps it.
        Ok(Array1::from_vec(values)
            .into_shape_with_order((rows, columns))
            .unwrap_or_default())
    }

    fn vector(&self, name: &str, len: usize) -> Result<Array1<f32>, ExportError> {
        Ok(self.file.values(name, &[len])?.into())
    }
}

/// The names of a layer's parts.
struct PartNames {
    query: &'static str,
    key: &'static str,
    value: &'static str,
    attention_output: &'static str,
    attention_norm: &'static str,
    intermediate: &'static str,
    output: &'static str,
    output_norm: &'static str,
}

const BERT_NAMES: PartNames = PartNames {
    query: "attention.self.query",
    key: "attention.self.key",
    value: "attention.self.value",
    attention_output: "attention.output.dense",
    attention_norm: "attention.output.LayerNorm",
    intermediate: "intermediate.dense",
    output: "output.dense",
    output_norm: "output.LayerNorm",
};

const MPNET_NAMES: PartNames = PartNames {
    query: "attention.attn.q",
    key: "attention.attn.k",
    value: "attention.attn.v",
    attention_output: "attention.attn.o",
    attention_norm: "attention.LayerNorm",
    ..BERT_NAMES
};

const DISTILBERT_NAMES: PartNames = PartNames {
    query: "attention.q_lin",
    key: "attention.k_lin",
    value: "attention.v_lin",
    attention_output: "attention.out_lin",
    attention_norm: "sa_layer_norm",
    intermediate: "ffn.lin1",
    output: "ffn.lin2",
    output_norm: "output_layer_norm",
};
