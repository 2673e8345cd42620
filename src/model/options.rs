//! Choices about a model that its folder does not make.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Where the model runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// ONNX Runtime's own kernels on the processor.
    #[default]
    Cpu,
    /// The CUDA execution provider.
    Cuda,
    /// The TensorRT execution provider, with CUDA for the nodes it can't take.
    TensorRt,
}

impl Provider {
    /// The name in settings, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }

    /// Whether it computes on a GPU.
    #[must_use]
    pub const fn is_gpu(self) -> bool {
        !matches!(self, Self::Cpu)
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which of a folder's ONNX files to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// On the processor int8, else fp32, else fp16; on a GPU fp16, else fp32, else int8.
    #[default]
    Auto,
    /// `model.onnx`.
    Fp32,
    /// `model_fp16.onnx`.
    Fp16,
    /// `model_quantized.onnx`, `model_int8.onnx`, `model_qint8_avx512_vnni.onnx` and the like.
    Int8,
}

impl Precision {
    /// The name in settings, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How logits become scores; the names are those of Hugging Face's `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemType {
    /// One label a post: softmax over all labels.
    SingleLabelClassification,
    /// Any number of labels a post: a sigmoid for each, with a threshold for each.
    MultiLabelClassification,
}

impl ProblemType {
    /// The name in `config.json`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SingleLabelClassification => "single_label_classification",
            Self::MultiLabelClassification => "multi_label_classification",
        }
    }
}

impl fmt::Display for ProblemType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Settings that go with opening a model folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelOptions {
    /// Where the model will run: decides which file [`Precision::Auto`] takes, and is what
    /// [`Classifier::start`](crate::classify::Classifier::start) then uses.
    pub provider: Provider,
    /// Which ONNX file to run.
    pub precision: Precision,
    /// The ONNX file's name within the folder, where it should not be found by its precision.
    pub file: Option<PathBuf>,
    /// Texts are cut to this many tokens, special tokens included; the model's own limit still holds.
    pub max_tokens: usize,
    /// Overrides the manifest and `config.json`.
    pub problem_type: Option<ProblemType>,
}

impl Default for ModelOptions {
    fn default() -> Self {
        Self {
            provider: Provider::default(),
            precision: Precision::default(),
            file: None,
            max_tokens: 128,
            problem_type: None,
        }
    }
}
