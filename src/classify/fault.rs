//! Why a text got no prediction.

use std::sync::Arc;

/// Why a text got no prediction. Only some are the text's own fault: see [`ModelFault::is_of_the_text`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelFault {
    /// The tokenizer fails on it.
    #[error("{0}")]
    Tokenizer(Arc<str>),
    /// The model fails on it, alone, while it still answers a plain text.
    #[error("the model fails on this text: {0}")]
    Inference(Arc<str>),
    /// The model answers NaN or infinity to it, alone.
    #[error("the model gives no finite scores for this text: {0}")]
    NotFinite(Arc<str>),
    /// The classifier has stopped, whatever the text: nothing may be concluded about it.
    #[error("the classifier has stopped: {0}")]
    Stopped(Arc<str>),
}

impl ModelFault {
    /// Whether the text itself is at fault, so that it may become a dead letter. Otherwise the classifier is broken and the text
    /// must be kept for later.
    #[must_use]
    pub const fn is_of_the_text(&self) -> bool {
        !matches!(self, Self::Stopped(_))
    }
}
