//! The settings of an adaptation.

use std::path::PathBuf;

use anyhow::{Result, ensure};

use crate::training::{Common, contents, share};

/// What the command line says.
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
    /// Raw text: the first column of TSV, or whole lines; .zst too (may be repeated)
    #[arg(long, required = true)]
    pub(super) text: Vec<PathBuf>,
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
}

impl Args {
    /// Refuses settings that make no training.
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

    /// What fixes the course of a run: one with other settings can't go on from its state.
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
