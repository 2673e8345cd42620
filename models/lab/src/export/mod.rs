//! Converts a checkpoint to an ONNX model folder in fp32, fp16 or int8.
//!
//! [`Classifier::open`] reads a checkpoint of any supported family. A graph is written for each precision, and the folder
//! appears under its name only when it is complete.

mod agreement;
mod calibrate;
pub(crate) mod classifier;
mod error;
pub(crate) mod folder;
pub(crate) mod graph;
pub(crate) mod half_bytes;
mod int8;

mod quantise;
mod rounding;
mod signed_bytes;
mod texts;
mod writer;

use std::path::PathBuf;

use clap::ValueEnum;

pub use classifier::Classifier;
pub use error::ExportError;

use folder::Staging;
use graph::FloatType;
use texts::{CalibrationTexts, CheckpointTokenizer};
use writer::Style;

/// The precision of weights and arithmetic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// Single precision: the reference.
    Fp32,
    /// Half precision, for the GPU.
    Fp16,
    /// 8-bit integers, for the CPU.
    Int8,
}

impl Precision {
    /// The name of its file in `onnx/`, as Hugging Face's exporters name it.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Fp32 => "model.onnx",
            Self::Fp16 => "model_fp16.onnx",
            Self::Int8 => "model_int8.onnx",
        }
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Fp32 => "fp32",
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
        }
    }
}

/// The operators of the floating-point graphs; int8 always needs ONNX Runtime's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GraphStyle {
    /// The fastest operators for fp32 on the CPU and fp16 on the GPU, including ONNX Runtime's own
    Fused,
    /// Like fused, but layers compute tokens only, without padding: runs only on CUDA
    Packed,
    /// Only operators of the ONNX standard, which every runtime supports
    Plain,
}

impl GraphStyle {
    /// The style of graph; `fastest` is the fastest for the precision.
    fn style(self, fastest: Style) -> Style {
        match self {
            Self::Fused => fastest,
            Self::Packed => Style::Packed,
            Self::Plain => Style::Plain,
        }
    }
}

/// The command line arguments.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Checkpoint folder: config.json, model.safetensors, tokenizer.json
    #[arg(long, value_name = "DIR")]
    pub checkpoint: PathBuf,
    /// Model folder to write; must not exist
    #[arg(long, value_name = "DIR")]
    pub out: PathBuf,
    /// Precisions to write
    #[arg(long, value_delimiter = ',', default_value = "fp32,fp16,int8")]
    pub precision: Vec<Precision>,
    /// Operators of the fp32 and fp16 graphs
    #[arg(long, default_value = "fused")]
    pub graph: GraphStyle,
    /// Bits per weight of the word embeddings in the int8 file: 8 with a scale for each word, or 4 with a scale for every 32
    /// weights, which is half the size
    #[arg(long, default_value_t = 8, value_parser = word_bits, value_name = "8|4")]
    pub word_bits: u8,
    /// Texts like the posts to be classified, one per line (or the first column of a TSV; may be .zst), for calibrating
    /// int8. They are cleaned with the model's profile. Training texts are suitable; without texts int8 is less accurate
    #[arg(long, value_name = "FILE")]
    pub calibrate: Option<PathBuf>,
    /// How many of these texts to calibrate with, evenly from the whole file; as many others are held out to evaluate int8
    #[arg(long, default_value_t = 512)]
    pub calibrate_texts: usize,
    /// Fail if the share of held-out texts with the same label as from the checkpoint is lower than this (0.99: 99 %)
    #[arg(long, value_name = "SHARE")]
    pub min_agreement: Option<f64>,
    /// The model's name in the manifest, the first part of its id [default: that of the checkpoint's manifest, else the name of its folder]
    #[arg(long)]
    pub name: Option<String>,
}

fn word_bits(text: &str) -> Result<u8, clap::Error> {
    match text {
        "8" => Ok(8),
        "4" => Ok(4),
        _ => Err(clap::Error::raw(clap::error::ErrorKind::InvalidValue, "must be 8 or 4")),
    }
}

/// Runs the step.
///
/// # Errors
///
/// When the input is invalid or the output can't be written.
pub fn run(args: Args) -> anyhow::Result<()> {
    Ok(export(&args)?)
}

/// Writes the model folder.
///
/// # Errors
///
/// When the checkpoint, its tokenizer or the texts are invalid, or a file can't be written. Nothing is left behind then.
pub fn export(args: &Args) -> Result<(), ExportError> {
    let model = Classifier::open(&args.checkpoint)?;
    let tokenizer = CheckpointTokenizer::open(&args.checkpoint, &model)?;
    let calibration = match &args.calibrate {
        Some(path) if args.precision.contains(&Precision::Int8) => Some(CalibrationTexts::read(
            path,
            args.calibrate_texts,
            folder::profile(&args.checkpoint)?,
        )?),
        None if args.precision.contains(&Precision::Int8) => {
            eprintln!("warning: int8 without --calibrate is less accurate: more labels will change");
            None
        }
        _ => None,
    };
    if args.word_bits == 4 && !model.width().is_multiple_of(half_bytes::BLOCK) {
        return Err(ExportError::Invalid {
            path: args.checkpoint.join("config.json"),
            why: format!(
                "--word-bits 4 needs a hidden_size that is a multiple of {}, not {}",
                half_bytes::BLOCK,
                model.width()
            ),
        });
    }
    let staging = Staging::begin(&args.out)?;
    staging.describe(&args.checkpoint, args.name.as_deref())?;

    for &precision in &args.precision {
        let graph = match precision {
            Precision::Fp32 => writer::float_graph(&model, FloatType::Single, args.graph.style(Style::Subtracted)),
            Precision::Fp16 => writer::float_graph(&model, FloatType::Half, args.graph.style(Style::Fused)),
            Precision::Int8 => {
                let texts = calibration
                    .as_ref()
                    .map(|texts| tokenizer.encode_all(&texts.calibration))
                    .transpose()?;
                let layers = calibrate::quantise_layers(&model, &texts.unwrap_or_default());
                calibrate::describe(&layers).for_each(|line| println!("{line}"));
                int8::int8_graph(&model, &layers, args.word_bits == 4)
            }
        };
        let bytes = graph.finish().ok_or(ExportError::TooLarge {
            precision: precision.as_str(),
        })?;
        staging.write_onnx(precision.file_name(), &bytes)?;
        println!("{}: {:.2} MB", precision.file_name(), bytes.len() as f64 / 1e6);
        if let (Precision::Int8, Some(texts)) = (precision, &calibration) {
            check_agreement(&staging, &model, &tokenizer, texts, args.min_agreement)?;
        }
    }
    staging.publish()
}

/// Prints how often int8 agrees with the checkpoint on held-out texts.
fn check_agreement(
    staging: &Staging,
    model: &Classifier,
    tokenizer: &CheckpointTokenizer,
    texts: &CalibrationTexts,
    least: Option<f64>,
) -> Result<(), ExportError> {
    let count = texts.held_out.len();
    match agreement::measure(staging.path(), model, tokenizer, texts.held_out.clone()) {
        Ok(share) => {
            println!(
                "int8 agrees with the checkpoint on {:.2} % of {count} held-out texts",
                share * 100.0
            );
            match least {
                Some(least) if share < least => Err(ExportError::Disagrees { share, least, count }),
                _ => Ok(()),
            }
        }
        Err(error) if least.is_none() => {
            eprintln!("warning: can't measure how often int8 agrees with the checkpoint: {error:#}");
            Ok(())
        }
        Err(error) => Err(ExportError::NotMeasured(format!("{error:#}"))),
    }
}
