//! What the consumer hands out.

use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;

use super::budget::Permit;
pub use crate::post::Origin;

/// A partition of a topic.
pub type Partition = (Arc<str>, i32);

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
