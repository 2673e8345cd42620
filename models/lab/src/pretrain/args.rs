//! The settings of `pretrain`.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::training::{Common, contents, share};

/// The command line arguments.
#[derive(Debug, Clone, clap::Args)]
#[command(
    mut_arg("epochs", |arg| arg.default_value("1")),
    mut_arg("lr", |arg| arg.default_value("0.0002")),
    mut_arg("batch", |arg| arg.default_value("64")),
    mut_arg("warmup", |arg| arg.default_value("0.06")),
    mut_arg("dropout", |arg| arg.default_value("0")),
    mut_arg("max_tokens", |arg| arg.default_value("64")),
)]
pub struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Raw text: the first column of TSV, or whole lines; may be compressed as .zst (may be repeated)
    #[arg(long, required = true)]
    pub(super) text: Vec<PathBuf>,
    /// Learning rate of the word embeddings as a factor on the encoder's
    #[arg(long, default_value_t = 1.0)]
    pub(super) words_lr_factor: f32,
    /// Share of the tokens to mask; 0, with a teacher, for distillation only
    #[arg(long, default_value_t = 0.15)]
    pub(super) mask: f32,
    /// Mask all emoji: the encoder then learns to predict them, which takes knowing the mood
    #[arg(long)]
    pub(super) emoji: bool,
    /// Encoder to distil from: the source of `carry`
    #[arg(long, value_name = "DIR")]
    pub(super) teacher: Option<PathBuf>,
    /// Weight of the distance to the teacher relative to the loss of a masked token
    #[arg(long, default_value_t = 5.0)]
    pub(super) teacher_weight: f32,
}

impl Args {
    /// Checks the settings.
    pub(super) fn check(&self) -> Result<()> {
        self.common.check()?;
        share("mask", self.mask)?;
        ensure!(
            self.mask > 0.0 || self.teacher.is_some(),
            "--mask 0 leaves nothing to learn without --teacher"
        );
        ensure!(
            self.teacher_weight.is_finite() && self.teacher_weight > 0.0,
            "--teacher-weight {}: must be above 0",
            self.teacher_weight
        );
        ensure!(
            self.words_lr_factor.is_finite() && self.words_lr_factor >= 0.0,
            "--words-lr-factor {}: must be 0 or more",
            self.words_lr_factor
        );
        Ok(())
    }

    /// The settings that determine the result: a run with other settings can't resume from its state.
    pub(super) fn describe(&self) -> Result<String> {
        let texts: Vec<String> = self.text.iter().map(|path| contents(path)).collect::<Result<_>>()?;
        let teacher = self.teacher.as_deref().map(contents).transpose()?;
        Ok(format!(
            "{} text {} words-lr-factor {} mask {} emoji {} teacher {} {}",
            self.common.describe()?,
            texts.join(","),
            self.words_lr_factor,
            self.mask,
            self.emoji,
            teacher.as_deref().unwrap_or("none"),
            self.teacher_weight,
        ))
    }
}
