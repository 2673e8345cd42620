//! The `moodstream-lab` binary: one subcommand for each step from labelled posts to a served model.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use moodstream_lab::{
    average, carry, compare, cut, dequantize, evaluate, export, prepare, pretrain, thresholds, train, unpack,
};

#[derive(Debug, Parser)]
#[command(name = "moodstream-lab", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    step: Step,
}

#[derive(Debug, Subcommand)]
enum Step {
    /// Read labelled sets, clean, map, merge, de-duplicate, split and balance them
    Prepare(prepare::Args),
    /// Convert a file of 4-bit weights to a checkpoint
    Unpack(unpack::Args),
    /// Reduce a checkpoint's Unigram vocabulary to the pieces that given text uses
    Cut(cut::Args),
    /// Convert a BERT checkpoint to RoBERTa with a new vocabulary
    Carry(carry::Args),
    /// Adapt a checkpoint to raw text: by masked language modelling, distillation from a teacher, or both
    Pretrain(pretrain::Args),
    /// Fine-tune a checkpoint on labelled text
    // The recipes put their settings before the user's, and the last one counts.
    #[command(args_override_self = true)]
    Train(train::Args),
    /// Average the weights of checkpoints that were trained from the same one
    Average(average::Args),
    /// Convert a checkpoint to an ONNX model folder
    Export(export::Args),
    /// Convert an int8 model folder that `export` wrote back to a checkpoint, for a GPU or further training
    Dequantize(dequantize::Args),
    /// Train, tune and compare classical classifiers and model folders
    Compare(compare::Args),
    /// Evaluate a model folder on labelled text with the service's classifier
    Evaluate(evaluate::Args),
    /// Fit thresholds or a temperature on a validation split and write them to the manifest
    Thresholds(thresholds::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().step {
        Step::Prepare(args) => prepare::run(args),
        Step::Unpack(args) => unpack::run(args),
        Step::Cut(args) => cut::run(args),
        Step::Carry(args) => carry::run(args),
        Step::Pretrain(args) => pretrain::run(args),
        Step::Train(args) => train::run(args),
        Step::Average(args) => average::run(args),
        Step::Export(args) => export::run(args),
        Step::Dequantize(args) => dequantize::run(args),
        Step::Compare(args) => compare::run(args),
        Step::Evaluate(args) => evaluate::run(args),
        Step::Thresholds(args) => thresholds::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
