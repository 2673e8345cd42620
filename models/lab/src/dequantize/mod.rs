//! Converts an int8 model folder that `export` wrote back to a checkpoint.
//!
//! The checkpoint computes what the int8 graph computes, except that activations are not quantised: weights are bytes times
//! their scales, and biases keep the corrections of calibration. It is not the checkpoint from which the folder was exported,
//! whose weights were rounded. It can be exported to fp16 or fp32 for a GPU, or trained further.

mod error;
mod graph;
mod weights;

use std::path::{Path, PathBuf};

pub use error::DequantizeError;

use crate::checkpoint::{Checkpoint, Config, ConfigFault, Family};
use crate::export::{Precision, folder};
use crate::files::{self, Staging};
use crate::tokenizer;
use graph::Graph;

/// The command line arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Model folder with an int8 file that `export` wrote
    #[arg(long, value_name = "DIR")]
    pub model: PathBuf,
    /// Checkpoint folder to write
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
}

/// Runs the step.
///
/// # Errors
///
/// When the folder has no int8 file that `export` wrote, or the output can't be written.
pub fn run(args: Args) -> anyhow::Result<()> {
    let checkpoint = read(&args.model)?;
    let staging = Staging::new(&args.out)?;
    checkpoint.write(staging.path())?;
    tokenizer::copy(&args.model, staging.path())?;
    let manifest = folder::manifest(&args.model, None)?;
    files::write(&staging.path().join(folder::MANIFEST), manifest.as_bytes())?;
    staging.finish()?;
    let shape = &checkpoint.encoder.shape;
    println!(
        "{}: {} layers of {}, {} labels",
        args.out.display(),
        shape.layers,
        shape.hidden,
        shape.labels
    );
    Ok(())
}

/// Reads the weights of a model folder's int8 file.
///
/// # Errors
///
/// When `export` did not write the file, or not from a RoBERTa, XLM-RoBERTa or MPNet checkpoint.
pub fn read(model: &Path) -> Result<Checkpoint, DequantizeError> {
    let config = Config::read(model)?;
    config.check_trainable()?;
    if config.family == Family::Bert {
        let fault = ConfigFault::Unsupported {
            member: "model_type",
            value: "bert".to_owned(),
            supported: "roberta, xlm-roberta and mpnet are",
        };
        return Err(config.error(fault).into());
    }
    let path = model.join("onnx").join(Precision::Int8.file_name());
    let graph = Graph::read(&path)?;
    let shape = config.shape.clone().with_labels(config.labels.len());
    Ok(Checkpoint {
        encoder: weights::encoder(&graph, &shape)?,
        labels: config.labels,
        loss: config.loss,
        family: config.family,
    })
}
