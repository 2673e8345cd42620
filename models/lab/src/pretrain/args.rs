//! The settings of an adaptation.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use moodstream::clean::Profile;

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Checkpoint folder to start from
    #[arg(long)]
    pub(super) base: PathBuf,
    /// Raw text: the first column of TSV, or whole lines; .zst too (may be repeated)
    #[arg(long, required = true)]
    pub(super) text: Vec<PathBuf>,
    /// Folder to make; a killed run goes on from OUT.work
    #[arg(long)]
    pub(super) out: PathBuf,
    /// Times through the text
    #[arg(long, default_value_t = 1)]
    pub(super) epochs: usize,
    /// Highest learning rate
    #[arg(long, default_value_t = 2e-4)]
    pub(super) lr: f32,
    /// Posts a step
    #[arg(long, default_value_t = 64)]
    pub(super) batch: usize,
    /// Share of the steps in which the learning rate rises
    #[arg(long, default_value_t = 0.06)]
    pub(super) warmup: f32,
    /// Word embeddings' learning rate over the encoder's
    #[arg(long, default_value_t = 1.0)]
    pub(super) words_lr_factor: f32,
    /// Share of the tokens taken out; 0, with a teacher, for distillation alone
    #[arg(long, default_value_t = 0.15)]
    pub(super) mask: f32,
    /// Take out all emoji, not their share alone: to foretell them is to know the mood
    #[arg(long)]
    pub(super) emoji: bool,
    /// Encoder to stay near: the source that `carry` began with
    #[arg(long, value_name = "DIR")]
    pub(super) teacher: Option<PathBuf>,
    /// How much the distance to the teacher counts beside the loss of a masked token
    #[arg(long, default_value_t = 5.0)]
    pub(super) teacher_weight: f32,
    /// Seed of order, masks and dropout
    #[arg(long, default_value_t = 1)]
    pub(super) seed: u64,
    /// Dropout rate of states and attention
    #[arg(long, default_value_t = 0.0)]
    pub(super) dropout: f32,
    /// Tokens of a post that are looked at
    #[arg(long, default_value_t = 64)]
    pub(super) max_tokens: usize,
    /// Minutes after which to stop; the learning rate falls to 0 by then
    #[arg(long)]
    pub(super) minutes: Option<f32>,
    /// How the texts are cleaned
    #[arg(long, default_value_t = Profile::TwitterRoberta)]
    pub(super) profile: Profile,
    /// Threads
    #[arg(long, default_value_t = std::thread::available_parallelism().map_or(1, std::num::NonZero::get))]
    pub(super) threads: usize,
}

/// Refuses settings that make no training.
pub(super) fn check(args: &Args) -> Result<()> {
    ensure!(
        (0.0..1.0).contains(&args.mask),
        "--mask {}: must be from 0 to below 1",
        args.mask
    );
    ensure!(
        args.mask > 0.0 || args.teacher.is_some(),
        "--mask 0 leaves nothing to learn without --teacher"
    );
    ensure!(
        args.teacher_weight.is_finite() && args.teacher_weight > 0.0,
        "--teacher-weight {}: must be above 0",
        args.teacher_weight
    );
    ensure!(
        args.words_lr_factor.is_finite() && args.words_lr_factor >= 0.0,
        "--words-lr-factor {}: must be 0 or more",
        args.words_lr_factor
    );
    ensure!(
        (0.0..1.0).contains(&args.dropout),
        "--dropout {}: must be from 0 to below 1",
        args.dropout
    );
    ensure!(
        (0.0..1.0).contains(&args.warmup),
        "--warmup {}: must be from 0 to below 1",
        args.warmup
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
