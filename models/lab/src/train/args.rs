//! The settings of a training run.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use crate::encoder::Pooling;
use crate::training::{Common, contents, share};

/// The command line arguments.
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
    /// Learning rate of the head as a factor on the encoder's
    #[arg(long, default_value_t = 5.0)]
    pub(super) head_lr_factor: f32,
    /// Learning rate of a layer as a factor on that of the layer above it; the embeddings count as the lowest
    #[arg(long, default_value_t = 1.0, value_name = "FACTOR")]
    pub(super) layer_decay: f32,
    /// Don't train the word embeddings: a step then costs less, and a multilingual vocabulary keeps the embeddings of
    /// words that the posts lack
    #[arg(long)]
    pub(super) freeze_words: bool,
    /// Don't train the embeddings and this many of the lowest layers: the backward pass ends there
    #[arg(long, default_value_t = 0, value_name = "LAYERS")]
    pub(super) freeze_layers: usize,
    /// Average the weights over the steps of the last part of the run, this share of it; the mean is evaluated and written
    #[arg(long, default_value_t = 0.0, value_name = "SHARE")]
    pub(super) average: f32,
    /// Weight of R-Drop, the divergence between two passes over a post with different dropout (about 1): twice the work;
    /// 0 to turn it off
    #[arg(long, default_value_t = 0.0, value_name = "WEIGHT")]
    pub(super) r_drop: f32,
    /// AdamW's decoupled weight decay
    #[arg(long, default_value_t = 0.01)]
    pub(super) weight_decay: f32,
    /// Label smoothing: probability taken from the true label and spread over all labels
    #[arg(long, default_value_t = 0.0)]
    pub(super) label_smoothing: f32,
    /// Weight of a post by the frequency of its label; with a sigmoid head, weight of a label where a post has it
    #[arg(long, value_enum, default_value_t = ClassWeights::None)]
    pub(super) class_weights: ClassWeights,
    /// One label a post, or any number
    #[arg(long, value_enum, default_value_t = HeadKind::Softmax)]
    pub(super) head: HeadKind,
    /// Which states of a post the head sees [default: as in the base, else cls]
    #[arg(long, value_enum)]
    pub(super) pooling: Option<Pooling>,
    /// Gradient norm above which the gradient is clipped; 0 to turn it off
    #[arg(long, default_value_t = 1.0)]
    pub(super) clip: f32,
    /// Stop after this many epochs without a better validation macro-F1
    #[arg(long, default_value_t = 3)]
    pub(super) patience: usize,
    /// After training, fit the head's biases to the macro-F1 on the validation posts: for softmax only, and for
    /// thousands of validation posts
    #[arg(long)]
    pub(super) fit_bias: bool,
}

/// How posts are weighted by their labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ClassWeights {
    /// All the same.
    None,
    /// By the reciprocal of its label's frequency.
    Inverse,
    /// By the square root of the reciprocal.
    Sqrt,
}

/// The kind of head.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum HeadKind {
    /// One label a post.
    Softmax,
    /// Any number of labels a post.
    Sigmoid,
}

impl Args {
    /// Checks the settings.
    pub(super) fn check(&self) -> Result<()> {
        self.common.check()?;
        share("label-smoothing", self.label_smoothing)?;
        share("average", self.average)?;
        ensure!(
            !self.fit_bias || self.head == HeadKind::Softmax,
            "--fit-bias is for a softmax head; for a sigmoid head, use `thresholds`"
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

    /// The settings that determine the result: a run with other settings can't resume from its state.
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
