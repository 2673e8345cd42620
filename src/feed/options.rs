//! Options and errors of feeding.

use serde::Deserialize;

use crate::kafka::KafkaError;

/// Options of feeding.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedOptions {
    /// The topic to feed.
    pub topic: String,
    /// The maximum number of records per second; `None` for as fast as the broker accepts them.
    pub rate: Option<f64>,
    /// Create the topic with this many partitions if it does not exist. An existing topic must have as many.
    pub create_partitions: Option<i32>,
    /// The compression of record batches: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// Treat every line as a record. Otherwise the beginning of the input must look like posts or like text.
    pub any_text: bool,
}

impl Default for FeedOptions {
    fn default() -> Self {
        Self {
            topic: String::new(),
            rate: None,
            create_partitions: None,
            compression: "lz4".into(),
            any_text: false,
        }
    }
}

/// Why feeding stopped early.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// An error from the broker or in the settings.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The input can't be read.
    #[error("reading {input}: {error}; {sent} records were already sent")]
    Read {
        /// The file name, or standard input.
        input: String,
        /// The cause.
        error: std::io::Error,
        /// The number of records sent before.
        sent: u64,
    },
    /// The topic exists with a different number of partitions.
    #[error("topic {topic:?} has {found} partitions, not {wanted}: use another topic or remove create_partitions")]
    Partitions {
        /// The topic.
        topic: String,
        /// The requested number.
        wanted: i32,
        /// The actual number.
        found: usize,
    },
    /// The broker refused or did not acknowledge records.
    #[error("topic {topic:?}: {failed} records were not acknowledged: {detail}")]
    NotAcknowledged {
        /// The topic.
        topic: String,
        /// The number of failed records.
        failed: u64,
        /// The client's message for the first one.
        detail: String,
    },
}
