//! The settings of a training run.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use moodstream::clean::Profile;

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Checkpoint folder to start from, made by `carry`, `pretrain` or `train`, or a RoBERTa of Hugging Face's
    #[arg(long)]
    pub(super) base: PathBuf,
    /// Training posts: `text<TAB>label[,label]`
    #[arg(long)]
    pub(super) train: PathBuf,
    /// Validation posts, which choose the epoch
    #[arg(long)]
    pub(super) valid: PathBuf,
    /// Folder to make; a killed run goes on from OUT.work
    #[arg(long)]
    pub(super) out: PathBuf,
    /// Times through the training posts
    #[arg(long, default_value_t = 4)]
    pub(super) epochs: usize,
    /// Highest learning rate
    #[arg(long, default_value_t = 5e-5)]
    pub(super) lr: f32,
    /// The head's learning rate over the encoder's
    #[arg(long, default_value_t = 5.0)]
    pub(super) head_lr_factor: f32,
    /// A layer's learning rate over that of the layer above it; the embeddings' is the lowest
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub(super) layer_decay: f32,
    /// Share of the run at whose end the weights are averaged, step by step: the mean is what is judged and written
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(super) average: f32,
    /// How much two looks at a post under different dropout must agree (R-Drop; about 1): twice the work; 0 for one look
    #[arg(long, default_value_t = 0.0, value_name = "WEIGHT")]
    pub(super) r_drop: f32,
    /// Posts a step
    #[arg(long, default_value_t = 32)]
    pub(super) batch: usize,
    /// Share of the steps in which the learning rate rises
    #[arg(long, default_value_t = 0.1)]
    pub(super) warmup: f32,
    /// AdamW's decoupled weight decay
    #[arg(long, default_value_t = 0.01)]
    pub(super) weight_decay: f32,
    /// Probability taken from the true label and spread over all
    #[arg(long, default_value_t = 0.0)]
    pub(super) label_smoothing: f32,
    /// How much a post counts, by how rare its label is
    #[arg(long, value_enum, default_value_t = ClassWeights::None)]
    pub(super) class_weights: ClassWeights,
    /// One label a post, or any number
    #[arg(long, value_enum, default_value_t = HeadKind::Softmax)]
    pub(super) head: HeadKind,
    /// Seed of head, order and dropout
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Dropout rate of states and attention
    #[arg(long, default_value_t = 0.1)]
    pub(super) dropout: f32,
    /// Tokens of a post that are looked at
    #[arg(long, default_value_t = 128)]
    pub(super) max_tokens: usize,
    /// Gradient norm above which it is scaled down; 0 for never
    #[arg(long, default_value_t = 1.0)]
    pub(super) clip: f32,
    /// Epochs without a better validation macro-F1 after which to stop
    #[arg(long, default_value_t = 3)]
    pub(super) patience: usize,
    /// When all is trained, move the head's biases to what is best for the validation posts' macro-F1: for softmax,
    /// and where there are thousands of those posts
    #[arg(long)]
    pub(super) fit_bias: bool,
    /// How the texts are cleaned: as the service will do it
    #[arg(long, default_value_t = Profile::TwitterRoberta)]
    pub(super) profile: Profile,
    /// Minutes after which to stop; the learning rate falls to 0 by then
    #[arg(long)]
    pub(super) minutes: Option<f32>,
    /// Threads
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, std::num::NonZero::get))]
    pub(super) threads: usize,
}

/// How much a post counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClassWeights {
    /// All the same.
    None,
    /// By the reciprocal of its label's frequency.
    Inverse,
    /// By the root of that.
    Sqrt,
}

/// The head's kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HeadKind {
    /// One label a post.
    Softmax,
    /// Any number of labels a post.
    Sigmoid,
}

/// Refuses settings that make no training.
pub(super) fn check(args: &Args) -> Result<()> {
    ensure!(
        !args.fit_bias || args.head == HeadKind::Softmax,
        "--fit-bias is for a softmax head: for sigmoid, `thresholds` fits what the service reads"
    );
    let share = |name: &str, value: f32| {
        ensure!(
            (0.0..1.0).contains(&value),
            "--{name} {value}: must be from 0 to below 1"
        );
        Ok(())
    };
    share("dropout", args.dropout)?;
    share("label-smoothing", args.label_smoothing)?;
    share("warmup", args.warmup)?;
    share("average", args.average)?;
    ensure!(
        args.layer_decay > 0.0 && args.layer_decay <= 1.0,
        "--layer-decay {}: must be above 0 and at most 1",
        args.layer_decay
    );
    ensure!(
        args.r_drop == 0.0 || args.r_drop > 0.0 && args.dropout > 0.0 && args.head == HeadKind::Softmax,
        "--r-drop {}: must be above 0, and needs --dropout and a softmax head",
        args.r_drop
    );
    ensure!(
        args.lr.is_finite() && args.lr > 0.0,
        "--lr {}: must be above 0",
        args.lr
    );
    ensure!(
        args.epochs > 0 && args.batch > 0 && args.max_tokens > 2,
        "--epochs, --batch and --max-tokens: too small"
    );
    ensure!(
        (1..=256).contains(&args.threads),
        "--threads {}: must be from 1 to 256",
        args.threads
    );
    Ok(())
}
