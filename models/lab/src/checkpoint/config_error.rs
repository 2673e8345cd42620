//! Errors of `config.json`.

use std::{ops::RangeInclusive, path::PathBuf};

/// A `config.json` that the lab does not support.
#[derive(Debug, thiserror::Error)]
#[error("{}: {fault}", path.display())]
pub struct ConfigError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub fault: ConfigFault,
}

/// What is wrong with a `config.json`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigFault {
    /// It is not JSON, or a member is absent or has another type.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// The lab does not compute this.
    #[error("{member} is `{value}`: only {supported} supported")]
    Unsupported {
        /// The member.
        member: &'static str,
        /// Its value.
        value: String,
        /// The supported values, with the verb.
        supported: &'static str,
    },
    /// A size is too small or too large.
    #[error("{member} is {value}: it must be from {} to {}", supported.start(), supported.end())]
    Size {
        /// The member.
        member: &'static str,
        /// Its value.
        value: usize,
        /// The supported values.
        supported: RangeInclusive<usize>,
    },
    /// There is no position for a token between the special ones.
    #[error("max_position_embeddings is {positions}: it must be above {unused}")]
    TooFewPositions {
        /// The positions.
        positions: usize,
        /// Those that no token of a text can have.
        unused: usize,
    },
    /// The heads can't have equal widths.
    #[error("hidden_size {hidden} is not a multiple of num_attention_heads {heads}")]
    Heads {
        /// The width of the encoder.
        hidden: usize,
        /// The heads.
        heads: usize,
    },
    /// The ids of the labels are not consecutive.
    #[error("id2label has no label {0}")]
    NoLabel(usize),
    /// The head has another number of labels.
    #[error("id2label names {named} labels, but tensor `{tensor}` has {rows} rows")]
    Labels {
        /// The labels with a name.
        named: usize,
        /// The head's last tensor.
        tensor: String,
        /// Its rows, one a label.
        rows: usize,
    },
    /// A family that is only exported.
    #[error("model_type is `distilbert`: it can be exported, but not trained")]
    OnlyExported,
    /// The lab trains only checkpoints that pad with 1.
    #[error("pad_token_id is {0}: only checkpoints that pad with 1 can be trained")]
    Padding(i64),
    /// BERT would be written as RoBERTa, whose positions start at 2.
    #[error("model_type is `bert`: convert it to RoBERTa with `moodstream-lab carry`")]
    Bert,
}
