//! Checkpoints in Hugging Face's folder layout: `config.json`, `model.safetensors`, `tokenizer.json`.
//!
//! Read are RoBERTa-like and MPNet encoders (`roberta.`, `mpnet.`, with or without a classification head) and
//! BERT-like ones (`bert.` or no prefix), whose token type 0 is folded into the positions. Written is MPNet where
//! attention is biased by relative positions, else RoBERTa or XLM-RoBERTa, which differ in name and vocabulary alone;
//! `transformers` loads them as `MPNetForSequenceClassification` and the like, whose head sees the first state: one that was
//! trained on the mean (`classifier_pooling`) is for `export` alone.

mod file;
mod tensors;

pub(crate) use file::File;
pub use file::{TensorError, TensorFault};
pub(crate) use tensors::{le_bytes, transposed, write_tensors};

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context, Result, bail, ensure};
use safetensors::SafeTensors;
use serde::{Deserialize, Serialize};

use self::tensors::write_encoder;
use crate::{
    encoder::{BUCKETS, DEFAULT_BUCKETS, Encoder, Loss, Pooling, Shape},
    files,
};

/// An encoder with what its folder says beside the weights.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The encoder; its shape's `labels` equals the number of `labels` here.
    pub encoder: Encoder,
    /// Names of the classes in the order of the logits; empty for a bare encoder.
    pub labels: Vec<String>,
    /// How the head was trained, where the folder says.
    pub loss: Option<Loss>,
    /// What it is called.
    pub family: Family,
}

/// The name of an encoder without relative positions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Family {
    /// Of one language.
    #[default]
    Roberta,
    /// Of many languages.
    XlmRoberta,
}

#[derive(Debug, Deserialize)]
struct Config {
    model_type: Option<String>,
    hidden_size: usize,
    num_attention_heads: usize,
    num_hidden_layers: usize,
    intermediate_size: usize,
    max_position_embeddings: usize,
    vocab_size: usize,
    layer_norm_eps: f32,
    relative_attention_num_buckets: Option<usize>,
    #[serde(default)]
    classifier_pooling: Pooling,
    #[serde(default = "gelu")]
    hidden_act: String,
    #[serde(default)]
    id2label: BTreeMap<String, String>,
    problem_type: Option<String>,
}

fn gelu() -> String {
    "gelu".to_owned()
}

#[derive(Debug, Serialize)]
struct WrittenConfig<'a> {
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

const SINGLE: &str = "single_label_classification";
const MULTI: &str = "multi_label_classification";

impl Checkpoint {
    /// Reads a checkpoint folder.
    ///
    /// # Errors
    ///
    /// A file that is absent or damaged, an architecture that is not BERT's or RoBERTa's, a tensor
    /// that is absent or of another shape than `config.json` says: named in one line.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("config.json");
        let text = fs::read_to_string(&path).with_context(|| format!("can't read {}", path.display()))?;
        let config: Config =
            serde_json::from_str(&text).with_context(|| format!("{}: not a model's configuration", path.display()))?;
        let labels = labels(&config, &path)?;

        let path = folder.join("model.safetensors");
        let bytes = fs::read(&path).with_context(|| format!("can't read {}", path.display()))?;
        let tensors =
            SafeTensors::deserialize(&bytes).with_context(|| format!("{}: not a safetensors file", path.display()))?;
        let file = File {
            path: &path,
            tensors: &tensors,
        };

