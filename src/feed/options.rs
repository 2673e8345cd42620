//! How a topic is filled, and why that may fail.

use serde::Deserialize;

use crate::kafka::KafkaError;

/// How a topic is filled.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FeedOptions {
    /// The topic to fill.
    pub topic: String,
    /// Records a second at most; absent: as fast as the broker takes them.
    pub rate: Option<f64>,
    /// Make the topic with so many partitions if it is absent; one that is there must have as many.
    pub create_partitions: Option<i32>,
    /// How records travel and lie: `none`, `gzip`, `snappy`, `lz4` or `zstd`.
    pub compression: String,
    /// Whatever stands in a line is a record. Without it, the source's beginning must look like posts or like texts.
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

/// Why feeding ended early.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The broker or the settings.
    #[error(transparent)]
    Kafka(#[from] KafkaError),
    /// The source can't be read.
    #[error("reading {source_name}: {error}; {sent} records were sent before")]
    Read {
        /// The file, or standard input.
        source_name: String,
        /// What the system says.
        error: std::io::Error,
        /// Records sent before.
        sent: u64,
    },
    /// The topic is there with another number of partitions.
    #[error("topic {topic:?} has {found} partitions, not {wanted}: take another topic, or leave out create_partitions")]
    Partitions {
        /// The topic.
        topic: String,
        /// As asked for.
        wanted: i32,
        /// As it is.
        found: usize,
    },
    /// The broker has refused or not acknowledged records.
    #[error("topic {topic:?}: {failed} records not acknowledged: {detail}")]
    NotAcknowledged {
        /// The topic.
        topic: String,
        /// How many.
        failed: u64,
        /// What the client says of the first.
        detail: String,
    },
}
