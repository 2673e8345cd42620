//! Errors of reading an int8 file.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::CheckpointError;

/// Why a model folder can't be dequantized. Each error names the file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DequantizeError {
    /// The int8 file can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The file is not an int8 file that `export` wrote.
    #[error("{}: not an int8 file of `moodstream-lab export`: {why}", path.display())]
    NotExported {
        /// The file.
        path: PathBuf,
        /// How it differs from such a file.
        why: String,
    },
    /// The model's `config.json` is not valid, or its family can't be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}
