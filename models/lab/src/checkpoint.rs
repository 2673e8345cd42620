//! Checkpoints in Hugging Face's folder layout: `config.json`, `model.safetensors`, `tokenizer.json`.
//!
//! Read are RoBERTa-like encoders (`roberta.`, with or without a classification head) and
//! BERT-like ones (`bert.` or no prefix), whose token type 0 is folded into the positions. Written
//! is always RoBERTa, which `transformers` loads as `RobertaForSequenceClassification`.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail, ensure};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};
use serde::{Deserialize, Serialize};

use crate::encoder::{Encoder, Loss, Shape};

/// An encoder with what its folder says beside the weights.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The encoder; its shape's `labels` equals the number of `labels` here.
    pub encoder: Encoder,
    /// Names of the classes in the order of the logits; empty for a bare encoder.
    pub labels: Vec<String>,
    /// How the head was trained, where the folder says.
    pub loss: Option<Loss>,
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
    position_embedding_type: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    problem_type: Option<&'static str>,
    torch_dtype: &'static str,
    type_vocab_size: usize,
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
        Ok(Self { encoder, labels, loss })
    }

    /// Writes `config.json` and `model.safetensors` into a folder that exists.
    ///
    /// # Errors
    ///
    /// When a file can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        let config = serde_json::to_string_pretty(&self.config())? + "\n";
        write(&folder.join("config.json"), config.as_bytes())?;
        write_encoder(&self.encoder, &folder.join("model.safetensors"))
    }

    fn config(&self) -> WrittenConfig<'_> {
        let shape = &self.encoder.shape;
        let names = || self.labels.iter().map(String::as_str).enumerate();
        let classifies = !self.labels.is_empty();
        WrittenConfig {
            architectures: [if classifies {
                "RobertaForSequenceClassification"
            } else {
                "RobertaModel"
            }],
            model_type: "roberta",
            attention_probs_dropout_prob: 0.1,
            bos_token_id: 0,
            classifier_dropout: None,
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
            position_embedding_type: "absolute",
            problem_type: self.loss.filter(|_| classifies).map(|loss| match loss {
                Loss::Softmax => SINGLE,
                Loss::Sigmoid => MULTI,
            }),
            torch_dtype: "float32",
            type_vocab_size: 1,
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
    let first_position = match kind {
        "roberta" | "xlm-roberta" => 2,
        "bert" => 0,
        other => bail!(
            "{}: the lab trains BERT and RoBERTa encoders, not `{other}` (model_type)",
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
            && config.max_position_embeddings > first_position + 2,
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
        vocabulary: config.vocab_size,
        labels,
        epsilon: config.layer_norm_eps,
    })
}

/// A safetensors file with its name, for messages.
struct File<'a> {
    path: &'a Path,
    tensors: &'a SafeTensors<'a>,
}

impl File<'_> {
    fn encoder(&self, shape: Shape) -> Result<Encoder> {
        let mut encoder = Encoder::zeros(shape);
        let shape = encoder.shape.clone();
        let prefix = ["roberta.", "bert.", ""]
            .into_iter()
            .find(|prefix| {
                self.tensors
                    .tensor(&format!("{prefix}embeddings.word_embeddings.weight"))
                    .is_ok()
            })
            .with_context(|| {
                format!(
                    "{}: tensor embeddings.word_embeddings.weight is absent",
                    self.path.display()
                )
            })?;
        let words = format!("{prefix}embeddings.word_embeddings.weight");
        encoder.weights.words = self.values(&words, &[shape.vocabulary, shape.hidden])?;
        for tensor in &encoder.layout.tensors {
            if tensor.is_head() && shape.labels == 0 {
                continue;
            }
            let prefix = if tensor.is_head() { "" } else { prefix };
            let values = self.values(&format!("{prefix}{}", tensor.name), &tensor.shape)?;
            let place = &mut encoder.weights.dense[tensor.place.clone()];
            if tensor.transposed {
                place.copy_from_slice(&transposed(&values, tensor.shape[0], tensor.shape[1]));
            } else {
                place.copy_from_slice(&values);
            }
        }
        let name = format!("{prefix}embeddings.token_type_embeddings.weight");
        if let Ok(types) = self.tensors.tensor(&name) {
            let types = self.values(&name, types.shape())?;
            ensure!(
                types.len() >= shape.hidden,
                "{}: tensor {name} is empty",
                self.path.display()
            );
            let positions = &mut encoder.weights.dense[encoder.layout.positions.clone()];
            for row in positions.chunks_exact_mut(shape.hidden) {
                for (value, kind) in row.iter_mut().zip(&types) {
                    *value += kind;
                }
            }
        }
        Ok(encoder)
    }

    fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>> {
        let path = self.path.display();
        let tensor = self
            .tensors
            .tensor(name)
            .ok()
            .with_context(|| format!("{path}: tensor {name} is absent"))?;
        ensure!(
            tensor.shape() == shape,
            "{path}: tensor {name} is {:?}, but config.json says {shape:?}",
            tensor.shape()
        );
        ensure!(
            tensor.dtype() == Dtype::F32,
            "{path}: tensor {name} is {:?}, not F32",
            tensor.dtype()
        );
        let values: Vec<f32> = tensor
            .data()
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
            .collect();
        ensure!(
            values.iter().all(|value| value.is_finite()),
            "{path}: tensor {name} holds a value that is no number"
        );
        Ok(values)
    }
}

