//! The settings of a training run.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::encoder::Pooling;
use crate::training::{Common, contents, share};

/// What the command line says.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    #[command(flatten)]
    pub(super) common: Common,
    /// Training posts: `text<TAB>label[,label]`
    #[arg(long)]
    pub(super) train: PathBuf,
    /// Validation posts, which choose the epoch
    #[arg(long)]
    pub(super) valid: PathBuf,
    /// The head's learning rate over the encoder's
    #[arg(long, default_value_t = 5.0)]
    pub(super) head_lr_factor: f32,
    /// A layer's learning rate over that of the layer above it; the embeddings' is the lowest
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub(super) layer_decay: f32,
    /// Leave the word embeddings as they are: a step then costs less, and a vocabulary of many languages keeps those
    /// that the posts lack
    #[arg(long)]
    pub(super) freeze_words: bool,
    /// Leave all embeddings and so many of the lowest layers as they are: the way back ends there
    #[arg(long, default_value_t = 0, value_name = "LAYERS")]
    pub(super) freeze_layers: usize,
    /// Share of the run at whose end the weights are averaged, step by step: the mean is what is judged and written
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(super) average: f32,
    /// How much two looks at a post under different dropout must agree (R-Drop; about 1): twice the work; 0 for one look
    #[arg(long, default_value_t = 0.0, value_name = "WEIGHT")]
    pub(super) r_drop: f32,
    /// AdamW's decoupled weight decay
    #[arg(long, default_value_t = 0.01)]
    pub(super) weight_decay: f32,
    /// Probability taken from the true label and spread over all
    #[arg(long, default_value_t = 0.0)]
    pub(super) label_smoothing: f32,
    /// How much a post counts, by how rare its label is; under a sigmoid head, how much a label counts where it is given
    #[arg(long, value_enum, default_value_t = ClassWeights::None)]
    pub(super) class_weights: ClassWeights,
    /// One label a post, or any number
    #[arg(long, value_enum, default_value_t = HeadKind::Softmax)]
    pub(super) head: HeadKind,
    /// What of a post's states the head sees [default: what the base's head sees, else cls]
    #[arg(long, value_enum)]
    pub(super) pooling: Option<Pooling>,
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

impl Args {
    /// Refuses settings that make no training.
    pub(super) fn check(&self) -> Result<()> {
        self.common.check()?;
        share("label-smoothing", self.label_smoothing)?;
        share("average", self.average)?;
        ensure!(
            !self.fit_bias || self.head == HeadKind::Softmax,
            "--fit-bias is for a softmax head: for sigmoid, `thresholds` fits what the service reads"
        );
        ensure!(
            self.layer_decay > 0.0 && self.layer_decay <= 1.0,
            "--layer-decay {}: must be above 0 and at most 1",
            self.layer_decay
        );
        ensure!(
            self.r_drop == 0.0 || self.r_drop > 0.0 && self.common.dropout > 0.0 && self.head == HeadKind::Softmax,
            "--r-drop {}: must be above 0, and needs --dropout and a softmax head",
            self.r_drop
        );
        Ok(())
    }

    /// What fixes the course of a run: one with other settings can't go on from its state.
    pub(super) fn describe(&self) -> Result<String> {
        Ok(format!(
            "{} train {} valid {} head-lr-factor {} layer-decay {} freeze-words {} freeze-layers {} average {} r-drop {} weight-decay {} \
             label-smoothing {} class-weights {:?} head {:?} pooling {:?} clip {}",
            self.common.describe()?,
            contents(&self.train)?,
            contents(&self.valid)?,
            self.head_lr_factor,
            self.layer_decay,
            self.freeze_words,
            self.freeze_layers,
            self.average,
            self.r_drop,
            self.weight_decay,
            self.label_smoothing,
            self.class_weights,
            self.head,
            self.pooling,
            self.clip,
        ))
    }
}