        let has_head = file.tensors.tensor("classifier.out_proj.weight").is_ok();
        let labels = if has_head { labels } else { Vec::new() };
        let shape = shape(&config, labels.len(), folder)?;
        let encoder = file.encoder(shape)?;
        let loss = match config.problem_type.as_deref() {
            Some(SINGLE) => Some(Loss::Softmax),
            Some(MULTI) => Some(Loss::Sigmoid),
            _ => None,
        };
        let family = match config.model_type.as_deref() {
            Some("xlm-roberta") => Family::XlmRoberta,
            _ => Family::Roberta,
        };
        Ok(Self {
            encoder,
            labels,
            loss,
            family,
        })
    }

    /// Writes `config.json` and `model.safetensors` into a folder that exists.
    ///
    /// # Errors
    ///
    /// When a file can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let config = serde_json::to_string_pretty(&self.config())? + "\n";
        files::write(&folder.join("config.json"), config.as_bytes())?;
        write_encoder(&self.encoder, &folder.join("model.safetensors"))
    }

    fn config(&self) -> WrittenConfig<'_> {
        let shape = &self.encoder.shape;
        let names = || self.labels.iter().map(String::as_str).enumerate();
        let classifies = !self.labels.is_empty();
        let relative = shape.relative_buckets > 0;
        WrittenConfig {
            architectures: [match (relative, self.family, classifies) {
                (false, Family::Roberta, true) => "RobertaForSequenceClassification",
                (false, Family::Roberta, false) => "RobertaModel",
                (false, Family::XlmRoberta, true) => "XLMRobertaForSequenceClassification",
                (false, Family::XlmRoberta, false) => "XLMRobertaModel",
                (true, _, true) => "MPNetForSequenceClassification",
                (true, _, false) => "MPNetModel",
            }],
            model_type: match (relative, self.family) {
                (true, _) => "mpnet",
                (false, Family::Roberta) => "roberta",
                (false, Family::XlmRoberta) => "xlm-roberta",
            },
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
            problem_type: self.loss.filter(|_| classifies).map(|loss| match loss {
                Loss::Softmax => SINGLE,
                Loss::Sigmoid => MULTI,
            }),
            relative_attention_num_buckets: relative.then_some(shape.relative_buckets),
            torch_dtype: "float32",
            type_vocab_size: (!relative).then_some(1),
            vocab_size: shape.vocabulary,
        }
    }
}

fn labels(config: &Config, path: &Path) -> Result<Vec<String>> {
    (0..config.id2label.len())
        .map(|id| {
            let name = config.id2label.get(&id.to_string());
            name.cloned()
                .with_context(|| format!("{}: id2label lacks class {id}", path.display()))
        })
        .collect()
}

