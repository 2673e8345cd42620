//! How the classifier runs, and why it may not start.

use std::{collections::BTreeMap, path::PathBuf, thread};

use serde::{Deserialize, Serialize};

use crate::model::{Precision, Provider};

/// ONNX Runtime's graph optimisations. Another level may change scores in their last digits, those of
/// int8 models by some thousandths, so a model's figures hold for the level they were measured with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Optimization {
    /// None.
    None,
    /// What changes no result.
    Basic,
    /// Fusions as well.
    Extended,
    /// Layout changes as well.
    #[default]
    All,
}

/// Settings of the classifier. Of the numbers, 0 means: by provider.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifyOptions {
    /// The ONNX Runtime library; else the environment's `ORT_DYLIB_PATH`, else
    /// `lib/libonnxruntime.so` under `$MOODSTREAM_RUNTIME` or `.runtime`.
    pub onnxruntime: Option<PathBuf>,
    /// Sessions, each with a thread and a copy of the weights; 0: one a core on the processor, 2 on a GPU
    /// (one computes while the other's batch travels).
    pub sessions: usize,
    /// Threads that share one operator of a session; 0: 1.
    pub intra_threads: usize,
    /// Most tokens in a batch, padding included; 0: 4,096 on the processor, 32,768 on a GPU.
    pub max_batch_tokens: usize,
    /// Most posts in a batch; 0: 8 on the processor, 512 on a GPU.
    pub max_batch_posts: usize,
    /// Predictions remembered, so that a text seen again costs nothing; 0 remembers none.
    pub cache_entries: usize,
    /// Windows accepted before the first of them is done; further callers wait.
    pub max_windows: usize,
    /// The GPU's number.
    pub device_id: i32,
    /// Most bytes of GPU memory for one session's arena; 0: as the GPU has.
    pub device_memory_bytes: usize,
    /// Refuse a model of which a single node would run on the processor although a GPU was asked for.
    /// Off, since exporters leave harmless shape arithmetic in the graph that belongs there.
    pub all_nodes_on_device: bool,
    /// Graph optimisations.
    pub optimization: Optimization,
    /// Further session settings of ONNX Runtime by their own names, as
    /// `"optimization.disable_specified_optimizers" = "GeluFusion"`. Where that one is absent, int8 models on
    /// the processor run without `SkipLayerNormFusion`, which is faster; an empty value leaves out none. Int8 models also
    /// run with `"session.x64quantprecision" = "1"`, without which processors that lack VNNI give other labels.
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
            optimization: Optimization::default(),
            session_config: BTreeMap::new(),
        }
    }
}

impl ClassifyOptions {
    /// The same with each 0 that means "by provider" replaced.
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
            sessions: or(self.sessions, sessions),
            intra_threads,
            max_batch_tokens: or(self.max_batch_tokens, tokens),
            max_batch_posts: or(self.max_batch_posts, posts),
            max_windows: self.max_windows.max(1),
            ..self.clone()
        }
    }
}

/// Why the classifier can't start: one line that says what, where, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum ClassifyError {
    /// The ONNX Runtime library is not there or does not load.
    #[error("the ONNX Runtime library can't be loaded from {}: {reason}; set `onnxruntime` or ORT_DYLIB_PATH to libonnxruntime.so (1.24 or later)", path.display())]
    Library {
        /// Where it was looked for.
        path: PathBuf,
        /// Why it failed.
        reason: String,
    },
    /// The process already runs with another library.
    #[error("ONNX Runtime is already loaded from {}: a process can't load a second one from {}", loaded.display(), asked.display())]
    SecondLibrary {
        /// The library in use.
        loaded: PathBuf,
        /// The one asked for.
        asked: PathBuf,
    },
    /// The provider asked for can't be had. There is no fall back to another one.
    #[error("provider {provider} is not available: {reason}; install what it needs or set `provider` to another one")]
    Provider {
        /// The provider asked for.
        provider: Provider,
        /// What ONNX Runtime says.
        reason: String,
    },
    /// ONNX Runtime refuses a setting.
    #[error("ONNX Runtime refuses {setting}: {reason}")]
    Setting {
        /// The setting.
        setting: String,
        /// What ONNX Runtime says.
        reason: String,
    },
    /// The ONNX file can't be loaded.
    #[error("{} ({precision}) can't be loaded: {reason}", path.display())]
    Load {
        /// The ONNX file.
        path: PathBuf,
        /// Its precision.
        precision: Precision,
        /// What ONNX Runtime says.
        reason: String,
    },
    /// The graph takes or gives something else than a sequence classifier does.
    #[error("{}: {detail}", path.display())]
    Graph {
        /// The ONNX file.
        path: PathBuf,
        /// What is wrong and what to do.
        detail: String,
    },
    /// The batch limits leave no room for a single text.
    #[error(
        "`max_batch_tokens` is {max_batch_tokens}, but one text may have {max_tokens} tokens: raise it to at least that or lower `max_tokens`"
    )]
    BatchTokens {
        /// The setting.
        max_batch_tokens: usize,
        /// Most tokens of a text, rounded up as the batches are.
        max_tokens: usize,
    },
    /// A thread can't be started.
    #[error("a thread of the classifier can't be started: {0}")]
    Thread(std::io::Error),
}
