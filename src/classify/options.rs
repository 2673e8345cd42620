//! The classifier's settings and startup errors.

use std::{collections::BTreeMap, path::PathBuf, thread};

use serde::{Deserialize, Serialize};

use super::error::{GraphError, LibraryError};
use crate::model::{Precision, Provider};

/// ONNX Runtime's graph optimisation level. Another level may change the last digits of scores, and those of int8 models by
/// some thousandths, so a model's evaluation is valid for the level it was made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimization {
    /// No optimisation.
    None,
    /// Optimisations that do not change results.
    Basic,
    /// Also fusions.
    Extended,
    /// Also layout changes.
    #[default]
    All,
}

/// Settings of the classifier. For numbers, 0 selects the provider's default unless stated otherwise.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifyOptions {
    /// The ONNX Runtime library. Defaults to `ORT_DYLIB_PATH` from the environment, or else to
    /// `lib/libonnxruntime.so` under `$MOODSTREAM_RUNTIME` or `.runtime`.
    pub onnxruntime: Option<PathBuf>,
    /// The number of sessions, each with a thread. The default is one per core on a CPU, where they share the weights through a
    /// temporary file, and 2 on a GPU (one computes while the other transfers a batch), each with a copy of the weights.
    pub sessions: usize,
    /// The number of threads that share one operator of a session. The default is 1.
    pub intra_threads: usize,
    /// The maximum number of tokens in a batch, including padding. The default is 4,096 on a CPU and 32,768 on a GPU.
    pub max_batch_tokens: usize,
    /// The maximum number of posts in a batch. The default is 8 on a CPU and 512 on a GPU.
    pub max_batch_posts: usize,
    /// The number of cached predictions, which are reused for equal texts. 0 disables the cache.
    pub cache_entries: usize,
    /// The maximum number of windows in flight; further callers wait.
    pub max_windows: usize,
    /// The index of the GPU.
    pub device_id: i32,
    /// The maximum size of one session's GPU memory arena, in bytes. 0 means no limit.
    pub device_memory_bytes: usize,
    /// Whether to refuse a model if any node would run on the CPU although a GPU was requested. Off by default, because
    /// exporters leave harmless shape arithmetic in the graph that belongs on the CPU.
    pub all_nodes_on_device: bool,
    /// Whether inputs are written to pinned memory and bound to the session, so that a GPU copies them without staging them.
    pub io_binding: bool,
    /// Whether batches are padded to few fixed shapes, so that a GPU records the work of each shape once as a CUDA graph, and the
    /// CPU does not launch every kernel again. Graphs are recorded one at a time, so there is only one session, and every node
    /// must run on the GPU. A batch may exceed [`ClassifyOptions::max_batch_posts`] and [`ClassifyOptions::max_batch_tokens`] by a
    /// quarter, with copies of its first text. On a CPU, shapes are fixed but nothing is recorded. Includes
    /// [`ClassifyOptions::io_binding`].
    pub cuda_graphs: bool,
    /// Whether int8 graphs that the lab wrote run with fused operators on a CPU with AVX2 or NEON, if
    /// [`ClassifyOptions::optimization`] is `all` and [`ClassifyOptions::intra_threads`] is 1. It is faster. Scores differ by
    /// some thousandths and are as close to fp32's; `model_id` stays the same.
    pub fused_operators: bool,
    /// The graph optimisation level.
    pub optimization: Optimization,
    /// Additional session settings of ONNX Runtime under their own names, such as
    /// `"optimization.disable_specified_optimizers" = "GeluFusion"`. If that setting is absent, int8 models on a CPU run
    /// without `SkipLayerNormFusion`, which is faster; an empty value disables nothing. On processors that lack VNNI, int8
    /// models also run with `"session.x64quantprecision" = "1"`, without which they predict other labels.
    pub session_config: BTreeMap<String, String>,
}

impl Default for ClassifyOptions {
    fn default() -> Self {
        Self {
            onnxruntime: None,
            sessions: 0,
            intra_threads: 0,
            max_batch_tokens: 0,
            max_batch_posts: 0,
            cache_entries: 65_536,
            max_windows: 4,
            device_id: 0,
            device_memory_bytes: 0,
            all_nodes_on_device: false,
            io_binding: false,
            cuda_graphs: false,
            fused_operators: true,
            optimization: Optimization::default(),
            session_config: BTreeMap::new(),
        }
    }
}

impl ClassifyOptions {
    /// Returns the settings with each 0 replaced by the provider's default.
    #[must_use]
    pub fn resolved(&self, provider: Provider) -> Self {
        let or = |value: usize, default: usize| if value == 0 { default } else { value };
        let intra_threads = or(self.intra_threads, 1);
        let cores = thread::available_parallelism().map_or(1, usize::from);
        let (sessions, tokens, posts) = if provider.is_gpu() {
            (2, 32_768, 512)
        } else {
            ((cores / intra_threads).max(1), 4_096, 8)
        };
        Self {
            sessions: if self.cuda_graphs {
                1
            } else {
                or(self.sessions, sessions)
            },
            intra_threads,
            max_batch_tokens: or(self.max_batch_tokens, tokens),
            max_batch_posts: or(self.max_batch_posts, posts),
            max_windows: self.max_windows.max(1),
            ..self.clone()
        }
    }
}

/// Why the classifier can't start. The message is one line that says what is wrong, where, and how to fix it.
#[derive(Debug, thiserror::Error)]
pub enum ClassifyError {
    /// The ONNX Runtime library does not exist or can't be loaded.
    #[error("the ONNX Runtime library can't be loaded from {}: {error}; set `onnxruntime` or ORT_DYLIB_PATH to libonnxruntime.so (1.24 or later)", path.display())]
    Library {
        /// The path that was tried.
        path: PathBuf,
        /// The cause.
        error: LibraryError,
    },
    /// The process has already loaded another library.
    #[error("ONNX Runtime is already loaded from {}: a process can't load a second one from {}", loaded.display(), asked.display())]
    SecondLibrary {
        /// The loaded library.
        loaded: PathBuf,
        /// The requested library.
        asked: PathBuf,
    },
    /// The requested provider is not available. There is no fallback to another one.
    #[error("provider {provider} is not available: {reason}; install what it needs or set `provider` to another one")]
    Provider {
        /// The requested provider.
        provider: Provider,
        /// ONNX Runtime's message.
        reason: String,
    },
    /// ONNX Runtime refused a setting.
    #[error("ONNX Runtime refuses {setting}: {reason}")]
    Setting {
        /// The setting.
        setting: String,
        /// ONNX Runtime's message.
        reason: String,
    },
    /// The ONNX file can't be loaded.
    #[error("{} ({precision}) can't be loaded: {reason}", path.display())]
    Load {
        /// The ONNX file.
        path: PathBuf,
        /// Its precision.
        precision: Precision,
        /// ONNX Runtime's message.
        reason: String,
    },
    /// The graph's inputs or outputs are not those of a sequence classifier.
    #[error("{}: {fault}", path.display())]
    Graph {
        /// The ONNX file.
        path: PathBuf,
        /// What is wrong and how to fix it.
        fault: GraphError,
    },
    /// The batch limits are too small for a single text.
    #[error(
        "`max_batch_tokens` is {max_batch_tokens}, but a text may have {max_tokens} tokens: raise it to at least that or lower `max_tokens`"
    )]
    BatchTokens {
        /// The setting.
        max_batch_tokens: usize,
        /// The maximum number of tokens in a text, rounded up like batches.
        max_tokens: usize,
    },
    /// A thread could not be started.
    #[error("a thread of the classifier can't be started: {0}")]
    Thread(std::io::Error),
}
