//! What the consumer hands out.

use std::{fmt, sync::Arc};

use bytes::Bytes;
use time::OffsetDateTime;

use super::budget::Permit;

/// A partition of a topic.
pub type Partition = (Arc<str>, i32);

/// Where a record lies: its identity.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The topic.
    pub topic: Arc<str>,
    /// The partition within the topic.
    pub partition: i32,
    /// The offset within the partition.
    pub offset: i64,
}

impl Origin {
    /// The partition that the record lies in.
    #[must_use]
    pub fn topic_partition(&self) -> Partition {
        (Arc::clone(&self.topic), self.partition)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.topic, self.partition, self.offset)
    }
}

/// One record, and the room that it takes up among the records in flight until it is dropped.
#[derive(Debug)]
pub struct Message {
    /// Where it lies.
    pub origin: Origin,
    /// The assignment of its partition under which it was read: see [`super::Assignment::holds`].
    pub epoch: u64,
    /// The record's time: set by its producer or by the broker, as the topic is configured.
    pub timestamp: Option<OffsetDateTime>,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's value; empty for a tombstone.
    pub payload: Bytes,
    /// Given back when dropped. Keep it for as long as anything made of the record takes memory.
    pub permit: Permit,
}
