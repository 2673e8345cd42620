//! Errors of an export.

use std::io;
use std::path::PathBuf;

use moodstream::clean::UnknownProfile;
use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::files::FileError;

/// Why a checkpoint can't be exported. Each error names the file, and the tensor or field if one is wrong.
#[derive(Debug, Error)]
pub enum ExportError {
    /// A file of the checkpoint or the calibration texts can't be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// A file or folder of the result can't be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// The content of a file is not valid.
    #[error("{}: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        why: String,
    },
    /// The checkpoint's manifest is not valid.
    #[error("{}: {fault}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        fault: ManifestFault,
    },
    /// The checkpoint's configuration or weights are not valid.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// A graph is larger than the limit of an ONNX file, 2 GiB.
    #[error("the {precision} graph exceeds the limit of an ONNX file, 2 GiB: export a smaller precision")]
    TooLarge {
        /// The precision of that graph.
        precision: &'static str,
    },
    /// The target folder exists.
    #[error("{} exists already: remove it or choose another --out", .0.display())]
    Exists(PathBuf),
    /// int8 agrees with the checkpoint on too few texts.
    #[error(
        "int8 agrees with the checkpoint on {:.2} % of {count} held-out texts, less than the required {:.2} %: use fp32, \
         or calibrate with more texts like those to be classified", share * 100.0, least * 100.0
    )]
    Disagrees {
        /// The share of texts with the same label.
        share: f64,
        /// The required share.
        least: f64,
        /// The number of texts.
        count: usize,
    },
    /// An agreement was required, but can't be measured.
    #[error("can't measure how often int8 agrees with the checkpoint: {0}")]
    NotMeasured(String),
}

/// What is wrong with a checkpoint's manifest.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ManifestFault {
    /// It is not TOML; the line and the parser's message.
    #[error("{0}")]
    NotToml(String),
    /// The profile is not a string.
    #[error("`profile` is not a string")]
    ProfileNotAString,
    /// There is no such profile.
    #[error(transparent)]
    Profile(#[from] UnknownProfile),
    /// It can't be written with a name.
    #[error(transparent)]
    NotWritten(#[from] toml::ser::Error),
}
