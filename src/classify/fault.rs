//! Reasons for a missing prediction.

use std::sync::Arc;

/// Why a text has no prediction. It is not always the text's fault: see [`ModelFault::is_of_the_text`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelFault {
    /// The tokenizer failed on the text.
    #[error("{0}")]
    Tokenizer(Arc<str>),
    /// The model failed on the text alone, while it still answers a plain text.
    #[error("the model failed on this text: {0}")]
    Inference(Arc<str>),
    /// The model returned NaN or infinity for the text alone.
    #[error("the model gives no finite scores for this text: {0}")]
    NotFinite(Arc<str>),
    /// The classifier has stopped, which says nothing about the text.
    #[error("the classifier has stopped: {0}")]
    Stopped(Arc<str>),
}

impl ModelFault {
    /// Whether the text is at fault and may become a dead letter. Otherwise the classifier is broken, and the text must be
    /// kept for later.
    #[must_use]
    pub const fn is_of_the_text(&self) -> bool {
        !matches!(self, Self::Stopped(_))
    }
}