fn shape(config: &Config, labels: usize, folder: &Path) -> Result<Shape> {
    let kind = config.model_type.as_deref().unwrap_or_default();
    let (first_position, relative_buckets) = match kind {
        "roberta" | "xlm-roberta" => (2, 0),
        "mpnet" => (2, config.relative_attention_num_buckets.unwrap_or(DEFAULT_BUCKETS)),
        "bert" => (0, 0),
        other => bail!(
            "{}: the lab trains BERT, RoBERTa and MPNet encoders, not `{other}` (model_type)",
            folder.display()
        ),
    };
    let numbers = [
        config.hidden_size,
        config.num_attention_heads,
        config.num_hidden_layers,
        config.intermediate_size,
        config.vocab_size,
    ];
    ensure!(
        numbers.iter().all(|number| (1..=1 << 24).contains(number))
            && config.hidden_size.is_multiple_of(config.num_attention_heads)
            && config.max_position_embeddings > first_position + 2
            && (kind != "mpnet" || BUCKETS.contains(&relative_buckets)),
        "{}: the sizes in config.json make no encoder",
        folder.display()
    );
    ensure!(
        config.hidden_act == "gelu",
        "{}: the lab computes gelu, not `{}` (hidden_act)",
        folder.display(),
        config.hidden_act
    );
    Ok(Shape {
        hidden: config.hidden_size,
        heads: config.num_attention_heads,
        layers: config.num_hidden_layers,
        intermediate: config.intermediate_size,
        positions: config.max_position_embeddings,
        first_position,
        relative_buckets,
        pooling: config.classifier_pooling,
        vocabulary: config.vocab_size,
        labels,
        epsilon: config.layer_norm_eps,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::encoder::{Head, Packed, Pass, Rates};

    fn checkpoint(relative_buckets: usize) -> Checkpoint {
        let shape = Shape {
            hidden: 4,
            heads: 2,
            layers: 2,
            intermediate: 8,
            positions: 6,
            first_position: 2,
            relative_buckets,
            pooling: Pooling::default(),
            vocabulary: 7,
            labels: 2,
            epsilon: 1e-12,
        };
        let mut encoder = Encoder::zeros(shape);
        for (place, weight) in encoder.weights.dense.iter_mut().enumerate() {
            *weight = place as f32;
        }
        Checkpoint {
            encoder,
            labels: vec!["joy".to_owned(), "fear".to_owned()],
            loss: Some(Loss::Softmax),
            family: Family::default(),
        }
    }

    /// `transformers` wrote these folders, and the logits beside them.
    #[test]
    fn a_checkpoint_computes_what_transformers_does() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity");
        for family in ["roberta", "xlm-roberta", "mpnet", "mpnet-mean"] {
            let Checkpoint { encoder, .. } = Checkpoint::read(&fixtures.join(family)).unwrap();
            let expected = fs::read(fixtures.join(family).join("expected.json")).unwrap();
            let expected: serde_json::Value = serde_json::from_slice(&expected).unwrap();
            let rows = |name: &str| -> Vec<Vec<f64>> { serde_json::from_value(expected[name].clone()).unwrap() };
            let padding = 1.0;
            let ids = rows("input_ids").into_iter();
            let ids: Vec<Vec<u32>> = ids
                .map(|row| row.iter().filter(|&&id| id != padding).map(|&id| id as u32).collect())
                .collect();
            let posts: Packed = ids.iter().map(Vec::as_slice).collect();
            let (mut pass, mut head) = (Pass::default(), Head::default());
            pass.forward(&encoder, &posts, Rates::default(), 0);
            let logits = head.forward(&encoder, &posts, &pass);
            let expected = rows("logits").concat();
            assert_eq!(logits.len(), expected.len());
            for (ours, theirs) in logits.iter().zip(expected) {
                assert!(
                    (f64::from(*ours) - theirs).abs() < 1e-4,
                    "{family}: {ours} against {theirs}"
                );
            }
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        for (relative_buckets, pooling) in [(0, Pooling::Cls), (8, Pooling::Cls), (8, Pooling::Mean)] {
            let mut written = checkpoint(relative_buckets);
            written.encoder.shape.pooling = pooling;
            written.write(folder.path()).unwrap();
            let read = Checkpoint::read(folder.path()).unwrap();
            assert_eq!(read.encoder.shape, written.encoder.shape);
            assert_eq!(read.encoder.weights.dense, written.encoder.weights.dense);
            assert_eq!((read.labels, read.loss), (written.labels, written.loss));
        }
        let mut written = checkpoint(0);
        written.family = Family::XlmRoberta;
        written.write(folder.path()).unwrap();
        assert_eq!(Checkpoint::read(folder.path()).unwrap().family, Family::XlmRoberta);
    }

    #[test]
    fn damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = || format!("{:#}", Checkpoint::read(folder.path()).unwrap_err());
        assert!(message().contains("config.json"), "{}", message());
        checkpoint(0).write(folder.path()).unwrap();

        let config = fs::read_to_string(folder.path().join("config.json")).unwrap();
        let path = folder.path().join("config.json");
        fs::write(&path, config.replace("\"vocab_size\": 7", "\"vocab_size\": 9")).unwrap();
        assert!(
            message().contains("tensor roberta.embeddings.word_embeddings.weight is [7, 4]"),
            "{}",
            message()
        );
        fs::write(
            &path,
            config.replace("\"num_hidden_layers\": 2", "\"num_hidden_layers\": 3"),
        )
        .unwrap();
        assert!(
            message().contains("encoder.layer.2.attention.self.query.weight is absent"),
            "{}",
            message()
        );
        fs::write(&path, config.replace("\"roberta\"", "\"gpt2\"")).unwrap();
        assert!(message().contains("not `gpt2`"), "{}", message());
        fs::write(&path, &config).unwrap();
        fs::write(folder.path().join("model.safetensors"), "x").unwrap();
        assert!(message().contains("not a safetensors file"), "{}", message());
    }
}
