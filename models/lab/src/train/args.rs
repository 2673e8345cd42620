//! The settings of a training run.

use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::ValueEnum;

use super::teacher;
use crate::{
    encoder::{Loss, Pooling},
    training::{Common, contents, share},
};

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
    /// Model folder with the same labels whose scores of the posts, computed once before training, are learned as well. It is
    /// run as the service would (ORT_DYLIB_PATH is the ONNX Runtime library)
    #[arg(long, value_name = "DIR")]
    pub(super) teacher: Option<PathBuf>,
    /// Weight of the teacher's scores in the loss; the rest is that of the labels
    #[arg(long, default_value_t = 0.5, value_name = "SHARE")]
    pub(super) distill_weight: f32,
    /// Temperature at which the scores of teacher and student are compared; above 1, the lower scores matter more
    #[arg(long, default_value_t = 2.0, value_name = "TEMPERATURE")]
    pub(super) distill_temperature: f32,
    /// Posts without labels, one a line (of TSV, the first column; may be compressed as .zst; may be repeated), from which
    /// only the teacher's scores are learned. Repeats and posts of --valid are left out. An epoch is one pass over these and
    /// the labelled posts, shuffled together
    #[arg(long, value_name = "FILE")]
    pub(super) text: Vec<PathBuf>,
    /// Use only this many of the posts without labels, the first ones
    #[arg(long, value_name = "POSTS")]
    pub(super) text_posts: Option<usize>,
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

impl HeadKind {
    /// The loss that it is trained with.
    pub(super) fn loss(self) -> Loss {
        match self {
            Self::Softmax => Loss::Softmax,
            Self::Sigmoid => Loss::Sigmoid,
        }
    }
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
        ensure!(
            (0.0..=1.0).contains(&self.distill_weight),
            "--distill-weight {}: must be from 0 to 1",
            self.distill_weight
        );
        ensure!(
            self.distill_temperature.is_finite() && self.distill_temperature > 0.0,
            "--distill-temperature {}: must be above 0",
            self.distill_temperature
        );
        ensure!(
            self.text.is_empty() || self.teacher.is_some() && self.distill_weight > 0.0,
            "--text: posts without labels need --teacher, and --distill-weight above 0"
        );
        ensure!(
            self.text_posts.is_none_or(|posts| posts > 0 && !self.text.is_empty()),
            "--text-posts: must be above 0, and needs --text"
        );
        Ok(())
    }

    /// The settings that determine the result: a run with other settings can't resume from its state.
    pub(super) fn describe(&self) -> Result<String> {
        let mut settings = format!(
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
        );
        if let Some(teacher) = &self.teacher {
            let texts: Vec<String> = self.text.iter().map(|path| contents(path)).collect::<Result<_>>()?;
            settings += &format!(
                " teacher {} ({}) distill-weight {} distill-temperature {} text {} text-posts {:?}",
                teacher.display(),
                teacher::open_folder(teacher)?.info().id,
                self.distill_weight,
                self.distill_temperature,
                texts.join(","),
                self.text_posts,
            );
        }
        Ok(settings)
    }
}
