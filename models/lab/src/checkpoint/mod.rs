//! Checkpoints in Hugging Face's folder layout: `config.json`, `model.safetensors`, `tokenizer.json`.
//!
//! [`Checkpoint::read`] reads RoBERTa, XLM-RoBERTa and MPNet encoders, with or without a classification head, and BERT
//! encoders, for training; [`Classifier::open`](crate::export::Classifier::open) reads classifiers of these families and of
//! DistilBERT, for export. Both use the same [`Config`] and the same tensors. The embedding of token type 0 is added to the
//! positions, since every token has that type.
//!
//! [`Checkpoint::write`] writes MPNet, RoBERTa or XLM-RoBERTa. `transformers` loads them as `MPNetForSequenceClassification`
//! and so on, whose head sees the first state: only `export` can use a head that was trained on the mean
//! (`classifier_pooling`).

mod config;
mod config_error;
mod file;
mod tensors;

pub(crate) use config::Config;
pub use config::Family;
pub use config_error::{ConfigError, ConfigFault};
pub(crate) use file::File;
pub use file::{TensorError, TensorFault};
pub(crate) use tensors::{le_bytes, transposed, write_tensors};

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use anyhow::Result;
use safetensors::{SafeTensorError, SafeTensors};

use self::tensors::write_encoder;
use crate::{
    encoder::{Encoder, Loss},
    files,
};

/// An encoder with its labels, loss and family.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// The encoder; its shape's `labels` equals the number of `labels` here.
    pub encoder: Encoder,
    /// Names of the classes in the order of the logits; empty for an encoder without a head.
    pub labels: Vec<String>,
    /// How the head was trained, where the folder says it.
    pub loss: Option<Loss>,
    /// The architecture.
    pub family: Family,
}

/// A checkpoint that can't be read; names the file, and the field or tensor that is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// The file can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The configuration is not supported.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The file with the weights is not in their format.
    #[error("{}: not a safetensors file", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// The library's error.
        source: SafeTensorError,
    },
    /// A tensor is not as the configuration says.
    #[error(transparent)]
    Tensor(#[from] TensorError),
}

/// Reads `model.safetensors` of the folder `checkpoint` and calls `read` with it.
pub(crate) fn with_tensors<T>(
    checkpoint: &Path,
    read: impl FnOnce(&File<'_>) -> Result<T, CheckpointError>,
) -> Result<T, CheckpointError> {
    let path = checkpoint.join("model.safetensors");
    let bytes = fs::read(&path).map_err(|source| CheckpointError::Read {
        path: path.clone(),
        source,
    })?;
    let tensors = SafeTensors::deserialize(&bytes).map_err(|source| CheckpointError::NotSafetensors {
        path: path.clone(),
        source,
    })?;
    read(&File {
        path: &path,
        tensors: &tensors,
    })
}

impl Checkpoint {
    /// Reads a checkpoint folder. A head in BERT's own layout is not read.
    ///
    /// # Errors
    ///
    /// When a file is absent or damaged, the architecture is not one that the lab trains, or a tensor is absent or has
    /// another shape than `config.json` says.
    pub fn read(folder: &Path) -> Result<Self, CheckpointError> {
        let config = Config::read(folder)?;
        config.check_trainable()?;
        with_tensors(folder, |file| {
            let has_head = file.tensors.tensor("classifier.out_proj.weight").is_ok();
            let labels = if has_head { config.labels.clone() } else { Vec::new() };
            let encoder = file.encoder(config.family, config.shape.clone().with_labels(labels.len()))?;
            Ok(Self {
                encoder: encoder.with_first_type(),
                labels,
                loss: config.loss,
                family: config.family,
            })
        })
    }

    /// Reads a checkpoint that will be written again. BERT is refused: its positions start at 0, and it would be written as
    /// RoBERTa, whose positions start at 2.
    ///
    /// # Errors
    ///
    /// As [`Checkpoint::read`], and for BERT.
    pub fn read_to_write(folder: &Path) -> Result<Self, CheckpointError> {
        let read = Self::read(folder)?;
        if read.family == Family::Bert {
            let path = folder.join("config.json");
            let fault = ConfigFault::Bert;
            return Err(ConfigError { path, fault }.into());
        }
        Ok(read)
    }

    /// Writes `config.json` and `model.safetensors` into a folder that exists.
    ///
    /// # Errors
    ///
    /// When a file can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        files::write(&folder.join("config.json"), config::to_json(self)?.as_bytes())?;
        write_encoder(&self.encoder, self.family, &folder.join("model.safetensors"))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::encoder::{Head, HeadActivation, Packed, Pass, Pooling, Rates, Shape};

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
            head_activation: HeadActivation::default(),
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
            family: match relative_buckets {
                0 => Family::Roberta,
                _ => Family::MpNet,
            },
        }
    }

    /// `transformers` wrote these folders and computed the expected logits.
    #[test]
    fn logits_are_those_of_transformers() {
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
    fn a_written_checkpoint_can_be_read() {
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
    fn a_bert_checkpoint_is_not_written_again_as_roberta() {
        let bert = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/parity/bert");
        assert!(Checkpoint::read(&bert).is_ok());
        let error = format!("{:#}", Checkpoint::read_to_write(&bert).unwrap_err());
        assert!(
            error.contains("config.json: model_type is `bert`: convert it"),
            "{error}"
        );
    }

    #[test]
    fn damaged_checkpoints_are_refused_with_the_reason() {
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
        assert!(message().contains("model_type is `gpt2`"), "{}", message());
        fs::write(&path, &config).unwrap();
        fs::write(folder.path().join("model.safetensors"), "x").unwrap();
        assert!(message().contains("not a safetensors file"), "{}", message());
    }
}
