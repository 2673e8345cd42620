//! What can be wrong with an export.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::checkpoint::TensorError;
use crate::files::FileError;

/// Why a checkpoint could not be exported; each names the file, and the tensor or field where one is at fault.
#[derive(Debug, Error)]
pub enum ExportError {
    /// A file of the checkpoint, or the calibration texts, could not be read.
    #[error("can't read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file or folder of the result could not be written.
    #[error(transparent)]
    Write(#[from] FileError),
    /// A file was read and does not hold what it should.
    #[error("{}: {why}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong in it.
        why: String,
    },
    /// A tensor of the checkpoint is not as its configuration says.
    #[error(transparent)]
    Tensor(#[from] TensorError),
    /// A graph passed the 2 GiB that one ONNX file can hold.
    #[error("the {precision} graph passes the 2 GiB that one onnx file can hold: export a smaller precision")]
    TooLarge {
        /// The precision of that graph.
        precision: &'static str,
    },
    /// The target folder holds something already.
    #[error("{} is there already: remove it or choose another --out", .0.display())]
    Exists(PathBuf),
    /// int8 gives too many texts another label than the checkpoint does.
    #[error(
        "int8 agrees with the checkpoint on {:.2} % of {count} held-out texts, less than the {:.2} % asked for: serve fp32, \
         or calibrate with more texts like those to be classified", share * 100.0, least * 100.0
    )]
    Disagrees {
        /// The share of texts with the same label.
        share: f64,
        /// The share asked for.
        least: f64,
        /// How many texts were judged.
        count: usize,
    },
    /// An agreement was asked for and could not be measured.
    #[error("can't measure how often int8 agrees with the checkpoint: {0}")]
    NotMeasured(String),
}
