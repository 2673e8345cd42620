//! A partition being read, and a record on its way out of it.

use std::sync::Arc;

use bytes::Bytes;
use rdkafka::{Message as _, consumer::base_consumer::PartitionQueue, message::BorrowedMessage};
use time::OffsetDateTime;

use super::{
    budget::Permit,
    context::GroupContext,
    message::{Message, Origin, Partition},
};

/// What a record takes beside its own bytes, roughly: its place in the channel and its parts.
pub(super) const OVERHEAD: usize = 160;

/// A partition being read.
pub(super) struct Lane {
    pub(super) partition: Partition,
    pub(super) epoch: u64,
    pub(super) queue: PartitionQueue<GroupContext>,
    pub(super) records: metrics::Counter,
    pub(super) bytes: metrics::Counter,
}

/// A record that was read while no room was left.
pub(super) struct Stranded {
    pub(super) origin: Origin,
    pub(super) epoch: u64,
    pub(super) timestamp: Option<OffsetDateTime>,
    pub(super) key: Option<Bytes>,
    pub(super) payload: Bytes,
}

impl Stranded {
    /// The room that it takes among the records in flight.
    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.key.as_ref().map_or(0, Bytes::len) + OVERHEAD
    }

    /// Copies a record out of librdkafka's hands.
    pub(super) fn of(record: &BorrowedMessage<'_>, lane: &Lane) -> Self {
        let timestamp = record
            .timestamp()
            .to_millis()
            .and_then(|millis| OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok());
        Self {
            origin: Origin {
                topic: Arc::clone(&lane.partition.0),
                partition: lane.partition.1,
                offset: record.offset(),
            },
            epoch: lane.epoch,
            timestamp,
            key: record.key().map(Bytes::copy_from_slice),
            payload: record.payload().map(Bytes::copy_from_slice).unwrap_or_default(),
        }
    }

    /// The record with its room.
    pub(super) fn with(self, permit: Permit) -> Message {
        let Self {
            origin,
            epoch,
            timestamp,
            key,
            payload,
        } = self;
        Message {
            origin,
            epoch,
            timestamp,
            key,
            payload,
            permit,
        }
    }

    /// The record again, its room given back.
    pub(super) fn without_room(message: Message) -> Self {
        let Message {
            origin,
            epoch,
            timestamp,
            key,
            payload,
            permit,
        } = message;
        drop(permit);
        Self {
            origin,
            epoch,
            timestamp,
            key,
            payload,
        }
    }
}