fn transposed(values: &[f32], rows: usize, columns: usize) -> Vec<f32> {
    (0..columns)
        .flat_map(|column| (0..rows).map(move |row| values[row * columns + column]))
        .collect()
}

fn write_encoder(encoder: &Encoder, path: &Path) -> Result<()> {
    let shape = &encoder.shape;
    let mut tensors = vec![
        (
            "roberta.embeddings.word_embeddings.weight".to_owned(),
            vec![shape.vocabulary, shape.hidden],
            le_bytes(&encoder.weights.words),
        ),
        (
            "roberta.embeddings.token_type_embeddings.weight".to_owned(),
            vec![1, shape.hidden],
            le_bytes(&vec![0.0; shape.hidden]),
        ),
    ];
    for tensor in &encoder.layout.tensors {
        if tensor.is_head() && shape.labels == 0 {
            continue;
        }
        let prefix = if tensor.is_head() { "" } else { "roberta." };
        let values = &encoder.weights.dense[tensor.place.clone()];
        let bytes = if tensor.transposed {
            le_bytes(&transposed(values, tensor.shape[1], tensor.shape[0]))
        } else {
            le_bytes(values)
        };
        tensors.push((format!("{prefix}{}", tensor.name), tensor.shape.clone(), bytes));
    }
    write_tensors(&tensors, path)
}

/// Writes named `f32` tensors, given as little-endian bytes, with the metadata that `transformers`
/// asks for.
pub(crate) fn write_tensors(tensors: &[(String, Vec<usize>, Vec<u8>)], path: &Path) -> Result<()> {
    let views = tensors
        .iter()
        .map(|(name, shape, bytes)| Ok((name.as_str(), TensorView::new(Dtype::F32, shape.clone(), bytes)?)))
        .collect::<Result<Vec<_>>>()?;
    let metadata = [("format".to_owned(), "pt".to_owned())].into();
    let bytes = safetensors::serialize(views, Some(metadata)).context("can't serialise the tensors")?;
    write(path, &bytes)
}

pub(crate) fn le_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

/// Writes a file beside its place and renames it there, so that a kill leaves no half of it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    let partial = PathBuf::from(partial);
    fs::write(&partial, bytes)
        .and_then(|()| fs::rename(&partial, path))
        .with_context(|| format!("can't write {}", path.display()))
}

/// A folder that appears under its name only when it is complete.
#[derive(Debug)]
pub struct Staging {
    partial: PathBuf,
    target: PathBuf,
}

impl Staging {
    /// Makes the folder beside `target`, which must not exist or be empty.
    ///
    /// # Errors
    ///
    /// When `target` holds something, or the folder can't be made.
    pub fn new(target: &Path) -> Result<Self> {
        if fs::read_dir(target).is_ok_and(|mut entries| entries.next().is_some()) {
            bail!("{} exists already: name another folder, or remove it", target.display());
        }
        let mut partial = target.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        if partial.exists() {
            fs::remove_dir_all(&partial).with_context(|| format!("can't remove {}", partial.display()))?;
        }
        fs::create_dir_all(&partial).with_context(|| format!("can't make {}", partial.display()))?;
        Ok(Self {
            partial,
            target: target.to_owned(),
        })
    }

    /// Where to write.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.partial
    }

    /// Moves the folder to its name.
    ///
    /// # Errors
    ///
    /// When it can't be renamed.
    pub fn finish(self) -> Result<()> {
        if self.target.exists() {
            fs::remove_dir(&self.target).with_context(|| format!("can't replace {}", self.target.display()))?;
        }
        fs::rename(&self.partial, &self.target).with_context(|| format!("can't make {}", self.target.display()))
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Gone already after `finish`; else what was half written.
        let _ = fs::remove_dir_all(&self.partial);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn checkpoint() -> Checkpoint {
        let shape = Shape {
            hidden: 4,
            heads: 2,
            layers: 2,
            intermediate: 8,
            positions: 6,
            first_position: 2,
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
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let written = checkpoint();
        written.write(folder.path()).unwrap();
        let read = Checkpoint::read(folder.path()).unwrap();
        assert_eq!(read.encoder.shape, written.encoder.shape);
        assert_eq!(read.encoder.weights.dense, written.encoder.weights.dense);
        assert_eq!((read.labels, read.loss), (written.labels, written.loss));
    }

    #[test]
    fn damage_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let message = || format!("{:#}", Checkpoint::read(folder.path()).unwrap_err());
        assert!(message().contains("config.json"), "{}", message());
        checkpoint().write(folder.path()).unwrap();

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

    #[test]
    fn a_staged_folder_appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("model");
        drop(Staging::new(&target).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let staging = Staging::new(&target).unwrap();
        fs::write(staging.path().join("a"), "a").unwrap();
        staging.finish().unwrap();
        assert!(target.join("a").exists());
        assert!(Staging::new(&target).is_err(), "what is there is kept");
    }
}
