//! The records that the consumer hands out.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use bytes::Bytes;
use rdkafka::{
    Message as _,
    message::{BorrowedHeaders, BorrowedMessage, Header, Headers, OwnedHeaders},
};
use time::OffsetDateTime;

use super::in_flight::{InFlightLimit, InFlightPermit};
use crate::kafka::partition::Partition;
use crate::post::Fingerprint;
pub use crate::post::Origin;

/// One record. It counts against the limit on records in flight until it is dropped.
#[derive(Debug)]
pub struct Record {
    /// Its topic, partition and offset.
    pub origin: Origin,
    /// The epoch of its partition under which it was read: see [`super::Assignment::holds`].
    pub epoch: u64,
    /// The record's timestamp: set by its producer or by the broker, as the topic is configured.
    pub timestamp: Option<OffsetDateTime>,
    /// When it was polled from librdkafka.
    pub received: Instant,
    /// Distinguishes it from other records at the same offset.
    pub fingerprint: Fingerprint,
    /// The record's key.
    pub key: Option<Bytes>,
    /// The record's value; `None` for a tombstone.
    pub value: Option<Bytes>,
    /// The record's headers, if it has any.
    pub headers: Option<OwnedHeaders>,
    /// Released when dropped. Keep it for as long as anything derived from the record takes memory.
    pub permit: InFlightPermit,
}

impl Record {
    /// The approximate bytes that a record takes beside its key, value and headers.
    pub(super) const OVERHEAD_BYTES: usize = 160;

    /// Copies a record out of librdkafka's memory. Its permit is requested, not yet acquired.
    pub(super) fn copy_of(
        message: &BorrowedMessage<'_>,
        partition: &Partition,
        epoch: u64,
        in_flight: &Arc<InFlightLimit>,
    ) -> Self {
        let timestamp = message
            .timestamp()
            .to_millis()
            .and_then(|millis| OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok());
        let key = message.key().map(Bytes::copy_from_slice);
        let value = message.payload().map(Bytes::copy_from_slice);
        let headers = message.headers().map(BorrowedHeaders::detach);
        let bytes = bytes_of(key.as_ref(), value.as_ref(), headers.as_ref()) + Self::OVERHEAD_BYTES;
        Self {
            origin: Origin {
                topic: Arc::clone(&partition.0),
                partition: partition.1,
                offset: message.offset(),
            },
            epoch,
            timestamp,
            received: Instant::now(),
            fingerprint: Fingerprint::of(timestamp, key.as_deref(), value.as_deref()),
            key,
            value,
            headers,
            permit: in_flight.request(bytes),
        }
    }

    /// The size of its key, value and headers, in bytes.
    pub(super) fn bytes(&self) -> usize {
        bytes_of(self.key.as_ref(), self.value.as_ref(), self.headers.as_ref())
    }
}

/// The bytes counted for a header whose size can't be determined.
const UNREADABLE_HEADER_BYTES: usize = 1_024;

/// The headers in order, with `None` for those whose name is not UTF-8. Brokers accept such names, but the client library
/// panics on them.
pub(in crate::kafka) fn read_headers<H: Headers>(headers: &H) -> impl Iterator<Item = Option<Header<'_, &[u8]>>> {
    let read = |place| catch_unwind(AssertUnwindSafe(|| headers.try_get(place)));
    (0..headers.count()).map(move |place| read(place).ok().flatten())
}

/// The size of a key, a value and headers, in bytes.
pub(in crate::kafka) fn bytes_of(key: Option<&Bytes>, value: Option<&Bytes>, headers: Option<&OwnedHeaders>) -> usize {
    let bytes_of_header = |header: Header<'_, &[u8]>| header.key.len() + header.value.map_or(0, <[u8]>::len);
    let headers = headers.into_iter().flat_map(read_headers);
    let headers: usize = headers
        .map(|header| header.map_or(UNREADABLE_HEADER_BYTES, bytes_of_header))
        .sum();
    key.map_or(0, Bytes::len) + value.map_or(0, Bytes::len) + headers
}
