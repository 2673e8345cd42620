//! Options for opening a model.

use std::{fmt, path::PathBuf};

use serde::{Deserialize, Serialize};

/// The execution provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// ONNX Runtime's CPU kernels.
    #[default]
    Cpu,
    /// The CUDA execution provider.
    Cuda,
    /// The TensorRT execution provider, with CUDA for nodes that TensorRT does not support.
    TensorRt,
}

impl Provider {
    /// The name used in settings, logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Cuda => "cuda",
            Self::TensorRt => "tensorrt",
        }
    }

    /// Whether it runs on a GPU.
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

/// The precision of the weights, which selects the ONNX file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// The best available: int8, then fp32, then fp16 on a CPU; fp16, then fp32, then int8 on a GPU.
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
    /// The name used in settings, logs and metrics.
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

/// How logits become scores. The names are those of Hugging Face's `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ProblemType {
    /// One label per post: a softmax over all labels.
    SingleLabelClassification,
    /// Any number of labels per post: a sigmoid and a threshold for each.
    MultiLabelClassification,
}

impl ProblemType {
    /// The name used in `config.json`.
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

/// Options for opening a model folder.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelOptions {
    /// The execution provider: determines which file [`Precision::Auto`] selects, and is used by
    /// [`Classifier::start`](crate::classify::Classifier::start).
    pub provider: Provider,
    /// The precision, which selects the ONNX file.
    pub precision: Precision,
    /// The ONNX file's name within the folder, instead of selecting it by precision.
    pub file: Option<PathBuf>,
    /// The maximum number of tokens in a text, including special tokens. The model's own limit also applies.
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
